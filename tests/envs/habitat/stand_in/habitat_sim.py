"""What the worker takes from habitat-sim, without pictures: it writes its poses into them, and dies or hangs on demand.

It is here to test processes and memory; it says nothing about what Habitat shows.
"""

import os
import time
from types import SimpleNamespace

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


def Configuration(simulator, agents, shared):
    return SimpleNamespace(simulator=simulator, agents=agents)


class MetadataMediator:
    def __init__(self, simulator):
        scenes = os.path.join(os.path.dirname(simulator.scene_dataset_config_file), "scenes")
        self.handles = [os.path.join(scenes, name) for name in sorted(os.listdir(scenes))]
        if simulator.gpu_device_id == 7:
            os.write(2, b"WindowlessContext: Unable to create windowless context\n")
            os.abort()

    def get_scene_handles(self):
        return self.handles

    @property
    def stage_template_manager(self):
        return SimpleNamespace(get_template_handles=lambda name: [name] if name else [])


metadata = SimpleNamespace(MetadataMediator=MetadataMediator)


class PathFinder:
    """A floor without walls that ends at x = 2."""

    is_loaded = False

    def load_nav_mesh(self, path):
        return True

    def save_nav_mesh(self, path):
        open(path, "w").close()

    def try_step(self, start, end):
        return [min(end[0], 2.0), 0.07, end[2]]


class NavMeshSettings:
    def read_from_json(self, path):
        assert os.path.exists(path)


class Target:
    def __init__(self, node, name):
        self.node, self.name = node, name

    def read_frame_rgba(self, view):
        view[:] = int(self.node.translation[0] * 10) % 256

    def read_frame_depth(self, view):
        view[:] = self.node.translation[2]
        view[0] = self.node.rotation.parts[1][0]  # the lowest line: pitch

    def read_frame_object_id(self, view):
        view[:] = int(self.name[-3:])


class Simulator:
    open_now = 0

    def __init__(self, config):
        name = config.simulator.scene_id
        node = SimpleNamespace(translation=None, rotation=None)
        sensors = config.agents[0].sensor_specifications
        node.subtree_sensors = {s.uuid: SimpleNamespace(render_target=Target(node, name)) for s in sensors}
        self.node, self.pathfinder = node, PathFinder()
        self.renderer = SimpleNamespace(draw=self.draw, bind_render_target=lambda sensor, flag: None)

    def get_agent(self, number):
        return SimpleNamespace(scene_node=self.node)

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
