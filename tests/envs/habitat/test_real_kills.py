"""Workers of real habitat-sim, killed again and again while agents walk: all goes on, and nothing is left behind."""

import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from mnemic.envs.object_nav import ObjectNavConfig
from mnemic.envs.object_nav.env import HabitatObjectNav

pytestmark = [pytest.mark.habitat, pytest.mark.timeout(900)]
GPU = int(os.environ.get("MNEMIC_HABITAT_GPU", "-1"))
KILLS, ROWS = 50, 4


class Killer(threading.Thread):
    """Kills a worker at a random moment, lets the loss be noticed, and begins again."""

    def __init__(self, env: HabitatObjectNav) -> None:
        super().__init__(daemon=True)
        self.env, self.steps, self.pids = env, 0, list(env.simulator.processes)
        self.rows = 0
        """Of the workers that were killed."""

    def run(self) -> None:
        draw = random.Random(0)
        for kill in range(1, KILLS + 1):
            time.sleep(draw.uniform(0, 0.3))
            worker = draw.randrange(2)
            os.kill(self.env.simulator.processes[worker], signal.SIGKILL)
            self.rows += int((self.env.simulator._shared[ROWS].home_B == worker).sum())
            while self.env.simulator.restarts < kill:
                time.sleep(0.001)
            # What is lost while something is drawn is told in the step after.
            noticed = self.steps + 3
            while self.steps < noticed:
                time.sleep(0.001)
            self.pids.append(self.env.simulator.processes[worker])


def test_nothing_is_left_and_every_loss_is_counted_after_fifty_kills(
    real: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    shared, ours = set(os.listdir("/dev/shm")), children.read_text()
    endless = {"houses": 2, "size": 32, "episode_steps": 10**6, "trial_steps": 10**6, "sensors": "rgb,depth"}
    config = ObjectNavConfig(simulator="habitat", habitat_python=real, habitat_gpu=GPU, **endless)
    begun = time.monotonic()
    env = config.build(ROWS, 0)
    assert isinstance(env, HabitatObjectNav)
    try:
        state, _ = env.reset()
        descriptors = len(os.listdir("/proc/self/fd"))
        killer, lost = Killer(env), 0
        killer.start()
        draw = torch.Generator().manual_seed(0)
        while killer.is_alive():
            state, step = env.step(state, torch.randint(1, 6, (ROWS,), generator=draw))
            assert torch.equal(step.truncated, step.info["lost"])
            assert torch.equal(step.episode_start, step.info["lost"]), "nothing else ends an episode"
            assert not step.trial_start.any()
            lost += int(step.info["lost"].sum())
            killer.steps += 1
        assert env.simulator.restarts == KILLS
        assert lost == killer.rows == KILLS * ROWS // 2
        assert len(set(killer.pids)) == KILLS + 2
        assert len(os.listdir("/proc/self/fd")) == descriptors
    finally:
        env.close()
    assert not [pid for pid in killer.pids if Path(f"/proc/{pid}").exists()]
    assert children.read_text() == ours
    assert set(os.listdir("/dev/shm")) == shared
    print(f"{KILLS} kills in {killer.steps} steps: {lost} episodes lost, {time.monotonic() - begun:.0f} s")
