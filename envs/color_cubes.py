"""Color-Cubes: walk to the cube of the target colour from a glimpse of the map, while the other cubes jump about.

Source: "Memory Retention Is Not Enough to Master Memory Tasks in RL" (arXiv 2601.15086). Its text leaves open what is
listed here with the choice made; each is an option.

- Grid 5x5; Medium and Extreme have 3 cubes, 3 phases and a jump of another cube with probability 0.1 in a step.
- Four moves; a cube is collected by walking onto its cell. With `interact` a fifth action collects instead.
- No two cubes share a cell; a cube jumps to a cell that holds neither cube nor agent; none jumps in the step that
  collects one. The next target is drawn from all cubes, the one just collected included.
- The agent sees its own cell at every step; the target's colour only in the first frame of a phase.
- First frame of an episode: all cells and colours. First frame of a later phase, and every frame after a jump: all
  cells, with colours in Medium and without in Extreme. Every other frame: no cubes.
- No step cost, no cost for a wrong cube; episodes are cut off at twice the longest shortest ways.

What must be remembered: in Medium the cell of the target, from one frame of the phase on. In Extreme which cube is
where, through frames that only show cells: the cube whose cell has become empty is the one in the new cell. That is
certain as long as one unknown cube jumps at a time (`movers` "one"). With "many", cubes that jump together cannot be
told apart at that moment, and the shortest way cannot always be found; later frames can help, since the target is the
one cube that never jumps.

Shapes: B rows, C cells, N cubes (in the order of their colours).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from .color_cubes_figures import Tally
from .color_cubes_grid import GridPlayer, as_grid, planes
from .color_cubes_oracle import ColorCubesMemoryless, ColorCubesOracle
from .color_cubes_presets import PRESETS
from .grid import AGENT_COLOUR, MOVES, STAY, Grid
from .native import NativeEnv, Outcome
from .picture import Cell, Picture
from .random import Stream, below, unit
from .step import EnvConfig, Hidden, Oracle, Step

COLOURS = ("red", "green", "blue", "orange", "purple", "cyan", "pink", "brown")
PAINT = (
    (205, 50, 50),
    (50, 150, 70),
    (50, 100, 220),
    (235, 140, 40),
    (130, 60, 170),
    (40, 170, 190),
    (235, 120, 180),
    (130, 85, 50),
)


@dataclass(frozen=True, kw_only=True)
class ColorCubesConfig(EnvConfig):
    """Collect cubes of the colours asked for, from glimpses of where they are. None: as the preset says."""

    name: ClassVar[str] = "color-cubes"
    summary: ClassVar[str] = "collect coloured cubes from memory of a map that changes"

    preset: Literal[
        "trivial", "medium", "extreme", "observed", "latched", "distractors", "jumps", "ordered", "many"
    ] = "medium"
    """trivial: one cube that never moves; medium: several that jump, shown with colours; extreme: shown without. The
    others are rungs of a ladder to these: observed, latched, distractors, jumps, medium, ordered, extreme, many."""
    size: int = 5
    """Cells along a side of the grid."""
    cubes: int | None = None
    """Cubes, each of a colour of its own. trivial 1, all others 3."""
    phases: int | None = None
    """Cubes to collect, one after the other. trivial, distractors and jumps 1, all others 3."""
    teleport: float | None = None
    """Probability that another cube than the target jumps in a step. trivial and distractors 0, all others 0.1."""
    movers: Literal["one", "many"] | None = None
    """At most one cube, any but the target, jumps in a step; or (many) each of them with that probability."""
    update_colours: bool | None = None
    """Frames after the first one show colours. ordered, extreme and many no, all others yes."""
    phase_reveal: bool = True
    """The first frame of a later phase shows all cubes. False: only the one just collected, in its new cell."""
    reveal: Literal["events", "always"] | None = None
    """Cubes are shown in the first frame of a phase and after jumps, or (observed) in every frame."""
    view: Literal["vector", "grid"] = "vector"
    """What a frame says comes as one vector, or as planes over the cells for convolutions (`color_cubes_grid`)."""
    encoding: Literal["unordered", "ordered"] | None = None
    """Cubes are shown as a map of full cells and colours, or (ordered) as a list whose order stays for the episode."""
    target_shown: Literal["assigned", "always"] | None = None
    """The target's colour is shown in the first frame of its phase only, or (observed) in all."""
    latch: bool | None = None
    """Tell the target's cell in every frame: what a perfect memory would hold. latched yes, all others no."""
    own_position: bool = True
    """Show the agent its own cell at every step. False: in the first frame of the episode only."""
    interact: bool = False
    """Collect with a fifth action, on the cube's cell; otherwise by walking onto the cell."""
    step_reward: float = 0.0
    """Added in every step; at most 0."""
    wrong_reward: float = 0.0
    """Added for walking onto another cube than the target, with `interact` for the fifth action on one; at most 0."""
    horizon: int = 0
    """Steps after which an episode is cut off; 0: as `slack` says."""
    slack: float = 2.0
    """Without `horizon`, an episode is cut off after so many times what the longest shortest ways take; at least 1. The
    less slack, the less a player without memory gets by walking through all cells."""

    def __post_init__(self) -> None:
        """Refuse options that contradict each other."""
        self.require_choice("preset", tuple(PRESETS))
        self.require_choice("view", ("vector", "grid"))
        self.require_whole("size", 2)
        self.require_whole("horizon", 0)
        self.require_number("step_reward", high=0)
        self.require_number("wrong_reward", high=0)
        self.require_number("slack", low=1)
        if any(getattr(self, name) is None for name in PRESETS[self.preset]):
            self.resolved()  # checks the rest
            return
        self.require_whole("cubes", 1)
        self.require_whole("phases", 1)
        self.require_number("teleport", 0, 1)
        self.require_choice("movers", ("one", "many"))
        self.require_choice("reveal", ("events", "always"))
        self.require_choice("encoding", ("unordered", "ordered"))
        self.require_choice("target_shown", ("assigned", "always"))
        self._check_room()
        self._check_sense()

    def _check_room(self) -> None:
        cubes, cells = self.cubes or 0, self.size * self.size
        if cubes > len(COLOURS):
            self.refuse(f"cubes is {cubes}; there are {len(COLOURS)} colours, so make it at most {len(COLOURS)}")
        need = 2 * cubes + 1 if self.movers == "many" else cubes + 2
        if cells < need:
            self.refuse(
                f"{cubes} cubes, the agent and free cells to jump to need {need} cells and {self.size}x{self.size} has "
                f"{cells}; make size larger or cubes fewer"
            )
        if 0 < self.horizon < self.longest_way:
            self.refuse(
                f"horizon is {self.horizon} and the shortest ways can take {self.longest_way} steps; "
                f"make it at least {self.longest_way}, or 0"
            )

    def _check_sense(self) -> None:
        """Refuse options of which one leaves the other nothing to do."""
        cubes, teleport = self.cubes or 0, self.teleport or 0.0
        if cubes == 1 and teleport:
            self.refuse(
                f"teleport is {teleport:g} and the only cube is the target, which never jumps; "
                "set teleport to 0, or cubes above 1"
            )
        if self.movers == "many" and cubes < 3:
            self.refuse(
                f"movers is 'many' and cubes is {cubes}: the target never jumps, so at most {cubes - 1} can; "
                "make cubes at least 3, or movers 'one'"
            )
        if self.view == "grid" and self.encoding == "ordered":
            self.refuse("view is 'grid' and encoding is 'ordered': a list of cubes has no cells; set view to 'vector'")
        if self.reveal == "always" and not self.phase_reveal:
            self.refuse("reveal is 'always' and phase_reveal is off: the one shows what the other hides; choose one")

    def resolved(self) -> ColorCubesConfig:
        """Return the same task with every option of the preset filled in; a cube that is alone never jumps."""
        given = {name: getattr(self, name) for name in PRESETS[self.preset]}
        filled = {name: PRESETS[self.preset][name] for name, value in given.items() if value is None}
        if self.cubes == 1 and "teleport" in filled:
            filled["teleport"] = 0.0
        return replace(self, **filled)

    @property
    def longest_way(self) -> int:
        """The most steps that a player who knows the map can need: from corner to corner in every phase.

        That is the oracle's worst case where it can know the map. Where it cannot (`ambiguous`), it may have to try the
        cells of all cubes, one after the other: `cubes` times as many steps, at most.
        """
        phases = PRESETS[self.preset]["phases"] if self.phases is None else self.phases
        return int(phases) * (2 * (self.size - 1) + self.interact)

    @property
    def ambiguous(self) -> bool:
        """Whether cubes may jump in a way that nobody can follow: several at once, without colours or an order."""
        full = self.resolved()
        hidden = not full.update_colours and full.encoding == "unordered"
        return full.movers == "many" and hidden and bool(full.teleport)

    @property
    def mean_way(self) -> float:
        """Steps of a phase by the shortest way, on average: two different cells are 2/3 of the size apart."""
        return 2 * self.size / 3 + self.interact

    def layout(self) -> dict[str, slice]:
        """Return which numbers of an observation say what, by name.

        `own`: the agent's cell, one-hot (C). `coloured`: the cell of the cube of each colour, one-hot (N * C), zero
        without colours; `full`: the full cells (C) [unordered]. `listed`: the cell of each cube in the list (N * C);
        `names`: the colour of each cube in the list, one-hot (N * N), zero without colours [ordered]. `target`: the
        target's colour, one-hot (N). `latch`: the target's cell, one-hot (C) [with latch].
        """
        full = self.resolved()
        cells, cubes = self.size * self.size, full.cubes or 0
        sizes = {"own": cells}
        if full.encoding == "unordered":
            sizes |= {"coloured": cubes * cells, "full": cells}
        else:
            sizes |= {"listed": cubes * cells, "names": cubes * cubes}
        sizes |= {"target": cubes} | ({"latch": cells} if full.latch else {})
        ends = np.cumsum(list(sizes.values())).tolist()
        return {name: slice(end - length, end) for (name, length), end in zip(sizes.items(), ends, strict=True)}

    def build(self, batch: int, seed: int, device: torch.device | str = "cpu") -> ColorCubes:
        """Make `batch` grids."""
        return ColorCubes(self, batch, seed, device)

    def oracle(self) -> Oracle:
        """Return a player that tracks the cubes and walks the shortest way."""
        full = self.resolved()
        return self._seeing(
            ColorCubesOracle(
                self.layout(),
                size=self.size,
                cubes=full.cubes or 0,
                interact=self.interact,
                step_reward=self.step_reward,
            )
        )

    def memoryless(self) -> Oracle | None:
        """Return a player that walks through all cells; None where it would have to see its cell, or to collect."""
        if self.interact or not self.own_position:
            return None
        return self._seeing(ColorCubesMemoryless(self.layout(), size=self.size, cubes=self.resolved().cubes or 0))

    def _seeing(self, player: Oracle) -> Oracle:
        """Return a player of vectors as one of what this task shows."""
        return player if self.view == "vector" else GridPlayer(player, self.layout(), self.size)


class Cubes(NamedTuple):
    """B grids."""

    own: Tensor  # (B,) int64: the agent's cell
    cell: Tensor  # (B, N) int64: where the cubes are
    order: Tensor  # (B, N) int64: the colours in the order of the list
    target: Tensor  # (B,) int64: a colour
    phase: Tensor  # (B,) int64: cubes collected
    shown: Tensor  # (B, N) bool: which cubes this frame shows
    coloured: Tensor  # (B,) bool: this frame shows colours
    told: Tensor  # (B,) bool: this frame shows the target
    tally: Tally  # what was counted in the episode


class ColorCubes(NativeEnv):
    """B grids with cubes.

    Actions: 0 up, 1 down, 2 left, 3 right and, with `interact`, 4 collect. The agent sees one vector of zeros and
    ones, laid out as `config.layout()` says. Reward: 1 for the target, and what the options add. `success`: all phases
    solved; `phases`: how many; the other figures are those of `Tally`.
    """

    def __init__(self, config: ColorCubesConfig, batch: int, seed: int, device: torch.device | str = "cpu") -> None:
        full = config.resolved()
        layout, size = config.layout(), config.size
        length, depth = (max(part.stop for part in parts.values()) for parts in (layout, planes(layout, size * size)))
        seen: dict[str, spaces.Space[Any]] = {
            "vector": spaces.Box(0.0, 1.0, (length,), np.float32),
            "grid": spaces.Box(0, 1, (size, size, depth), np.uint8),
        }
        super().__init__(
            config,
            batch,
            seed,
            device,
            action_space=spaces.Discrete(4 + config.interact),
            observation_space=seen[config.view],
            episode_steps=config.horizon or round(config.slack * config.longest_way),
        )
        self.action_names = (*MOVES[:4], "collect")[: self.actions]
        self.full, self.grid, self._layout = full, Grid(size, self.device), layout
        self.cubes, self.phases, self.teleport = full.cubes or 0, full.phases or 0, full.teleport or 0.0
        self.jumps = self.cubes > 1 and self.teleport > 0
        self._which_N = torch.arange(self.cubes, device=self.device)
        self._onto_CC = torch.eye(self.grid.cells, device=self.device)
        self._onto_NN = torch.eye(self.cubes, device=self.device)

    def begin(self, stream: Stream) -> Cubes:
        """Place agent and cubes in different cells, and show all."""
        anywhere_BC = torch.ones(self.batch, self.grid.cells, dtype=torch.bool, device=self.device)
        placed = stream.choose(0, anywhere_BC, self.cubes + 1)
        zero_B = torch.zeros_like(placed[:, 0])
        true_B = torch.ones_like(zero_B, dtype=torch.bool)
        return Cubes(
            own=placed[:, 0],
            cell=placed[:, 1:],
            order=stream.permutation(1, self.cubes)
            if self.full.encoding == "ordered"
            else self._which_N.repeat(self.batch, 1),
            target=stream.integers(2, self.cubes),
            phase=zero_B,
            shown=true_B[:, None].repeat(1, self.cubes),
            coloured=true_B,
            told=true_B,
            tally=Tally.nothing(placed[:, 1:]),
        )

    def advance(self, task: Cubes, action_B: Tensor, stream: Stream) -> tuple[Cubes, Outcome]:
        """Move or collect; then cubes jump."""
        full = self.full
        drawn = stream.bits(200, 3)
        own_B = self.grid.move(task.own, action_B)
        target_BN = self._which_N == task.target[:, None]
        tried_B = action_B == STAY if full.interact else own_B != task.own
        at_BN = (task.cell == own_B[:, None]) & tried_B[:, None]
        moved_BN = at_BN & target_BN
        collected_B = moved_BN.any(1)
        if self.jumps:
            moved_BN = moved_BN | self._jumps(task, drawn[:, :2], stream) & ~collected_B[:, None]
        phase_B = task.phase + collected_B
        success_B = phase_B >= self.phases
        event_B = moved_BN.any(1)
        seen_B = torch.ones_like(event_B) if full.reveal == "always" else event_B
        shown_BN = seen_B[:, None].repeat(1, self.cubes)
        if not full.phase_reveal:
            shown_BN = torch.where(collected_B[:, None], moved_BN, shown_BN)
        after = Cubes(
            own=own_B,
            cell=torch.where(moved_BN, self._free_cells(task.cell, own_B, stream), task.cell),
            order=task.order,
            target=torch.where(collected_B, below(drawn[:, 2], self.cubes), task.target),
            phase=phase_B,
            shown=shown_BN,
            coloured=seen_B if full.update_colours else torch.zeros_like(event_B),
            told=torch.ones_like(event_B) if full.target_shown == "always" else collected_B,
            tally=task.tally.after(
                self.grid, was_B=task.own, own_B=own_B, target_B=task.target, cell_BN=task.cell, moved_BN=moved_BN
            ),
        )
        reward_B = collected_B.float()
        if full.step_reward:
            reward_B = reward_B + full.step_reward
        if full.wrong_reward:
            reward_B = reward_B + full.wrong_reward * (at_BN & ~target_BN).any(1)
        figures = {"success": success_B, "phases": phase_B} | after.tally.figures(phase_B, full.mean_way)
        return after, Outcome(reward_B, success_B, figures)

    def _jumps(self, task: Cubes, drawn: Tensor, stream: Stream) -> Tensor:
        """Say which cubes want to jump, (B, N) bool; never the target."""
        if self.full.movers == "many":
            return (stream.uniform(201, self.cubes) < self.teleport) & (self._which_N != task.target[:, None])
        other_B = below(drawn[:, 0], self.cubes - 1)
        other_B = other_B + (other_B >= task.target)
        return (self._which_N == other_B[:, None]) & (unit(drawn[:, 1]) < self.teleport)[:, None]

    def _free_cells(self, cell_BN: Tensor, own_B: Tensor, stream: Stream) -> Tensor:
        """Return a new cell for every cube, (B, N), or (B, 1) where one moves at most."""
        free_BC = (self._onto_CC[cell_BN].sum(1) + self._onto_CC[own_B]) == 0
        return stream.choose(202, free_BC, self.cubes if self.full.movers == "many" else 1)

    def observe(self, task: Cubes, episode_step_B: Tensor) -> Tensor:
        """Show what this frame shows, as `ColorCubesConfig.layout` says."""
        own_BC = self._onto_CC[task.own]
        if not self.full.own_position:
            own_BC = own_BC * (episode_step_B == 0)[:, None]
        coloured_B = task.coloured[:, None]
        target_BN = self._onto_NN[task.target] * task.told[:, None]
        if self.full.encoding == "unordered":
            map_BNC = self._onto_CC[task.cell] * task.shown[:, :, None]
            cubes_seen = [map_BNC.flatten(1) * coloured_B, map_BNC.sum(1)]
        else:
            list_BNC = self._onto_CC[task.cell.gather(1, task.order)] * task.shown.gather(1, task.order)[:, :, None]
            cubes_seen = [list_BNC.flatten(1), self._onto_NN[task.order].flatten(1) * coloured_B]
        held = [self._onto_CC[task.cell.gather(1, task.target[:, None]).squeeze(1)]] if self.full.latch else []
        vector = torch.cat([own_BC, *cubes_seen, target_BN, *held], 1)
        return vector if self.full.view == "vector" else as_grid(vector, self._layout, self.full.size)

    def hidden(self, state: Any, step: Step) -> dict[str, Hidden]:
        """Return the cell of the target and of the cube of each colour; a frame that shows cells tells them.

        With a latch, every frame tells the target's.
        """
        task: Cubes = state.task
        cells, same_B = self.grid.cells, torch.zeros_like(task.phase)
        target_B1 = task.target[:, None]
        cell_B, shown_B = (part.gather(1, target_B1).squeeze(1) for part in (task.cell, task.shown))
        shown_B = torch.ones_like(shown_B) if self.full.latch else shown_B
        cubes = zip(COLOURS, task.cell.unbind(1), task.shown.unbind(1), strict=False)
        return {"target": Hidden(cell_B, cells, shown_B, task.phase)} | {
            f"{colour} cube": Hidden(one_B, cells, told_B, same_B) for colour, one_B, told_B in cubes
        }

    def draw(self, state: Any, row: int) -> Picture:
        """Return the grid: cubes that this frame shows are full squares, those that must be remembered hollow ones."""
        task: Cubes = state.task
        things = {}
        for colour, (cell, shown) in enumerate(zip(task.cell[row].tolist(), task.shown[row].tolist(), strict=True)):
            things[cell] = Cell("■" if shown else "□", PAINT[colour])
        things[int(task.own[row])] = Cell("@", AGENT_COLOUR)
        phase = min(int(task.phase[row]) + 1, self.phases)
        return Picture(
            self.grid.draw(things), f"phase {phase} of {self.phases}, target {COLOURS[int(task.target[row])]}"
        )
