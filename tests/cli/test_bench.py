"""`mnemic bench`: what it measures, what it writes, and that one broken part is one row."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mnemic.cli import bench, bench_report
from mnemic.cli.main import main
from mnemic.kernels import backend, benches
from mnemic.kernels.measure import Case

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"


def broken() -> None:
    raise RuntimeError("out of luck")


def missing() -> None:
    raise ModuleNotFoundError("No module named 'peer'", name="peer")


def cases(device: torch.device, *, quick: bool) -> Iterator[Case]:
    work = torch.ones(1000)
    good = {"fast": work.sum, "reference": lambda: [work.sum() for _ in range(50)]}
    yield Case("some", "small", good, lambda: None, {"a|peer": missing}, bytes=4000, flops=1000)
    yield Case("some", "wrong", good, broken)
    yield Case("some", "large", {"fast": broken, "reference": work.sum}, lambda: None)
    broken()


@pytest.fixture
def some(monkeypatch: pytest.MonkeyPatch) -> None:
    """One kernel to measure, in no time."""
    survey = benches.survey
    module = SimpleNamespace(cases=cases)
    monkeypatch.setattr(benches, "names", lambda: ["some"])
    monkeypatch.setattr(benches, "survey", lambda *args, **options: survey(*args, **options, module=lambda _: module))
    for limit in ("copy_bandwidth", "matmul_rate"):
        monkeypatch.setattr(bench, limit, lambda *_: 1e9)


def test_kernels_go_on_where_something_breaks(some: None, tmp_path: Path, capsys) -> None:
    assert main(["bench", "kernels", "--quick", "--json", str(tmp_path / "k.json")]) == 0
    said = capsys.readouterr()
    assert "some: small" in said.err
    rows = json.loads((tmp_path / "k.json").read_text())["rows"]
    by_name = {(row["size"], row["name"]): row for row in rows}
    small, slow = by_name["small", "fast"], by_name["small", "reference"]
    assert small["of_copy"] == pytest.approx(4000 / small["seconds"] / 1e9)
    assert slow["ours_over_it"] == slow["seconds"] / small["seconds"] > 1
    assert by_name["small", "a|peer"]["failure"] == "peer is not installed"
    assert "the check failed, nothing was timed: RuntimeError: out of luck" in by_name["wrong", ""]["failure"]
    assert by_name["large", "fast"]["failure"] == "RuntimeError: out of luck"
    assert by_name["large", "reference"]["seconds"] > 0
    assert rows[-1]["failure"] == "RuntimeError: out of luck"  # the cases themselves ended early
    assert "failed: large, fast: RuntimeError: out of luck\n" in said.out


def test_every_kernel_with_a_benchmark_is_found() -> None:
    folders = {path.parent.name for path in Path(benches.__file__).parent.glob("*/bench.py")}
    assert set(benches.names()) == folders


def test_reports_become_sections_of_the_page(some: None, tmp_path: Path, capsys) -> None:
    page, report = tmp_path / "page.md", tmp_path / "k.json"
    page.write_text(PAGE.read_text())
    assert main(["bench", "kernels", "--json", str(report), "--quick", "--out", str(page)]) == 0
    once = page.read_text()
    assert "| small | a\\|peer | failed |" in once
    assert "- failed: small, a|peer: peer is not installed" in once
    assert once.count("<!-- bench") == PAGE.read_text().count("<!-- bench")
    assert main(["bench", "page", str(report), "--out", str(page)]) == 0
    assert page.read_text() == once
    assert main(["bench", "page", str(report), str(report), "--out", str(page)]) == 0
    assert page.read_text().count("| small | a\\|peer | failed |") == 2
    head, _, tail = once.partition("<!-- bench kernels cpu -->")
    section = tail.partition("<!-- end -->")[0]
    assert head == PAGE.read_text().partition("<!-- bench kernels cpu -->")[0]
    assert f"torch {torch.__version__}" in section
    assert "`mnemic bench kernels --quick`" in section
    page.write_text("nothing here")
    assert main(["bench", "page", str(report), "--out", str(page)]) == 2
    assert "no section 'kernels cpu'; it has none" in capsys.readouterr().err
    report.write_text("{}")
    assert main(["bench", "page", str(report), "--out", str(page)]) == 2
    assert "is no report of `mnemic bench`" in capsys.readouterr().err


def test_training_is_measured_by_memory_rows_and_width(tmp_path: Path, capsys) -> None:
    argv = ["--memory", "gru", "none", "--rows", "4", "8", "--width", "8", "--turns", "1", "--windows", "1"]
    assert main(["bench", "train", *argv, "--ppo.window", "4", "--json", str(tmp_path / "t.json")]) == 0
    rows = json.loads((tmp_path / "t.json").read_text())["rows"]
    assert [(row["memory"], row["environments"]) for row in rows] == [("gru", 4), ("gru", 8), ("none", 4), ("none", 8)]
    assert all(row["width"] == 8 and row["parameters"] > 0 for row in rows)
    assert all(min(row["acting"], row["learning"]) > row["steps_per_second"] / 2 > 0 for row in rows)
    assert "rnn=loop" in rows[0]["kernels"]
    assert "windows of 4, 3 epochs" in rows[0]["setting"]


def test_training_that_fails_is_a_row(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("mnemic.train.bench.speed_of", lambda *args, **options: broken())
    assert main(["bench", "train", "--json", str(tmp_path / "t.json")]) == 0
    assert json.loads((tmp_path / "t.json").read_text())["rows"][0]["failure"] == "RuntimeError: out of luck"


def test_environments_alone(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(bench, "copy_bandwidth", lambda device: 1e9)
    argv = ["endless-tmaze", "darkroom", "--rows", "3", "--steps", "2", "--json", str(tmp_path / "e.json")]
    assert main(["bench", "envs", *argv]) == 0
    rows = json.loads((tmp_path / "e.json").read_text())["rows"]
    assert [row["env"] for row in rows] == ["endless-tmaze", "darkroom"]
    for row in rows:
        assert row["of_copy"] == pytest.approx(row["steps_per_second"] * row["bytes"] / 1e9)
        assert row["bytes"] > 8 * 3  # the action, and at least the clocks


def test_every_report_can_be_shown(capsys) -> None:
    report = bench_report.begin("peers", torch.device("cpu"), ["train", "--against", "sb3"])
    report.rows.append({"name": "other", "steps_per_second": 1234.5, "ours_over_it": 12.34, "setting": "as ours"})
    bench_report.show(report)
    said = capsys.readouterr().out
    assert "1,234" in said
    assert "12.3x" in said
    assert "| other | 1,234 | 12.3x |" in bench_report.markdown(report)


def test_list_kernels_says_what_runs_and_why_another_cannot(capsys, monkeypatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(backend, "OPS", dict(backend.load()))
    kinds = {"triton": backend.Backend("quick", triton=True), "reference": backend.Backend("plain")}
    backend.Op("some", "mnemic.kernels.gae", kinds)
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["list", "kernels"]) == 0
    said = capsys.readouterr().out
    assert "some=triton" in said
    assert "quick [not here: its tensors are on the cpu, and Triton needs a CUDA GPU]" in said
    assert "plain [runs here by default]" in said
    for op in backend.OPS.values():
        for name, each in op.backends.items():
            assert f"{op.name}={name}" in said
            assert each.summary in said


def test_what_was_measured_before_ctrl_c_is_not_lost(
    tmp_path: Path, some: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def survey(*_: object, **__: object) -> Iterator[benches.Failure]:
        yield benches.Failure("some", "small", "fast", "out of luck")
        raise KeyboardInterrupt

    monkeypatch.setattr(benches, "survey", survey)
    assert main(["bench", "kernels", "--json", str(tmp_path / "k.json")]) == 130
    assert json.loads((tmp_path / "k.json").read_text())["rows"][0]["failure"] == "out of luck"
    assert "interrupted" in capsys.readouterr().err
