"""Streams in a report: files as `mnemic eval --cache` writes them, with numbers worked out by hand."""

import json
from pathlib import Path

import pytest

from mnemic.eval.report import streams
from mnemic.eval.report.group import group
from mnemic.eval.report.runs import read

TMAZE = {"name": "tmaze", "length": 20}


def figures(success, reward=0.1, width=0.1):
    between = {"success": success, "return": None, "reward": reward}
    return {
        name: {"value": v, "low": v if v is None else v - width, "high": v if v is None else v + width}
        for name, v in between.items()
    }


def costs(held, milliseconds):
    return {
        "entries": held / 8,
        "bytes": held,
        "flops": 2500.0,
        "settling": 0.0,
        "latency_median": milliseconds / 1e3,
        "latency_p99": 2 * milliseconds / 1e3,
        "latency_mean": None,
    }


def line(cache, context, success, held, slower=1.0, steps=100, **options):
    bins = [
        {"begin": 0, "end": steps // 2, "episodes": 3, "figures": figures(success), "costs": costs(held / 2, 1)},
        {"begin": steps // 2, "end": steps, "episodes": 3, "figures": figures(success), "costs": costs(held, slower)},
    ]
    return {
        "cache": cache,
        "options": {"context": context, **options},
        "rows": 4,
        "steps": steps,
        "figures": figures(success),
        "costs": costs(held, slower),
        "bins": bins,
    }


def write(folder: Path, *lines, memory="memo", seed=0, checkpoint=50, env=TMAZE, at=1):
    """A run folder with the figures of one streaming evaluation."""
    folder.mkdir(exist_ok=True)
    config = {"env": TMAZE, "memory": {"name": memory}, "ppo": {}, "seed": seed}
    (folder / "config.json").write_text(json.dumps(config))
    found = {"checkpoint": checkpoint, "env": env, "options": {"sample": False}, "device": "a card", "lines": lines}
    (folder / f"stream-{checkpoint}-{at}.json").write_text(json.dumps(found))
    return folder


def entries(*folders):
    ((task,), _) = group(map(read, folders))
    return task.entries


def test_what_a_budget_buys_is_a_line(tmp_path: Path) -> None:
    for seed, (full, window) in enumerate(((0.8, 0.4), (1.0, 0.5))):
        write(tmp_path / str(seed), line("full", 0, full, 4096, 2.0), line("window", 64, window, 1024), seed=seed)
    (kind,) = streams.kinds(entries(tmp_path / "0", tmp_path / "1"))
    assert (kind.title, kind.figure) == ("streams of 100 steps", "success")
    found = streams.table(kind)
    assert "a card" in found.note
    full, window = (dict(zip(found.header, each, strict=True)) for each in found.lines)
    assert full["kept"] == "full"
    assert full["success"] == "0.900 (0.800 to 1.000)"
    assert full["of full"] == full["of most"] == "100.0 %"
    assert window["kept"] == "window 64"
    assert window["of full"] == "50.0 %"  # 0.45 of 0.9
    assert (window["bytes"], window["of most"], window["entries"]) == ("1.0 KiB", "25.0 %", "128.0")
    assert (window["FLOPs"], window["+ settling"]) == ("2.5k", "")
    assert (full["ms, median"], full["ms, p99"], full["last/first bin"]) == ("2.000", "4.000", "2.000")
    assert [each[2:5] for each in streams.by_time(kind).lines[:2]] == [
        ["50", "0.900 (0.800 to 1.000)", "2.0 KiB"],
        ["100", "0.900 (0.800 to 1.000)", "4.0 KiB"],
    ]
    assert len(streams.charts(kind)) == 4


def test_one_seed_has_its_interval_over_rows(tmp_path: Path) -> None:
    (kind,) = streams.kinds(entries(write(tmp_path / "a", line("full", 0, 0.5, 8))))
    assert streams.table(kind).lines[0][3] == "0.500 (0.400 to 0.600)"
    assert len(streams.charts(kind)) == 3  # nothing has a budget


def test_lengths_and_tasks_are_apart_and_the_newest_stream_counts(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", line("full", 0, 0.1, 8), checkpoint=9)
    write(folder, line("full", 0, 0.2, 8), checkpoint=10)  # comes first by name
    write(folder, line("full", 0, 0.3, 8), checkpoint=10, at=2)
    write(folder, line("full", 0, 0.4, 8), checkpoint=10, at=3, env=TMAZE | {"length": 90})
    write(folder, line("full", 0, 0.5, 8, steps=200), checkpoint=10, at=4)
    found = {kind.title: kind.kept[0].reached("success").value for kind in streams.kinds(entries(folder))}
    assert found == {
        "streams of 100 steps": 0.3,
        "streams of 100 steps, length 90": 0.4,
        "streams of 200 steps": 0.5,
    }


def test_entries_and_policies_have_names_of_their_own(tmp_path: Path) -> None:
    memo = write(tmp_path / "a", line("sinks", 64, 0.5, 8, sinks=1), line("sinks", 64, 0.6, 8, sinks=4))
    (kind,) = streams.kinds(entries(memo, write(tmp_path / "b", line("full", 0, 0.7, 8), memory="gru")))
    assert [(each.entry, each.name) for each in kind.kept] == [
        ("memo", "sinks 64, sinks 1"),
        ("memo", "sinks 64, sinks 4"),
        ("gru", "full"),
    ]
    assert "memo: sinks 64, sinks 1" in "".join(streams.charts(kind))


def test_where_no_episode_ended_the_reward_is_what_was_reached(tmp_path: Path) -> None:
    (kind,) = streams.kinds(entries(write(tmp_path / "a", line("full", 0, None, 8))))
    assert kind.figure == "reward"


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    (folder / "stream-1.json").write_text('{"lines": [1]}')
    with pytest.raises(ValueError, match=r"stream-1.json was not written by `mnemic eval --cache`"):
        read(folder)
