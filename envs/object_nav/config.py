"""The options of object navigation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from ...kernels.ray_cast import View
from ..houses import KINDS, HouseConfig, split_seed
from ..simulator import Motion
from ..step import EnvConfig
from .presets import PRESETS

if TYPE_CHECKING:
    from .env import ObjectNav
    from .oracle import ObjectNavOracle

YCB = 20
"""How many of `KINDS`, from the first, belong to the YCB set."""
PAPER_SIZE = 256
"""Pixels along a side of the picture that `success_pixels` is meant for."""
VALIDATION_HOUSES = 128
"""Houses of an evaluation, at most: it makes them first, and plays few trials."""


@dataclass(frozen=True, kw_only=True)
class ObjectNavConfig(EnvConfig):
    """Find things in a house, one after the other; a trial is one house. None: as the preset says."""

    name: ClassVar[str] = "object-nav"
    summary: ClassVar[str] = "find one thing after another in the same house, by what is seen"
    draws: ClassVar[bool] = True

    preset: Literal["small", "relic", "memo"] = "small"
    """small: small pictures, large things, short trials; relic and memo: the numbers of the two papers."""

    houses: int = 16
    """How many houses there are; hundreds are needed to do well in a new one. Each takes 13 to 30 ms to make."""
    split: Literal["train", "validation", "test"] = "train"
    """Which houses: no two splits share one."""
    first_house: int = 0
    """The number of the first house in its split."""
    min_rooms: int = 3
    """The fewest rooms of a house, from 3."""
    max_rooms: int = 8
    """The most, up to 8."""
    room_area: float = 14.0
    """Square metres of a room, on average."""
    fullness: float = 1.0
    """How often furniture that a room can do without is there: 0 never, 1 as usual."""
    min_things: int | None = None
    """The fewest things to find that a house is meant to have. small 25, relic and memo 15."""
    max_things: int | None = None
    """The most. small 40, relic and memo 30."""
    thing_scale: float | None = None
    """Size of things over that of life. small 1.5, relic and memo 1."""
    goals: Literal["all", "ycb", "large"] | None = None
    """Kinds that can be goals: all 28, the twenty of the papers (ycb), or the eight that are larger. small all, relic
    and memo ycb."""
    kinds: int = 0
    """At most so many of these kinds, the first; 0: all. A house without any of them is left out."""
    too_many: int = 10
    """A kind with so many instances in a house is no goal there."""

    dataset: str = ""
    """Scenes of your own in the place of generated houses, in Habitat alone: a *.scene_dataset_config.json."""
    placements: str = ""
    """The episode file (*.json.gz) that says which things lie where in these scenes. A house is one placement:
    `houses` and `first_house` count them in the file's order."""
    validation_placements: str = ""
    """The episode file of validation, and of any `split` but train; empty: `placements`, the same as in training."""
    objects: str = ""
    """Folders of the things' object configurations, with commas between; empty: those that the episode file names,
    from the working directory."""

    simulator: Literal["embedded", "habitat"] = "embedded"
    """What moves and draws: our own simulator, or habitat-sim in processes of its own, on the same houses."""
    habitat_python: str = ""
    """The interpreter that can import habitat_sim; empty: this one."""
    habitat_gpu: int = 0
    """The GPU on which Habitat draws. 0: that of the device, or the first where the device is the CPU; from 1: that of
    this number, in all ranks; -1: what OpenGL finds, and so Mesa where there is no GPU."""
    habitat_workers: int = 2
    """How many processes have habitat-sim. Every environment has its own: training, and an evaluation during it."""

    sensors: Literal["rgb", "depth", "rgb,depth", "depth,mask", "rgb,depth,mask"] = "rgb"
    """What the agent sees with. mask: the pixels of things of the kind to find, as a detector that never errs says."""
    pose: Literal["episode", "trial"] = "episode"
    """Where the pose begins at 0: at the start of each episode, or (trial) at the start of the first alone, so that all
    episodes of a trial have the same coordinates and need not recognise where they begin."""
    size: int | None = None
    """Pixels along a side of the picture. small 64, relic and memo 256."""
    hfov: float = 90.0
    """Field of view, degrees."""
    far: float = 20.0
    """What is farther away is not seen, metres; a depth of 1 stands for it."""
    eye_height: float = 1.25
    """Of the camera above the floor, metres."""
    forward: float = 0.25
    """Metres of a step."""
    turn: float = 30.0
    """Degrees of a turn. What both papers' code does in effect is 14.3."""
    look: float = 30.0
    """Degrees of a look up or down."""
    min_tilt: float | None = None
    """How far down the agent can look: degrees above the horizon, and so below 0. small -60, relic and memo -55."""
    max_tilt: float | None = None
    """How far up. An episode begins as level as these two let it. small 30, relic and memo -8."""
    sliding: bool = True
    """An agent that meets an obstacle slides along it; otherwise it stops there."""
    agent_radius: float = 0.1
    """Room that the agent needs around it, metres."""
    cell: float = 0.1
    """Side of a cell of the floor's grid, on which it is decided where the agent can be and how far it is, metres."""

    episode_steps: int = 500
    """Steps after which an episode is truncated."""
    trial_steps: int | None = None
    """Steps of a trial. small 1,024, relic and memo 4,096."""
    success_radius: float = 2.0
    """How near a thing must be to be found, seen from above, metres."""
    success_pixels: int = 10
    """How much of it must be seen: pixels of a picture of 256 x 256, the same share of other sizes, at least one."""
    success_reward: float = 2.0
    """Paid for a thing that is found."""
    wrong_stop: Literal["ends", "stays"] = "ends"
    """A stop that finds nothing ends the episode, or (stays, for a curriculum) is a step like another."""
    wrong_reward: float = 0.0
    """Added for a stop that finds nothing; at most 0."""
    progress_reward: float = 1.0
    """Paid for each metre that the way to the nearest place to see the goal from gets shorter."""
    slack: float | None = None
    """Added in every step; at most 0. relic -0.001, small and memo -0.003."""
    min_start: float | None = None
    """The shortest way that an episode begins with, metres, where the house has such places. small 0.5, so that nothing
    is found where an episode begins; relic and memo 0."""
    max_start: float = 0.0
    """The longest, for a curriculum; 0: no limit."""

    def __post_init__(self) -> None:
        """Refuse options that contradict each other."""
        self.require_choice("preset", tuple(PRESETS))
        for name, least in (("houses", 1), ("first_house", 0), ("kinds", 0), ("too_many", 1), ("episode_steps", 1)):
            self.require_whole(name, least)
        self.require_whole("success_pixels", 1)
        self.require_number("success_radius", 0.5, 10)
        self.require_number("success_reward")
        self.require_number("progress_reward", low=0)
        self.require_number("wrong_reward", high=0)
        self.require_choice("wrong_stop", ("ends", "stays"))
        self.require_number("max_start", low=0)
        for name in ("hfov", "far", "forward", "turn", "look"):
            self.require_number(name)
        self.require_choice("split", ("train", "validation", "test"))
        self.require_choice("sensors", ("rgb", "depth", "rgb,depth", "depth,mask", "rgb,depth,mask"))
        self.require_choice("pose", ("episode", "trial"))
        self._check_simulator()
        if any(getattr(self, name) is None for name in PRESETS[self.preset]):
            self.resolved()  # checks the rest
            return
        self.require_whole("size", 1)
        self.require_whole("trial_steps", 1)
        self.require_number("slack", high=0)
        self.require_choice("goals", ("all", "ycb", "large"))
        self.require_number("min_start", low=0)
        for name in ("min_tilt", "max_tilt"):
            self.require_number(name, -90, 90)
        if 0 < self.max_start <= (self.min_start or 0.0):
            self.refuse(
                f"min_start is {self.min_start:g} and max_start is {self.max_start:g}; "
                "make max_start larger, or 0 for no limit"
            )
        if (self.trial_steps or 0) < self.episode_steps:
            self.refuse(
                f"trial_steps is {self.trial_steps} and episode_steps is {self.episode_steps}; "
                "a trial must be at least as long as an episode"
            )
        try:
            self.house_config(), self.motion(), self.view().check()
        except ValueError as error:
            self.refuse(str(error))

    def _check_simulator(self) -> None:
        self.require_choice("simulator", ("embedded", "habitat"))
        self.require_whole("habitat_gpu", -1)
        self.require_whole("habitat_workers", 1)
        self._check_dataset()
        if self.simulator == "habitat":
            return
        came, default = self._given("habitat_python", "habitat_gpu", "habitat_workers")
        if came:
            self.refuse(f"{came}, and simulator is 'embedded'; make simulator 'habitat', or {default}")

    def _given(self, *names: str) -> tuple[str, str]:
        """Say which of some options are not at their defaults, and what these are; nothing where all are."""
        given = [name for name in names if getattr(self, name) != getattr(ObjectNavConfig, name)]
        came = ", ".join(f"{name} is {getattr(self, name)!r}" for name in given)
        return came, ", ".join(f"{name} {getattr(ObjectNavConfig, name)!r}" for name in given)

    def _check_dataset(self) -> None:
        if not self.dataset:
            given = [name for name in ("placements", "validation_placements", "objects") if getattr(self, name)]
            if given:
                self.refuse(f"{given[0]} is {getattr(self, given[0])!r}, and dataset is empty; name the dataset too")
            return
        if not self.placements or self.simulator != "habitat":
            came = f"placements is {self.placements!r} and simulator is {self.simulator!r}"
            self.refuse(f"{came}; a dataset needs an episode file as placements, and simulator 'habitat'")
        came, default = self._given("min_rooms", "max_rooms", "room_area", "fullness")
        if came:
            self.refuse(f"{came}, of generated houses, and dataset is {self.dataset!r}; make {default}, or dataset ''")

    def resolved(self) -> ObjectNavConfig:
        """Return the same task with every option of the preset filled in."""
        missing = {name: value for name, value in PRESETS[self.preset].items() if getattr(self, name) is None}
        return replace(self, **missing) if missing else self

    def house_config(self) -> HouseConfig:
        """Return what houses are like."""
        full = self.resolved()
        names = "min_rooms max_rooms room_area fullness min_things max_things thing_scale agent_radius eye_height cell"
        return HouseConfig(**{name: getattr(full, name) for name in names.split()})

    def motion(self) -> Motion:
        """Return how agents move."""
        full = self.resolved()
        names = "forward turn look sliding eye_height"
        tilts: dict[str, Any] = {"lowest": full.min_tilt, "highest": full.max_tilt}
        return Motion(**tilts, **{name: getattr(full, name) for name in names.split()})

    def view(self) -> View:
        """Return the camera."""
        size = self.resolved().size or 0
        return View(size, size, self.hfov, self.far)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the houses."""
        return tuple(split_seed(self.split, self.first_house + index) for index in range(self.houses))

    @property
    def goal_kinds(self) -> tuple[int, ...]:
        """The kinds that can be goals, by their places in `KINDS`."""
        every = range(len(KINDS))
        allowed = {"all": every, "ycb": every[:YCB], "large": every[YCB:]}[self.resolved().goals or "all"]
        return tuple(allowed[: self.kinds or len(every)])

    @property
    def least_pixels(self) -> int:
        """How many pixels of a thing must be seen."""
        size = self.resolved().size or 0
        return max(1, math.ceil(self.success_pixels * size * size / PAPER_SIZE**2))

    def build(self, batch: int, seed: int, device: torch.device | str = "cpu") -> ObjectNav:
        """Make `batch` trials; close them when done. Houses that this process has made before are there at once.

        Raises:
            ValueError: no house has a goal, a file of a dataset is missing, or habitat-sim cannot be used.
        """
        # Only here, since it imports this module.
        from .env import HabitatObjectNav, ObjectNav

        made = HabitatObjectNav if self.simulator == "habitat" else ObjectNav
        return made(self, batch, seed, device)

    def validation(self) -> ObjectNavConfig:
        """Return the papers' rules of stopping in houses of the validation split, `VALIDATION_HOUSES` at most.

        Of a dataset they are the first of `validation_placements`. What makes the task easier in other ways, as
        `max_start`, stays. A task that is not of the training split stays as it is.
        """
        if self.split != "train":
            return self
        houses = min(self.houses, VALIDATION_HOUSES)
        return replace(self, split="validation", houses=houses, wrong_stop="ends", wrong_reward=0.0)

    def oracle(self) -> ObjectNavOracle:
        """Return a player that knows the house, which an agent does not: what it reaches is a ceiling."""
        from .oracle import ObjectNavOracle

        return ObjectNavOracle()
