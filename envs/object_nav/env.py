"""Object navigation: find one thing after another in the same house, by what is seen.

Source: extended object navigation, ReLIC (arXiv 2410.02751) and Memo (arXiv 2510.19732), in houses made from a seed.

Departures, where the papers differ from each other or leave something open:

- Houses come from `mnemic.envs.houses` in the place of HSSD, or from scenes of one's own (`placements`); a trial draws
  one of them evenly, never the same twice in a row.
- How much of a goal is seen counts over all its instances within the radius, of which there is rarely more than one.
- A viewpoint is the middle of a cell that lies within the radius of a thing as a whole, with the middle of the thing
  in sight; in scenes of one's own with enough pixels of it (`placements`).
- Turns are 30 degrees, as ReLIC's text has them; what both codes do in effect is 14.3 (`turn`).
- A look is 30 degrees of the camera, within `min_tilt` and `max_tilt`. The released code turns the point that the
  camera looks at, about the robot's foot: its 30 degrees are 14 to 16 of the camera (`look`), from 22 below the
  horizon, where an episode begins, and its limits of 20 and 100 degrees from upright are 8 and 55 below the horizon.
  The presets `relic` and `memo` have these limits and begin at 8 below; `small` begins level, and goes from 60 below
  to 30 above.
- The camera is 1.25 m above the agent's middle (`eye_height`); that of the papers' robot 1.2 m, and 0.25 m ahead of it.
- An episode begins in the middle of a cell, with a yaw that is a multiple of a turn.
- The pose tells how far the agent has turned, as Memo's text has it and its code does not, and its pitch.

An observation is drawn once in a step: the same picture is what the agent sees and what says, in the next step, whether
the goal was in view when it called `stop`. Only the last pictures of rows whose episode is over are drawn besides.

Shapes: B rows, I and J pixels, H houses, G goals, E ids, F fields, C cells (see `world`), N kinds, K places to start
from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from ..habitat import Habitat
from ..houses import KINDS
from ..native import NativeEnv, NativeState, Outcome, pick
from ..picture import Picture
from ..random import Stream
from ..simulator import ACTIONS, Agents, Embedded
from ..simulator.base import STOP
from ..step import Hidden, Obs, Step
from .config import ObjectNavConfig
from .drawing import draw
from .hidden import hidden, offset
from .world import world

PLACES = 32
"""Places of which the first within `min_start` and `max_start` is where an episode begins, else the closest to that."""
TEN_METRES = 10.0
"""What a place of 1 stands for in an observation."""


class Search(NamedTuple):
    """B episodes."""

    agents: Agents
    start_B3: Tensor  # (B, 3) float32, metres: where the episode began, or the trial: what the pose is told from
    heading_B: Tensor  # (B,) float32, radians: the yaw that it began with
    target_B: Tensor  # (B,) int64: the kind of the goal
    field_B: Tensor  # (B,) int64: the distance field of the goal
    distance_B: Tensor  # (B,) float32, metres: the way to the nearest viewpoint of the goal
    shortest_B: Tensor  # (B,) float32, metres: what it was at the start
    walked_B: Tensor  # (B,) float32, metres
    in_view_B: Tensor  # (B,) bool: enough of a goal within the radius was seen in the last picture
    seen_BE: Tensor  # (B, E) bool: instances that were in a picture of this trial while they were looked for


def _with(task: Search, **parts: Any) -> Search:
    """Do as `task._replace`, whose result comes out of compiled code empty with torch 2.11."""
    return Search(**(task._asdict() | parts))


class ObjectNav(NativeEnv):
    """B searches, on a device.

    Actions are those of `simulator.ACTIONS`: 0 stop, 1 forward, 2 left, 3 right, 4 up, 5 down. The agent sees `rgb`,
    `depth` and `mask`, as `sensors` says; `goal`, the kind, one-hot; and `pose`: how far it is to the right of its
    start and behind it, over 10 m, cosine and sine of how far it has turned to the left, and its pitch over a quarter
    turn.
    Reward: `progress_reward` for each metre of the way that was made, `slack`, and `success_reward` for a goal that is
    found. `stop` finds a goal that is near and in view, and ends the episode; where it finds nothing it adds
    `wrong_reward`, and ends the episode or not, as `wrong_stop` says. Info: `success`; `spl`, success times the
    shortest way over the longer of that and the way walked; `distance_to_goal`, metres.
    """

    action_names = ACTIONS
    fused: ClassVar[tuple[str, ...]] = ("advance", "renew", "_noted", "_told", "hidden")  # all but the pictures

    def __init__(self, config: ObjectNavConfig, batch: int, seed: int, device: torch.device | str = "cpu") -> None:
        full = config.resolved()
        size = full.view().height
        seen: dict[str, spaces.Space[Any]] = {}
        if "rgb" in full.sensors:
            seen["rgb"] = spaces.Box(0, 255, (size, size, 3), np.uint8)
        if "depth" in full.sensors:
            seen["depth"] = spaces.Box(0.0, 1.0, (size, size, 1), np.float32)
        if "mask" in full.sensors:
            seen["mask"] = spaces.Box(0, 1, (size, size, 1), np.uint8)
        seen["goal"] = spaces.Box(0.0, 1.0, (len(KINDS),), np.float32)
        seen["pose"] = spaces.Box(-TEN_METRES, TEN_METRES, (5,), np.float32)
        super().__init__(
            config,
            batch,
            seed,
            device,
            action_space=spaces.Discrete(len(ACTIONS)),
            observation_space=spaces.Dict(seen),
            episode_steps=full.episode_steps,
            trial_steps=full.trial_steps,
        )
        self.options, self.world = full, world(full, self.device)
        self.simulator: Embedded | Habitat = self.world.simulator
        self._kind_N = torch.arange(len(KINDS), device=self.device)

    def begin(self, stream: Stream) -> Search:
        """Draw houses, and begin in them."""
        return self._episode(stream.integers(0, self.simulator.houses), stream)

    def renew(self, task: Search, stream: Stream, over_B: Tensor, trial_over_B: Tensor) -> Search:
        """Begin the next episode, in another house where the trial is over: all rows are drawn once."""
        house_B, houses = task.agents.house_B, self.simulator.houses
        if houses > 1:
            other_B = (house_B + 1 + stream.integers(100, houses - 1)) % houses
            house_B = torch.where(trial_over_B, other_B, house_B)
        next_one = self._episode(house_B, stream)
        if self.options.pose == "trial":
            start_B3 = torch.where(trial_over_B[:, None], next_one.start_B3, task.start_B3)
            heading_B = torch.where(trial_over_B, next_one.heading_B, task.heading_B)
            next_one = next_one._replace(start_B3=start_B3, heading_B=heading_B)
        next_one = next_one._replace(seen_BE=task.seen_BE & ~trial_over_B[:, None])
        renewed: Search = pick(over_B, next_one, task)
        return renewed

    def advance(self, task: Search, action_B: Tensor, stream: Stream) -> tuple[Search, Outcome]:
        """Move, or stop."""
        options = self.options
        agents, _ = self.simulator.move(task.agents, action_B)
        distance_B = self.simulator.geodesic(agents, self.world.way_FC, task.field_B)
        moved_B3 = agents.pose.position_B3 - task.agents.pose.position_B3
        walked_B = task.walked_B + moved_B3.square().sum(1).sqrt()
        stopped_B = action_B == STOP
        success_B = stopped_B & task.in_view_B
        reward_B = (task.distance_B - distance_B) * options.progress_reward + (options.slack or 0.0)
        reward_B = reward_B + success_B * options.success_reward + (stopped_B & ~success_B) * options.wrong_reward
        over_B = stopped_B if options.wrong_stop == "ends" else success_B
        longer_B = torch.maximum(task.shortest_B, walked_B)
        # Who finds it where it begins has made the shortest way of all.
        spl_B = success_B * torch.where(longer_B > 0, task.shortest_B / longer_B.clamp(min=1e-6), 1.0)
        info = {"success": success_B, "spl": spl_B, "distance_to_goal": distance_B}
        task = _with(task, agents=agents, distance_B=distance_B, walked_B=walked_B)
        return task, Outcome(reward_B, over_B, info)

    def look(self, task: Search, episode_step_B: Tensor) -> tuple[Search, Obs]:
        """Draw what the agent sees, and note whether the goal is in view."""
        return self._noted(task, self.simulator.render(task.agents))

    def _noted(self, task: Search, seen: dict[str, Tensor]) -> tuple[Search, Obs]:
        id_BP = seen["semantic"].flatten(1).long()
        wanted_BE = self.world.kind_HE[task.agents.house_B] == task.target_B[:, None]
        shown_BE = torch.zeros_like(wanted_BE).scatter_(1, id_BP, True) & wanted_BE
        in_view_B = self._in_view(task, wanted_BE, id_BP)
        return _with(task, in_view_B=in_view_B, seen_BE=task.seen_BE | shown_BE), self._told(task, seen)

    def observe(self, task: Search, episode_step_B: Tensor) -> Obs:
        """Say what the agent sees."""
        return self.look(task, episode_step_B)[1]

    def turn_over(
        self, task: Search, stream: Stream, episode_step_B: Tensor, over_B: Tensor, trial_over_B: Tensor
    ) -> tuple[Search, Obs, Obs]:
        """Renew rows and look once; besides, only the last pictures of rows that are over are drawn."""
        if self._looks and not bool(over_B.any()):
            task, obs = self.look(task, episode_step_B)
            return task, obs, obs
        last = self._told(task, self.simulator.render_some(task.agents, over_B))
        task, obs = self.look(self.renew(task, stream, over_B, trial_over_B), episode_step_B)
        return task, pick(over_B, last, obs), obs

    def hidden(self, state: Any, step: Step) -> dict[str, Hidden]:
        """Return where the goal is, to be asked once it has been in the picture in this trial: see `hidden`."""
        return hidden(self, state.task)

    def draw(self, state: Any, row: int) -> Picture:
        """Return what the agent sees beside a map of its house, which it does not see."""
        return self.draw_episode([state], row)

    def draw_episode(self, states: Sequence[NativeState], row: int) -> Picture:
        """Return what the agent sees beside a map of its house with the way it came."""
        return draw(self.world, [state.task for state in states], row, "mask" in self.options.sensors)

    def _episode(self, house_B: Tensor, stream: Stream) -> Search:
        """Draw a goal and a place to start from."""
        goal_B = stream.integers(1, self.world.goals_H[house_B])
        field_B = self.world.first_H[house_B] + goal_B
        agents, distance_B = self._spawn(house_B, field_B, stream)
        zero_B = torch.zeros_like(distance_B)
        return Search(
            agents=agents,
            start_B3=agents.pose.position_B3,
            heading_B=agents.pose.yaw_B,
            target_B=self.world.goal_HG[house_B, goal_B],
            field_B=field_B,
            distance_B=distance_B,
            shortest_B=distance_B,
            walked_B=zero_B,
            in_view_B=zero_B.bool(),
            seen_BE=torch.zeros_like(self.world.kind_HE[house_B], dtype=torch.bool),
        )

    def _spawn(self, house_B: Tensor, field_B: Tensor, stream: Stream) -> tuple[Agents, Tensor]:
        """Draw where agents begin; return how far it is to the goal too."""
        low, high = self.options.min_start or 0.0, self.options.max_start or math.inf
        if low == 0 and high == math.inf:
            agents = self.simulator.spawn(house_B, stream.uniform(2, 2))
            return agents, self.simulator.geodesic(agents, self.world.way_FC, field_B)
        number_BK2 = stream.uniform(2, 2 * PLACES).view(-1, PLACES, 2)
        repeated = [part_B[:, None].expand(-1, PLACES).flatten() for part_B in (house_B, field_B)]
        agents = self.simulator.spawn(repeated[0], number_BK2.flatten(0, 1))
        distance_BK = self.simulator.geodesic(agents, self.world.way_FC, repeated[1]).view(-1, PLACES)
        off_BK = (low - distance_BK).clamp(min=0) + (distance_BK - high).clamp(min=0)
        place_K = torch.arange(PLACES, device=self.device)
        # The first of the best: which of equals `argmin` takes depends on the device.
        best_B = torch.where(off_BK <= off_BK.amin(1, keepdim=True), place_K, PLACES).amin(1)
        row_B = torch.arange(len(house_B), device=self.device)
        at_B = row_B * PLACES + best_B
        pose = type(agents.pose)(*(part[at_B] for part in agents.pose))
        return Agents(house_B, pose), distance_BK[row_B, best_B]

    def _in_view(self, task: Search, wanted_BE: Tensor, id_BP: Tensor) -> Tensor:
        """Say where enough is seen of goals within the radius, (B,) bool."""
        house_B, position_B3 = task.agents.house_B, task.agents.pose.position_B3
        away_BE3 = self.world.place_HE3[house_B] - position_B3[:, None]
        near_BE = away_BE3[..., 0].square() + away_BE3[..., 2].square() <= self.options.success_radius**2
        pixels_B = (near_BE & wanted_BE).gather(1, id_BP).sum(1)
        return pixels_B >= self.options.least_pixels

    def _told(self, task: Search, seen: dict[str, Tensor]) -> dict[str, Tensor]:
        position_B3, yaw_B, pitch_B = task.agents.pose
        right_B, behind_B = offset(position_B3, task.start_B3, task.heading_B)
        turned_B = yaw_B - task.heading_B
        away = [right_B / TEN_METRES, behind_B / TEN_METRES]
        pose = torch.stack([*away, turned_B.cos(), turned_B.sin(), pitch_B / (math.pi / 2)], 1)
        obs = {"goal": (self._kind_N == task.target_B[:, None]).float(), "pose": pose}
        if "rgb" in seen:
            obs["rgb"] = seen["rgb"]
        if "depth" in seen:
            obs["depth"] = (seen["depth"] / self.options.far).clamp(max=1.0)[..., None]
        if "mask" in self.options.sensors:
            wanted_BE = self.world.kind_HE[task.agents.house_B] == task.target_B[:, None]
            semantic_BIJ = seen["semantic"]
            mask_BP = wanted_BE.gather(1, semantic_BIJ.flatten(1).long())
            obs["mask"] = mask_BP.view(*semantic_BIJ.shape, 1).byte()
        return obs


class HabitatObjectNav(ObjectNav):
    """B searches in Habitat, in worker processes that `close` ends. An episode whose worker dies or hangs is truncated.

    A loss is noticed in the step that meets it, or in the next one if it was the drawing that met it; the trial goes
    on. Info has `lost` too, bool: that this is why the episode ended.
    """

    on_device: ClassVar[bool] = False
    simulator: Habitat

    def advance(self, task: Search, action_B: Tensor, stream: Stream) -> tuple[Search, Outcome]:
        """Move, or stop; and ask whose worker is gone."""
        task, outcome = super().advance(task, action_B, stream)
        lost_B = self.simulator.lost(task.agents) & ~outcome.terminated
        return task, outcome._replace(info=outcome.info | {"lost": lost_B}, lost=lost_B)

    def close(self) -> None:
        """End the workers."""
        self.simulator.close()
