"""A scene of habitat-sim: what is drawn of it, its floor, and the things that are put into it.

As `worker.py`, this file is run by an interpreter that has habitat-sim, of any version from Python 3.9 on.

Source: habitat-sim 0.3.3, src_python/habitat_sim: simulator.py, sensors/sensor_wrapper.py, agent/controls/controls.py.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

TOUCH = 1e-5
"""A step that is shorter by more than this has met something, metres: habitat_sim/agent/controls/controls.py."""
FIRST_ID = 1 << 20
"""Ids of things that are put into a scene begin here, above all that scenes have; in pictures they begin at 1."""


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

        self._magnum, self._sliding = magnum, setup["sliding"]
        simulator = habitat_sim.SimulatorConfiguration()
        simulator.scene_dataset_config_file = setup["dataset"]
        simulator.scene_id = name
        simulator.gpu_device_id = setup["gpu"]
        simulator.enable_physics = False
        simulator.allow_sliding = setup["sliding"]
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
        self._placed = -1
        self._things: list[Any] = []

    def put(self, number: int, things: list[tuple[str, list[list[float]]]]) -> None:
        """Put the things of a placement in, by template and transformation, and take those of another one out."""
        if number == self._placed:
            return
        magnum, manager, self._placed = self._magnum, self.sim.get_rigid_object_manager(), -1
        while self._things:
            manager.remove_object_by_id(self._things.pop().object_id)
        for index, (template, matrix) in enumerate(things):
            thing = manager.add_object_by_template_handle(template)
            if thing is None:
                raise RuntimeError(f"object {template} cannot be opened; is its mesh whole?")
            self._things.append(thing)
            columns = np.array(matrix).T.tolist()
            thing.transformation = magnum.Matrix4(*(magnum.Vector4(*column) for column in columns))
            thing.semantic_id = FIRST_ID + index
        self._placed = number

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
        kept = os.path.join(setup["kept"], stem(name) + ".navmesh") if setup["kept"] else None
        if kept and os.path.exists(kept) and path.load_nav_mesh(kept):
            return
        settings = habitat_sim.NavMeshSettings()
        if setup["navmesh"]:
            settings.read_from_json(setup["navmesh"])
        else:
            settings.set_defaults()
            settings.agent_height, settings.agent_radius = setup["height"], setup["radius"]
            settings.include_static_objects = True
        if not self.sim.recompute_navmesh(path, settings):
            raise RuntimeError(f"scene {name!r} has no floor that an agent of radius {setup['radius']} m can stand on")
        if kept:
            mine = f"{kept}.{os.getpid()}"
            path.save_nav_mesh(mine)
            os.replace(mine, kept)

    def draw(self, position: np.ndarray, yaw: float, pitch: float, views: dict[str, Any], only: set[str]) -> None:
        """Draw what is seen from an eye into the views of a row; only some of them."""
        magnum = self._magnum
        turn = magnum.Quaternion.rotation(magnum.Rad(yaw), magnum.Vector3.y_axis())
        tilt = magnum.Quaternion.rotation(magnum.Rad(pitch), magnum.Vector3.x_axis())
        self._node.translation = magnum.Vector3(*position.tolist())
        self._node.rotation = turn * tilt
        for name, sensor in self._sensors.items():
            if name not in only and not (name == "depth" and self._both and "rgb" in only):
                continue
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
        path = self.sim.pathfinder
        step = path.try_step if self._sliding else path.try_step_no_sliding
        end = step(start, start + self._magnum.Vector3(*way.tolist()))
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


def stem(handle: str) -> str:
    """Return a handle without folders and endings."""
    return os.path.basename(handle).split(".")[0]
