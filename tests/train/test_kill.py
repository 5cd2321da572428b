"""A run in a process of its own, killed or interrupted at any moment."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

KILLS = int(os.environ.get("MNEMIC_TEST_KILLS", "4"))

SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from mnemic.envs import make_config as make_env
from mnemic.memory import make_config
from mnemic.train.config import EvalConfig, PPOConfig, TrainConfig
from mnemic.train.loop import train
from mnemic.train.run import RunFolder, Training

path, updates = Path(sys.argv[1]), int(sys.argv[2])
ppo = PPOConfig(rows=8, window=8, minibatches=2, epochs=1)
config = TrainConfig(
    env=make_env("endless-tmaze"),
    memory=make_config("lstm", width=16),
    ppo=ppo,
    evaluation=EvalConfig(every=3),
    steps=updates * ppo.batch_steps,
    checkpoint_seconds=0.0,
)
Training(config)  # loads what is loaded late
print("ready", flush=True)
resume = (path / "config.json").is_file()
folder = RunFolder.open(path)[0] if resume else RunFolder.create(path, config)
result = train(config, folder, lambda policy, episodes, seed: {"success": 0.5}, resume=resume, quiet=True)
print(result.why, result.steps, flush=True)
"""


@contextmanager
def started(path, updates):
    """The process of a run, once it has loaded what it needs; never left behind."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(path), str(updates)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        yield process
    finally:
        process.kill()
        process.communicate()


def finish(path, updates):
    """Let a run end; returns what it says and how long it took."""
    with started(path, updates) as process:
        began = time.monotonic()
        said, complaints = process.communicate(timeout=120)
        assert process.returncode == 0, complaints
        return said, time.monotonic() - began


@pytest.mark.timeout(60 + 15 * KILLS)
def test_a_run_that_is_killed_ends_with_the_same_bits(toys, tmp_path):
    """kill -9 at random moments: while it opens, acts, learns, logs or writes a checkpoint."""
    updates = 10 * max(KILLS, 4)
    said, seconds = finish(tmp_path / "whole", updates)
    assert said == f"done {64 * updates}\n"
    moments = random.Random(0)
    reached = []
    for _ in range(KILLS):
        with started(tmp_path / "parts", updates) as process:
            time.sleep(moments.uniform(0.0, 1.5 * seconds / KILLS))
            process.kill()
            process.wait()
        newest = tmp_path / "parts" / "checkpoints" / "last"
        reached.append(int(newest.resolve().name) if newest.exists() else 0)
    assert reached[-1] > 0
    assert finish(tmp_path / "parts", updates)[0] == said
    assert toys.checkpoint_bits(tmp_path / "parts") == toys.checkpoint_bits(tmp_path / "whole")
    assert toys.metrics(tmp_path / "parts") == toys.metrics(tmp_path / "whole")
    assert sorted(path.name for path in (tmp_path / "parts" / "checkpoints").iterdir()) == [
        str(64 * (updates - 1)),
        str(64 * updates),
        "last",
    ]
    for tag in ("losses/value_loss", "charts/sps"):
        steps = [event.step for event in toys.events(tmp_path / "parts").Scalars(tag)]
        assert steps == [64 * (update + 1) for update in range(updates)], (tag, reached)


def test_control_c_ends_with_a_checkpoint(toys, tmp_path):
    with started(tmp_path / "run", 1_000_000) as process:
        deadline = time.monotonic() + 60
        while not (log := tmp_path / "run" / "metrics.jsonl").is_file() or log.read_text().count("\n") < 2:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        said, complaints = process.communicate(timeout=60)
    assert process.returncode == 0
    assert complaints == ""
    steps = int(toys.metrics(tmp_path / "run")[-1]["steps"])
    assert said == f"interrupted {steps}\n"
    assert (tmp_path / "run" / "checkpoints" / "last").resolve().name == str(steps)
