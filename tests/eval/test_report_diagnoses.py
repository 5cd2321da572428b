"""Diagnoses in a report: files as `mnemic diagnose` writes them, with numbers worked out by hand."""

import json
from pathlib import Path

import pytest

from mnemic.eval.report import diagnoses
from mnemic.eval.report.group import group
from mnemic.eval.report.runs import read

TMAZE = {"name": "tmaze", "length": 20}


def figure(value):
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def reading(accuracy, source="output", back=0, late=0.5):
    ages = [{"at": 0.0, "accuracy": figure(1.0), "samples": 99}, {"at": 20.0, "accuracy": figure(late), "samples": 99}]
    return {
        "hidden": "goal",
        "source": source,
        "back": back,
        "chance": 0.5,
        "accuracy": figure(accuracy),
        "samples": 198,
        "by_age": ages,
        "by_number": ages[:1],
    }


def write(folder: Path, *readings, seed=0, memory="gru", ratio=1.5, checkpoint=50, env=TMAZE, at=1, median=4.0):
    """A run folder with one diagnosis."""
    folder.mkdir(exist_ok=True)
    config = {"env": TMAZE, "memory": {"name": memory}, "ppo": {}, "seed": seed}
    (folder / "config.json").write_text(json.dumps(config))
    size = {
        "name": "output",
        "ratio": ratio,
        "collapses": ratio is None or ratio > 2,
        "steps": [50, 100],
        "rms": [1, 2],
    }
    found = {
        "checkpoint": checkpoint,
        "env": env,
        "options": {"sample": False},
        "readings": list(readings),
        "half_lives": [{"name": "state", "units": 8, "longest": 32, "median": median}],
        "life": {"steps": 100, "trained": 20, "parts": [size]},
    }
    (folder / f"diagnose-{checkpoint}-{at}.json").write_text(json.dumps(found))
    return folder


def looks(*folders):
    ((task,), _) = group(map(read, folders))
    return diagnoses.looks(task.entries)


def lines(table):
    return [dict(zip(table.header, line, strict=True)) for line in table.lines]


def test_seeds_are_put_together(tmp_path: Path) -> None:
    first = write(tmp_path / "a", reading(0.8, late=0.6), reading(0.5, back=1), seed=0)
    second = write(tmp_path / "b", reading(1.0, late=1.0), reading(0.7, back=1), seed=1, ratio=None, median=None)
    (look,) = looks(first, second)
    read_, units = diagnoses.tables_of(look)
    present, before = lines(read_)
    assert present["accuracy"] == "0.900 (0.800 to 1.000)"
    assert (present["hidden"], before["hidden"]) == ("goal", "goal, 1 before")
    assert (present["shortest delay"], present["longest delay"]) == ("0: 1.000", "20: 0.800")
    assert present["most overwritten"] == ""  # nothing was
    half, size = lines(units)
    assert half["median half-life"] == "> 32"  # the upper of two
    assert (size["growth"], size["above 2x"]) == ("not finite", "1 of 2")
    assert len(diagnoses.charts(look)) == 2  # retention, sizes


def test_one_seed_has_its_interval_over_rows_and_entries_show_their_outputs(tmp_path: Path) -> None:
    gru = write(tmp_path / "a", reading(0.5, source="input"), reading(0.9), reading(0.7, source="state"))
    lstm = write(tmp_path / "b", reading(0.6, source="state"), memory="lstm")
    (look,) = looks(gru, lstm)
    table = diagnoses.tables_of(look)[0]
    assert [each["accuracy"] for each in lines(table)][1] == "0.900 (0.800 to 1.000)"
    assert {label for label, _ in diagnoses._lines(look, "goal")} == {"gru", "lstm"}
    (alone,) = looks(gru)
    assert {label for label, _ in diagnoses._lines(alone, "goal")} == {"input", "output", "state"}


def test_tasks_are_apart_and_the_newest_counts(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", reading(0.1), checkpoint=9)
    write(folder, reading(0.2), checkpoint=10)
    write(folder, reading(0.3), checkpoint=10, at=2)
    write(folder, reading(0.4), checkpoint=10, at=3, env=TMAZE | {"length": 90})
    found = {look.title: look.found["gru"][0].readings[0].accuracy.value for look in looks(folder)}
    assert found == {"diagnosis": 0.3, "diagnosis, length 90": 0.4}


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    (folder / "diagnose-1.json").write_text('{"readings": [1]}')
    with pytest.raises(ValueError, match=r"diagnose-1.json was not written by `mnemic diagnose`"):
        read(folder)
