"""The tables of the benchmark: success beside oracle and floor, generalisation, staleness, the frontier."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from ..report.rows import markdown_table
from ..report.tables import Table, interval, number
from .found import Line, held, memories, of_part, own, tasks
from .tasks import PARTS

NOTE = (
    "Success: the interquartile mean over seeds of the share of fresh episodes that were solved, greedy, with its "
    "stratified bootstrap 95 % interval; all players play the same episodes. oracle: the task's scripted player. "
    "floor: its player without memory, which knows no more than the frame and its last action."
)


def sections(lines: Sequence[Line], level: float, frontier_order: Sequence[str]) -> list[Table]:
    """Return all tables that there is something for.

    Args:
        lines: what was found.
        level: the success that counts as holding a task.
        frontier_order: the tasks of the frontier, from small to large.
    """
    found = []
    for part, about in PARTS.items():
        if not (here := of_part(lines, part)):
            continue
        title = about.partition(":")[0]
        found.append(success(here, title))
        if part == "tmaze":
            found += [kinds(here), generalisation(here)]
        else:
            found.append(figures(here, title))
        if part == "frontier":
            found.append(reached(here, level, frontier_order))
    return found


def success(lines: Sequence[Line], title: str) -> Table:
    """Return the success of every memory on every task, with the range between floor and oracle beside it."""
    names = memories(lines)
    cells = {(line.task, line.memory): line for line in own(lines)}
    shown = []
    for task in tasks(lines):
        here = [cells[task, name] for name in names if (task, name) in cells]
        if not here:
            continue
        players = [number(part.get("success", math.nan)) for part in (here[0].oracle, here[0].memoryless)]
        own_cells = [_told(cells.get((task, name))) for name in names]
        shown.append([task, *players, *own_cells])
    return Table(f"{title}: success", ["task", "oracle", "floor", *names], shown, NOTE)


def _told(line: Line | None) -> str:
    if line is None:
        return "no run"
    few = f", {len(line.seeds)} seed{'s' * (len(line.seeds) > 1)}" if len(line.seeds) < 5 else ""
    return interval(line.success) + few


def kinds(lines: Sequence[Line]) -> Table:
    """Return the mean over trained configurations and tests, by how they stand to each other."""
    shown = []
    for name in memories(lines):
        row = [name]
        for kind in ("trained", "interpolation", "extrapolation"):
            values = [x.success.value for x in lines if x.memory == name and x.relation == kind and x.by_seed]
            row.append(f"{sum(values) / len(values):.3f} ({len(values)})" if values else "")
        shown.append(row)
    note = "Means over pairs of a trained and a tested configuration; in brackets how many pairs."
    return Table(
        "Endless T-Maze: generalisation by kind", ["memory", "trained", "interpolation", "extrapolation"], shown, note
    )


def generalisation(lines: Sequence[Line]) -> Table:
    """Return the success of every memory for every pair of a trained and a tested configuration."""
    names = memories(lines)
    cells = {(line.task, line.test, line.memory): line for line in lines}
    pairs = {(line.task, line.test): line for line in lines}
    shown = [
        [
            task,
            test,
            any_line.relation,
            number(any_line.oracle.get("success", math.nan)),
            number(any_line.memoryless.get("success", math.nan)),
            *(interval(cells[task, test, name].success) if (task, test, name) in cells else "" for name in names),
        ]
        for (task, test), any_line in pairs.items()
    ]
    header = ["trained", "tested", "kind", "oracle", "floor", *names]
    note = (
        "interpolation: no more corridors than in training and none longer; extrapolation: more or longer ones, or "
        "Uniform corridors after Fixed ones. The position that an agent sees is over the longest length of its maze, "
        "so another length also changes its scale."
    )
    return Table("Endless T-Maze: generalisation", header, shown, note)


COLUMNS: dict[str, Callable[[Line], str]] = {
    "success": lambda line: interval(line.success),
    "phases solved": lambda line: interval(line.over_seeds("phases")),
    "pace": lambda line: interval(line.over_seeds("pace")),
    "stale visits": lambda line: interval(line.over_seeds("stale_visits")),
    "per reveal": lambda line: number(line.per_reveal("stale_visits")),
    "stale steps": lambda line: interval(line.over_seeds("stale_steps")),
    "wrong visits": lambda line: interval(line.over_seeds("wrong_visits")),
    "return": lambda line: interval(line.over_seeds("return")),
}


def figures(lines: Sequence[Line], title: str) -> Table:
    """Return what else is known of agents on Color-Cubes, and of the players beside them."""
    shown = []
    for task in tasks(lines):
        here = [line for line in own(lines) if line.task == task]
        if not here:
            continue
        beside = [("oracle", here[0].oracle), ("floor", here[0].memoryless)]
        players = [(line.memory, line) for line in here]
        players += [(name, replace(here[0], by_seed=[found], seeds=[0])) for name, found in beside if found]
        shown += [[task, name, *(column(line) for column in COLUMNS.values())] for name, line in players]
    note = (
        "pace: steps for each phase solved, over the mean shortest way (2/3 of the grid's side); 1 is optimal, and "
        "where no phase is solved all steps count. stale visits: steps onto the cell that the target stood on before "
        "it last jumped, not nearer to the target; per reveal: for each frame that showed a jump. stale steps: nearer "
        "to that cell and away from the target. wrong visits: steps onto another cube, not nearer to the target."
    )
    return Table(f"{title}: figures", ["task", "player", *COLUMNS], shown, note)


def reached(lines: Sequence[Line], level: float, order: Sequence[str]) -> Table:
    """Return the largest size that every memory holds, for each preset, of the sizes that any was trained on."""
    order = [task for task in order if task in tasks(lines)]
    presets = list(dict.fromkeys(task.rpartition("-")[0] for task in order))
    shown = []
    for name in memories(lines):
        best = [held(lines, name, [task for task in order if task.startswith(f"{each}-")], level) for each in presets]
        shown.append([name, *(task.rpartition("-")[2] or "none" for task in best)])
    note = (
        f"Grid x cubes x phases: the largest up to which success stays at {level:g} or above, with all smaller ones "
        "that any memory was trained on."
    )
    return Table("Color-Cubes: the frontier", ["memory", *presets], shown, note)


def page(title: str, about: str, found: Sequence[Table], pictures: Sequence[str], failures: Sequence[str]) -> str:
    """Return the page of results."""
    parts = [f"# {title}", about]
    parts += [f"![{name.removesuffix('.png')}]({name})" for name in pictures]
    for table in found:
        parts += [f"## {table.title}", markdown_table(table)]
        parts += [table.note] if table.note else []
    if failures:
        parts += ["## Runs that failed", "\n".join(f"- {line}" for line in failures)]
    return "\n\n".join(parts) + "\n"
