"""What the worker takes from habitat-sim, without pictures: it writes its poses into them, and dies or hangs on demand.

It is here to test processes and memory; it says nothing about what Habitat shows. Things that are put into a scene have
a column of the semantic picture each, from the left, if they are within 45 degrees of where it looks, seen from above,
and not below the floor.
"""

import json
import math
import os
import time
from types import SimpleNamespace

import numpy as np

__version__ = "stand-in"


class SensorType:
    COLOR, DEPTH, SEMANTIC = range(3)


class SimulatorConfiguration(SimpleNamespace):
    pass


class CameraSensorSpec(SimpleNamespace):
    pass


class AgentConfiguration(SimpleNamespace):
    pass


agent = SimpleNamespace(AgentConfiguration=AgentConfiguration)
gfx = SimpleNamespace(Renderer=SimpleNamespace(Flags=SimpleNamespace(VISUALIZE_TEXTURE=4)))


def Configuration(simulator, agents, shared=None):
    return SimpleNamespace(simulator=simulator, agents=agents)


class MetadataMediator:
    objects = []  # noqa: RUF012 - never changed in place

    def __init__(self, simulator):
        self.folder = os.path.dirname(simulator.scene_dataset_config_file)
        for order, signal in (("hang at once", 0), ("die at once", 11)):
            if os.path.exists(os.path.join(os.environ["STAND_IN_ORDERS"], order)):
                os.kill(os.getpid(), signal)
                time.sleep(600)
        if simulator.gpu_device_id == 7:
            os.write(2, b"WindowlessContext: Unable to create windowless context\n")
            os.abort()

    def get_scene_handles(self):
        return [path for path in self.files("scenes") if is_json(path)]

    @property
    def stage_template_manager(self):
        return SimpleNamespace(get_template_handles=lambda name: [name] if name else self.files("stages"))

    def files(self, folder):
        folder = os.path.join(self.folder, folder)
        return [os.path.join(folder, name) for name in sorted(os.listdir(folder))] if os.path.isdir(folder) else []

    @property
    def object_template_manager(self):
        return SimpleNamespace(load_configs=self.load, get_file_template_handles=lambda: self.objects)

    def load(self, folder):
        if os.path.isdir(folder):
            self.objects = self.objects + [os.path.join(folder, name) for name in sorted(os.listdir(folder))]


def is_json(path):
    try:
        with open(path) as file:
            return bool(json.load(file))
    except ValueError:
        return False


metadata = SimpleNamespace(MetadataMediator=MetadataMediator)


class PathFinder:
    """A floor without walls, 0.07 high, that ends at x = 2 and z = 3, from -1 on where its cells are asked for."""

    is_loaded = False
    num_islands = 1

    def load_nav_mesh(self, path):
        return True

    def save_nav_mesh(self, path):
        open(path, "w").close()

    def try_step(self, start, end):
        return [min(end[0], 2.0), 0.07, end[2]]

    def try_step_no_sliding(self, start, end):
        return start if end[0] > 2.0 else self.try_step(start, end)

    def seed(self, number):
        pass

    def island_area(self, island):
        return 12.0

    def get_random_navigable_point(self, island_index):
        return [0.0, 0.07, 0.0]

    def get_topdown_island_view(self, cell, height, within):
        return np.zeros((round(4 / cell), round(3 / cell)), dtype=int)

    def get_bounds(self):
        return [-1.0, 0.0, -1.0], [2.0, 0.5, 3.0]


class NavMeshSettings:
    def set_defaults(self):
        pass

    def read_from_json(self, path):
        assert os.path.exists(path)


class Target:
    def __init__(self, node, name, things):
        self.node, self.name, self.things = node, name, things

    def read_frame_rgba(self, view):
        view[:] = int(self.node.translation[0] * 10) % 256

    def read_frame_depth(self, view):
        view[:] = self.node.translation[2]
        view[0] = self.node.rotation.parts[1][0]  # the lowest line: pitch

    def read_frame_object_id(self, view):
        view[:] = int(os.path.basename(self.name).split(".")[0][-3:])
        if not self.things:
            return
        view[:] = 0
        (yaw, _), _ = self.node.rotation.parts
        seen = [thing.semantic_id for thing in self.things.values() if thing.ahead(self.node.translation, yaw)]
        for column, number in enumerate(seen):
            view[:, column] = number


class Thing:
    def __init__(self, number):
        self.object_id = number

    def ahead(self, eye, yaw):
        x, y, z = self.transformation.columns[3][:3]
        turn = math.atan2(eye[0] - x, eye[2] - z) - yaw
        return y > -1 and math.cos(turn) > math.cos(math.pi / 4)


class Simulator:
    open_now = 0

    def __init__(self, config):
        name = config.simulator.scene_id
        if name != "NONE" and os.path.exists(os.path.join(os.environ["STAND_IN_ORDERS"], "slow")):
            time.sleep(1)
        node = SimpleNamespace(translation=None, rotation=None)
        self.things = {}
        sensors = config.agents[0].sensor_specifications
        node.subtree_sensors = {s.uuid: SimpleNamespace(render_target=Target(node, name, self.things)) for s in sensors}
        self.node, self.pathfinder = node, PathFinder()
        self.renderer = SimpleNamespace(draw=self.draw, bind_render_target=lambda sensor, flag: None)

    def initialize_agent(self, number):
        pass

    def step(self, action):
        assert action in ("move_forward", "turn_left", "turn_right")
        time.sleep(0.001)

    def get_agent(self, number):
        return SimpleNamespace(scene_node=self.node)

    def get_rigid_object_manager(self):
        return SimpleNamespace(add_object_by_template_handle=self.add, remove_object_by_id=self.things.pop)

    def add(self, handle):
        assert os.path.exists(handle)
        thing = Thing(len(self.things))
        self.things[thing.object_id] = thing
        return thing

    def recompute_navmesh(self, pathfinder, settings):
        return True

    def draw(self, sensor, simulator):
        orders = os.environ["STAND_IN_ORDERS"]
        for order in ("die", "hang", "always"):
            path = os.path.join(orders, order)
            if not os.path.exists(path):
                continue
            if order != "always":
                try:
                    os.unlink(path)  # who removes it follows it
                except FileNotFoundError:
                    continue
            if order == "hang":
                time.sleep(600)
            os.write(2, b"stand-in: told to die\n")
            os.kill(os.getpid(), 11)

    def close(self):
        self.node = None
