"""The page on streams is true: it names every policy and option, and its example runs."""

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from mnemic.memory import make_config
from mnemic.memory.caches import CACHES, make_cache
from mnemic.memory.caches.ledger import Ledger
from mnemic.memory.caches.rule import RuleConfig

from .conftest import Stream, built

PAGE = (Path(__file__).parents[3] / "docs" / "streaming.md").read_text()
POLICIES = PAGE.partition("\n## Policies")[2].partition("\n## ")[0]


def test_it_names_every_policy_and_every_option() -> None:
    head, *sections = POLICIES.split("\n### ")
    by_name = {section.split("\n")[0].strip("`"): section for section in sections}
    assert set(re.findall(r"^\| `([a-z-]+)` \|", head.partition("| policy | bytes")[0], re.MULTILINE)) == set(CACHES)
    for name, kind in CACHES.items():
        options = [field.name for field in fields(kind) if field.name != "context"]
        said = head + by_name[name]
        assert [option for option in options if not re.search(rf"`{option}\b|\({option}\b|{option} ", said)] == []


def test_the_bytes_of_its_table() -> None:
    config = make_config("transformer", width=64, heads=4)
    core = config.build()
    for names, figure in re.findall(r"^\| (`[^|]+) \|[^|]+\| ([\d,]+) \|$", POLICIES, re.MULTILINE):
        for name in re.findall(r"`([a-z-]+)`", names):
            if name != "oldest-sets":
                taken = make_cache(name).apply(config, core, 32_000).state_bytes(32_000)
                assert f"{taken:,}" == figure, name


def test_its_example_is_a_policy(stream: Stream) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", POLICIES, re.DOTALL)
    caches: dict[str, Any] = {}
    known = {"dataclass": dataclass, "ClassVar": ClassVar, "Tensor": Tensor, "Ledger": Ledger, "RuleConfig": RuleConfig}
    exec(code, {**known, "CACHES": caches, "__name__": __name__})
    config, core = built("transformer")
    ample = caches["every-other"](context=50).apply(config, core, 40)
    torch.testing.assert_close(stream.run(ample), stream.run(make_cache("full").apply(config, core, 40)))
    tight = caches["every-other"](context=8).apply(config, core, 40)
    assert tight.context_entries(40) == 8
    assert stream.run(tight).isfinite().all()
