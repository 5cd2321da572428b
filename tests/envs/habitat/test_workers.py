"""The processes and their memory, with a stand-in for habitat-sim: what is asked arrives, what dies is replaced."""

import math
import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from mnemic.envs.habitat import Habitat, Workers
from mnemic.envs.habitat.pool import Worker
from mnemic.envs.houses import House, HouseConfig, generate
from mnemic.envs.simulator import Agents, Motion, Pose
from mnemic.kernels.ray_cast import View

VIEW = View(6, 8)


@pytest.fixture(scope="module")
def homes() -> list[House]:
    return [generate(seed, HouseConfig(max_rooms=3)) for seed in range(5)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("houses")


@pytest.fixture
def sim(homes: list[House], python: str, folder: Path, orders: Path) -> Habitat:
    sim = Habitat(homes, view=VIEW, workers=Workers(python=python, count=2, timeout=20), folder=folder)
    yield sim
    sim.close()


def agents_in(house: list[int]) -> Agents:
    """Agents at places that the stand-in writes into its pictures."""
    count = torch.arange(len(house), dtype=torch.float32)
    position_B3 = torch.stack([count / 10 + 0.001, torch.zeros(len(house)), count], 1)
    return Agents(torch.tensor(house), Pose(position_B3, torch.zeros(len(house)), count / 100))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pids: list[int], seconds: float = 10.0) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not any(alive(pid) for pid in pids):
            return True
        time.sleep(0.02)
    return False


def test_pictures_are_those_of_their_row(sim: Habitat) -> None:
    for house in ([0, 3, 1, 1, 4, 2, 0], [2], [4, 4, 4, 4] * 9):  # more rows than there was room for
        seen = sim.render(agents_in(house))
        row_B = torch.arange(len(house))
        assert seen["rgb"].shape == (len(house), 6, 8, 3)
        assert torch.equal(seen["rgb"][:, 2, 3, 1].long(), row_B)
        assert torch.equal(seen["semantic"][:, 1, 1].long(), torch.tensor(house))
        assert torch.equal(seen["depth"][:, :5].amax((1, 2)), row_B.float())
        # What OpenGL has as its first line is the lowest.
        torch.testing.assert_close(seen["depth"][:, 5, 0], row_B / 100)
    some = sim.render_some(agents_in([0, 1, 2]), torch.tensor([False, True, False]))
    assert some["depth"].amax((1, 2)).tolist() == [0, 1, 0]
    assert sim.restarts == 0


def test_steps_are_those_of_the_worker_and_turns_those_of_the_embedded_simulator(sim: Habitat) -> None:
    agents = agents_in([0, 1, 2, 3])
    agents.pose.position_B3[3, 0] = 1.9
    agents.pose.yaw_B[3] = -math.pi / 2
    after, hit_B = sim.move(agents, torch.tensor([1, 2, 5, 1]))
    assert hit_B.tolist() == [False, False, False, True]
    torch.testing.assert_close(after.pose.position_B3[0], torch.tensor([0.001, 0.0, -0.25]))
    torch.testing.assert_close(after.pose.position_B3[3], torch.tensor([2.0, 0.0, 3.0]))
    assert torch.equal(after.pose.position_B3[1:3], agents.pose.position_B3[1:3])
    assert math.degrees(after.pose.yaw_B[1]) == pytest.approx(30)
    assert math.degrees(after.pose.pitch_B[2]) == pytest.approx(math.degrees(0.02) - 30, abs=1e-4)


def test_without_sliding_steps_are_those_of_the_worker_that_do_not_slide(
    homes: list[House], python: str, folder: Path, orders: Path
) -> None:
    workers = Workers(python=python, count=1, timeout=20)
    sim = Habitat(homes, view=VIEW, motion=Motion(sliding=False), workers=workers, folder=folder)
    agents = agents_in([0, 1])
    agents.pose.position_B3[1, 0] = 1.9
    agents.pose.yaw_B[1] = -math.pi / 2
    after, hit_B = sim.move(agents, torch.tensor([1, 1]))
    sim.close()
    assert hit_B.tolist() == [False, True]
    torch.testing.assert_close(after.pose.position_B3[0], torch.tensor([0.001, 0.0, -0.25]), atol=0.1, rtol=0)
    torch.testing.assert_close(after.pose.position_B3[1], agents.pose.position_B3[1])


def test_agents_stay_with_their_worker_while_they_stay_in_their_house(sim: Habitat) -> None:
    first = sim._share(np.array([0, 1, 2, 3, 0, 1, 2, 3]))
    assert np.bincount(first).tolist() == [4, 4]
    assert np.array_equal(first[:4], first[4:]), "agents of one house are drawn by one worker"
    second = sim._share(np.array([0, 1, 2, 3, 0, 1, 2, 0]))
    assert np.array_equal(first[:7], second[:7])
    assert np.bincount(second).tolist() == [4, 4]


@pytest.mark.parametrize("order", ["die", "hang"])
def test_a_dead_or_hanging_worker_is_replaced_and_its_agents_are_named(
    homes: list[House], python: str, folder: Path, orders: Path, order: str, caplog: pytest.LogCaptureFixture
) -> None:
    timeout = 6.0 if order == "hang" else 20
    sim = Habitat(homes, view=VIEW, workers=Workers(python=python, count=2, timeout=timeout), folder=folder)
    agents = agents_in([0, 1, 2, 3])
    sim.render(agents)
    pids = list(sim.processes)
    assert not sim.lost(agents).any()
    (orders / order).touch()
    seen = sim.render(agents)
    assert torch.equal(seen["semantic"][:, 1, 1].long(), torch.arange(4)), "what is seen is right all the same"
    assert sim.restarts == 1
    assert sim.lost(agents).sum() == 2
    assert not sim.lost(agents).any()
    (message,) = caplog.messages
    assert "restart 1 in all" in message
    assert ("did not answer within 6 s" if order == "hang" else "SIGSEGV") in message
    (replaced,) = set(pids) - set(sim.processes)
    assert gone([replaced])
    sim.close()
    assert gone(pids + list(sim.processes))


def test_an_answer_that_came_in_time_counts_however_late_it_is_read(sim: Habitat) -> None:
    """It may have had to wait behind a worker that hangs."""
    worker = sim._pool.workers[1]
    worker.send({"do": "rows", "rows": worker.block.rows})
    assert select.select([worker._channel], [], [], 10)[0]
    worker._until = time.monotonic() - 1
    worker.receive()


def test_the_clock_counts_one_scene_and_not_all_that_a_request_opens(
    homes: list[House], python: str, folder: Path, orders: Path
) -> None:
    """Otherwise many scenes could never be opened: a worker that is replaced begins with the first."""
    sim = Habitat(homes, view=VIEW, workers=Workers(python=python, count=1, timeout=4), folder=folder)
    (orders / "slow").touch()
    begun = time.monotonic()
    seen = sim.render(agents_in([0, 1, 2, 3, 4]))
    assert time.monotonic() - begun > 5
    assert sim.restarts == 0
    assert torch.equal(seen["semantic"][:, 1, 1].long(), torch.arange(5))
    sim.close()


def test_a_worker_that_dies_while_it_begins_anew_is_replaced_once_more(
    sim: Habitat, monkeypatch: pytest.MonkeyPatch
) -> None:
    agents = agents_in([0, 1, 2, 3])
    sim.render(agents)
    restart, died = Worker.restart, []

    def restart_and_die(worker: Worker) -> None:
        restart(worker)
        if not died:
            died.append(worker.pid)
            os.kill(worker.pid, signal.SIGKILL)

    monkeypatch.setattr(Worker, "restart", restart_and_die)
    os.kill(sim.processes[0], signal.SIGKILL)
    seen = sim.render(agents)
    assert torch.equal(seen["semantic"][:, 1, 1].long(), torch.arange(4))
    assert sim.restarts == 2
    assert sim.lost(agents).sum() == 2
    assert gone(died)


@pytest.mark.parametrize(
    ("order", "timeout", "words"),
    [
        ("hang at once", 3, r"worker 0 did not answer within 3 s, when it began: it said nothing$"),
        ("die at once", 60, r"worker 0 ended with signal SIGSEGV, when it began: it said nothing$"),
    ],
)
def test_a_worker_that_has_habitat_is_not_told_to_install_it(
    homes: list[House], python: str, folder: Path, orders: Path, order: str, timeout: float, words: str
) -> None:
    (orders / order).touch()
    with pytest.raises(ValueError, match=words):
        Habitat(homes, view=VIEW, workers=Workers(python=python, timeout=timeout), folder=folder)


def test_what_happens_while_others_are_asked_about_is_no_loss(sim: Habitat) -> None:
    """An oracle tries steps from many places, and a person looks at one row."""
    agents, more = agents_in([0, 1, 2, 3]), agents_in([0, 1, 2, 3] * 3)
    sim.render(agents)
    os.kill(sim.processes[0], signal.SIGKILL)
    sim.render(more)
    assert not sim.lost(agents).any()
    assert sim.lost(more).any()
    os.kill(sim.processes[1], signal.SIGKILL)
    sim.render(agents)
    sim.render(agents_in([0]))
    assert sim.lost(agents).sum() == 2
    assert sim.restarts == 2


def test_what_always_kills_its_worker_is_given_up_on(sim: Habitat, orders: Path) -> None:
    pids = list(sim.processes)
    (orders / "always").touch()
    with pytest.raises(RuntimeError, match=r"3 times at the same request: stand-in: told to die"):
        sim.render(agents_in([0, 1]))
    assert gone(pids + list(sim.processes))
    with pytest.raises(RuntimeError, match="open the simulator again"):
        sim.render(agents_in([0, 1]))


def test_nothing_is_left_after_fifty_kills(sim: Habitat) -> None:
    """Of memory and descriptors too: what is shared has no name, and its descriptors are closed with the worker."""
    agents = agents_in([0, 1, 2, 3])
    sim.render(agents)
    shared, pids = set(os.listdir("/dev/shm")), set(sim.processes)
    descriptors = len(os.listdir("/proc/self/fd"))
    for kill in range(50):
        os.kill(sim.processes[kill % 2], signal.SIGKILL)
        seen = sim.render(agents)
        assert torch.equal(seen["semantic"][:, 1, 1].long(), torch.arange(4))
        pids |= set(sim.processes)
    assert sim.restarts == 50
    assert len(pids) == 52
    assert gone(list(pids - set(sim.processes)))
    assert len(os.listdir("/proc/self/fd")) == descriptors
    sim.close()
    assert gone(list(pids))
    assert set(os.listdir("/dev/shm")) == shared


@pytest.mark.parametrize("busy", [False, True], ids=["waiting", "hanging"])
def test_workers_end_with_a_parent_that_is_killed(python: str, folder: Path, orders: Path, busy: bool) -> None:
    script = f"""
        import torch
        from mnemic.envs.habitat import Habitat, Workers
        from mnemic.envs.houses import HouseConfig, generate
        from mnemic.envs.simulator import Agents, Pose
        from mnemic.kernels.ray_cast import View
        homes = [generate(seed, HouseConfig(max_rooms=3)) for seed in range(5)]
        sim = Habitat(homes, view=View(6, 8), workers=Workers(python={python!r}, timeout=500), folder={str(folder)!r})
        agents = Agents(torch.arange(2), Pose(torch.zeros(2, 3), torch.zeros(2), torch.zeros(2)))
        sim.render(agents)
        print(*sim.processes, flush=True)
        input()
        sim.render(agents)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert all(alive(pid) for pid in pids)
    if busy:
        (orders / "hang").touch()
        parent.stdin.write("\n")
        parent.stdin.flush()
        while (orders / "hang").exists():
            time.sleep(0.01)
    parent.kill()
    parent.wait()
    parent.stdin.close()
    parent.stdout.close()
    assert gone(pids)


def test_distances_count_from_the_nearest_cell(sim: Habitat, homes: list[House]) -> None:
    """A navmesh reaches a little beyond the cells: an agent there is as far away as from the cell next to it."""
    goal_KIJ = np.zeros((1, *homes[0].navigable_IJ.shape), dtype=np.float32)
    goal_KIJ[~homes[0].navigable_IJ[None]] = np.inf
    goal_KIJ[0][homes[0].navigable_IJ] = 3.0
    field_FC = sim.pad(goal_KIJ)
    free_IJ = homes[0].navigable_IJ
    i, j = np.argwhere(free_IJ[:, :-1] & ~free_IJ[:, 1:] & ~np.pad(free_IJ, ((0, 0), (0, 1)))[:, 2:])[0]
    inside = torch.tensor([[(j + 0.5) * 0.1, 0.0, (i + 0.5) * 0.1]], dtype=torch.float32)
    outside = inside + torch.tensor([[0.12, 0.0, 0.0]])
    zero = torch.zeros(1, dtype=torch.int64)
    for position, way in ((inside, 3.0), (outside, 3.12)):
        agents = Agents(zero, Pose(position, torch.zeros(1), torch.zeros(1)))
        assert sim.geodesic(agents, field_FC, zero).item() == pytest.approx(way, abs=0.11)


def test_bad_input_is_refused_and_leaves_nothing_running(
    homes: list[House], python: str, folder: Path, orders: Path, tmp_path: Path
) -> None:
    def start(**options: object) -> Habitat:
        return Habitat(homes, view=VIEW, workers=Workers(**({"python": python} | options)), folder=folder)

    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    before = children.read_text()
    empty = tmp_path / "empty"
    empty.write_text(f'#!/bin/sh\nPYTHONPATH= exec {sys.executable} -I -S "$@"\n')
    empty.chmod(0o755)
    with pytest.raises(ValueError, match=r"no/python cannot be run \(No such file or directory\); install habitat-sim"):
        start(python="/no/python")
    with pytest.raises(ValueError, match=r"install habitat-sim"):
        start(python=str(empty))
    with pytest.raises(
        ValueError, match=r"no OpenGL on GPU 7 .*Unable to create windowless context.* --env.habitat-gpu -1 "
    ):
        start(gpu=7)
    with pytest.raises(ValueError, match=r"there is no /no/data\.json"):
        Habitat.of_dataset("/no/data.json", ["apartment"])
    dataset = next(folder.glob("*/mnemic.scene_dataset_config.json"))
    with pytest.raises(ValueError, match=r"has no scene 'apartment'; it has 5: house_0000000000, .*"):
        Habitat.of_dataset(dataset, ["apartment"], workers=Workers(python=python))
    with pytest.raises(ValueError, match="no scene came"):
        Habitat.of_dataset(dataset, [], workers=Workers(python=python))
    for options, words in (({"count": 0}, "0 workers"), ({"gpu": -2}, "gpu is -2"), ({"timeout": 0}, "timeout is 0")):
        with pytest.raises(ValueError, match=words):
            start(**options)
    assert children.read_text() == before
