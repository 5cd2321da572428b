"""train, resume, eval, play: from nothing to a GIF."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image

from mnemic.agents.checkpoint import read
from mnemic.cli import choices
from mnemic.cli.main import main
from mnemic.kernels.backend import OPS, prefer
from mnemic.train.ppo import learn

from .conftest import TINY


def weights(run: Path) -> dict:
    return read(run / "checkpoints" / "last" / "policy", "policy")[1]


def test_train_says_what_it_did_and_what_comes_next(tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    assert main(["train", "--run", str(run), "--steps", "256", *TINY]) == 0
    said = capsys.readouterr().out
    for words in (
        "task endless-tmaze, memory lstm, ",
        "parameters; device cpu",
        f"run folder {run}",
        "all steps done: 256 steps in",
        "16 fresh episodes, greedy, checkpoint 256",
        "success",
        f"tensorboard --logdir {tmp_path}",
        f"mnemic eval {run}",
        f"mnemic play {run}",
    ):
        assert words in said
    assert len(list(run.glob("eval-256-*.json"))) == 1


def test_the_parts_of_a_recipe_can_be_replaced(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["train", "endless-tmaze-lstm", "--memory=none", "--env", "endless-tmaze", "--env.corridors", "1"]
    assert main([*argv, "--steps", "128", "--seed", "7", *TINY]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("endless-tmaze-none-seed7-")
    config = json.loads((run / "config.json").read_text())
    assert config["memory"]["name"] == "none"
    assert config["memory"]["width"] == 8
    assert config["env"]["corridors"] == 1
    assert config["evaluation"]["stop_at"] == 0.99  # of the recipe


@pytest.mark.parametrize(("env", "stop_at"), [("endless-tmaze", 0.99), ("repeat-previous", 0.0)])
def test_a_task_begins_from_its_recipe_or_from_the_general_defaults(tmp_path: Path, env: str, stop_at: float) -> None:
    run = tmp_path / "run"
    assert main(["train", "--env", env, "--memory", "gru", "--steps", "128", "--run", str(run), *TINY]) == 0
    assert json.loads((run / "config.json").read_text())["evaluation"]["stop_at"] == stop_at


def test_ctrl_c_leaves_a_checkpoint_from_which_resume_reaches_the_same_end(
    finished: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    run, windows = tmp_path / "run", []

    def learn_and_interrupt(*args, **kwargs):
        windows.append(1)
        if len(windows) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return learn(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr("mnemic.train.loop.learn", learn_and_interrupt)
        assert main(["train", "--run", str(run), "--steps", "512", *TINY]) == 130
    said = capsys.readouterr()
    assert "stopped after 256 steps" in said.out
    assert f"mnemic resume {run}" in said.out
    assert said.err == ""

    assert main(["resume", str(run)]) == 0
    assert "from step 256" in capsys.readouterr().out
    once, again = weights(finished), weights(run)
    assert all(torch.equal(once[name], again[name]) for name in once)

    assert main(["resume", str(run)]) == 0
    assert "is finished, after 512 steps" in capsys.readouterr().out


def test_a_solved_run_is_finished(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("mnemic.cli.train.evaluate", lambda policy, env_config, *, episodes, seed: {"success": 1.0})
    run = tmp_path / "run"
    argv = ["train", "--run", str(run), "--steps", "12800", *TINY, "--evaluation.every", "2"]
    assert main([*argv, "--evaluation.stop-at", "0.9"]) == 0
    assert "solved: 256 steps" in capsys.readouterr().out
    before = (run / "metrics.jsonl").read_text()
    assert main(["resume", str(run)]) == 0
    assert "is finished" in capsys.readouterr().out
    assert (run / "metrics.jsonl").read_text() == before


def test_eval_prints_intervals_and_writes_each_time_anew(finished: Path, capsys) -> None:
    before = set(finished.glob("eval-*.json"))
    for _ in range(2):
        assert (
            main(["eval", str(finished), "--episodes", "20", "--rows", "5", "--seed", "3", "--env.corridors", "2"]) == 0
        )
    said = capsys.readouterr().out
    for words in ("20 fresh episodes, greedy, checkpoint 512", "95 % interval", "return", "success", "length"):
        assert words in said
    one, two = set(finished.glob("eval-*.json")) - before
    found = json.loads(one.read_text())
    assert found["env"]["corridors"] == 2
    assert found["options"]["seed"] == 3
    assert found["episodes"] == 20
    assert found["figures"]["success"]["low"] <= found["figures"]["success"]["value"]
    assert found["figures"] == json.loads(two.read_text())["figures"]
    assert main(["eval", str(finished), "--sample", "--episodes", "4", "--checkpoint", "0"]) == 0
    assert "4 fresh episodes, sampled, checkpoint 0" in capsys.readouterr().out


def test_trials_get_a_table_by_place_of_the_episode(tmp_path: Path, capsys) -> None:
    run, trial = tmp_path / "run", ["--env", "dark-key-to-door", "--env.trial-steps", "40", "--env.episode-steps", "10"]
    trial += ["--memory", "lstm", "--device", "cpu"]
    assert main(["train", "--run", str(run), *trial, "--steps", "128", *TINY]) == 0
    assert "by place of the episode in its trial" in capsys.readouterr().out
    (file,) = run.glob("eval-*.json")
    found = json.loads(file.read_text())
    assert len(found["by_episode"]) >= 4
    assert {"trial_return", "gain", "success_gain"} <= set(found["figures"])
    with Image.open(file.with_suffix(".png")) as curve:
        assert curve.width > 400


def test_any_task_is_trained_in_trials_stopped_resumed_evaluated_and_watched(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    trial = ["train", "--env", "trials:tmaze", "--env.task.length", "3", "--env.episodes", "4", "--ppo.no-cut-returns"]
    argv = [*trial, "--memory", "lstm", "--steps", "512", *TINY]
    whole, run, windows = tmp_path / "whole", tmp_path / "run", []

    def learn_and_interrupt(*args, **kwargs):
        windows.append(1)
        if len(windows) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return learn(*args, **kwargs)

    assert main([*argv, "--run", str(whole)]) == 0
    with monkeypatch.context() as patch:
        patch.setattr("mnemic.train.loop.learn", learn_and_interrupt)
        assert main([*argv, "--run", str(run)]) == 130
    said = capsys.readouterr().out
    assert "task trials:tmaze, memory lstm" in said
    assert "note: a trial holds many episodes" not in said
    assert main(["resume", str(run)]) == 0
    once, again = weights(whole), weights(run)
    assert all(torch.equal(once[name], again[name]) for name in once)
    lines = [
        [{tag: value for tag, value in json.loads(line).items() if tag.startswith("trial/")} for line in text]
        for text in ((folder / "metrics.jsonl").read_text().splitlines() for folder in (whole, run))
    ]
    assert lines[0] == lines[1]
    tags = {tag for line in lines[0] for tag in line}
    assert tags >= {"trial/gain", "trial/success_gain", "trial/return_episode_3", "trial/success_episode_0"}

    assert main(["eval", str(run), "--episodes", "20", "--env.task.length", "2", "--env.episodes", "3"]) == 0
    assert "success_gain" in capsys.readouterr().out
    assert main(["play", str(run), "--steps", "6"]) == 0
    assert "episode 2 of 4: step 1 of 4" in capsys.readouterr().out


def test_a_trial_whose_returns_are_cut_is_noted(tmp_path: Path, capsys) -> None:
    argv = ["train", "--env", "trials:tmaze", "--env.task.length", "3", "--steps", "128", *TINY]
    assert main([*argv, "--run", str(tmp_path / "run")]) == 0
    assert "note: a trial holds many episodes; --ppo.no-cut-returns counts" in capsys.readouterr().out


def test_the_oracle_and_chance_play_any_task(tmp_path: Path, capsys) -> None:
    file = tmp_path / "oracle.json"
    trial = ["--env", "trials:tmaze", "--env.task.length", "3", "--episodes", "10", "--rows", "2"]
    assert main(["eval", "oracle", *trial, "--json", str(file)]) == 0
    said = capsys.readouterr().out
    for words in ("trials:tmaze: 10 fresh episodes, oracle", "trial_return", "by place of the episode in its trial"):
        assert words in said
    found = json.loads(file.read_text())
    assert found["player"] == "oracle"
    assert found["env"]["task"] == {"name": "tmaze", "length": 3}
    assert found["figures"]["trial_return"]["value"] == 5
    assert found["figures"]["gain"]["value"] == 0
    assert file.with_suffix(".png").is_file()
    assert main(["eval", "random", "--env", "tmaze", "--episodes", "30", "--json", str(file)]) == 0
    assert "tmaze: 30 fresh episodes, random" in capsys.readouterr().out
    assert json.loads(file.read_text())["figures"]["return"]["value"] < 0
    maze = ["--env", "endless-tmaze", "--env.corridors", "1", "--episodes", "400"]
    assert main(["eval", "memoryless", *maze, "--json", str(file)]) == 0
    assert 0.4 < json.loads(file.read_text())["figures"]["success"]["value"] < 0.6
    assert main(["eval", "memoryless", "--env", "tmaze"]) == 2
    assert "tmaze has no memoryless player; `mnemic eval random --env tmaze` plays it" in capsys.readouterr().err
    assert main(["eval", "random", "--help"]) == 0
    assert main(["eval", "random", "--env", "tmaze", "--help"]) == 0
    assert "--env.length" in capsys.readouterr().out


def test_a_long_trial_is_shown_in_part(capsys) -> None:
    assert main(["eval", "random", "--env", "trials:tmaze", "--env.episodes", "30", "--env.task.length", "1"]) == 0
    said = capsys.readouterr().out
    assert "by place of the episode in its trial, the first 20 of 30" in said


def test_play_in_a_pipe_prints_frames(finished: Path, capsys) -> None:
    assert main(["play", str(finished), "--steps", "3"]) == 0
    said = capsys.readouterr().out
    assert "episode 1 · step 2 · reward" in said
    assert said.count("memory |") >= 3


def test_play_in_a_terminal_draws_in_place(finished: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert main(["play", str(finished), "--steps", "3", "--delay", "0"]) == 0
    said = capsys.readouterr().out
    assert "\x1b[" in said
    assert "episode 1 · step 2" in said


def test_play_writes_a_film(finished: Path, tmp_path: Path, capsys) -> None:
    path = tmp_path / "film.gif"
    assert main(["play", str(finished), "--gif", str(path), "--steps", "6", "--episodes", "1", "--delay", "0.1"]) == 0
    assert str(path) in capsys.readouterr().out
    with Image.open(path) as film:
        assert film.n_frames >= 2
        film.seek(1)
        assert film.info["duration"] == 100
        colours = film.convert("RGB").getcolors(1 << 20)
    assert colours is not None
    assert len(colours) > 8  # the picture, letters, and the memory


@pytest.mark.parametrize("command", ["eval", "play"])
def test_help_about_a_run_shows_the_options_of_its_task(command: str, finished: Path, capsys) -> None:
    assert main([command, str(finished), "--help"]) == 0
    assert "--env.corridors" in capsys.readouterr().out


def test_named_kernels_run_are_said_and_are_kept(tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    try:
        argv = ["train", "--run", str(run), "--steps", "128", "--kernels", "rnn=reference", "gae=reference", *TINY]
        assert main(argv) == 0
        assert "kernels gae=reference rnn=reference\n" in capsys.readouterr().out
        assert json.loads((run / "config.json").read_text())["kernels"] == ["rnn=reference", "gae=reference"]
        assert main(["resume", str(run)]) == 0
        assert "is finished" in capsys.readouterr().out
    finally:
        prefer([])


def test_a_kernel_that_cannot_run_is_refused_before_there_is_a_folder(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(OPS["rnn"], "refusal", lambda name, like: "no luck" if name == "loop" else None)
    assert main(["train", "--run", str(tmp_path / "run"), "--kernels", "rnn=loop", *TINY]) == 2
    assert "rnn: backend 'loop' cannot run here: no luck; what can: " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_task_whose_recipe_needs_a_gpu_has_general_defaults_without_one(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choices.recipe_for("dark-key-to-door") is None
    assert choices.recipe_for("endless-tmaze") is not None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choices.recipe_for("dark-key-to-door").device == "cuda"
