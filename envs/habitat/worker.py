"""Renders scenes with habitat-sim for another process.

This file is run by an interpreter that has habitat-sim, of any version from Python 3.9 and NumPy 1.21 on, and so
imports nothing but the standard library, NumPy and, where it is run, habitat-sim with the Magnum that belongs to it.

Requests and answers are lines of JSON on a socket; poses, pictures and steps lie in memory that both processes map.
A worker keeps no agents: a pose comes with every request, so that nothing is lost with a worker but time.

Shapes: N rows, one per agent of a request, I rows and J columns of pixels.

Source: habitat-sim 0.3.3, src_python/habitat_sim: simulator.py, sensors/sensor_wrapper.py, agent/controls/controls.py.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import select
import signal
import socket
import sys
from collections import OrderedDict
from typing import Any

import numpy as np

ALIGNED = 64
TOUCH = 1e-5
"""A step that is shorter by more than this has met something, metres: habitat_sim/agent/controls/controls.py."""


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


class Scene:
    """One scene: its pictures and its floor.

    Args:
        setup: as of `Server`.
        name: what the dataset calls it.
        shared: what datasets are, kept from scene to scene.
    """

    def __init__(self, setup: dict[str, Any], name: str, shared: Any) -> None:
        import habitat_sim
        import magnum

        self._magnum = magnum
        simulator = habitat_sim.SimulatorConfiguration()
        simulator.scene_dataset_config_file = setup["dataset"]
        simulator.scene_id = name
        simulator.gpu_device_id = setup["gpu"]
        simulator.enable_physics = False
        simulator.allow_sliding = True
        sensors = [self._sensor(habitat_sim, setup, sensor) for sensor in setup["sensors"]]
        agent = habitat_sim.agent.AgentConfiguration()
        agent.height, agent.radius, agent.sensor_specifications = setup["height"], setup["radius"], sensors
        self.sim = habitat_sim.Simulator(habitat_sim.Configuration(simulator, [agent], shared))
        self._node = self.sim.get_agent(0).scene_node
        found = self.sim.get_agent(0).scene_node.subtree_sensors
        self._sensors = {sensor: found[sensor] for sensor in setup["sensors"]}
        if "rgb" in self._sensors and "depth" in self._sensors:
            # A target of the depth sensor that keeps colours too: one drawing serves both.
            flag = habitat_sim.gfx.Renderer.Flags.VISUALIZE_TEXTURE
            self.sim.renderer.bind_render_target(self._sensors["depth"], flag)
            del self._sensors["rgb"]
        self._both = "rgb" in setup["sensors"] and "depth" in self._sensors
        self._find_floor(habitat_sim, setup, name)

    def _sensor(self, habitat_sim: Any, setup: dict[str, Any], name: str) -> Any:
        kinds = habitat_sim.SensorType
        sensor = habitat_sim.CameraSensorSpec()
        sensor.uuid = name
        sensor.sensor_type = {"rgb": kinds.COLOR, "depth": kinds.DEPTH, "semantic": kinds.SEMANTIC}[name]
        sensor.resolution = [setup["size"][0], setup["size"][1]]
        sensor.position = self._magnum.Vector3(0.0)
        sensor.hfov, sensor.far = setup["hfov"], setup["far"]
        sensor.near = 0.01
        return sensor

    def _find_floor(self, habitat_sim: Any, setup: dict[str, Any], name: str) -> None:
        """Take the navmesh that the dataset has, or that an earlier worker made, or make it."""
        path = self.sim.pathfinder
        if setup["navmesh"] is None and path.is_loaded:
            return
        kept = os.path.join(setup["kept"], _stem(name) + ".navmesh") if setup["kept"] else None
        if kept and os.path.exists(kept) and path.load_nav_mesh(kept):
            return
        settings = habitat_sim.NavMeshSettings()
        if setup["navmesh"]:
            settings.read_from_json(setup["navmesh"])
        else:
            settings.set_defaults()
            settings.agent_height, settings.agent_radius = setup["height"], setup["radius"]
        if not self.sim.recompute_navmesh(path, settings):
            raise RuntimeError(f"scene {name!r} has no floor that an agent of radius {setup['radius']} m can stand on")
        if kept:
            mine = f"{kept}.{os.getpid()}"
            path.save_nav_mesh(mine)
            os.replace(mine, kept)

    def draw(self, position: np.ndarray, yaw: float, pitch: float, views: dict[str, Any]) -> None:
        """Draw what is seen from an eye into the views of a row."""
        magnum = self._magnum
        turn = magnum.Quaternion.rotation(magnum.Rad(yaw), magnum.Vector3.y_axis())
        tilt = magnum.Quaternion.rotation(magnum.Rad(pitch), magnum.Vector3.x_axis())
        self._node.translation = magnum.Vector3(*position.tolist())
        self._node.rotation = turn * tilt
        for name, sensor in self._sensors.items():
            self.sim.renderer.draw(sensor, self.sim)
            target = sensor.render_target
            if name == "rgb" or (name == "depth" and self._both):
                target.read_frame_rgba(views["rgb"])
            if name == "depth":
                target.read_frame_depth(views["depth"])
            if name == "semantic":
                target.read_frame_object_id(views["semantic"])

    def step(self, position: np.ndarray, way: np.ndarray) -> tuple[np.ndarray, bool]:
        """Return where a step from a position ends, and whether something kept it from its full length."""
        start = self._magnum.Vector3(*position.tolist())
        end = self.sim.pathfinder.try_step(start, start + self._magnum.Vector3(*way.tolist()))
        to = np.array([end[0], end[1], end[2]], dtype=np.float32)
        made = to - position
        return to, bool(np.hypot(made[0], made[2]) + TOUCH < np.hypot(way[0], way[2]))

    def paths(self, starts: list[list[float]], ends: list[list[float]]) -> list[float]:
        """Return the lengths of the shortest ways, metres; infinite where there is none."""
        import habitat_sim

        path, lengths = habitat_sim.ShortestPath(), []
        for start, end in zip(starts, ends):  # noqa: B905 - Python 3.9 has no `strict`
            path.requested_start = np.array(start, dtype=np.float32)
            path.requested_end = np.array(end, dtype=np.float32)
            self.sim.pathfinder.find_path(path)
            lengths.append(float(path.geodesic_distance))
        return lengths

    def floor(self, cell: float) -> dict[str, Any]:
        """Return the storey with the most floor: its cells, row by row, and its smallest x and z and its height."""
        path = self.sim.pathfinder
        largest = max(range(path.num_islands), key=path.island_area)
        path.seed(0)
        heights = [float(path.get_random_navigable_point(island_index=largest)[1]) for _ in range(200)]
        count, edges = np.histogram(heights, bins=np.arange(min(heights), max(heights) + 0.6, 0.5))
        inside = [y for y in heights if edges[count.argmax()] <= y <= edges[count.argmax() + 1]]
        height = float(np.median(inside))
        free = np.asarray(path.get_topdown_island_view(cell, height, 0.5)) == largest
        low = path.get_bounds()[0]
        return {
            "origin": [float(low[0]), height, float(low[2])],
            "free": ["".join("01"[x] for x in row) for row in free.astype(int)],
        }


class Server:
    """Answers requests.

    Args:
        setup: `dataset` (its configuration), `scenes` (their names), `gpu`, `sensors`, `size`, `hfov` (degrees) and
            `far` of the camera, `eye`, `height` and `radius` of agents, `navmesh` (a file of settings, or nothing: that
            of the dataset), `kept` (a folder for navmeshes, or nothing), `home` (a working directory, or nothing),
            `open` (how many scenes stay open), `level` (feet stay at the height where they are) and `rows`; metres.
        file: a descriptor of the memory that is shared.
    """

    def __init__(self, setup: dict[str, Any], file: int) -> None:
        import habitat_sim
        import magnum

        self.setup, self.file, self._magnum = setup, file, magnum
        if setup["home"]:
            os.chdir(setup["home"])
        first = habitat_sim.SimulatorConfiguration()
        first.scene_dataset_config_file = setup["dataset"]
        first.gpu_device_id = setup["gpu"]
        self.shared = habitat_sim.metadata.MetadataMediator(first)
        self.names = [self._known(name) for name in setup["scenes"]]
        self.scenes: OrderedDict[int, Scene] = OrderedDict()
        # The first simulator of a process owns what OpenGL needs, and all later ones share it: this one, of nothing,
        # stays, so that any scene can be closed.
        first.scene_id = "NONE"
        camera = habitat_sim.CameraSensorSpec()
        camera.uuid, camera.resolution = "camera", [8, 8]
        agent = habitat_sim.agent.AgentConfiguration()
        agent.sensor_specifications = [camera]
        self._owner = habitat_sim.Simulator(habitat_sim.Configuration(first, [agent], self.shared))
        self.rows(setup["rows"])

    def _known(self, name: str) -> str:
        """Return what Habitat opens a scene by: a scene instance or, in datasets without these, a stage.

        Without this check Habitat takes the next best name, or dies of a stage whose file is missing.
        """
        dataset, stages = self.setup["dataset"], self.shared.stage_template_manager
        scenes = {_stem(handle): handle for handle in self.shared.get_scene_handles()}
        if name in scenes:
            if not os.path.isfile(scenes[name]):
                return name
            with open(scenes[name], encoding="utf-8") as file:
                stage = json.load(file)["stage_instance"]["template_name"]
            if not stages.get_template_handles(stage):
                raise RuntimeError(
                    f"scene {name!r} of {dataset} needs the stage {stage!r}, whose files are not all there"
                )
            return name
        bare: dict[str, str] = {_stem(handle): handle for handle in stages.get_template_handles("")}
        if name in bare:
            return bare[name]
        known = sorted(scenes or bare)
        some = ", ".join(known[:5]) + (", .." if len(known) > 5 else "")
        raise RuntimeError(f"{dataset} has no scene {name!r}; it has {len(known)}: {some or 'none'}")

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

    def scene(self, number: int, wanted: set[int]) -> Scene:
        """Return a scene, opened if need be; scenes that are not wanted are closed, those used longest ago first."""
        if number not in self.scenes:
            for other in list(self.scenes):
                if len(self.scenes) < self.setup["open"]:
                    break
                if other not in wanted:
                    self.scenes.pop(other).sim.close()
            self.scenes[number] = Scene(self.setup, self.names[number], self.shared)
        self.scenes.move_to_end(number)
        return self.scenes[number]

    def render(self, rows: int) -> None:
        """Draw what the agents of the first rows see."""
        arrays = self.block.arrays
        numbers = arrays["scene"][:rows].tolist()
        eyes = arrays["position"][:rows] + np.array([0.0, self.setup["eye"], 0.0], dtype=np.float32)
        yaws, pitches = arrays["yaw"].tolist(), arrays["pitch"].tolist()
        wanted = set(numbers)
        for row in np.argsort(arrays["scene"][:rows], kind="stable").tolist():
            self.scene(numbers[row], wanted).draw(eyes[row], yaws[row], pitches[row], self._views[row])

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
        return self.scene(scene, {scene}).paths(starts, ends)

    def floor(self, scene: int, cell: float) -> dict[str, Any]:
        """Return the floor of a scene."""
        return self.scene(scene, {scene}).floor(cell)


def _stem(handle: str) -> str:
    """Return a handle without folders and endings."""
    return os.path.basename(handle).split(".")[0]


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, RuntimeError) else f"{type(error).__name__}: {error}"


def main(control: int, file: int, lifeline: int) -> None:
    """Answer requests until the other process closes the socket."""
    end_with(lifeline)
    channel = socket.socket(fileno=control)
    lines = channel.makefile("r", encoding="utf-8")

    def answer(**what: Any) -> None:
        channel.sendall((json.dumps(what) + "\n").encode())

    setup = lines.readline()
    try:
        server = Server(json.loads(setup), file)
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
