"""Backends have names: a named one runs or says why it cannot, and what runs is on record."""

import pytest
import torch

from mnemic.kernels import backend
from mnemic.kernels.backend import Backend, Op, prefer
from mnemic.kernels.gae import OP as GAE


@pytest.fixture
def op(monkeypatch):
    monkeypatch.setattr(backend, "OPS", {})
    kinds = {
        "triton": Backend("fast", triton=True),
        "chunked": Backend("peer", on_request=True),
        "reference": Backend(""),
    }
    return Op("some", "mnemic.kernels.softmax_scan", kinds)


def test_without_a_name_the_first_that_fits_runs_and_is_on_record(op):
    assert op.pick(None, torch.empty(1)).__name__.endswith("softmax_scan.reference")
    assert op.chosen == "reference"


def test_a_named_one_that_cannot_run_says_why_and_what_can(op, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match=r"'triton' cannot run here: .*cpu.*; what can: chunked, reference"):
        op.pick("triton", torch.empty(1))


def test_triton_that_is_not_installed_is_named(op, monkeypatch):
    monkeypatch.setattr(backend, "installed", lambda package: False)
    with pytest.raises(ValueError, match="pip install triton"):
        op.pick("triton", torch.empty(1))


def test_an_unknown_name_lists_the_choices(op):
    with pytest.raises(ValueError, match="unknown backend 'x'; choose one of triton, chunked, reference"):
        op.pick("x", torch.empty(1))


def test_a_preference_holds_where_none_is_named(op):
    prefer(["some=chunked"])
    assert op.pick(None, torch.empty(1)).__name__.endswith("chunked")
    assert op.pick(None, torch.empty(1), rather="reference").__name__.endswith("chunked")
    prefer([])
    assert op.pick(None, torch.empty(1)).__name__.endswith("reference")
    assert op.pick(None, torch.empty(1), rather="chunked").__name__.endswith("chunked")


@pytest.mark.parametrize("word", ["some", "other=reference", "some=x"])
def test_a_preference_that_means_nothing_is_refused(op, word):
    with pytest.raises(ValueError, match=r"write KERNEL=BACKEND|unknown backend"):
        prefer([word])


def test_every_kernel_ends_with_its_definition():
    assert GAE.name == "gae"
    assert all(list(op.backends)[-1] == "reference" for op in backend.OPS.values())
