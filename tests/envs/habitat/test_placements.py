"""Episode files and the houses that they make, with a stand-in for habitat-sim: what is read, found and refused."""

import gzip
import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mnemic.envs.habitat import Habitat, read_episodes
from mnemic.envs.houses import KINDS
from mnemic.envs.laws import check_env
from mnemic.envs.object_nav import ObjectNavConfig, placements
from mnemic.envs.object_nav.placements import kind_of
from mnemic.eval.protocol import play_rule

MUG, APPLE = KINDS.index("mug"), KINDS.index("apple")


def at(x: float, y: float, z: float) -> list[list[float]]:
    """Return a transformation: something turned by a quarter and put somewhere."""
    return [[0.0, 0.0, 1.0, x], [0.0, 1.0, 0.0, y], [-1.0, 0.0, 0.0, z], [0.0, 0.0, 0.0, 1.0]]


def episode(scene: str, things: list[tuple[str, list[list[float]]]], **more: object) -> dict[str, object]:
    return {
        "episode_id": "7",
        "scene_id": f"data/scene_datasets/own/{scene}.scene_instance.json",
        "scene_dataset_config": "default",
        "start_position": [0, 0, 0],
        "rigid_objs": things,
        "targets": {},
        "ao_states": {},
        "name_to_receptacle": {},
        **more,
    }


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset of two scenes, two kinds of objects, and an episode file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    (tmp_path / "scenes").mkdir()
    (tmp_path / "objects").mkdir()
    for name in ("flat_001", "flat_002"):
        scene = {"stage_instance": {"template_name": "stages/flat"}}
        (tmp_path / "scenes" / f"{name}.scene_instance.json").write_text(json.dumps(scene))
    (tmp_path / "own.scene_dataset_config.json").write_text('{"scene_instances": {"paths": {".json": ["scenes"]}}}')
    for name in ("025_mug", "013_apple", "077_rubiks_cube"):
        (tmp_path / "objects" / f"{name}.object_config.json").write_text("{}")
    write(tmp_path, "train", ["flat_001", "flat_002"])
    return tmp_path


def write(folder: Path, name: str, scenes: list[str], height: float = 0.8) -> str:
    """Write an episode file: a mug, an apple and another thing in each scene."""
    things = [
        ("025_mug.object_config.json", at(1.0, height, 1.0)),
        ("data/objects/077_rubiks_cube.object_config.json", at(1.0, height, 0.0)),
        ("013_apple", at(-0.5, height, 2.5)),
    ]
    more = {"additional_obj_config_paths": [str(folder / "objects")]}
    content = {"config": None, "episodes": [episode(scene, things, **more) for scene in scenes]}
    (folder / f"{name}.json.gz").write_bytes(gzip.compress(json.dumps(content).encode()))
    return str(folder / f"{name}.json.gz")


@pytest.fixture
def config(folder: Path, python: str, orders: Path) -> ObjectNavConfig:
    return ObjectNavConfig(
        simulator="habitat",
        habitat_python=python,
        dataset=str(folder / "own.scene_dataset_config.json"),
        placements=str(folder / "train.json.gz"),
        size=8,
        cell=0.2,
        min_start=0.0,
        episode_steps=40,
        trial_steps=90,
    )


def test_files_are_read(folder: Path) -> None:
    one, other = read_episodes(folder / "train.json.gz")
    assert (one.scene, other.scene) == ("flat_001", "flat_002")
    assert [thing.name for thing in one.things] == ["025_mug", "077_rubiks_cube", "013_apple"]
    assert one.things[2].position == (-0.5, 0.8, 2.5)
    assert one.things[0].matrix == tuple(map(tuple, at(1.0, 0.8, 1.0)))
    assert one.folders == (str(folder / "objects"),)
    (folder / "plain.json").write_text(json.dumps({"episodes": [episode("flat", [])]}))
    assert read_episodes(folder / "plain.json") == [("flat", (), ())]
    assert [kind_of(name) for name in ("003_cracker_box", "mug", "077_rubiks_cube")] == [
        "cracker_box",
        "mug",
        "rubiks_cube",
    ]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, r"cannot be read \(No such file or directory\)"),
        (b"\x1f\x8bbroken", "is no JSON, compressed or not"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "is a pointer of git-lfs; fetch it"),
        (b"[]", "has no 'episodes'"),
        (
            b'{"episodes": ["a"]}',
            "episode 0 of .* cannot be read: it is 'a'; an object with scene_id and rigid_objs is",
        ),
        (b'{"episodes": [{"rigid_objs": []}]}', "its scene_id is None; the name or the path of a scene is expected"),
        (b'{"episodes": [{"scene_id": 5, "rigid_objs": []}]}', "its scene_id is 5; the name or the path of a scene is"),
        (b'{"episodes": [{"scene_id": "a"}]}', "its rigid_objs are None; a list of pairs is expected"),
        (b'{"episodes": [{"scene_id": "a", "rigid_objs": {"b": 1}}]}', "its rigid_objs are {'b': 1}; a list of pairs"),
        (b'{"episodes": [{"scene_id": "a", "rigid_objs": [["b"]]}]}', r"a thing is \['b'\]; a pair of a name and a"),
        (b'{"episodes": [{"scene_id": "a", "rigid_objs": ["bc"]}]}', "a thing is 'bc'; a pair of a name and a matrix"),
        (b'{"episodes": [{"scene_id": "a", "rigid_objs": [[1, []]]}]}', r"a thing is \[1, \[\]\]; a pair of a name"),
        (b'{"episodes": [{"scene_id": "a", "rigid_objs": [["b", [[1, 2], [3, 4]]]]}]}', "of 'b' is not 4 x 4 numbers"),
        (
            b'{"episodes": [{"scene_id": "a", "rigid_objs": [["b", [[1], [3, 4]]]]}]}',
            "of 'b' is not 4 x 4 numbers, row",
        ),
        (
            b'{"episodes": [{"scene_id": "a", "rigid_objs": [["b", null]]}]}',
            "is not 4 x 4 numbers, row by row, but None",
        ),
        (
            b'{"episodes": [{"scene_id": "a", "rigid_objs": [], "additional_obj_config_paths": "x"}]}',
            "its additional_obj_config_paths are 'x'; a list of folders is expected",
        ),
    ],
)
def test_what_is_no_episode_file_is_refused_in_a_line(tmp_path: Path, data: bytes | None, words: str) -> None:
    file = tmp_path / "x.json.gz"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(ValueError, match=words) as refused:
        read_episodes(file)
    assert str(file) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_placements_are_houses(config: ObjectNavConfig) -> None:
    env = config.build(4, 0)
    try:
        assert env.simulator.scenes == ("flat_001", "flat_002")
        assert env.world.goal_HG.tolist() == [[APPLE, MUG]] * 2
        assert env.world.kind_HE.tolist() == [[-1, MUG, -1, APPLE]] * 2
        torch.testing.assert_close(env.world.place_HE3[1, 3], torch.tensor([-0.5, 0.8, 2.5]))
        # The floor begins at (-1, -1), and nothing hides anything: viewpoints are the cells near the apple as a whole.
        one = env.world.prepared[0]
        way_IJ = one.field()[0]
        z_I1, x_1J = (np.arange(20)[:, None] + 0.5) * 0.2 - 1, (np.arange(15) + 0.5) * 0.2 - 1
        away_IJ = np.hypot(x_1J + 0.5, z_I1 - 2.5)
        reach = 2.0 - 0.2 * math.sqrt(0.5)
        assert np.array_equal(way_IJ == 0, away_IJ <= reach)
        assert np.abs(way_IJ - np.maximum(away_IJ - reach, 0)).max() < 0.25
        picture = env.draw_episode([env.reset()[0]], 0)
        assert picture.image.shape == (320, 640, 3)
        assert len(np.unique(picture.image[:, 320:].reshape(-1, 3), axis=0)) > 3, "a floor, goals and an agent"
    finally:
        env.close()


def test_a_player_that_knows_the_placement_finds_what_lies_there(config: ObjectNavConfig) -> None:
    played = play_rule(config.oracle(), config, episodes=8, rows=4)
    assert all(success for success, whole in zip(played.info["success"], played.whole, strict=True) if whole)
    assert sum(played.info["success"]) > 8


def test_the_laws_hold(config: ObjectNavConfig) -> None:
    check_env(config, steps=60)


def test_houses_are_counted_in_the_order_of_the_file(config: ObjectNavConfig, folder: Path) -> None:
    write(folder, "train", ["flat_002", "flat_001", "flat_002", "flat_001"])
    env = replace(config, first_house=1, houses=2).build(2, 0)
    env.close()
    assert env.simulator.scenes == ("flat_001", "flat_002")
    with pytest.raises(ValueError, match=r"first_house is 4, and .*train\.json\.gz has 4 placements, from 0"):
        replace(config, first_house=4).build(2, 0)


def test_the_workers_of_a_dataset_draw_on_the_gpu_of_their_rank(
    config: ObjectNavConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_dataset = Habitat.of_dataset
    monkeypatch.setattr(
        Habitat, "of_dataset", lambda dataset, scenes, device, **more: of_dataset(dataset, scenes, "cpu", **more)
    )
    _, sim = placements.open_placements(config, ("semantic",), torch.device("cuda:1"))
    sim.close()
    assert [worker.setup["gpu"] for worker in sim._pool.workers] == [1, 1]


def test_validation_takes_its_own_file_or_the_same(config: ObjectNavConfig, folder: Path) -> None:
    validation = config.validation()
    assert (validation.split, validation.placements) == ("validation", config.placements)
    for file, scenes in (("", ("flat_001", "flat_002")), (write(folder, "val", ["flat_002"]), ("flat_002",))):
        env = replace(validation, validation_placements=file).build(1, 0)
        env.close()
        assert env.simulator.scenes == scenes


def test_what_is_known_is_not_asked_again_until_a_file_changes(
    config: ObjectNavConfig, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.build(1, 0).close()
    asked = []
    seen = placements._seen
    monkeypatch.setattr(placements, "_seen", lambda *given: asked.append(given[1]) or seen(*given))
    config.build(1, 0).close()
    assert asked == []
    (folder / "objects" / "013_apple.object_config.json").write_text('{"scale": [2, 2, 2]}')
    placements._contents.cache_clear()
    config.build(1, 0).close()
    assert asked == [0, 1]
    replace(config, success_radius=1.5).build(1, 0).close()
    assert asked == [0, 1, 0, 1]


def test_what_is_missing_is_named_in_a_line_and_nothing_runs_on(
    config: ObjectNavConfig, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    before = children.read_text()

    def refused(words: str, **options: object) -> None:
        with pytest.raises(ValueError, match=words) as error:
            replace(config, **options).build(1, 0)
        assert "\n" not in str(error.value)

    refused(r"there is no /no/own\.json; name the dataset's", dataset="/no/own.json")
    refused(r"episode file /no/x\.json\.gz cannot be read", placements="/no/x.json.gz")
    refused(r"there is no 025_mug\.object_config\.json with its mesh in .*, /no/objects; name", objects="/no/objects")
    replace(config, objects=f"/no/objects,{folder / 'objects'}").build(1, 0).close()
    other = write(folder, "other", ["flat_001", "102343992"])
    refused(r"has no scene '102343992'; it has 2: flat_001, flat_002; .* for another revision", placements=other)
    below = write(folder, "below", ["flat_001"], height=-9.0)
    refused(
        r"in none of 1 placements of .*below\.json\.gz can a goal of 28 kinds be reached and seen", placements=below
    )
    content = [json.loads(gzip.decompress(Path(file).read_bytes()))["episodes"] for file in (below, config.placements)]
    (folder / "mixed.json").write_text(json.dumps({"episodes": [*content[0], *content[1]]}))
    env = replace(config, placements=str(folder / "mixed.json")).build(2, 0)
    assert caplog.messages == ["object-nav: 1 of 3 placements are left out: no goal to reach"]
    assert env.simulator.scenes == ("flat_001", "flat_002")
    state, _ = env.reset()
    for action in (1, 2, 0):
        state, step = env.step(state, torch.full((2,), action))
        assert step.reward.isfinite().all()
    env.close()
    assert children.read_text() == before


def test_no_stage_takes_the_place_of_a_scene_that_is_missing_or_broken(config: ObjectNavConfig, folder: Path) -> None:
    """Unless there is no scene instance at all, as in HM3D, whose configuration has places for them."""
    (folder / "stages").mkdir()
    for name in ("flat_001", "flat_002"):
        (folder / "stages" / f"{name}.stage_config.json").write_text("{}")
    scene, dataset = folder / "scenes" / "flat_002.scene_instance.json", Path(config.dataset)
    scene.write_text("{")
    with pytest.raises(
        ValueError, match=rf"'flat_002' of {dataset} is not read, though there is {scene}; is it whole\?"
    ):
        config.build(1, 0)
    scene.unlink()
    with pytest.raises(ValueError, match=r"has no scene 'flat_002'; it has 1: flat_001; the episode file may be for"):
        config.build(1, 0)
    (folder / "scenes" / "flat_001.scene_instance.json").unlink()
    env = config.build(1, 0)
    env.close()
    assert env.simulator.scenes == ("flat_001", "flat_002")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is no JSON .*line 1 column 2.*; is it whole"),
        ("[1]", r"is no JSON object but \[1\]; name a \*\.scene_data"),
    ],
)
def test_what_is_no_dataset_is_named_in_a_line(config: ObjectNavConfig, content: str, words: str) -> None:
    Path(config.dataset).write_text(content)
    with pytest.raises(ValueError, match=f"dataset {config.dataset} {words}") as refused:
        config.build(1, 0)
    assert "\n" not in str(refused.value)


def test_options_that_do_not_fit_are_refused(config: ObjectNavConfig) -> None:
    for options, words in (
        ({"dataset": ""}, r"placements is '.*', and dataset is empty; name the dataset too"),
        ({"placements": ""}, r"placements is '' and simulator is 'habitat'; a dataset needs an episode file"),
        ({"simulator": "embedded", "habitat_python": ""}, r"simulator is 'embedded'; a dataset needs"),
        (
            {"max_rooms": 3},
            r"max_rooms is 3, of generated houses, and dataset is '.*'; make max_rooms 8, or dataset ''$",
        ),
        (
            {"min_rooms": 4, "fullness": 0.5},
            r"min_rooms is 4, fullness is 0.5, of .*; make min_rooms 3, fullness 1.0, or",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            replace(config, **options)
