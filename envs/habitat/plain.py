"""The loop that the workers are compared with: one agent in one scene, stepped with habitat-sim as its tutorials do.

It is run by an interpreter that has habitat-sim, as `worker.py` is, and prints how many frames it made in a second.
"""

from __future__ import annotations

import json
import random
import sys
import time
from typing import Any

READY, SPEED = "ready", "frames/s"
"""What the lines begin with that are meant for who runs it: habitat-sim may write others."""


def main(setup: dict[str, Any]) -> None:
    """Open a scene, say so, and step when told to."""
    import habitat_sim

    simulator = habitat_sim.SimulatorConfiguration()
    simulator.scene_dataset_config_file, simulator.scene_id = setup["dataset"], setup["scene"]
    simulator.gpu_device_id, simulator.enable_physics = setup["gpu"], False
    sensors = []
    for name in setup["sensors"]:
        sensor = habitat_sim.CameraSensorSpec()
        sensor.uuid, sensor.resolution, sensor.hfov = name, setup["size"], 90
        kinds = {"rgb": "COLOR", "depth": "DEPTH", "semantic": "SEMANTIC"}
        sensor.sensor_type = getattr(habitat_sim.SensorType, kinds[name])
        sensor.position = [0.0, 1.25, 0.0]
        sensors.append(sensor)
    agent = habitat_sim.agent.AgentConfiguration()
    agent.sensor_specifications = sensors
    sim = habitat_sim.Simulator(habitat_sim.Configuration(simulator, [agent]))
    settings = habitat_sim.NavMeshSettings()
    settings.read_from_json(setup["navmesh"])
    sim.recompute_navmesh(sim.pathfinder, settings)
    sim.initialize_agent(0)
    draw = random.Random(setup["seed"])
    for _ in range(20):
        sim.step("move_forward")
    print(READY, flush=True)
    sys.stdin.readline()
    frames, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < setup["seconds"]:
        for _ in range(10):
            sim.step(draw.choice(("move_forward", "move_forward", "turn_left", "turn_right")))
        frames += 10
    print(SPEED, frames / (time.perf_counter() - begun), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
