"""`mnemic diagnose`: what it prints and writes, and mistakes in one line."""

import json
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mnemic.cli.main import main

from .conftest import TINY


def written(run: Path) -> Path:
    return max(run.glob("diagnose-*.json"), key=lambda path: path.stat().st_mtime_ns)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on short corridors, long enough to pass some; files may be added to it."""
    run = tmp_path_factory.mktemp("runs") / "corridors"
    task = ["--env", "endless-tmaze", "--env.length", "1", "--env.corridors", "3", "--memory", "gru"]
    assert main(["train", "--run", str(run), *task, "--steps", "12000", *TINY]) == 0
    return run


def test_a_run_is_diagnosed(run: Path, capsys) -> None:
    assert main(["diagnose", str(run), "--rows", "32", "--steps", "60", "--long", "100", "--sample"]) == 0
    said = capsys.readouterr().out
    for words in ("endless-tmaze: gru", "cue", "output", "state", "1 before", "gate 0.update", "0.hidden", "36"):
        assert words in said
    path = written(run)
    found = json.loads(path.read_text())
    assert (found["options"]["steps"], found["options"]["trained"], found["state_units"]) == (60, 36, 8)
    reading = next(each for each in found["readings"] if (each["source"], each["back"]) == ("output", 0))
    assert reading["by_age"][0] == {"at": 0.0} | {key: reading["by_age"][0][key] for key in ("accuracy", "samples")}
    assert sum(point["samples"] for point in reading["by_age"]) <= reading["samples"] == 60 * 16
    assert len(reading["by_number"]) > 1  # corridors were passed
    assert {each["back"] for each in found["readings"]} >= {0, 1}
    for each in found["half_lives"]:
        assert sum(each["counts"]) + each["beyond"] == each["units"]
    assert [part["name"] for part in found["life"]["parts"]] == ["output", "0.hidden"]
    assert found["life"]["parts"][0]["steps"][-1] == 100
    with Image.open(path.with_suffix(".png")) as image:
        assert image.size > (1000, 500)
        assert len(image.convert("RGB").getcolors(1 << 20) or []) > 10
    events = EventAccumulator(str(path.with_suffix(""))).Reload()
    tags = events.Tags()
    assert {"diagnose/retention/cue/output", "diagnose/overwrite/cue/state", "diagnose/norm/output"} <= {
        *tags["scalars"]
    }
    assert [event.step for event in events.Scalars("diagnose/survival/cue/output")][:2] == [0, 1]
    assert "diagnose/curves" in tags["images"]
    assert set(tags["histograms"]) <= {f"diagnose/half_life/{each['name']}" for each in found["half_lives"]}


def test_a_diagnosis_is_in_the_report(run: Path, tmp_path: Path) -> None:
    assert main(["diagnose", str(run), "--rows", "16", "--steps", "40", "--long", "0"]) == 0
    page = tmp_path / "page.html"
    assert main(["report", str(run), "--out", str(page)]) == 0
    text = page.read_text()
    assert "diagnosis: what can be read" in text
    assert "cue: retention" in text


def test_another_task_and_a_long_life_are_asked_for_by_flags(run: Path, capsys) -> None:
    flags = ["--env.length", "4", "--rows", "8", "--steps", "20", "--long", "60", "--trained", "10"]
    assert main(["diagnose", str(run), *flags]) == 0
    found = json.loads(written(run).read_text())
    assert (found["env"]["length"], found["life"]["trained"], found["life"]["steps"]) == (4, 10, 60)
    assert "in 10 steps" in capsys.readouterr().out


def test_a_task_that_does_not_say_what_it_hides(tmp_path: Path, capsys) -> None:
    run = tmp_path / "gym"
    task = ["--env", "gym:CartPole-v1", "--env.workers", "1", "--memory", "gru"]
    assert main(["train", "--run", str(run), *task, "--steps", "128", *TINY, "--evaluation.confirm-episodes", "1"]) == 0
    assert main(["diagnose", str(run), "--rows", "4", "--steps", "40", "--long", "40", "--trained", "20"]) == 0
    assert "gym:CartPole-v1 hides nothing that a probe could look for" in capsys.readouterr().out
    assert json.loads(written(run).read_text())["readings"] == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rows", "2"], "rows is 2; it must be at least 4"),
        (["--long", "30"], "long is 30, and training had trials of 36 steps; give it more, or 0 for none"),
        (["--read", "all"], "--read takes one of"),
        (["--steps", "100000000"], "take fewer --steps or --rows"),
        (["--checkpoint", "5"], "unknown checkpoint '5'"),
        (["--step", "5"], "unknown flag --step"),
        (["--device", "tpu"], "device 'tpu' is not here"),
    ],
)
def test_mistakes_are_one_line(run: Path, capsys, flags: list[str], message: str) -> None:
    assert main(["diagnose", str(run), *flags]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_no_run(capsys) -> None:
    assert main(["diagnose"]) == 2
    assert "a run folder comes first: `mnemic diagnose RUN`" in capsys.readouterr().err
