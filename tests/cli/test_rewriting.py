"""Tiny sweeps through the real code: 8 rows, 2 updates."""

import json
import shutil
from pathlib import Path

import pytest

from mnemic.cli import sweep
from mnemic.cli.main import main

TINY = [
    *("--seed", "0", "--steps", "256", "--episodes", "16", "--threads", "1"),
    *("--ppo.rows", "8", "--ppo.window", "16", "--ppo.minibatches", "2", "--ppo.epochs", "1"),
    *("--memory.width", "8", "--evaluation.every", "0"),
]
MAZES = ["--sampling", "fixed", "--length", "2", "--corridors", "1", "2", "--test-corridors", "3", "--test-length", "2"]


def bench(out: Path, *words: str) -> int:
    return main(["bench", "rewriting", *words, "--out", str(out), *TINY])


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of two memories over two mazes; not to be changed."""
    out = tmp_path_factory.mktemp("sweep") / "out"
    assert bench(out, "tmaze", "--memory", "gru", "none", *MAZES, "--test-sampling", "fixed") == 0
    return out


def test_a_sweep_trains_tests_and_shows(swept: Path) -> None:
    runs = sorted(path.name for path in (swept / "runs").iterdir())
    assert runs == [f"tmaze-fixed-l2-n{n}-{memory}-seed0" for n in (1, 2) for memory in ("gru", "none")]
    found = json.loads((swept / "results.json").read_text())
    assert found["failures"] == []
    relations = {(line["task"], line["test"]): line["relation"] for line in found["lines"]}
    assert relations == {
        ("fixed-l2-n1", "fixed-l2-n1"): "trained",
        ("fixed-l2-n1", "fixed-l2-n2"): "extrapolation",
        ("fixed-l2-n1", "fixed-l2-n3"): "extrapolation",
        ("fixed-l2-n2", "fixed-l2-n2"): "trained",
        ("fixed-l2-n2", "fixed-l2-n1"): "interpolation",
        ("fixed-l2-n2", "fixed-l2-n3"): "extrapolation",
    }
    for line in found["lines"]:
        assert line["steps"] == 256
        assert line["oracle"]["success"] == 1
        assert line["memoryless"]["success"] <= 0.9
        assert 0 <= line["figures"]["success"]["value"] <= 1
    for name in ("results.md", "report.html", "tmaze-gru.png", "tmaze-none.png"):
        assert (swept / name).stat().st_size > 1000
    page = (swept / "results.md").read_text()
    assert "| fixed-l2-n2 | fixed-l2-n1 | interpolation | 1.000 |" in page
    assert "oracle" in (swept / "report.html").read_text()


def test_what_is_finished_is_neither_trained_nor_tested_again(swept: Path, capsys, monkeypatch) -> None:
    before = {path: path.stat().st_mtime_ns for path in (swept / "runs").rglob("*") if path.is_file()}

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("it was finished")

    for name in ("train", "play_episodes", "play_rule"):
        monkeypatch.setattr(sweep, name, refuse)
    assert bench(swept, "tmaze", "--memory", "gru", "none", *MAZES, "--test-sampling", "fixed") == 0
    assert capsys.readouterr().err.count("finished before") == 4
    after = {path: path.stat().st_mtime_ns for path in (swept / "runs").rglob("*") if path.is_file()}
    assert before == after


def test_the_command_of_a_run_trains_it_alone(swept: Path, tmp_path: Path) -> None:
    run = swept / "runs" / "tmaze-fixed-l2-n2-gru-seed0"
    command = json.loads((run / "about.json").read_text())["command"].split()
    assert command[:4] == ["mnemic", "bench", "rewriting", "tmaze"]
    assert main([*command[1:], "--threads", "1", "--episodes", "8", "--out", str(tmp_path / "again")]) == 0
    again = list((tmp_path / "again" / "runs").iterdir())
    assert [path.name for path in again] == [run.name]
    assert (again[0] / "config.json").read_text() == (run / "config.json").read_text()


def test_a_stopped_sweep_goes_on(tmp_path: Path, capsys, monkeypatch) -> None:
    real, calls = sweep.train, []

    def stops_in_the_second(config, folder, evaluate, **more):
        calls.append(folder.path.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(config, folder, evaluate, **more)

    words = ["presets", "--memory", "gru", "--preset", "trivial", "medium"]
    monkeypatch.setattr(sweep, "train", stops_in_the_second)
    assert bench(tmp_path, *words) == 130
    assert "the same command goes on from here" in capsys.readouterr().err
    # What was found before is there.
    assert [line["task"] for line in json.loads((tmp_path / "results.json").read_text())["lines"]] == ["trivial"]
    assert bench(tmp_path, *words) == 0
    assert calls == [f"presets-{preset}-gru-seed0" for preset in ("trivial", "medium", "medium")]
    lines = json.loads((tmp_path / "results.json").read_text())["lines"]
    assert [line["task"] for line in lines] == ["trivial", "medium"]
    assert {"pace", "phases", "stale_visits", "stale_steps", "wrong_visits", "reveals"} <= set(lines[1]["figures"])


def test_a_run_that_fails_is_one_line_and_the_others_go_on(tmp_path: Path, capsys, monkeypatch) -> None:
    real = sweep.train

    def fails_once(config, folder, evaluate, **more):
        if config.memory.name == "gru":
            raise RuntimeError("training stopped: the loss was nan")
        return real(config, folder, evaluate, **more)

    monkeypatch.setattr(sweep, "train", fails_once)
    assert bench(tmp_path, "ladder", "--memory", "gru", "none", "--rung", "jumps") == 1
    said = capsys.readouterr().err
    assert "failed: RuntimeError: training stopped: the loss was nan" in said
    found = json.loads((tmp_path / "results.json").read_text())
    assert [line["memory"] for line in found["lines"]] == ["none"]
    assert found["failures"] == ["ladder-jumps-gru-seed0: RuntimeError: training stopped: the loss was nan"]
    assert "Runs that failed" in (tmp_path / "results.md").read_text()
    # It is tried again next time.
    monkeypatch.setattr(sweep, "train", real)
    assert bench(tmp_path, "ladder", "--memory", "gru", "none", "--rung", "jumps") == 0


def test_shards_share_the_runs_and_one_collects(tmp_path: Path, capsys) -> None:
    words = ["frontier", "--memory", "none", "--frontier-preset", "medium", "--size", "3x2x1", "3x3x2"]
    assert bench(tmp_path, *words, "--shard", "0/2") == 0
    assert len(json.loads((tmp_path / "results.json").read_text())["lines"]) == 1
    assert bench(tmp_path, *words, "--shard", "1/2") == 0
    capsys.readouterr()
    assert bench(tmp_path, *words, "--collect") == 0
    assert "medium-3x3x2" in capsys.readouterr().out
    lines = json.loads((tmp_path / "results.json").read_text())["lines"]
    assert [line["task"] for line in lines] == ["medium-3x2x1", "medium-3x3x2"]
    assert (tmp_path / "frontier-medium.png").is_file()


def test_the_frontier_begins_with_one_phase(tmp_path: Path, capsys, monkeypatch) -> None:
    words = ["frontier", "--memory", "gru", "--frontier-preset", "medium", "--size", "3x2x2"]
    real = sweep.train

    def stop_the_second(config, *args, **options):
        if config.init:
            raise RuntimeError("a cable was pulled")
        return real(config, *args, **options)

    monkeypatch.setattr(sweep, "train", stop_the_second)
    assert bench(tmp_path, *words) == 1
    first = tmp_path / "first" / "frontier-medium-3x2x2-gru-seed0"
    config = json.loads((first / "config.json").read_text())
    assert (config["env"]["phases"], config["env"]["slack"], config["init"]) == (1, 1.0, "")
    assert (config["env"]["view"], config["ppo"]["recall"], config["ppo"]["schedule"]) == (
        "grid",
        ["target"],
        "constant",
    )
    before = (first / "metrics.jsonl").stat().st_mtime_ns

    monkeypatch.setattr(sweep, "train", real)
    assert bench(tmp_path, *words) == 0
    assert (first / "metrics.jsonl").stat().st_mtime_ns == before  # gone on from, not trained again
    config = json.loads((tmp_path / "runs" / first.name / "config.json").read_text())
    assert (config["env"]["phases"], config["init"]) == (2, str(first))
    assert bench(tmp_path, *words) == 0
    page = (tmp_path / "results.md").read_text()
    assert "a run on an easier task goes before" in page

    # A run that went before, made with other options, is not begun from.
    shutil.rmtree(tmp_path / "runs" / first.name)
    assert bench(tmp_path, *words, "--encoder.channels", "4") == 2
    assert "encoder.channels" in capsys.readouterr().err


def test_a_frontier_without_a_curriculum_is_as_the_other_parts(tmp_path: Path) -> None:
    words = ["frontier", "--memory", "none", "--frontier-preset", "medium", "--size", "3x2x1", "--no-curriculum"]
    assert bench(tmp_path, *words) == 0
    assert not (tmp_path / "first").exists()
    config = json.loads((tmp_path / "runs" / "frontier-medium-3x2x1-none-seed0" / "config.json").read_text())
    assert (config["env"]["view"], config["ppo"]["recall"], config["init"]) == ("vector", [], "")


def test_a_dry_run_says_what_it_would_do(tmp_path: Path, capsys) -> None:
    assert main(["bench", "rewriting", "--dry", "--memory", "gru", "lstm", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out.splitlines()
    # 16 mazes, 3 presets, 8 rungs and 2 x 5 sizes, of 2 memories and 5 seeds.
    assert said[-1] == f"370 runs, {2 * 5 * (16 * 2_000_000 + 21 * 10_000_000 + 10 * 3_000_000):,} steps"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("mazes", "unknown part 'mazes'; choose one of tmaze"),
        ("tmaze --memory lstn", "unknown memory 'lstn'; choose one of lstm"),
        ("tmaze --shard 4/4", "shard is '4/4'; it takes I/N with I from 0 to N-1"),
        ("frontier --size 2x8x1", "8 cubes, the agent and free cells to jump to need 10 cells and 2x2 has 4"),
        ("frontier --frontier-preset many --size 5x2x3", "movers is 'many' and cubes is 2"),
        ("presets --env.horizon 5", "horizon is 5 and the shortest ways can take 8 steps"),
        ("presets --env.size 1", "size is 1; it must be a whole number of at least 2"),
        ("tmaze --env.length 7", "--env.length is what the tasks of tmaze differ in"),
        ("tmaze --steps 100 --memory gru", "steps is 100 and one update takes 32,768"),
        ("tmaze --memory gru --ppo.rows 7", "7 rows do not divide into 4 minibatches"),
        ("ladder --rung trivial", "--rung trivial is not there"),
        ("tmaze --level 2", "level is 2.0; it must lie above 0 and be at most 1"),
        ("tmaze --seeds 3", "unknown flag --seeds; close to it: --seed"),
        ("tmaze --episodes 0", "episodes is 0; it must be at least 1"),
    ],
)
def test_mistakes_are_one_line(words: str, message: str, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert main(["bench", "rewriting", *words.split(), "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not out.exists()


def test_a_folder_with_other_runs_is_refused(swept: Path, capsys) -> None:
    words = ["tmaze", "--memory", "gru", *MAZES, "--ppo.gamma", "0.5"]
    assert bench(swept, *words) == 2
    assert "was made with ppo.gamma 0.95, and 0.5 is asked for; give the options that it has" in capsys.readouterr().err
