"""Episode files in real habitat-sim: our own houses, taken apart into scenes and objects, are the same again.

What is known of the houses is what Habitat has to find in the files: positions, kinds, ways, and what is seen.
"""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mnemic.envs.habitat import Habitat, Workers, read_episodes
from mnemic.envs.habitat.cache import _without_lights
from mnemic.envs.houses import House, generate, geodesic_field, split_seed, viewpoints
from mnemic.envs.laws import check_env
from mnemic.envs.object_nav import ObjectNavConfig, placements
from mnemic.envs.object_nav.env import HabitatObjectNav
from mnemic.envs.object_nav.prepare import Terms, survey
from mnemic.envs.random import Stream
from mnemic.envs.simulator import Agents, Embedded, Pose
from mnemic.eval.protocol import play_rule

pytestmark = [pytest.mark.habitat, pytest.mark.timeout(1800)]
GPU = int(os.environ.get("MNEMIC_HABITAT_GPU", "-1"))
HOUSES, POSES = 2, 300


def share(name: str, agreeing: torch.Tensor, least: float) -> None:
    """Print and check what part of pixels, cells or ways agrees."""
    part = agreeing.double().mean().item()
    print(f"{name}: {part:.4%} of {agreeing.numel()} agree")
    assert part >= least, f"{name}: {part:.4%} agree; at least {least:.1%} should"


@pytest.fixture(scope="module")
def homes() -> list[House]:
    return [generate(split_seed("validation", index)) for index in range(HOUSES)]


@pytest.fixture(scope="module")
def files(homes: list[House], write_dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_dataset(homes, tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="module", autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory):
    """A folder for what is known, and a working directory where Habitat finds no light to prepare."""
    folder = tmp_path_factory.mktemp("caches")
    _without_lights(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.chdir(folder)
        yield


@pytest.fixture(scope="module")
def config(files: tuple[Path, Path], real: str) -> ObjectNavConfig:
    dataset, episodes = map(str, files)
    own = {"simulator": "habitat", "habitat_python": real, "habitat_gpu": GPU}
    short = {"size": 32, "episode_steps": 100, "trial_steps": 400}
    return ObjectNavConfig(dataset=dataset, placements=episodes, **own, **short)


@pytest.fixture(scope="module")
def env(config: ObjectNavConfig, caches: None) -> HabitatObjectNav:
    env = replace(config, sensors="rgb,depth").build(4, 0)
    yield env
    env.close()


@pytest.fixture(scope="module")
def embedded(homes: list[House], config: ObjectNavConfig) -> Embedded:
    return Embedded(homes, view=config.view())


@pytest.fixture(scope="module")
def agents(embedded: Embedded) -> Agents:
    stream = Stream.seeded(0, POSES, "cpu")
    agents = embedded.spawn(torch.arange(POSES) % HOUSES, stream.uniform(0, 2))
    low, high = embedded.motion.pitches
    pitch_B = low + (high - low) * stream.uniform(10, 1)[:, 0]
    return agents._replace(pose=agents.pose._replace(pitch_B=pitch_B))


def test_pictures_are_those_of_the_houses(
    homes: list[House], env: HabitatObjectNav, embedded: Embedded, agents: Agents
) -> None:
    ours, theirs = embedded.render(agents), env.simulator.render(agents)
    share("depth within 2 cm", (ours["depth"] - theirs["depth"]).abs() <= 0.02, 0.99)
    things_H = torch.tensor([len(home.things) for home in homes])
    things_BIJ = torch.where(
        ours["semantic"] <= things_H[agents.house_B, None, None], ours["semantic"], 0
    )  # the first ids; the building and furniture have none here
    share("ids of things", things_BIJ == theirs["semantic"], 0.999)
    seen_BIJ = things_BIJ > 0
    assert seen_BIJ.sum() > 1000
    share("pixels of things", theirs["semantic"][seen_BIJ] == things_BIJ[seen_BIJ], 0.98)


def test_goals_and_places_are_those_of_the_houses(homes: list[House], env: HabitatObjectNav) -> None:
    terms = Terms(houses=env.options.house_config(), radius=2.0, too_many=env.options.too_many)
    for number, home in enumerate(homes):
        assert env.world.prepared[number].kind_K.tolist() == survey(home, terms).kind_K.tolist()
        for thing in home.things:
            assert env.world.kind_HE[number, thing.id] == thing.goal
            apart_3 = env.world.place_HE3[number, thing.id] - torch.tensor(thing.centre)
            assert apart_3.abs().max() < 0.05, "up to the height that a navmesh has above its floor"
    area_H = env.simulator.free_HC.sum(1) * env.simulator.cell**2
    for area, home in zip(area_H.tolist(), homes, strict=True):
        # Things that stand on the floor are in nobody's way here.
        assert area == pytest.approx(home.navigable_IJ.sum() * home.cell**2, rel=0.12)


def test_viewpoints_are_where_things_are_seen(homes: list[House], env: HabitatObjectNav) -> None:
    """Of cells from where the middle of a thing is in sight, nearly all see it; and few others do, past a corner."""
    cell, least = env.simulator.cell, []
    for number, home in enumerate(homes):
        one = env.world.prepared[number]
        seen_EN = placements._seen(env.simulator, number, one.house, env.options)
        i_N, j_N = np.nonzero(one.house.navigable_IJ)
        x_N = (j_N + 0.5) * cell + env.simulator.origin_H3[number, 0].item()
        z_N = (i_N + 0.5) * cell + env.simulator.origin_H3[number, 2].item()
        at = (z_N / home.cell).astype(int), (x_N / home.cell).astype(int)
        inside_N = (at[0] < home.navigable_IJ.shape[0]) & (at[1] < home.navigable_IJ.shape[1])
        at = at[0][inside_N], at[1][inside_N]
        for thing in home.things:
            middle_IJ = viewpoints(home, thing, 1.8, env.options.eye_height)
            near_N = np.hypot(x_N - thing.centre[0], z_N - thing.centre[2])[inside_N] <= 1.8
            near_N &= home.navigable_IJ[at]
            least.append((middle_IJ[at][near_N], seen_EN[thing.id - 1][inside_N][near_N]))
    middle, seen = (torch.from_numpy(np.concatenate(part)) for part in zip(*least, strict=True))
    share("cells that see the middle see enough", seen[middle], 0.97)
    share("cells agree", seen == middle, 0.85)


def test_ways_are_those_of_the_houses(
    homes: list[House], env: HabitatObjectNav, embedded: Embedded, agents: Agents
) -> None:
    """To the same viewpoints, on the floor of the house and on that of the navmesh; and to those of each."""
    terms = Terms(houses=env.options.house_config(), radius=2.0, too_many=env.options.too_many)
    own, same, theirs = [], [], []
    for number, home in enumerate(homes):
        row = (agents.house_B == number).nonzero()[:, 0]
        some = Agents(agents.house_B[row], Pose(*(part[row] for part in agents.pose)))
        one = env.world.prepared[number]
        goals_KIJ = np.zeros((len(one.kind_K), *home.navigable_IJ.shape), dtype=bool)
        k_G, i_G, j_G = np.nonzero(one.field() == 0)
        x_0, _, z_0 = env.simulator.origin_H3[number].tolist()
        i_G, j_G = (((at + 0.5) * one.house.cell + low) / home.cell for at, low in ((i_G, z_0), (j_G, x_0)))
        goals_KIJ[k_G, i_G.astype(int), j_G.astype(int)] = True
        fields = survey(home, terms).field(), geodesic_field(home.navigable_IJ, goals_KIJ, home.cell)
        for k in range(len(one.kind_K)):
            which_B = torch.full_like(row, k)
            for found, field_KIJ in zip((own, same), fields, strict=True):
                found.append(embedded.geodesic(some, embedded.pad(field_KIJ).float(), which_B))
            which_B = which_B + env.world.first_H[number]
            theirs.append(env.simulator.geodesic(some, env.world.way_FC, which_B).float())
    there = torch.cat(theirs)
    for name, found, least in (("the same viewpoints", same, 0.95), ("viewpoints of each", own, 0.85)):
        here = torch.cat(found)
        apart = (here - there).abs()
        print(f"ways: mean {here.mean():.2f} and {there.mean():.2f} m, worst {apart.max():.2f} m apart")
        share(f"ways to {name}, within 5 % or a cell", apart <= torch.maximum(0.05 * here, torch.tensor(0.1)), least)


def test_a_player_that_knows_the_placement_finds_what_lies_there(config: ObjectNavConfig) -> None:
    played = play_rule(config.oracle(), config, episodes=8, rows=8)
    whole = [success for success, whole in zip(played.info["success"], played.whole, strict=True) if whole]
    spl = sum(played.info["spl"]) / len(played.returns)
    print(f"found {sum(whole):.0f} in {len(whole)} whole episodes, spl of all {len(played.returns)} {spl:.3f}")
    assert sum(whole) >= 0.97 * len(whole)
    assert spl >= 0.85


def test_the_laws_hold(config: ObjectNavConfig) -> None:
    check_env(replace(config, episode_steps=20, trial_steps=50, sensors="rgb,depth,mask"), steps=60)


def test_placements_of_one_scene_share_it(
    files: tuple[Path, Path], real: str, embedded: Embedded, agents: Agents
) -> None:
    """One scene stays open, and what is put into it changes from picture to picture."""
    dataset, episodes = files
    whole = read_episodes(episodes)[0]
    half = whole._replace(things=whole.things[::2])
    workers = Workers(python=real, gpu=GPU, count=1, open_scenes=1)
    sim = Habitat.of_dataset(dataset, [half, whole, half._replace(things=())], view=embedded.view, workers=workers)
    try:
        row = (agents.house_B == 0).nonzero()[:60, 0]
        position_B3, yaw_B, pitch_B = (part[row] for part in agents.pose)
        some = Agents(torch.arange(60) % 3, Pose(position_B3, yaw_B, pitch_B))
        seen = sim.render(some)["semantic"]
        full = sim.render(Agents(torch.ones(60, dtype=torch.int64), some.pose))["semantic"]
        assert torch.equal(seen[1::3], full[1::3])
        assert not seen[2::3].any()
        assert torch.equal(sim.render(some)["semantic"], seen)
        # Every other thing: those that remain have half the number of before, and nothing comes in front of them.
        kept = full[::3] % 2 == 1
        assert kept.sum() > 20
        assert torch.equal(seen[::3][kept] * 2 - 1, full[::3][kept])
    finally:
        sim.close()


def test_what_is_known_is_not_asked_again(config: ObjectNavConfig, env, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placements, "_seen", lambda *_: pytest.fail("asked again"))
    config.build(1, 0).close()
    with pytest.raises(pytest.fail.Exception, match="asked again"):
        replace(config, success_radius=1.5).build(1, 0)


def test_what_is_not_there_is_named_in_a_line_and_nothing_runs_on(
    config: ObjectNavConfig, files: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    before = children.read_text()
    whole = read_episodes(files[1])

    def written(*changed: object) -> str:
        (tmp_path / "changed.json").write_text(
            json.dumps(
                {
                    "episodes": [
                        {
                            "scene_id": it.scene,
                            "rigid_objs": [list(thing) for thing in it.things],
                            "additional_obj_config_paths": it.folders,
                        }
                        for it in changed
                    ]
                }
            )
        )
        return str(tmp_path / "changed.json")

    other = written(whole[0], whole[1]._replace(scene="102343992"))
    with pytest.raises(ValueError, match=r"has no scene '102343992'; it has 2: .*another revision") as refused:
        replace(config, placements=other).build(1, 0)
    assert "\n" not in str(refused.value)
    unknown = whole[0].things[0]._replace(name="002_unknown")
    lacking = written(whole[0]._replace(things=(unknown,)))
    with pytest.raises(ValueError, match=r"there is no 002_unknown\.object_config\.json with its mesh in "):
        replace(config, placements=lacking).build(1, 0)
    with pytest.raises(ValueError, match=r"there is no 001_\w+\.object_config\.json .*no/where; name its folder"):
        replace(config, objects="/no/where").build(1, 0)
    # Far below the floor nobody sees a thing.
    sunk = [
        thing._replace(matrix=(*thing.matrix[:1], (*thing.matrix[1][:3], -50.0), *thing.matrix[2:]))
        for thing in whole[1].things
    ]
    buried = whole[1]._replace(things=tuple(sunk))
    caplog.clear()
    env = replace(config, placements=written(whole[0], buried, whole[1])).build(2, 0)
    try:
        assert caplog.messages == ["object-nav: 1 of 3 placements are left out: no goal to reach"]
        assert env.simulator.scenes == (whole[0].scene, whole[1].scene)
        state, _ = env.reset()
        for action in (1, 2, 0):
            state, step = env.step(state, torch.full((2,), action))
            assert step.reward.isfinite().all()
    finally:
        env.close()
    with pytest.raises(ValueError, match=r"in none of 1 placements of .* can a goal of 28 kinds be reached and seen"):
        replace(config, placements=written(buried)).build(1, 0)
    assert children.read_text() == before


def test_a_scene_or_a_mesh_that_is_missing_or_broken_is_named_in_a_line(
    files: tuple[Path, Path], real: str, tmp_path: Path
) -> None:
    """Habitat itself would show the bare stage in the place of the scene."""
    folder = tmp_path / "copy"
    shutil.copytree(files[0].parent, folder)
    placed = [it._replace(folders=(str(folder / "objects"),)) for it in read_episodes(files[1])]
    name, thing = placed[0].scene, placed[0].things[0].name
    scene, stage = folder / "scenes" / f"{name}.scene_instance.json", folder / "stages" / f"{name}.glb"
    mesh = folder / "objects" / f"{thing}.glb"

    def look() -> None:
        sim = Habitat.of_dataset(folder / files[0].name, placed, workers=Workers(python=real, gpu=GPU, count=1))
        try:
            sim.render(sim.spawn(torch.zeros(1, dtype=torch.int64), torch.full((1, 2), 0.5)))
        finally:
            sim.close()

    def refused(words: str, file: Path, content: bytes | None) -> None:
        before = file.read_bytes()
        file.unlink()
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(ValueError, match=words) as error:
            look()
        assert "\n" not in str(error.value)
        file.write_bytes(before)

    refused(rf"has no scene '{name}'; it has {HOUSES - 1}: house_\d+; the episode file may be for", scene, None)
    refused(rf"scene '{name}' of .* is not read, though there is {scene}; is it whole\?", scene, b"{")
    refused(r"dataset .* is no JSON", folder / files[0].name, b"{")
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 12\n"
    for file, content in ((stage, stage.read_bytes()[:20000]), (stage, pointer), (mesh, pointer)):
        words = (
            rf"^habitat: Error loading general mesh data from file '{file}'; a file of the dataset is missing or not"
        )
        refused(words, file, content)
