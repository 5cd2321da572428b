"""The measurement of the workers beside plain habitat-sim, with a stand-in for it: it runs, or says why not.

MNEMIC_HABITAT_LAB_PYTHON names an interpreter that has habitat-lab, MNEMIC_HABITAT_GPU the GPU that draws (-1: none).
"""

import os
from pathlib import Path

import pytest

from mnemic.envs.habitat import Workers, bench


@pytest.fixture(autouse=True, scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory):
    """A folder for the exported house."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("caches")))
        yield


def test_both_are_measured(python: str, orders: Path) -> None:
    workers = Workers(python=python, count=2)
    plain = bench.plain_speed(workers, ("rgb", "depth"), 8, 0.2)
    assert 20 < plain < 2000, "two loops of at most 1,000 steps a second"
    assert bench.worker_speed(workers, ("rgb", "depth"), 8, 0.2, agents=2) > 20


def test_no_habitat_lab_is_told(python: str, orders: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--python", python, "--lab-python", python, "--size", "8", "--seconds", "0.1"]) == 2
    assert capfd.readouterr().err.endswith("cannot run habitat-lab: ModuleNotFoundError: No module named 'habitat'\n")


@pytest.mark.habitat
@pytest.mark.skipif("MNEMIC_HABITAT_LAB_PYTHON" not in os.environ, reason="MNEMIC_HABITAT_LAB_PYTHON is not set")
@pytest.mark.timeout(600)
def test_habitat_lab_is_measured() -> None:
    workers = Workers(count=2, gpu=int(os.environ.get("MNEMIC_HABITAT_GPU", "-1")))
    lab = os.environ["MNEMIC_HABITAT_LAB_PYTHON"]
    assert bench.vector_env_speed(lab, workers, ("rgb", "depth"), 64, 1.0) > 10


def test_what_stops_a_plain_loop_is_told(tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho first >&2\necho last words >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(ValueError, match=f"{broken} cannot run plain habitat-sim: last words$"):
        bench.plain_speed(Workers(python=str(broken), count=1), ("depth",), 8, 0.1)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--python", "/nope"], "/nope cannot be run (No such file or directory); install habitat-sim"),
        (["--workers", "0"], "0 workers with 8 scenes; at least 1 of each is expected"),
        (["--gpu", "7"], "no OpenGL on GPU 7 (WindowlessContext: Unable to create windowless context)"),
        (["--sensors", "foo"], "unknown sensor 'foo'; choose of rgb, depth, semantic"),
        (["--size", "0"], "0 x 0 pixels; at least 1 x 1 are expected"),
        (
            ["--sensors", "semantic", "--lab-python", "python"],
            "--sensors has semantic, which habitat-lab's task lacks",
        ),
        (["--seconds", "0"], "--seconds is 0; a number above 0 is expected"),
    ],
    ids=lambda given: given[0] if isinstance(given, list) else "",
)
def test_mistakes_end_with_a_line_and_exit_code_2(
    python: str, orders: Path, capfd: pytest.CaptureFixture[str], given: list[str], words: str
) -> None:
    assert bench.main(["--python", python, *given]) == 2
    out, error = capfd.readouterr()
    assert out == ""
    assert words in error
    assert error.count("\n") == 1
