"""Habitat and the embedded simulator show the same houses: real habitat-sim, in an interpreter of its own.

MNEMIC_HABITAT_PYTHON names the interpreter, MNEMIC_HABITAT_GPU the GPU that draws (-1, the default: none).
"""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mnemic.envs.habitat import Habitat, Workers
from mnemic.envs.houses import House, HouseConfig, generate, geodesic_field, split_seed
from mnemic.envs.houses.export import export
from mnemic.envs.laws import check_env
from mnemic.envs.object_nav import ObjectNavConfig
from mnemic.envs.random import Stream
from mnemic.envs.simulator import Agents, Embedded, Motion, Pose
from mnemic.eval.protocol import Played, play_rule
from mnemic.kernels.ray_cast import View

PYTHON = os.environ.get("MNEMIC_HABITAT_PYTHON", "")
GPU = int(os.environ.get("MNEMIC_HABITAT_GPU", "-1"))
VIEW = View(64, 64, 90.0, 20.0)
HOUSES, POSES = 20, 1000


def missing() -> str:
    if not PYTHON:
        return "MNEMIC_HABITAT_PYTHON names no interpreter"
    probe = subprocess.run([PYTHON, "-c", "import habitat_sim"], capture_output=True, text=True)
    return "" if probe.returncode == 0 else f"{PYTHON} cannot import habitat_sim: {probe.stderr.strip()[-200:]}"


MISSING = missing()
pytestmark = [pytest.mark.habitat, pytest.mark.skipif(bool(MISSING), reason=MISSING), pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def homes() -> list[House]:
    return [generate(split_seed("validation", index)) for index in range(HOUSES)]


@pytest.fixture(scope="module")
def embedded(homes: list[House]) -> Embedded:
    return Embedded(homes, view=VIEW)


@pytest.fixture(scope="module")
def habitat(homes: list[House], tmp_path_factory: pytest.TempPathFactory) -> Habitat:
    workers = Workers(python=PYTHON, gpu=GPU, count=2, open_scenes=10)
    sim = Habitat(homes, view=VIEW, workers=workers, folder=tmp_path_factory.mktemp("houses"))
    yield sim
    sim.close()


@pytest.fixture(scope="module")
def agents(embedded: Embedded) -> Agents:
    return anywhere(embedded)


def anywhere(embedded: Embedded) -> Agents:
    """Anywhere on the floors, with any yaw and any pitch that an agent can have."""
    stream = Stream.seeded(0, POSES, "cpu")
    agents = embedded.spawn(torch.arange(POSES) % HOUSES, stream.uniform(0, 2))
    number_B4 = stream.uniform(10, 4)
    shift_B2 = (number_B4[:, :2] - 0.5) * embedded.cell * 0.98
    position_B3 = agents.pose.position_B3 + torch.stack([shift_B2[:, 0], torch.zeros(POSES), shift_B2[:, 1]], 1)
    low, high = embedded.motion.pitches
    pitch_B = low + (high - low) * number_B4[:, 3]
    return embedded.place(agents.house_B, Pose(position_B3, (number_B4[:, 2] - 0.5) * 6.28, pitch_B))


def share(name: str, agreeing: torch.Tensor, least: float) -> None:
    """Print and check what part of pixels, distances or steps agrees."""
    part = agreeing.double().mean().item()
    print(f"{name}: {part:.4%} of {agreeing.numel()} agree")
    assert part >= least, f"{name}: {part:.4%} agree; at least {least:.0%} should"


def test_pictures_agree(embedded: Embedded, habitat: Habitat, agents: Agents) -> None:
    ours, theirs = embedded.render(agents), habitat.render(agents)
    share("depth within 2 cm", (ours["depth"] - theirs["depth"]).abs() <= 0.02, 0.99)
    share("semantic ids equal", ours["semantic"] == theirs["semantic"], 0.99)
    apart = (ours["rgb"].int() - theirs["rgb"].int()).abs().amax(-1)
    print(f"colours: mean difference {apart.float().mean():.2f} of 255")
    share("colours within 2 of 255", apart <= 2, 0.95)


def test_distances_agree(homes: list[House], embedded: Embedded, habitat: Habitat, agents: Agents) -> None:
    distances_agree(homes, embedded, habitat, agents, 0.99)


def test_distances_agree_on_fine_cells(tmp_path: Path) -> None:
    config = HouseConfig(cell=0.05)
    homes = [generate(split_seed("validation", index), config) for index in range(HOUSES)]
    embedded = Embedded(homes, view=VIEW)
    workers = Workers(python=PYTHON, gpu=GPU, count=2, open_scenes=10)
    habitat = Habitat(homes, view=VIEW, config=config, workers=workers, sensors=("depth",), folder=tmp_path)
    try:
        distances_agree(homes, embedded, habitat, anywhere(embedded), 0.99)
    finally:
        habitat.close()


def distances_agree(homes: list[House], embedded: Embedded, habitat: Habitat, agents: Agents, least: float) -> None:
    """From each agent to the middle of a cell of its house, by the fields and by Habitat's navmesh."""
    ours, theirs = [], []
    for house, home in enumerate(homes):
        row = (agents.house_B == house).nonzero()[:, 0]
        cells = np.argwhere(home.navigable_IJ)
        i, j = cells[np.random.default_rng(house).integers(len(cells), size=len(row))].T
        goals = np.zeros((len(row), *home.navigable_IJ.shape), dtype=bool)
        goals[np.arange(len(row)), i, j] = True
        field_FC = embedded.pad(geodesic_field(home.navigable_IJ, goals, home.cell))
        some = Agents(agents.house_B[row], Pose(*(part[row] for part in agents.pose)))
        ours.append(embedded.geodesic(some, field_FC, torch.arange(len(row))).numpy())
        assert torch.equal(habitat.geodesic(some, field_FC, torch.arange(len(row))), torch.from_numpy(ours[-1]))
        ends = np.stack([(j + 0.5) * home.cell, np.zeros(len(row)), (i + 0.5) * home.cell], 1)
        theirs.append(habitat.paths(house, some.pose.position_B3.numpy(), ends))
    one, other = torch.from_numpy(np.concatenate(ours)), torch.from_numpy(np.concatenate(theirs))
    apart = (one - other).abs()
    print(f"ways: worst {apart.max():.3f} m")
    share("ways within 5 % or 10 cm", apart <= torch.maximum(0.05 * other, torch.tensor(0.1)), least)


def test_steps_agree(embedded: Embedded, habitat: Habitat, agents: Agents) -> None:
    """A step in the open is the same; one that meets something ends near the same place."""
    forward_B = torch.ones(POSES, dtype=torch.int64)
    ours, our_hit_B = embedded.move(agents, forward_B)
    theirs, their_hit_B = habitat.move(agents, forward_B)
    apart_B = (ours.pose.position_B3 - theirs.pose.position_B3).norm(dim=1)
    share("steps that meet something", our_hit_B == their_hit_B, 0.9)
    free_B = ~our_hit_B & ~their_hit_B
    assert apart_B[free_B].max() < 1e-5
    share("ends of steps within 10 cm", apart_B <= 0.1, 0.95)


def test_steps_without_sliding_agree(
    homes: list[House], embedded: Embedded, habitat: Habitat, agents: Agents, tmp_path: Path
) -> None:
    """They end where something is met, and those that slide elsewhere."""
    stops, workers = Motion(sliding=False), Workers(python=PYTHON, gpu=GPU, count=2, open_scenes=10)
    there = Habitat(homes, view=VIEW, motion=stops, workers=workers, folder=tmp_path)
    forward_B = torch.ones(POSES, dtype=torch.int64)
    try:
        theirs, their_hit_B = there.move(agents, forward_B)
    finally:
        there.close()
    ours, our_hit_B = Embedded(homes, view=VIEW, motion=stops).move(agents, forward_B)
    apart_B = (ours.pose.position_B3 - theirs.pose.position_B3).norm(dim=1)
    share("steps that meet something", our_hit_B == their_hit_B, 0.9)
    share("ends of steps within 10 cm", apart_B <= 0.1, 0.95)
    slid, _ = habitat.move(agents, forward_B)
    further_B = (slid.pose.position_B3 - theirs.pose.position_B3).norm(dim=1)
    assert (further_B > 0.02).sum() > 20
    assert not (further_B > 1e-5)[~their_hit_B].any()


def test_a_killed_worker_comes_back_with_the_same_pictures(habitat: Habitat, agents: Agents) -> None:
    some = Agents(agents.house_B[:8], Pose(*(part[:8] for part in agents.pose)))
    before = habitat.render(some)
    os.kill(habitat.processes[0], 9)
    after = habitat.render(some)
    assert habitat.lost(some).any()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_any_scene_of_a_dataset_opens_by_its_name(homes: list[House], habitat: Habitat, agents: Agents) -> None:
    """As datasets of others do: floors come from the navmesh, and pictures are the same."""
    dataset = Path(habitat._pool.workers[0].setup["dataset"])
    workers = Workers(python=PYTHON, gpu=GPU, count=1)
    sim = Habitat.of_dataset(dataset, habitat.scenes[:2], view=VIEW, workers=workers)
    try:
        for house in range(2):
            area = sim.free_HC[house].sum().item() * sim.cell**2
            assert area == pytest.approx(homes[house].navigable_IJ.sum() * homes[house].cell ** 2, rel=0.1)
        spawned = sim.spawn(torch.arange(40) % 2, Stream.seeded(1, 40, "cpu").uniform(0, 2))
        x_B, _, z_B = spawned.pose.position_B3.unbind(1)
        for row in range(40):
            i, j = int(z_B[row] / 0.1), int(x_B[row] / 0.1)
            assert homes[row % 2].navigable_IJ[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].any()
        row = (agents.house_B < 2).nonzero()[:, 0]
        some = Agents(agents.house_B[row], Pose(*(part[row] for part in agents.pose)))
        assert torch.equal(sim.render(some)["depth"], habitat.render(some)["depth"])
        after, _ = sim.move(spawned, torch.ones(40, dtype=torch.int64))
        assert (after.pose.position_B3 - spawned.pose.position_B3).norm(dim=1).max() < 0.3
    finally:
        sim.close()


def test_what_cannot_be_shown_is_refused(homes: list[House], tmp_path: Path) -> None:
    dataset = export(homes[:1], tmp_path)
    (name,) = (path.name.split(".")[0] for path in (tmp_path / "scenes").iterdir())
    with pytest.raises(ValueError, match="no OpenGL on GPU 99"):
        Habitat.of_dataset(dataset, [name], workers=Workers(python=PYTHON, gpu=99, count=1))
    (tmp_path / "stages" / f"{name}.glb").unlink()
    with pytest.raises(ValueError, match=rf"scene '{name}' .* needs the stage 'stages/{name}'"):
        Habitat.of_dataset(dataset, [name], workers=Workers(python=PYTHON, gpu=GPU, count=1))


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectNavConfig:
    """Four houses of the validation split, in Habitat."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    options = {"split": "validation", "houses": 4, "size": 32, "episode_steps": 100, "trial_steps": 400}
    return ObjectNavConfig(simulator="habitat", habitat_python=PYTHON, habitat_gpu=GPU, **options)


def test_object_navigation_keeps_its_laws_in_habitat(task: ObjectNavConfig) -> None:
    check_env(replace(task, episode_steps=20, trial_steps=50, sensors="rgb,depth"), steps=60)


def test_object_navigation_is_as_hard_in_habitat(task: ObjectNavConfig) -> None:
    """For a player that knows the house, in whole episodes: the clock of the trial cuts the last one short."""

    def found(name: str, config: ObjectNavConfig) -> float:
        played: Played = play_rule(config.oracle(), config, episodes=8, rows=8)
        whole = [success for success, whole in zip(played.info["success"], played.whole, strict=True) if whole]
        spl = sum(played.info["spl"]) / len(played.returns)
        print(
            f"{name}: found {sum(whole):.0f} in {len(whole)} whole episodes, spl of all {len(played.returns)} {spl:.3f}"
        )
        assert not any(played.info.get("lost", ()))
        return sum(whole) / len(whole)

    there, here = (
        found("habitat", task),
        found("embedded", replace(task, simulator="embedded", habitat_python="", habitat_gpu=0)),
    )
    assert there >= 0.95
    assert abs(there - here) <= 0.05


def test_the_same_actions_show_the_same_in_both(task: ObjectNavConfig) -> None:
    """Turns and looks are the same to rounding, and so is what is seen after them."""
    there = task.build(8, 0)
    here = replace(task, simulator="embedded", habitat_python="", habitat_gpu=0).build(8, 0)
    try:
        (there_state, there_step), (here_state, here_step) = there.reset(), here.reset()
        for action in (2, 2, 4, 3, 5, 5, 2):
            action_B = torch.full((8,), action)
            there_state, there_step = there.step(there_state, action_B)
            here_state, here_step = here.step(here_state, action_B)
            torch.testing.assert_close(there_step.obs["pose"], here_step.obs["pose"], atol=1e-4, rtol=0)
            torch.testing.assert_close(there_step.reward, here_step.reward, atol=1e-4, rtol=0)
            assert torch.equal(there_step.obs["goal"], here_step.obs["goal"])
            apart = (there_step.obs["rgb"].int() - here_step.obs["rgb"].int()).abs().amax(-1)
            assert (apart <= 2).double().mean() >= 0.9
        os.kill(there.simulator.processes[0], 9)
        _, step = there.step(there_state, torch.ones(8, dtype=torch.int64))
        assert 0 < step.truncated.sum() < 8
        assert torch.equal(step.truncated, step.info["lost"])
    finally:
        there.close()
