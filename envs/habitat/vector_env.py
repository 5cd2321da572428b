"""What the workers are compared with besides: habitat-lab's `VectorEnv`, one agent in each of its processes.

It is run by an interpreter that has habitat-lab, as `plain.py` is by one that has habitat-sim, and prints how many
frames all its processes made in a second. The task measures nothing and gives no reward, so that only stepping, drawing
and sending are timed.
"""

from __future__ import annotations

import json
import random
import sys
import time
from functools import partial
from typing import Any

READY, SPEED = "ready", "frames/s"
"""As in `plain.py`."""


def environment(setup: dict[str, Any]) -> Any:
    """Make what one process steps."""
    import habitat
    import habitat_sim
    from habitat.config import read_write
    from habitat.datasets.pointnav.pointnav_dataset import PointNavDatasetV1
    from habitat.tasks.nav.nav import NavigationEpisode, NavigationGoal
    from omegaconf import open_dict

    class Bare(habitat.RLEnv):  # type: ignore[misc]  # it has no types
        """Habitat's environment in the form that `VectorEnv` asks for."""

        original_action_space = property(lambda self: self.action_space)

        def get_reward_range(self) -> tuple[float, float]:
            return 0.0, 0.0

        def get_reward(self, observations: Any) -> float:
            return 0.0

        def get_done(self, observations: Any) -> bool:
            return False

        def get_info(self, observations: Any) -> dict[str, Any]:
            return {}

    config = habitat.get_config("benchmark/nav/pointnav/pointnav_habitat_test.yaml")
    with read_write(config), open_dict(config):
        config.habitat.environment.max_episode_steps = 10**9
        config.habitat.task.measurements, config.habitat.task.lab_sensors = {}, {}
        simulator = config.habitat.simulator
        simulator.scene_dataset, simulator.scene = setup["dataset"], setup["scene"]
        simulator.habitat_sim_v0.gpu_device_id = setup["gpu"]
        simulator.turn_angle = 30
        sensors = simulator.agents.main_agent.sim_sensors
        for name in list(sensors):
            if name.removesuffix("_sensor") not in setup["sensors"]:
                del sensors[name]
                continue
            sensors[name].height, sensors[name].width = setup["size"]
            sensors[name].hfov = 90
    place: dict[str, Any] = {"start_position": setup["start"], "start_rotation": [0.0, 0.0, 0.0, 1.0]}
    scene = {"scene_id": setup["scene"], "scene_dataset_config": setup["dataset"]}
    dataset = PointNavDatasetV1()
    dataset.episodes = [
        NavigationEpisode(episode_id="0", goals=[NavigationGoal(position=setup["start"])], **scene, **place)
    ]
    made = Bare(config, dataset)
    settings = habitat_sim.NavMeshSettings()
    settings.read_from_json(setup["navmesh"])
    sim = made.habitat_env.sim
    sim.recompute_navmesh(sim.pathfinder, settings)
    return made


def main(setup: dict[str, Any]) -> None:
    """Start the processes, say so, and step them when told to."""
    from habitat.core.vector_env import VectorEnv

    count, draw = setup["count"], random.Random(0)
    environments = VectorEnv(partial(environment, setup), [()] * count)
    environments.reset()
    for _ in range(20):
        environments.step([{"action": "move_forward"}] * count)
    print(READY, flush=True)
    sys.stdin.readline()
    frames, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < setup["seconds"]:
        actions = draw.choices(("move_forward", "move_forward", "turn_left", "turn_right"), k=count)
        environments.step([{"action": action} for action in actions])
        frames += count
    speed = frames / (time.perf_counter() - begun)
    environments.close()
    print(SPEED, speed, flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
