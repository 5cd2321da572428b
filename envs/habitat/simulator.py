"""Habitat as a simulator: the same houses, agents and pictures as the embedded one, by habitat-sim in other processes.

Agents are values here too, so any worker can draw any of them. They are shared out evenly: one that stays in its house
stays with its worker, and one that is new goes to a worker that has its house open, if one has room.

Shapes: B agents, H houses, K workers, N rows of one worker, I rows and J columns of pixels (of a grid of a floor: of
cells), C cells of a floor.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...kernels.ray_cast import View
from ..houses import House, HouseConfig
from ..houses.export import NAVMESH, scene_name
from ..houses.navigable import pieces
from ..progress import shown
from ..simulator import Agents, Motion, Pose
from ..simulator.base import FORWARD, SENSORS
from ..simulator.floors import Floors
from .cache import exported
from .episodes import Placement
from .pool import Pool

NEAR_CELLS = 5
"""How far beyond the cells of a floor an agent is still taken to be next to them: navmeshes are not made of cells."""
_FLOORS: dict[tuple[str, str, float, float, float], tuple[np.ndarray, list[float]]] = {}
"""What this process knows of scenes of datasets, which take long to open."""


@dataclass(frozen=True, kw_only=True)
class Workers:
    """The processes that have habitat-sim."""

    python: str | None = None
    """The interpreter that can import habitat_sim; None: this one."""
    count: int = 2
    """How many processes there are."""
    gpu: int = 0
    """The number of the GPU that draws, as CUDA counts; -1: what OpenGL finds, and so Mesa where there is no GPU."""
    open_scenes: int = 8
    """How many scenes a worker keeps open; all that agents are in at once stay open, if they are more."""
    timeout: float = 120.0
    """Seconds after which a worker that does not answer is taken to hang; each scene that it opens has as many."""

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense."""
        if self.count < 1 or self.open_scenes < 1:
            raise ValueError(
                f"habitat: {self.count} workers with {self.open_scenes} scenes; at least 1 of each is expected"
            )
        if self.gpu < -1:
            raise ValueError(f"habitat: gpu is {self.gpu}; the number of a GPU is expected, or -1 for none")
        if not self.timeout > 0:
            raise ValueError(f"habitat: timeout is {self.timeout}; seconds above 0 are expected")


class _Shared:
    """B agents that are asked about together: which worker each is with, in which house, and whose worker is gone."""

    def __init__(self, batch: int) -> None:
        self.home_B, self.house_B = np.full(batch, -1), np.full(batch, -1)
        self.lost_B = np.zeros(batch, dtype=bool)


class Habitat(Floors):
    """Scenes in worker processes. `close` ends them, and so does whatever ends this process.

    Attributes:
        scenes: the name of each house.
        files: the files that say what is in each scene of a dataset: its own, and those of its things.
    """

    scenes: tuple[str, ...]
    files: list[list[str]]
    _number_H: np.ndarray
    _shared: dict[int, _Shared]

    def __init__(
        self,
        houses: Sequence[House],
        device: torch.device | str = "cpu",
        *,
        view: View | None = None,
        motion: Motion | None = None,
        sensors: Sequence[str] = SENSORS,
        config: HouseConfig | None = None,
        workers: Workers | None = None,
        folder: str | Path | None = None,
    ) -> None:
        """Open generated houses, which are exported where they are not there yet.

        Args:
            houses: all houses, in the order of their numbers.
            device: where what is returned lives.
            view: the camera; None: 64 x 64 pixels, 90 degrees.
            motion: how agents move; None: the defaults.
            sensors: what `render` returns, of `SENSORS`.
            config: what the houses were made with; it says how large agents are.
            workers: the processes; None: the defaults.
            folder: where exported houses are kept; None: in the user's folder of caches.

        Raises:
            ValueError: habitat-sim cannot be used, and what to do; or houses or options as of `Embedded`.
        """
        config = config or HouseConfig()
        cells = sorted({house.cell for house in houses})
        if len(cells) > 1:
            raise ValueError(f"simulator: floors have cells of {cells} m; make all houses with the same `cell`")
        self._lay([house.navigable_IJ for house in houses], cells[0] if cells else 0.0, device)
        self._camera(view, motion, sensors)
        dataset = exported(houses, config, folder).resolve()
        kept = dataset.parent / "navmeshes"
        kept.mkdir(exist_ok=True)
        self.scenes = tuple(scene_name(house.seed) for house in houses)
        self._start(
            workers or Workers(),
            dataset,
            (config.agent_height, config.agent_radius),
            {"navmesh": str(dataset.parent / NAVMESH), "kept": str(kept), "home": str(dataset.parent), "level": True},
        )
        self._near_HC = self._nearest(NEAR_CELLS)

    @classmethod
    def of_dataset(
        cls,
        dataset: str | Path,
        scenes: Sequence[str | Placement],
        device: torch.device | str = "cpu",
        *,
        view: View | None = None,
        motion: Motion | None = None,
        sensors: Sequence[str] = SENSORS,
        height: float = 1.5,
        radius: float = 0.1,
        cell: float = 0.1,
        workers: Workers | None = None,
    ) -> Habitat:
        """Open scenes of a dataset on disk: HSSD, HM3D, ReplicaCAD or any other with a configuration of Habitat.

        Of a scene with several storeys the one with the most floor counts, and of that the largest piece that hangs
        together. Ids of `semantic` are those of the dataset or, of placements, those of the things put into them.

        Args:
            dataset: the file `*.scene_dataset_config.json`.
            scenes: names of its scenes; or placements in them, as of `read_episodes`.
            device: where what is returned lives.
            view: the camera; None: 64 x 64 pixels, 90 degrees.
            motion: how agents move; None: the defaults.
            sensors: what `render` returns, of `SENSORS`.
            height: of agents, metres, for scenes that come without a navmesh.
            radius: of agents, metres.
            cell: side of the cells of floors, metres.
            workers: the processes; None: the defaults.

        Raises:
            ValueError: habitat-sim cannot be used, or the file or a scene is missing, and what to do.
        """
        path = Path(dataset).expanduser().resolve()
        if not path.is_file():
            raise ValueError(f"habitat: there is no {path}; name the dataset's *.scene_dataset_config.json")
        if not scenes:
            raise ValueError("habitat: no scene came; name at least one of the dataset")
        self = cls.__new__(cls)
        placed = [it for it in scenes if isinstance(it, Placement)]
        self.device = torch.device(device)
        self.scenes = tuple(it.scene if isinstance(it, Placement) else it for it in scenes)
        self._camera(view, motion, sensors)
        folders = dict.fromkeys(str(Path(name).expanduser().resolve()) for it in placed for name in it.folders)
        things = [it.things if isinstance(it, Placement) else () for it in scenes] if placed else []
        as_it_is = {"navmesh": None, "kept": None, "home": None, "level": False, "folders": list(folders)}
        self._start(workers or Workers(), path, (height, radius), as_it_is | {"things": things})
        try:
            self.files = self._ask_one(0, {"do": "files"})
            floors = self._floors((str(path), cell, height, radius))
            self._lay([free_IJ for free_IJ, _ in floors], cell, device)
        except BaseException:
            self.close()
            raise
        self.origin_H3 = torch.tensor([origin for _, origin in floors], device=self.device)
        self._near_HC = self._nearest(NEAR_CELLS)
        return self

    def _floors(self, key: tuple[str, float, float, float]) -> list[tuple[np.ndarray, list[float]]]:
        """Return the floor of each house, (I, J) bool, and its origin. Workers open the scenes, each another one."""
        new = {name: number for number, name in enumerate(self.scenes) if (name, *key) not in _FLOORS}
        names, count = list(new), len(self._pool.workers)

        def found() -> Iterator[None]:
            for at in range(0, len(names), count):
                asked = dict(enumerate(names[at : at + count]))
                floor = {"do": "floor", "cell": key[1]}
                answers, _ = self._pool.ask({k: (floor | {"scene": new[name]}, {}) for k, name in asked.items()})
                for k, name in asked.items():
                    free_IJ = np.array([[sign == "1" for sign in row] for row in answers[k]["free"]])
                    _FLOORS[name, *key] = pieces(free_IJ) == 1, answers[k]["origin"]
                    yield

        for _ in shown(found(), "opening scenes", len(names), 2):
            pass
        return [_FLOORS[name, *key] for name in self.scenes]

    def keep(self, houses: Sequence[int]) -> None:
        """Forget all houses but some, which get new numbers, in this order; agents of before are no longer any."""
        free_HIJ, origin_H3 = self.free_HC.view(-1, *self.grid).cpu().numpy(), self.origin_H3
        self.scenes, self.files = tuple(self.scenes[h] for h in houses), [self.files[h] for h in houses]
        self._number_H = self._number_H[list(houses)]
        self._lay([free_HIJ[house] for house in houses], self.cell, self.device)
        self.origin_H3, self._near_HC, self._shared = origin_H3[list(houses)], self._nearest(NEAR_CELLS), {}

    def _camera(self, view: View | None, motion: Motion | None, sensors: Sequence[str]) -> None:
        if unknown := [name for name in sensors if name not in SENSORS]:
            raise ValueError(f"simulator: unknown sensor {unknown[0]!r}; choose of {', '.join(SENSORS)}")
        self.view, self.motion, self.sensors = view or View(64, 64), motion or Motion(), tuple(sensors)
        self.view.check()

    def _start(self, workers: Workers, dataset: Path, agent: tuple[float, float], more: dict[str, Any]) -> None:
        setup = (
            {"things": [], "folders": []}
            | more
            | {
                "dataset": str(dataset),
                "scenes": self.scenes,
                "gpu": workers.gpu,
                "sensors": self.sensors,
                "size": (self.view.height, self.view.width),
                "hfov": self.view.hfov,
                "far": self.view.far,
                "eye": self.motion.eye_height,
                "sliding": self.motion.sliding,
                "height": agent[0],
                "radius": agent[1],
                "open": workers.open_scenes,
                "rows": 1,
            }
        )
        # By which workers know the houses; and nothing is known of their files.
        self._number_H, self.files = np.arange(len(self.scenes)), [[] for _ in self.scenes]
        self._pool = Pool(workers.python or sys.executable, [setup] * workers.count, workers.timeout)
        # By their number: what is tried for more agents than there are, or drawn of one, leaves those alone.
        self._shared = {}

    def close(self) -> None:
        """End the workers."""
        self._pool.close()

    @property
    def restarts(self) -> int:
        """How many workers died or hung, and were replaced."""
        return self._pool.restarts

    @property
    def processes(self) -> tuple[int, ...]:
        """The numbers of the workers' processes."""
        return tuple(each.pid for each in self._pool.workers)

    def lost(self, agents: Agents) -> Tensor:
        """Return whose worker died or hung since this was asked last, (B,) bool.

        What they see afterwards is right all the same: it is drawn by a new worker. What happened while more or fewer
        agents than these were asked about does not count.
        """
        shared = self._of(len(agents.house_B))
        lost_B, shared.lost_B = shared.lost_B, np.zeros_like(shared.lost_B)
        return torch.from_numpy(lost_B).to(self.device)

    def place(self, house_B: Tensor, pose: Pose) -> Agents:
        """Put agents somewhere."""
        agents = super().place(house_B, self._moved(house_B, pose, -1))
        return agents._replace(pose=self._moved(agents.house_B, agents.pose, 1))

    def spawn(self, house_B: Tensor, number_B2: Tensor) -> Agents:
        """Return agents in the middles of navigable cells, all equally likely, that look level, or nearly."""
        agents = super().spawn(house_B, number_B2)
        return agents._replace(pose=self._moved(house_B, agents.pose, 1))

    def move(self, agents: Agents, action_B: Tensor) -> tuple[Agents, Tensor]:
        """Let every agent do something; steps are those of Habitat, on the navmesh."""
        yaw_B, pitch_B = self._turned(agents.pose, action_B)
        hit_B = torch.zeros_like(action_B, dtype=torch.bool)
        position_B3 = agents.pose.position_B3.clone()
        row_N = (action_B == FORWARD).nonzero()[:, 0]
        if len(row_N):
            length_B = np.full(len(action_B), self.motion.forward, dtype=np.float32)
            for rows, block in self._do("move", agents, row_N.cpu().numpy(), {"length": length_B}):
                made = torch.from_numpy(rows).to(self.device)
                position_B3[made] = torch.from_numpy(block["position"][: len(rows)].copy()).to(self.device)
                hit_B[made] = torch.from_numpy(block["hit"][: len(rows)] != 0).to(self.device)
        return Agents(agents.house_B, Pose(position_B3, yaw_B, pitch_B)), hit_B

    def render(self, agents: Agents) -> dict[str, Tensor]:
        """Return what agents see, by sensor."""
        return self.render_some(agents, torch.ones_like(agents.house_B, dtype=torch.bool))

    def render_some(self, agents: Agents, which_B: Tensor, sensors: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Return what some agents see, and 0 for the others.

        Args:
            agents: where all are.
            which_B: (B,) bool.
            sensors: with which of the sensors; None: with all.
        """
        names = tuple(sensors or self.sensors)
        size = (len(agents.house_B), self.view.height, self.view.width)
        shapes: dict[str, tuple[tuple[int, ...], type]] = {
            "rgb": ((*size, 3), np.uint8),
            "depth": (size, np.float32),
            "semantic": (size, np.int32),
        }
        seen: dict[str, np.ndarray] = {name: np.zeros(*shapes[name]) for name in names}
        for rows, block in self._do("render", agents, which_B.nonzero()[:, 0].cpu().numpy(), {}, only=names):
            for name, picture in seen.items():
                from_below = block[name][: len(rows), :, :, :3] if name == "rgb" else block[name][: len(rows)]
                picture[rows] = from_below[:, ::-1]
        return {name: torch.from_numpy(picture).to(self.device) for name, picture in seen.items()}

    def geodesic(self, agents: Agents, field_FC: Tensor, which_B: Tensor) -> Tensor:
        """Return the length of the way to the nearest goal, from the cell of each agent or the nearest one to it."""
        house_B, pose = agents.house_B, self._moved(agents.house_B, agents.pose, -1)
        x_B, y_B, z_B = pose.position_B3.unbind(1)
        row_B, column_B = (z_B / self.cell).floor().long(), (x_B / self.cell).floor().long()
        i_B, j_B = row_B.clamp(0, self.grid[0] - 1), column_B.clamp(0, self.grid[1] - 1)
        own_B = i_B * self.grid[1] + j_B
        cell_B = self._near_HC[house_B, own_B].long()
        on_x_B = (cell_B % self.grid[1] + 0.5) * self.cell
        on_z_B = (torch.div(cell_B, self.grid[1], rounding_mode="floor") + 0.5) * self.cell
        free_B = self.free_HC[house_B, own_B] & (i_B == row_B) & (j_B == column_B)
        to_B = torch.where(free_B, 0.0, torch.hypot(on_x_B - x_B, on_z_B - z_B))
        on_B3 = torch.stack([torch.where(free_B, x_B, on_x_B), y_B, torch.where(free_B, z_B, on_z_B)], 1)
        return to_B + super().geodesic(Agents(house_B, pose._replace(position_B3=on_B3)), field_FC, which_B)

    def paths(self, house: int, start_N3: np.ndarray, end_N3: np.ndarray) -> np.ndarray:
        """Return the lengths of the shortest ways by Habitat's navmesh, (N,), metres; infinite where there is none."""
        ends = {"starts": start_N3.tolist(), "ends": end_N3.tolist()}
        return np.array(self._ask_one(house, {"do": "paths", "scene": int(self._number_H[house]), **ends}))

    def _ask_one(self, house: int, request: dict[str, Any]) -> Any:
        number = house % len(self._pool.workers)
        answers, _ = self._pool.ask({number: (request, {})})
        return answers[number]

    def _do(
        self, what: str, agents: Agents, row_N: np.ndarray, more: dict[str, np.ndarray], **asked: Any
    ) -> list[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """Let workers do something with some agents; return, by worker, whose rows are where, and its block."""
        house_B = agents.house_B.cpu().numpy()
        position_B3, yaw_B, pitch_B = (part.cpu().numpy() for part in agents.pose)
        columns = {"scene": self._number_H[house_B], "position": position_B3, "yaw": yaw_B, "pitch": pitch_B} | more
        home_B = self._share(house_B)
        worker_N = home_B[row_N]
        rows = {number: row_N[worker_N == number] for number in np.unique(worker_N).tolist()}
        _, restarted = self._pool.ask(
            {
                number: (
                    {"do": what, "rows": len(mine), **asked},
                    {name: values[mine] for name, values in columns.items()},
                )
                for number, mine in rows.items()
            }
        )
        for number in restarted:
            self._of(len(house_B)).lost_B |= home_B == number  # also of those that it was not asked about
        return [(mine, self._pool.workers[number].block.arrays) for number, mine in rows.items()]

    def _of(self, batch: int) -> _Shared:
        return self._shared.setdefault(batch, _Shared(batch))

    def _share(self, house_B: np.ndarray) -> np.ndarray:
        """Return the worker of each agent, (B,): no worker has more than its part of them."""
        count, shared = len(self._pool.workers), self._of(len(house_B))
        new_B = shared.house_B != house_B
        if new_B.any():
            home_B = np.where(new_B, -1, shared.home_B)
            room = np.full(count, -(-len(house_B) // count)) - np.bincount(home_B[~new_B], minlength=count)
            open_in: dict[int, set[int]] = {}
            for house, home in zip(house_B[~new_B].tolist(), home_B[~new_B].tolist(), strict=True):
                open_in.setdefault(house, set()).add(home)
            for row in np.flatnonzero(new_B).tolist():
                having = [home for home in open_in.get(int(house_B[row]), ()) if room[home] > 0]
                home_B[row] = max(having, key=lambda home: room[home]) if having else int(room.argmax())
                room[home_B[row]] -= 1
                open_in.setdefault(int(house_B[row]), set()).add(int(home_B[row]))
            shared.home_B, shared.house_B = home_B, house_B.copy()
        return shared.home_B

    def _moved(self, house_B: Tensor, pose: Pose, sign: int) -> Pose:
        """Return poses in the coordinates of their scene (1), from those of their floor, or the other way (-1).

        Numbers of houses that there are none of are left to the check that follows.
        """
        house_B = house_B.to(self.device, torch.int64).clamp(0, self.houses - 1)
        return pose._replace(position_B3=pose.position_B3.to(self.device) + sign * self.origin_H3[house_B])
