"""The named settings of object navigation: one that learns on a small budget, and those of the two papers.

`small` is what a first experiment can afford. Pictures of 64 x 64 pixels are a sixteenth of the papers' work; things
are half as large again as in life, so that these pictures show them; and a trial has a quarter of the papers' steps,
since a window of training that holds a trial is then a quarter as long, and still holds some ten episodes of a trained
agent. An episode begins at least 0.5 m away from where its goal is seen: otherwise one in 28 begins with the goal
in view, and a player that stops at once, always, gets more for a step (0.07) than one that has just begun to learn gets
by walking.
"""

from __future__ import annotations

from typing import Any

_RELIC: dict[str, Any] = {
    "size": 256,
    "trial_steps": 4096,
    "slack": -0.001,
    "goals": "ycb",
    "thing_scale": 1.0,
    "min_things": 15,
    "max_things": 30,
    "min_start": 0.0,
    # In the released code the point that the camera looks at, 1.25 m from the robot's foot, goes from 20 to 100 degrees
    # from upright. Seen from the camera, 1.2 m high and 0.25 m ahead of the foot, it is 8 to 55 degrees below.
    "min_tilt": -55.0,
    "max_tilt": -8.0,
}

PRESETS: dict[str, dict[str, Any]] = {
    "small": {
        "size": 64,
        "trial_steps": 1024,
        "slack": -0.003,
        "goals": "all",
        "thing_scale": 1.5,
        "min_things": 25,
        "max_things": 40,
        "min_start": 0.5,
        "min_tilt": -60.0,
        "max_tilt": 30.0,
    },
    "relic": _RELIC,
    "memo": _RELIC | {"slack": -0.003},
}
