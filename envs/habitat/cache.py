"""Exported houses, kept from run to run: baking their textures takes longer than anything else that opens them."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from ...kernels.ray_cast import texture
from ..houses import House, HouseConfig, glb, materials, mesh
from ..houses import export as writer
from ..houses.export import DATASET, export, navmesh_settings


def caches(name: str) -> Path:
    """Return a folder in the user's folder of caches."""
    return (Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "mnemic" / name).expanduser()


def exported(houses: Sequence[House], config: HouseConfig, folder: str | Path | None) -> Path:
    """Return the dataset configuration of some houses, which are exported if that has not been done.

    Args:
        houses: at least one.
        config: what they were made with.
        folder: where datasets are kept, each in a folder of its own; None: in the user's folder of caches.
    """
    kept = (Path(folder).expanduser() if folder else caches("houses")) / _digest(houses, config)
    if not (kept / DATASET).exists():
        part = kept.with_name(f"{kept.name}.{os.getpid()}")
        shutil.rmtree(part, ignore_errors=True)
        try:
            export(houses, part, config)
            _without_lights(part)
            part.rename(kept)
        except OSError:
            if not (kept / DATASET).exists():  # otherwise another process was first
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return kept / DATASET


def _without_lights(folder: Path) -> None:
    """Keep Habitat from preparing light from the surroundings, which our materials do not take.

    It does so for every scene with textures that is opened, which takes nine seconds where there is no GPU, unless the
    lookup table and the surroundings cannot be found: these it looks up in this file, under the working directory.

    Source: habitat-sim 0.3.3, src/esp/assets/ResourceManager.cpp, getOrBuildPBRIBLHelper.
    """
    path = folder / "data" / "default.pbr_config.json"
    path.parent.mkdir()
    path.write_text('{"enable_ibl": false, "ibl_blut_filename": "none", "ibl_envmap_filename": "none"}\n')


def _digest(houses: Sequence[House], config: HouseConfig) -> str:
    """Return a name that says all that is in the files."""
    found = hashlib.sha256(repr(sorted(navmesh_settings(config).items())).encode())
    for module in (writer, glb, materials, mesh, texture):  # a file of another revision of these is another file
        found.update(Path(str(module.__file__)).read_bytes())
    for house in houses:
        found.update(repr((house.seed, house.size, house.instances)).encode())
        for part in house.solids:
            found.update(part.numpy().tobytes())
    return found.hexdigest()[:16]
