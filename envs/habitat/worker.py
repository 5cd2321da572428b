"""Renders scenes with habitat-sim for another process.

This file is run by an interpreter that has habitat-sim, of any version from Python 3.9 and NumPy 1.21 on, and so
imports nothing but the standard library, NumPy and, where it is run, habitat-sim with the Magnum that belongs to it;
and so does `scene.py` beside it, with which it opens scenes.

Requests and answers are lines of JSON on a socket; for each scene that is opened, a line that says so comes before the
answer. Poses, pictures and steps lie in memory that both processes map.
A worker keeps no agents: a pose comes with every request, so that nothing is lost with a worker but time.

Shapes: N rows, one per agent of a request, I rows and J columns of pixels.

Source: habitat-sim 0.3.3, src_python/habitat_sim: simulator.py, sensors/sensor_wrapper.py, agent/controls/controls.py.
"""

from __future__ import annotations

import fcntl
import glob
import importlib.util
import json
import mmap
import os
import select
import signal
import socket
import sys
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

ALIGNED = 64
WHOLE = "is it whole? git lfs pull fetches what git-lfs left out"


class Block:
    """Arrays over memory that two processes share.

    Args:
        file: a descriptor of it; it is made larger where it is too small.
        rows: N.
        height: I.
        width: J.
        sensors: which pictures there are, of "rgb", "depth", "semantic".
    """

    def __init__(self, file: int, rows: int, height: int, width: int, sensors: tuple[str, ...]) -> None:
        pixels = (rows, height, width)
        shapes: dict[str, tuple[Any, tuple[int, ...]]] = {
            "scene": (np.int32, (rows,)),
            "position": (np.float32, (rows, 3)),
            "yaw": (np.float32, (rows,)),
            "pitch": (np.float32, (rows,)),
            "length": (np.float32, (rows,)),
            "hit": (np.uint8, (rows,)),
        }
        pictures: dict[str, tuple[Any, tuple[int, ...]]] = {
            "rgb": (np.uint8, (*pixels, 4)),
            "depth": (np.float32, pixels),
            "semantic": (np.int32, pixels),
        }
        shapes.update((name, pictures[name]) for name in sensors)
        places, end = {}, 0
        for name, (kind, shape) in shapes.items():
            places[name] = end
            end += -(-int(np.prod(shape)) * np.dtype(kind).itemsize // ALIGNED) * ALIGNED
        if os.fstat(file).st_size < end:
            os.ftruncate(file, end)
        self._map = mmap.mmap(file, end)
        self.rows = rows
        self.arrays: dict[str, np.ndarray] = {
            name: np.ndarray(shape, kind, self._map, places[name]) for name, (kind, shape) in shapes.items()
        }
        """By name. Pictures begin with their lowest line, as OpenGL has them; `rgb` has a fourth part without use."""


def end_with(lifeline: int) -> None:
    """Have the kernel end this process when the last holder of a pipe's other end is gone.

    Nothing is ever written to the pipe, so the only signal about it is that of its end, SIGIO, which ends a process
    that has no handler, whatever it is busy with. A process killed by force closes its pipes too.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:
        os._exit(1)  # it ended before that


class Server:
    """Answers requests.

    Args:
        setup: `dataset` (its configuration), `scenes` (their names), `gpu`, `sensors`, `size`, `hfov` (degrees) and
            `far` of the camera, `eye`, `height` and `radius` of agents, `sliding` (along what they meet), `navmesh` (a
            file of settings, or nothing: that of the dataset), `kept` (a folder for navmeshes, or nothing), `home` (a
            working directory, or nothing), `open` (how many scenes stay open), `level` (feet stay at the height where
            they are), `rows`, `things` (of each scene, by name and transformation; or nothing) and `folders` (of their
            configurations); metres.
        file: a descriptor of the memory that is shared.
        opened: is called for each scene that has been opened.
    """

    def __init__(self, setup: dict[str, Any], file: int, opened: Callable[[], None]) -> None:
        import habitat_sim
        import magnum

        self._opened = opened
        self.setup, self.file, self._magnum, self._scene = setup, file, magnum, _beside("scene")
        self._check_dataset()
        if setup["home"]:
            os.chdir(setup["home"])
        first = habitat_sim.SimulatorConfiguration()
        first.scene_dataset_config_file = setup["dataset"]
        first.gpu_device_id = setup["gpu"]
        self.shared = habitat_sim.metadata.MetadataMediator(first)
        self._files: dict[str, str] = {}
        self.names = [self._known(name) for name in setup["scenes"]]
        self.things = self._templates(setup["things"], setup["folders"]) if setup["things"] else []
        self.scenes: OrderedDict[str, Any] = OrderedDict()
        # The first simulator of a process owns what OpenGL needs, and all later ones share it: this one, of nothing,
        # stays, so that any scene can be closed.
        first.scene_id = "NONE"
        camera = habitat_sim.CameraSensorSpec()
        camera.uuid, camera.resolution = "camera", [8, 8]
        agent = habitat_sim.agent.AgentConfiguration()
        agent.sensor_specifications = [camera]
        self._owner = habitat_sim.Simulator(habitat_sim.Configuration(first, [agent], self.shared))
        self.rows(setup["rows"])

    def _check_dataset(self) -> None:
        """Say what is wrong with the file of the dataset: Habitat says that it does not exist."""
        dataset = self.setup["dataset"]
        try:
            with open(dataset, encoding="utf-8") as file:
                told = json.load(file)
        except (OSError, ValueError) as error:
            raise RuntimeError(f"dataset {dataset} is no JSON ({error}); {WHOLE}") from None
        if not isinstance(told, dict):
            raise RuntimeError(
                f"dataset {dataset} is no JSON object but {told!r:.40}; name a *.scene_dataset_config.json"
            )

    @cached_property
    def _instances(self) -> dict[str, str]:
        """The scene instances in the folder of the dataset, read or not: large datasets are walked through once."""
        pattern = glob.escape(os.path.dirname(self.setup["dataset"])) + "/**/*.scene_instance.json"
        return {self._scene.stem(file): file for file in glob.iglob(pattern, recursive=True)}

    def _known(self, name: str) -> str:
        """Return what Habitat opens a scene by: a scene instance or, where it has read none at all, a stage.

        Without this check Habitat takes the next best name, or dies of a stage whose file is missing. What it cannot
        read it leaves out.
        """
        dataset, stages = self.setup["dataset"], self.shared.stage_template_manager
        scenes = {self._scene.stem(handle): handle for handle in self.shared.get_scene_handles()}
        if name in scenes:
            self._files[name] = scenes[name]
            if not os.path.isfile(scenes[name]):
                return name
            with open(scenes[name], encoding="utf-8") as opened:
                stage = (json.load(opened).get("stage_instance") or {}).get("template_name")
            if not stage or not stages.get_template_handles(stage):
                raise RuntimeError(
                    f"scene {name!r} of {dataset} needs the stage {stage!r}, whose files are not all there"
                )
            return name
        if unread := self._instances.get(name):
            raise RuntimeError(f"scene {name!r} of {dataset} is not read, though there is {unread}; {WHOLE}")
        bare: dict[str, str] = {}
        if not any(map(os.path.isfile, scenes.values())):  # HM3D names scene instances, and comes without any
            bare = {self._scene.stem(handle): handle for handle in stages.get_template_handles("")}
        if name in bare:
            self._files[bare[name]] = bare[name]
            return bare[name]
        known = sorted(bare or scenes)
        some = ", ".join(known[:5]) + (", .." if len(known) > 5 else "")
        other = "; the episode file may be for another revision of it" if self.setup["things"] else ""
        raise RuntimeError(f"{dataset} has no scene {name!r}; it has {len(known)}: {some or 'none'}{other}")

    def _templates(self, placements: list[Any], folders: list[str]) -> list[list[tuple[str, list[list[float]]]]]:
        """Return the things of each placement with what Habitat makes them by, for their names."""
        manager = self.shared.object_template_manager
        for folder in folders:
            manager.load_configs(folder)
        # Those that are there with all of their files; the others Habitat leaves out.
        known = {self._scene.stem(handle): handle for handle in manager.get_file_template_handles()}
        for name in (name for things in placements for name, _ in things if name not in known):
            where = ", ".join([self.setup["dataset"], *folders])
            raise RuntimeError(f"there is no {name}.object_config.json with its mesh in {where}; name its folder")
        return [[(known[name], matrix) for name, matrix in things] for things in placements]

    def files(self) -> list[list[str]]:
        """Return the files that say what is in each scene: its own, and those of its things."""
        things = self.things or [[]] * len(self.names)
        return [[self._files[name], *(file for file, _ in mine)] for name, mine in zip(self.names, things)]  # noqa: B905

    def rows(self, rows: int) -> None:
        """Make room for more rows."""
        magnum, (height, width) = self._magnum, self.setup["size"]
        sensors = tuple(self.setup["sensors"])
        self.block = Block(self.file, rows, height, width, sensors)
        kinds = {
            "rgb": magnum.PixelFormat.RGBA8_UNORM,
            "depth": magnum.PixelFormat.R32F,
            "semantic": magnum.PixelFormat.R32UI,
        }
        size = magnum.Vector2i(width, height)
        self._views = [
            {
                name: magnum.MutableImageView2D(kinds[name], size, self.block.arrays[name][row].reshape(height, -1))
                for name in sensors
            }
            for row in range(rows)
        ]

    def scene(self, number: int, wanted: set[int]) -> Any:
        """Return a scene, opened if need be; scenes that are not wanted are closed, those used longest ago first."""
        name = self.names[number]
        if name not in self.scenes:
            kept = {self.names[other] for other in wanted}
            for other in [other for other in self.scenes if other not in kept]:
                if len(self.scenes) < self.setup["open"]:
                    break
                self.scenes.pop(other).sim.close()
            self.scenes[name] = self._scene.Scene(self.setup, name, self.shared)
            self._opened()
        self.scenes.move_to_end(name)
        return self.scenes[name]

    def render(self, rows: int, only: list[str]) -> None:
        """Draw what the agents of the first rows see, with some sensors."""
        arrays = self.block.arrays
        numbers = arrays["scene"][:rows].tolist()
        eyes = arrays["position"][:rows] + np.array([0.0, self.setup["eye"], 0.0], dtype=np.float32)
        yaws, pitches = arrays["yaw"].tolist(), arrays["pitch"].tolist()
        wanted = set(numbers)
        for row in np.argsort(arrays["scene"][:rows], kind="stable").tolist():
            scene = self.scene(numbers[row], wanted)
            if self.things:
                scene.put(numbers[row], self.things[numbers[row]])
            scene.draw(eyes[row], yaws[row], pitches[row], self._views[row], set(only))
        if self.things and "semantic" in only:
            ids = arrays["semantic"][:rows]
            np.maximum(ids - (self._scene.FIRST_ID - 1), 0, out=ids)

    def move(self, rows: int) -> None:
        """Let the agents of the first rows take steps of `length` where they look; their positions change."""
        arrays = self.block.arrays
        wanted = set(arrays["scene"][:rows].tolist())
        for row in range(rows):
            yaw, length, position = arrays["yaw"][row], arrays["length"][row], arrays["position"][row]
            way = np.array([-np.sin(yaw) * length, 0.0, -np.cos(yaw) * length], dtype=np.float32)
            to, hit = self.scene(int(arrays["scene"][row]), wanted).step(position, way)
            if self.setup["level"]:
                to[1] = position[1]
            # A free step is exactly a step; what the navmesh returns is rounded.
            arrays["position"][row] = to if hit else position + way if self.setup["level"] else to
            arrays["hit"][row] = hit

    def paths(self, scene: int, starts: list[list[float]], ends: list[list[float]]) -> list[float]:
        """Return lengths of ways in a scene."""
        lengths: list[float] = self.scene(scene, {scene}).paths(starts, ends)
        return lengths

    def floor(self, scene: int, cell: float) -> dict[str, Any]:
        """Return the floor of a scene."""
        floor: dict[str, Any] = self.scene(scene, {scene}).floor(cell)
        return floor


def _beside(name: str) -> Any:
    """Return a module of this folder, which is no package to the interpreter that runs this file."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{name}.py")
    spec: Any = importlib.util.spec_from_file_location(f"mnemic_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _words(error: Exception) -> str:
    words = str(error)
    if "Error loading general mesh data" in words:
        return f"{words[words.index('Error') :]}; a file of the dataset is missing or not whole: git lfs pull"
    return words if isinstance(error, RuntimeError) else f"{type(error).__name__}: {words}"


def main(control: int, file: int, lifeline: int) -> None:
    """Answer requests until the other process closes the socket."""
    end_with(lifeline)
    channel = socket.socket(fileno=control)
    lines = channel.makefile("r", encoding="utf-8")

    def answer(**what: Any) -> None:
        channel.sendall((json.dumps(what) + "\n").encode())

    setup = lines.readline()
    try:
        server = Server(json.loads(setup), file, lambda: answer(opened=True))
    except Exception as error:
        answer(error=_words(error), missing=isinstance(error, ImportError))
        os._exit(1)
    import habitat_sim

    answer(done=habitat_sim.__version__)
    for line in lines:
        request = json.loads(line)
        try:
            answer(done=getattr(server, request.pop("do"))(**request))
        except Exception as error:
            answer(error=_words(error), missing=False)
    # What OpenGL still has goes with the process; taking it down in order has been seen to crash.
    os._exit(0)


if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path = [path for path in sys.path if os.path.abspath(path or ".") != here]
    main(*map(int, sys.argv[1:4]))
