"""`mnemic eval --cache` and `mnemic bench stream`: what they print and write, and mistakes in one line."""

import json
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mnemic.cli import bench
from mnemic.cli import stream as command
from mnemic.cli.main import main
from mnemic.eval import stream as streams
from mnemic.eval import stream_bench
from mnemic.eval.turns import World
from mnemic.memory.caches import CACHES

from .conftest import TINY

TASK = ["--env", "dark-key-to-door", "--env.size", "3", "--env.trial-steps", "20", "--env.episode-steps", "5"]
SMALL = [
    *("--trunk.width", "16", "--trunk.depth", "1", "--trunk.heads", "2", "--trunk.mlp", "1", "--trunk.segment", "8"),
    *("--trunk.summaries", "2", "--trunk.sets", "2", "--trunk.window", "16", "--steps", "80", "--timed", "8"),
]


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a transformer on trials of 20 steps; files may be added to it."""
    run = tmp_path_factory.mktemp("runs") / "transformer"
    argv = ["train", "--run", str(run), "--device", "cpu", *TASK, "--memory", "transformer", "--steps", "128", *TINY]
    assert main(argv) == 0
    return run


def written(run: Path, before: set[Path]) -> Path:
    (path,) = set(run.glob("stream-*.json")) - before
    return path


def test_every_policy_at_every_budget_is_a_line(transformer: Path, capsys) -> None:
    before = set(transformer.glob("stream-*.json"))
    flags = ["--steps", "60", "--cache", "full,window", "--context", "8,4", "--bins", "3", "--rows", "4", "--sample"]
    assert main(["eval", str(transformer), *flags]) == 0
    said = capsys.readouterr().out
    for words in ("60 steps in 4 rows, sampled", "each row plays at least 3", "window 4 ", "window 8 ", "full ", "ms"):
        assert words in said
    path = written(transformer, before)
    found = json.loads(path.read_text())
    assert [(line["cache"], line["options"]["context"]) for line in found["lines"]] == [
        ("full", 0),
        ("window", 4),
        ("window", 8),
    ]
    full, narrow, wide = found["lines"]
    assert full["trial_steps"] == 20
    assert [one["end"] for one in full["bins"]] == [20, 40, 60]
    assert sum(one["episodes"] for one in full["bins"]) >= 4 * 12
    assert full["costs"]["bytes"] > wide["costs"]["bytes"] > narrow["costs"]["bytes"]
    assert (narrow["costs"]["entries"], wide["costs"]["entries"]) == (3.7, 6.6)  # the means of 1..4, 4.. and 1..8, 8..
    for line in found["lines"]:
        figure = line["figures"]["return"]
        assert figure["low"] <= figure["value"] <= figure["high"]
        assert line["costs"]["latency_median"] <= line["costs"]["latency_p99"]
        assert all(one["costs"]["flops"] > 0 for one in line["bins"])
    with Image.open(path.with_suffix(".png")) as image:
        assert image.size > (1000, 500)
        assert len(image.convert("RGB").getcolors(1 << 20) or []) > 10
    events = EventAccumulator(str(path.with_suffix(""))).Reload()
    assert [event.step for event in events.Scalars("stream/return/window-4")] == [20, 40, 60]
    value = events.Scalars("stream/bytes/full")[-1].value
    assert value == pytest.approx(full["bins"][-1]["costs"]["bytes"])


def test_the_task_can_be_another_and_budgets_can_be_of_a_policy(transformer: Path, capsys) -> None:
    before = set(transformer.glob("stream-*.json"))
    flags = ["--steps", "40", "--cache", "window", "--cache.window.context", "5", "--env.trial-steps", "100"]
    assert main(["eval", str(transformer), *flags, "--rows", "2", "--bins", "2"]) == 0
    assert "a trial takes up to 100 steps: nothing is forgotten in the stream" in capsys.readouterr().out
    found = json.loads(written(transformer, before).read_text())
    assert found["env"]["trial_steps"] == 100
    assert found["lines"][0]["options"]["context"] == 5


def test_a_core_of_constant_memory_keeps_everything(finished: Path, capsys) -> None:
    before = set(finished.glob("stream-*.json"))
    assert main(["eval", str(finished), "--steps", "120", "--cache", "full", "--bins", "4", "--rows", "3"]) == 0
    (line,) = json.loads(written(finished, before).read_text())["lines"]
    assert {one["costs"]["bytes"] for one in line["bins"]} == {line["costs"]["bytes"]}
    assert {one["costs"]["entries"] for one in line["bins"]} == {0}
    assert "full" in capsys.readouterr().out


def test_ctrl_c_writes_what_was_measured(transformer: Path, capsys, monkeypatch) -> None:
    before, answer, answers = set(transformer.glob("stream-*.json")), World.__call__, []

    def interrupted(world: World) -> None:
        answers.append(world)
        if len(answers) == 50:
            raise KeyboardInterrupt
        answer(world)

    monkeypatch.setattr(World, "__call__", interrupted)
    flags = ["--steps", "30", "--cache", "full,window", "--context", "4,8", "--bins", "3", "--rows", "2"]
    assert main(["eval", str(transformer), *flags]) == 130
    said = capsys.readouterr()
    assert "interrupted; this was measured before" in said.err
    assert "window 4" in said.out
    assert "window 8" not in said.out
    full, window = json.loads(written(transformer, before).read_text())["lines"]
    assert (full["steps"], full["interrupted"]) == (30, False)
    assert (window["steps"], window["interrupted"]) == (19, True)


def test_an_error_in_a_later_stream_keeps_the_earlier_ones(transformer: Path, capsys, monkeypatch) -> None:
    before, real, played = set(transformer.glob("stream-*.json")), command.play_stream, []

    def failing(*args, **options):
        played.append(args)
        if len(played) == 2:
            raise RuntimeError("out of memory")
        return real(*args, **options)

    monkeypatch.setattr(command, "play_stream", failing)
    flags = ["--steps", "30", "--cache", "full,window", "--context", "4", "--bins", "3", "--rows", "2"]
    with pytest.raises(RuntimeError, match="out of memory"):
        main(["eval", str(transformer), *flags])
    (line,) = json.loads(written(transformer, before).read_text())["lines"]
    assert line["cache"] == "full"


def complaint(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(argv) == 2
    said = capsys.readouterr()
    assert said.err.startswith("mnemic: ")
    assert said.err.count("\n") == 1
    assert said.out == ""
    return said.err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("--steps 100 --cache windw", ["unknown cache 'windw'", "choose one of window", "full"]),
        ("--steps 100 --cache", ["--cache needs a value"]),
        ("--steps 100 --context 12", ["--cache says what the memory keeps", ", ".join(CACHES)]),
        ("--cache window", ["--steps N"]),
        ("--steps 0 --cache window", ["--steps N"]),
        ("--steps -5 --cache full", ["steps is -5", "at least 1"]),
        ("--steps 100 --cache window --context 0", ["--context has 0", "at least 1"]),
        ("--steps 100 --cache window --context 64,-3", ["--context has -3", "at least 1"]),
        ("--steps 100 --cache window --context -3", ["--context has -3", "at least 1"]),
        ("--steps 100 --cache window --context=-3", ["--context has -3", "at least 1"]),
        ("--steps 100 --cache window --context many", ["whole numbers", "'many'"]),
        ("--steps 100 --cache window --context full", ["--cache full"]),
        ("--steps 100 --cache full --context 8", ["--context 8 bounds nothing"]),
        ("--steps 100 --cache window --context 8 --cache.window.context 9", ["give one of them"]),
        ("--steps 100 --cache window --cache.window.contxt 9", ["close to it: --cache.window.context"]),
        ("--steps 100 --cache window --cache.window.context 0", ["context is 0"]),
        ("--steps 100 --cache oldest-sets --context 64", ["oldest-sets", "transformer", "--cache window"]),
        ("--steps 10 --cache full", ["bins is 20", "at most the 10 steps"]),
        ("--steps 100 --cache full --rows 0", ["rows is 0", "at least 1"]),
        ("--steps 100 --cache full --surprise loud", ["--surprise takes one of 'td', 'logprob'", "'loud'"]),
        ("--steps 100 --cache full --device tpu", ["device 'tpu'", "cpu"]),
        ("--steps 100 --cache full --checkpoint 7", ["unknown checkpoint '7'"]),
        ("--steps 100 --cache full --episodes 5", ["unknown flag --episodes"]),
        ("--steps 100 --cache full --env.no-show-key", ["dark-key-to-door", "the policy was made for"]),
        ("--steps 10000000000000 --cache full --env.trial-steps 10000000000000", ["GB", "free on cpu", "--rows"]),
        ("--contxt 3", ["unknown flag --contxt", "close to it: --context"]),
    ],
)
def test_mistakes(argv: str, words: list[str], transformer: Path, capsys) -> None:
    before = set(transformer.iterdir())
    said = complaint(["eval", str(transformer), *argv.split()], capsys)
    assert [word for word in words if word not in said] == []
    assert set(transformer.iterdir()) == before


def test_a_core_that_keeps_no_entries_has_none_to_drop(finished: Path, capsys) -> None:
    said = complaint(["eval", str(finished), "--steps", "100", "--cache", "window", "--context", "8"], capsys)
    assert "cache window" in said
    assert "--cache full" in said


def test_steps_beyond_a_table_of_positions_are_refused(tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    table = ["--memory", "transformer", "--memory.positions", "episode", "--memory.episode-positions", "5"]
    assert main(["train", "--run", str(run), "--device", "cpu", *TASK, *table, "--steps", "128", *TINY]) == 0
    capsys.readouterr()
    flags = ["--steps", "60", "--rows", "2", "--bins", "2", "--cache", "full,window", "--context", "8"]
    said = complaint(["eval", str(run), *flags, "--env.episode-steps", "6"], capsys)
    assert "an episode takes up to 6 steps, and the memory has positions for 5" in said
    assert main(["eval", str(run), *flags]) == 0


def test_help_names_the_flags_of_streams(finished: Path, capsys) -> None:
    assert main(["eval", str(finished), "--help"]) == 0
    assert "--cache full --help" in capsys.readouterr().out
    assert main(["eval", str(finished), "--cache", "window", "--help"]) == 0
    said = capsys.readouterr().out
    for flag in ("--cache.window.context", "--surprise {td,logprob}", "--env.corridors", "--cache POLICY[,POLICY..]"):
        assert flag in said


def test_the_progress_of_a_long_stream_is_a_line_now_and_then(finished: Path, capsys, monkeypatch) -> None:
    clock = iter(range(0, 10**6, 6))
    monkeypatch.setattr(command.time, "monotonic", lambda: float(next(clock)))
    assert main(["eval", str(finished), "--steps", "64", "--cache", "full", "--bins", "2", "--rows", "2"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("full: 16/64 steps")
    assert all(line.endswith(" s left") for line in lines)


def test_the_table_of_what_a_step_costs(tmp_path: Path, capsys) -> None:
    report, page = tmp_path / "stream.json", tmp_path / "page.md"
    page.write_text("<!-- bench stream cpu -->\n<!-- end -->\n")
    assert main(["bench", "stream", "--rows", "2", *SMALL, "--json", str(report), "--out", str(page)]) == 0
    said = capsys.readouterr().out
    rows = {row["name"]: row for row in json.loads(report.read_text())["rows"]}
    assert list(rows) == list(stream_bench.CASES)
    assert "step 80 of a trial, 1 layers of 16" in said
    assert rows["full"]["bytes_of_full"] == 1
    assert rows["memo"]["bytes_of_full"] == rows["memo"]["bytes"] / rows["full"]["bytes"]
    assert rows["memo"]["entries"] == 20
    assert rows["memo-streaming"]["asked"] == {"bytes": 1 / 30}
    assert "| memo-streaming | 2 |" in page.read_text()
    assert "bytes 1/30: not met" in page.read_text()


def test_a_case_that_fails_is_a_row_and_ctrl_c_keeps_the_others(tmp_path: Path, capsys, monkeypatch) -> None:
    real = stream_bench.cost_of

    def broken(memory, *args, **options):
        if memory.name == "transformer":
            raise RuntimeError("out of memory")
        if memory.name == "lstm":
            raise KeyboardInterrupt
        return real(memory, *args, **options)

    monkeypatch.setattr(bench.stream_bench, "cost_of", broken)
    report = tmp_path / "stream.json"
    argv = ["bench", "stream", "full", "gru", "lstm", "--rows", "1", *SMALL, "--json", str(report)]
    assert main(argv) == 130
    said = capsys.readouterr()
    assert "interrupted" in said.err
    assert "failed: full, 1: RuntimeError: out of memory" in said.out
    assert [row["name"] for row in json.loads(report.read_text())["rows"]] == ["full", "gru"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("memmo", ["unknown case 'memmo'", "choose one of memo"]),
        ("--steps 100", ["100 steps are too few to time the last 512", "521"]),
        ("--timed 0", ["timed is 0", "at least 1"]),
        ("--rows 0", ["rows is 0", "at least 1"]),
        ("--trunk.heads 3", ["3 heads cannot share"]),
        ("--trunk.segment 0", ["segment is 0"]),
    ],
)
def test_mistakes_about_the_table(argv: str, words: list[str], capsys) -> None:
    said = complaint(["bench", "stream", *argv.split()], capsys)
    assert [word for word in words if word not in said] == []


def test_room_is_not_asked_for_where_a_system_does_not_say(monkeypatch) -> None:
    import torch

    monkeypatch.setattr(streams.Path, "read_text", lambda path: "MemTotal: 5 kB")
    assert streams._free_bytes(torch.device("cpu")) == float("inf")
