"""Every mistake is one line that says what came, what was expected and what to do; exit code 2, no traceback."""

import errno
import shutil
from pathlib import Path

import pytest

from mnemic.agents import checkpoint
from mnemic.cli.main import main
from mnemic.cli.names import choose

from .conftest import TINY


def complaint(argv: list[str], capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    assert main(argv) == code
    said = capsys.readouterr()
    assert said.err.startswith("mnemic: ")
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err
    return said.err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("trian", ["unknown command 'trian'", "choose one of train", "mnemic --help"]),
        ("train endless-tmaze-lsmt", ["unknown recipe 'endless-tmaze-lsmt'", "choose one of endless-tmaze-lstm"]),
        ("train endless-tmaze", ["is an environment", "mnemic train --env endless-tmaze"]),
        ("train --env endles-tmaze", ["unknown environment 'endles-tmaze'", "choose one of endless-tmaze", "gym:"]),
        ("train --env=gym:", ["unknown environment 'gym:'"]),
        ("train --env gym:Nowhere-v0", ["Nowhere-v0"]),
        ("train --env trials:", ["unknown environment 'trials:'", "trials:tmaze"]),
        ("train --env trials:tmase", ["unknown environment 'tmase'", "choose one of tmaze"]),
        ("train --env trials:darkroom", ["darkroom has trials of many episodes of its own"]),
        ("train --env trials:tmaze --env.episodes 2 --env.steps 9", ["episodes is 2 and steps is 9", "leave one 0"]),
        ("train --env trials:tmaze --env.length 9", ["unknown flag --env.length", "close to it: --env.task.length"]),
        ("train trials:tmaze", ["is an environment", "mnemic train --env trials:tmaze"]),
        ("train --env", ["--env needs a value"]),
        ("train --env --seed 1", ["--env needs a value"]),
        ("train --memory lsmt", ["unknown memory 'lsmt'", "choose one of lstm"]),
        ("train --device tpu", ["device 'tpu'", "cpu"]),
        ("train --device cuda:99", ["device 'cuda:99'", "cpu"]),
        ("train --rows 3", ["unknown flag --rows", "--ppo.rows", "mnemic train --help"]),
        ("train --ppo.learning-rte 1", ["unknown flag --ppo.learning-rte", "close to it: --ppo.learning-rate"]),
        ("train --qqq=1", ["unknown flag --qqq;", "mnemic train --help"]),
        ("train --steps many", ["--steps takes a whole number", "'many'"]),
        ("train --steps 1e6", ["--steps takes a whole number", "'1e6'"]),
        ("train --ppo.gamma high", ["--ppo.gamma takes a number", "'high'"]),
        ("train --ppo.gamma 1.5", ["gamma is 1.5", "0..1"]),
        ("train --ppo.rows 10 --ppo.minibatches 4", ["10 rows do not divide into 4 minibatches"]),
        ("train --ppo.schedule slow", ["--ppo.schedule takes one of 'constant', 'linear', 'cosine'", "'slow'"]),
        ("train --ppo.trial-end never", ["--ppo.trial-end takes one of 'bootstrap', 'stop'", "'never'"]),
        ("train --ppo.recompute -1", ["recompute is -1", "at least 0"]),
        ("train --ppo.shuffle", ["shuffle is about steps that are gone through again", "set recompute above 0"]),
        ("train --ppo.recompute 9 --ppo.shuffle --ppo.no-refresh", ["it needs refresh"]),
        ("train --ppo.recompute 9 --ppo.wait-for 0.5", ["set wait_for to 1, or recompute to 0"]),
        (
            "train --env endless-tmaze --ppo.recompute 99 --ppo.full-update",
            ["full_update needs trials of one length", "endless-tmaze end when they end"],
        ),
        (
            "train --env darkroom --ppo.recompute 500 --ppo.full-update --ppo.window 64",
            ["window is 64 and a trial of darkroom takes 500 steps"],
        ),
        (
            "train --env darkroom --ppo.recompute 300 --ppo.full-update --ppo.window 100",
            ["recompute is 300 and must be at least 400"],
        ),
        ("train --env.sampling unifrom", ["--env.sampling takes one of 'uniform', 'fixed'", "'unifrom'"]),
        ("train --ppo 3", ["--ppo cannot be set here as a whole", "--ppo.X"]),
        ("train --ppo.learning-rate inf", ["learning_rate is inf", "finite"]),
        ("train --ppo.entropy-weight nan", ["entropy_weight is nan", "at least 0"]),
        ("train --threads 100000", ["threads is 100000", "0..256"]),
        ("train --memory gru --memory.depth-dropout 0.1", ["depth_dropout 0.1", "choose residual add or gate"]),
        ("train --memory memo --memory.segment-jitter 1", ["segment_jitter is 1.0", "less than 1"]),
        (
            "train --env darkroom --memory transformer --memory.positions episode --memory.episode-positions 3",
            ["an episode takes up to 100 steps", "positions for 3", "--memory.episode-positions 100"],
        ),
        ("train --steps", ["--steps needs a value"]),
        ("train --steps 0", ["steps is 0", "at least 1"]),
        ("train --encoder.episode-flag False", ["takes no value", "--encoder.no-episode-flag"]),
        ("train --encoder.episode-flag=False", ["takes no value", "--encoder.no-episode-flag"]),
        ("train --steps 5 extra", ["unexpected 'extra'"]),
        ("train --run .", ["exists and is not overwritten", "--run"]),
        ("resume", ["resume takes one run folder"]),
        ("resume nowhere", ["nowhere is not a run folder: it is not there"]),
        ("resume nowhere --steps 5", ["nothing else"]),
        ("eval", ["a run folder comes first", "mnemic eval RUN"]),
        ("eval oracle", ["eval oracle needs a task", "mnemic eval oracle --env NAME", "mnemic list envs"]),
        ("eval oracle --env tmase", ["unknown environment 'tmase'"]),
        ("eval oracle --env gym:CartPole-v1", ["gym:CartPole-v1 has no oracle", "mnemic eval random"]),
        ("eval random --env gym:Pendulum-v1 --episodes 0", ["episodes is 0; it must be at least 1"]),
        ("eval random --env tmaze --sample", ["unknown flag --sample"]),
        ("eval random --env tmaze --json a.txt", ["a name that ends in .json", "'a.txt'"]),
        ("eval random --env tmaze --json nowhere/a.json", ["the folder nowhere is not there"]),
        ("eval nowhere", ["nowhere is not a run folder"]),
        ("play", ["a run folder comes first", "mnemic play RUN"]),
        ("play .", ["it has no config.json"]),
        ("list everything", ["unknown list 'everything'", "envs, memories, caches, recipes"]),
        ("list envs memories", ["one word, 2 came"]),
        ("bench", ["say what to measure"]),
        ("bench trane", ["unknown benchmark 'trane'", "choose one of train"]),
        ("bench train --against sb4", ["--against takes one of 'sb3'", "'sb4'"]),
        ("bench train --against sb3 --memory gru", ["the peers train an LSTM", "gru"]),
        ("bench train --turns 0", ["turns is 0"]),
        ("bench train --rows 4 0", ["rows is 4 0"]),
        ("bench train --rows 3 --ppo.minibatches 2", ["3 rows do not divide into 2 minibatches"]),
        ("bench train --memory", ["--memory needs a value"]),
        ("bench train --memory gru lsmt", ["unknown memory 'lsmt'"]),
        ("bench train --memory gru lstm --memory.width 3", ["belongs to one memory"]),
        ("bench kernels rnm", ["unknown kernel 'rnm'"]),
        ("bench kernels --device cuda:99", ["device 'cuda:99'"]),
        ("bench envs tmase", ["unknown environment 'tmase'", "choose one of tmaze"]),
        ("bench envs --json nowhere/a.json", ["--json nowhere/a.json", "its folder is not there"]),
        ("bench envs --out page.md", ["--out page.md is not there"]),
        ("bench page", ["reports come first"]),
        ("bench page a.json", ["a.json: No such file"]),
        ("train --env gym:Pendulum-v1 --ppo.recall-weight 1", ["Pendulum-v1 does not say what that is", "color-cubes"]),
        ("train --kernels rnn", ["'rnn' came; write KERNEL=BACKEND"]),
        ("train --kernels rnm=loop", ["'rnm=loop' came; write KERNEL=BACKEND", "rnn"]),
        ("train --kernels rnn=lop", ["rnn: unknown backend 'lop'", "loop, reference"]),
    ],
)
def test_mistakes(argv: str, words: list[str], capsys, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = complaint(argv.split(), capsys)
    for word in words:
        assert word in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("eval --episodes 0", ["episodes is 0", "at least 1"]),
        ("eval --episode 5", ["unknown flag --episode", "--episodes"]),
        ("eval --checkpoint 7", ["unknown checkpoint '7'", "choose one of", "512"]),
        ("eval --device tpu", ["device 'tpu'"]),
        ("eval --steps 1 --rows 2", ["no episode ended within 1 steps"]),
        ("eval --env.corridors none", ["--env.corridors takes a whole number"]),
        ("play --gif film.mp4", ["ends in .gif", "'film.mp4'"]),
        ("play --gif nowhere/film.gif", ["the folder nowhere is not there"]),
        ("play --delay -1", ["delay is -1.0", "at least 0"]),
    ],
)
def test_mistakes_about_a_run(flags: str, words: list[str], capsys, finished: Path) -> None:
    command, *rest = flags.split()
    said = complaint([command, str(finished), *rest], capsys)
    for word in words:
        assert word in said


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


@pytest.mark.parametrize("command", ["eval", "play"])
def test_a_damaged_checkpoint_is_refused(command: str, copied: Path, capsys) -> None:
    weights = copied / "checkpoints" / "512" / "policy" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "is damaged or cut short" in complaint([command, str(copied)], capsys)


def test_a_damaged_configuration_is_refused(copied: Path, capsys) -> None:
    (copied / "config.json").write_text("{")
    assert "is damaged: not JSON" in complaint(["eval", str(copied)], capsys)
    (copied / "config.json").write_text("{}")
    said = complaint(["resume", str(copied)], capsys)
    assert "config.json: the configuration does not fit this version of mnemic: it has no 'env'" in said


def test_the_newest_run_is_offered(finished: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(finished.parent.parent)
    finished.parent.joinpath("..", "runs").resolve()
    (finished.parent.parent / "runs").symlink_to(finished.parent)
    try:
        assert "the newest run is runs/finished" in complaint(["eval"], capsys)
    finally:
        (finished.parent.parent / "runs").unlink()


def test_a_full_disk_is_one_line_and_leaves_the_earlier_checkpoint_good(tmp_path, monkeypatch, capsys) -> None:
    write, calls = checkpoint._write_synced, []

    def full(path: Path, blob: bytes) -> None:
        calls.append(path)
        if len(calls) > 4:  # the first checkpoint takes four files
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, blob)

    monkeypatch.setattr(checkpoint, "_write_synced", full)
    run = tmp_path / "run"
    said = complaint(["train", "--run", str(run), "--steps", "512", *TINY], capsys)
    assert "No space left on device" in said
    assert f"make room, then `mnemic resume {run}`" in said
    assert main(["eval", str(run), "--episodes", "8"]) == 0
    assert "checkpoint 0" in capsys.readouterr().out


def test_divergence_is_one_line_that_names_the_good_checkpoint(tmp_path, capsys) -> None:
    argv = ["train", "--run", str(tmp_path / "run"), "--ppo.learning-rate", "1e38", "--steps", "1280", *TINY]
    said = complaint(argv, capsys, code=1)
    assert "the last good checkpoint is" in said


def test_choices_come_closest_first() -> None:
    with pytest.raises(ValueError, match=r"unknown core 'lstn'; choose one of lstm, gru, none; ask"):
        choose("core", "lstn", ["gru", "none", "lstm"], more="ask")
