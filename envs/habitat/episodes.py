"""Episode files: which things lie where in the scenes of a dataset of Habitat.

The format is that of habitat-lab's rearrangement, in which extended object navigation (ExtObjNav of ReLIC) is released:
a JSON object, as a rule compressed with gzip, whose `episodes` are placements of things. Of each are read

- `scene_id`: its scene, by name or by path, of which the name without folders and endings counts;
- `rigid_objs`: pairs of the handle of an object, by name or by path too, and its transformation: 4 x 4, row by row,
  metres, the last column being where it is;
- `additional_obj_config_paths`: folders of object configurations besides those of the dataset; may be left out.

All else is ignored: `episode_id`; `scene_dataset_config`, for whoever opens the file names the dataset;
`start_position`, `start_rotation`, `info`, `targets`, `markers`, `target_receptacles`, `goal_receptacles` and
`name_to_receptacle`, which are of the task of rearrangement; and `ao_states`, the joints of furniture, which Habitat
leaves out where physics is off.

Source: habitat-lab 0.3, habitat/datasets/rearrange/rearrange_dataset.py, RearrangeEpisode, and
habitat/tasks/rearrange/rearrange_sim.py, _add_objs; ReLIC's relic/download_datasets.sh and relic/configs/tasks.
"""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .scene import stem


class Thing(NamedTuple):
    """An object in a scene."""

    name: str
    """Of its object configuration, without folders and endings."""
    matrix: tuple[tuple[float, ...], ...]
    """Its transformation, 4 x 4, row by row, metres."""

    @property
    def position(self) -> tuple[float, float, float]:
        """Where its origin is, metres: what the papers' code measures distances to."""
        x, y, z = (row[3] for row in self.matrix[:3])
        return x, y, z


class Placement(NamedTuple):
    """A scene and the things that are put into it."""

    scene: str
    things: tuple[Thing, ...]
    """Their ids in semantic pictures are 1 and on, in this order; everything else has 0."""
    folders: tuple[str, ...] = ()
    """Where object configurations are."""


def read_episodes(path: str | Path) -> list[Placement]:
    """Return the placements of an episode file.

    Raises:
        ValueError: it is missing, or no such file.
    """
    file = Path(path).expanduser()
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ValueError(f"habitat: episode file {file} cannot be read ({error.strerror}); name a *.json.gz") from None
    try:
        content = json.loads(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
    except (ValueError, EOFError, OSError, zlib.error) as error:
        what = "is a pointer of git-lfs; fetch it" if data.startswith(b"version https://git-lfs") else f"({error})"
        raise ValueError(f"habitat: episode file {file} is no JSON, compressed or not: {what}") from None
    episodes = content.get("episodes") if isinstance(content, dict) else None
    if not isinstance(episodes, list) or not episodes:
        raise ValueError(
            f"habitat: episode file {file} has no 'episodes'; one of habitat-lab's rearrangement is expected"
        )
    found = []
    for number, episode in enumerate(episodes):
        try:
            found.append(_placement(episode))
        except ValueError as error:
            raise ValueError(f"habitat: episode {number} of {file} cannot be read: {error}") from None
    return found


def _placement(episode: Any) -> Placement:
    if not isinstance(episode, dict):
        raise ValueError(f"it is {episode!r:.60}; an object with scene_id and rigid_objs is expected")
    scene, pairs = episode.get("scene_id"), episode.get("rigid_objs")
    if not isinstance(scene, str) or not scene:
        raise ValueError(f"its scene_id is {scene!r:.60}; the name or the path of a scene is expected")
    if not isinstance(pairs, list):
        raise ValueError(f"its rigid_objs are {pairs!r:.60}; a list of pairs is expected, of a name and a matrix")
    folders = episode.get("additional_obj_config_paths") or []
    if not isinstance(folders, list) or not all(isinstance(folder, str) for folder in folders):
        raise ValueError(f"its additional_obj_config_paths are {folders!r:.60}; a list of folders is expected")
    return Placement(stem(scene), tuple(map(_thing, pairs)), tuple(folders))


def _thing(pair: Any) -> Thing:
    if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str):
        raise ValueError(f"a thing is {pair!r:.60}; a pair of a name and a matrix of 4 x 4 is expected")
    try:
        matrix = np.array(pair[1], dtype=np.float64)
    except (TypeError, ValueError):
        matrix = np.zeros(0)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise ValueError(f"the transformation of {pair[0]!r} is not 4 x 4 numbers, row by row, but {pair[1]!r:.60}")
    return Thing(stem(pair[0]), tuple(map(tuple, matrix.tolist())))
