"""An interpreter with a stand-in for habitat-sim, and houses written as others write scenes and episodes."""

import gzip
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mnemic.envs.houses import House
from mnemic.envs.houses.export import export, scene_name
from mnemic.envs.houses.glb import Glb
from mnemic.envs.houses.house import Solids
from mnemic.envs.houses.mesh import surfaces

STAND_IN = Path(__file__).parent / "stand_in"
TURN = 0.7


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter that finds the stand-in."""
    script = tmp_path_factory.mktemp("bin") / "python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH={STAND_IN} exec {sys.executable} "$@"\n')
    script.chmod(0o755)
    return str(script)


@pytest.fixture(scope="session")
def real() -> str:
    """An interpreter that has habitat-sim: the one that MNEMIC_HABITAT_PYTHON names."""
    named = os.environ.get("MNEMIC_HABITAT_PYTHON", "")
    if not named:
        pytest.skip("MNEMIC_HABITAT_PYTHON names no interpreter")
    probe = subprocess.run([named, "-c", "import habitat_sim"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"{named} cannot import habitat_sim: {probe.stderr.strip()[-200:]}")
    return named


@pytest.fixture
def orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where files tell the stand-in to die or to hang."""
    monkeypatch.setenv("STAND_IN_ORDERS", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="session")
def write_dataset():
    """Of `as_dataset`, which tests cannot import."""
    return as_dataset


def as_dataset(homes: Sequence[House], folder: Path) -> tuple[Path, Path]:
    """Write houses as a scene dataset without their things, the things as objects, and an episode file of both.

    The episodes are those of the released files: of habitat-lab's rearrangement. The objects are turned in their
    meshes, and turned back by their transformations.

    Returns:
        the configuration of the dataset, and the episode file.
    """
    bare, episodes, number = [], [], 1
    objects = folder / "objects"
    objects.mkdir(parents=True)
    turn = np.eye(4)
    turn[[0, 0, 2, 2], [0, 2, 0, 2]] = math.cos(TURN), math.sin(TURN), -math.sin(TURN), math.cos(TURN)
    for home in homes:
        placed = []
        for thing in home.things:
            name = f"{number:03d}_{thing.kind}"
            number += 1
            mesh = surfaces(some(home.solids, list(thing.solids)))
            place_V3 = (mesh.position_V3 - np.array(thing.centre)) @ turn[:3, :3]  # the inverse, from the right
            glb = Glb({})
            grey_V4 = np.full((len(place_V3), 4), 255)
            glb.mesh(name, glb.material(name, None), place_V3, mesh.corner_F3, grey_V4, mesh.normal_V3 @ turn[:3, :3])
            glb.write(objects / f"{name}.glb")
            look = {"render_asset": f"{name}.glb", "up": [0, 1, 0], "front": [0, 0, -1], "force_flat_shading": True}
            (objects / f"{name}.object_config.json").write_text(json.dumps(look))
            turn[:3, 3] = thing.centre
            placed.append([f"{name}.object_config.json", turn.tolist()])
        furniture = [instance for instance in home.instances if instance.goal is None]
        kept = sorted(set(range(len(home.solids.kind_S))) - {row for thing in home.things for row in thing.solids})
        bare.append(replace(home, solids=some(home.solids, kept), instances=tuple(furniture)))
        episodes.append(
            {
                "episode_id": str(len(episodes)),
                "scene_id": f"data/scene_datasets/own/{scene_name(home.seed)}.scene_instance.json",
                "scene_dataset_config": "data/scene_datasets/own/own.scene_dataset_config.json",
                "additional_obj_config_paths": [str(objects)],
                "start_position": [0, 0, 0],
                "start_rotation": [0, 0, 0, 1],
                "info": {"object_labels": {}},
                "ao_states": {},
                "rigid_objs": placed,
                "targets": {},
                "markers": [],
                "target_receptacles": [],
                "goal_receptacles": [],
                "name_to_receptacle": {},
            }
        )
    file = folder / "episodes.json.gz"
    file.write_bytes(gzip.compress(json.dumps({"config": None, "episodes": episodes}).encode()))
    return export(bare, folder, pixels=16), file


def some(solids: Solids, rows: list[int]) -> Solids:
    """Return some of a house's solids."""
    return Solids(*(part[torch.tensor(rows)] for part in solids))
