import math

import pytest

from mnemic.envs.color_cubes import ColorCubesConfig
from mnemic.envs.endless_tmaze import EndlessTMazeConfig
from mnemic.eval.rewriting import pictures, tables, tasks
from mnemic.eval.rewriting.found import Line, held
from mnemic.eval.rewriting.tasks import PARTS, Size, relation


def maze(sampling: str, length: int, corridors: int) -> EndlessTMazeConfig:
    return EndlessTMazeConfig(sampling=sampling, length=length, corridors=corridors)


def line(task: str, success: float, *, memory: str = "gru", part: str = "frontier", **more: object) -> Line:
    given = {
        "test": task,
        "relation": "trained",
        "seeds": [0, 1],
        "by_seed": [{"success": success, "reveals": 4.0, "stale_visits": 1.0}, {"success": success, "reveals": 6.0}],
        "oracle": {"success": 1.0},
        "memoryless": {"success": 0.25},
        "steps": 100,
    }
    return Line(part=part, task=task, memory=memory, **{**given, **more})


def test_the_sixteen_configurations() -> None:
    found = tasks.tmaze(("fixed", "uniform"), (5, 10), (1, 3, 5, 10))
    assert len(found) == len({task.name for task in found}) == 16
    assert found[1].name == "fixed-l5-n3"
    assert found[1].flags == ["--sampling", "fixed", "--length", "5", "--corridors", "3"]


@pytest.mark.parametrize(
    ("trained", "tested", "expected"),
    [
        (("fixed", 5, 3), ("fixed", 5, 3), "trained"),
        (("fixed", 5, 3), ("fixed", 5, 1), "interpolation"),
        (("fixed", 10, 3), ("fixed", 5, 3), "interpolation"),
        (("fixed", 5, 3), ("fixed", 5, 5), "extrapolation"),
        (("fixed", 5, 3), ("fixed", 10, 3), "extrapolation"),
        (("fixed", 10, 3), ("fixed", 5, 5), "extrapolation"),
        (("uniform", 10, 3), ("fixed", 5, 3), "interpolation"),
        (("uniform", 10, 3), ("uniform", 5, 1), "interpolation"),
        (("fixed", 10, 3), ("uniform", 5, 3), "extrapolation"),  # lengths 1 to 4 were never seen
    ],
)
def test_how_a_tested_maze_stands_to_the_trained_one(trained, tested, expected) -> None:
    assert relation(maze(*trained), maze(*tested)) == expected


def test_sizes_and_presets() -> None:
    found = tasks.frontier(("medium",), ("5x3x3", "10x8x10"))
    assert [task.name for task in found] == ["medium-5x3x3", "medium-10x8x10"]
    assert Size.of(found[1].env) == (10, 8, 10)
    assert found[1].flags == ["--frontier-preset", "medium", "--size", "10x8x10"]
    assert found[0].env == ColorCubesConfig(size=5, cubes=3, phases=3)
    assert [task.name for task in tasks.cubes("ladder", ("observed", "many"))] == ["observed", "many"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Size.read("5x3"), "--size takes GRIDxCUBESxPHASES, as 5x3x3; '5x3' came"),
        (lambda: tasks.frontier(("medium",), ("2x8x1",)), "8 cubes, the agent and free cells to jump to need 10 cells"),
        (lambda: tasks.frontier(("many",), ("5x2x1",)), "movers is 'many' and cubes is 2"),
        (lambda: tasks.cubes("ladder", ("trivial",)), "--rung trivial is not there; choose one of observed, latched"),
        (lambda: tasks.cubes("presets", ("hard",)), "--preset hard is not there; choose one of trivial"),
        (lambda: tasks.tmaze(("fixed",), (0,), (1,)), "length is 0"),
    ],
)
def test_tasks_that_cannot_be_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_the_frontier_ends_at_the_first_size_that_is_not_held() -> None:
    order = ["medium-5x3x3", "medium-6x4x4", "medium-7x5x5"]
    lines = [line(order[0], 0.95), line(order[1], 0.9), line(order[2], 0.5)]
    assert held(lines, "gru", order, 0.9) == order[1]
    # What lies beyond a gap does not count, and neither does what was not measured.
    assert held([line(order[0], 0.95), line(order[1], 0.2), line(order[2], 1.0)], "gru", order, 0.9) == order[0]
    assert held([line(order[0], 0.95), line(order[2], 1.0)], "gru", order, 0.9) == order[0]
    assert held([line(order[0], 0.1)], "gru", order, 0.9) == ""
    assert held(lines, "lstm", order, 0.9) == ""
    # What nobody was trained on is no gap.
    found = tables.reached([line(order[0], 0.95), line(order[2], 1.0)], 0.9, order)
    assert found.lines == [["gru", "7x5x5"]]


def test_stale_visits_are_counted_for_each_reveal() -> None:
    assert line("medium-5x3x3", 1.0).per_reveal("stale_visits") == pytest.approx(1 / 10)
    assert math.isnan(line("x", 1.0, by_seed=[{"success": 1.0}]).per_reveal("stale_visits"))


def test_every_number_stands_beside_oracle_and_floor() -> None:
    order = ["medium-5x3x3", "medium-6x4x4"]
    lines = [line(order[0], 1.0), line(order[1], 0.5), line(order[0], 0.25, memory="none")]
    success, figures, frontier = tables.sections(lines, 0.9, order)
    assert success.header == ["task", "oracle", "floor", "gru", "none"]
    assert success.lines == [
        ["medium-5x3x3", "1.000", "0.250", "1.000 (1.000 to 1.000), 2 seeds", "0.250 (0.250 to 0.250), 2 seeds"],
        ["medium-6x4x4", "1.000", "0.250", "0.500 (0.500 to 0.500), 2 seeds", "no run"],
    ]
    assert [row[:3] for row in figures.lines[:4]] == [
        ["medium-5x3x3", "gru", "1.000 (1.000 to 1.000)"],
        ["medium-5x3x3", "none", "0.250 (0.250 to 0.250)"],
        ["medium-5x3x3", "oracle", "1.000"],
        ["medium-5x3x3", "floor", "0.250"],
    ]
    assert frontier.lines == [["gru", "5x3x3"], ["none", "none"]]
    page = tables.page("T", "about", [success], ["frontier-medium.png"], ["run: reason"])
    assert "![frontier-medium](frontier-medium.png)" in page
    assert "- run: reason" in page


def test_generalisation_is_marked_and_averaged_by_kind() -> None:
    lines = [
        line("fixed-l5-n3", 1.0, part="tmaze"),
        line("fixed-l5-n3", 0.8, part="tmaze", test="fixed-l5-n1", relation="interpolation"),
        line("fixed-l5-n3", 0.5, part="tmaze", test="fixed-l5-n10", relation="extrapolation"),
        line("fixed-l5-n3", 0.3, part="tmaze", test="uniform-l5-n3", relation="extrapolation"),
    ]
    _, kinds, full = tables.sections(lines, 0.9, [])
    assert kinds.lines == [["gru", "1.000 (1)", "0.800 (1)", "0.400 (2)"]]
    assert [row[:3] for row in full.lines] == [
        ["fixed-l5-n3", "fixed-l5-n3", "trained"],
        ["fixed-l5-n3", "fixed-l5-n1", "interpolation"],
        ["fixed-l5-n3", "fixed-l5-n10", "extrapolation"],
        ["fixed-l5-n3", "uniform-l5-n3", "extrapolation"],
    ]


def test_pictures_are_drawn_whatever_is_missing(tmp_path) -> None:
    mazes = [
        line("fixed-l5-n3", 1.0, part="tmaze"),
        line("fixed-l5-n3", 0.5, part="tmaze", test="fixed-l10-n3", relation="extrapolation"),
        line("fixed-l10-n3", 0.2, part="tmaze", by_seed=[{"success": 0.2}], seeds=[0]),
    ]
    pictures.heat_map(mazes, "gru", tmp_path / "map.png")
    rungs = [line("observed", 1.0, part="ladder"), line("medium", 0.4, part="ladder", memoryless={})]
    pictures.ladder(rungs, ["observed", "medium"], tmp_path / "ladder.png")
    order = ["medium-5x3x3", "medium-6x3x4"]  # as many cubes in both
    pictures.frontier([line(name, 0.9) for name in order], order, [3, 3], 0.9, tmp_path / "frontier.png")
    for name in ("map", "ladder", "frontier"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(["uniform-l5-n1", "fixed-l10-n1", "fixed-l5-n10", "fixed-l5-n3"], key=pictures._in_order) == [
        "fixed-l5-n3",
        "fixed-l5-n10",
        "fixed-l10-n1",
        "uniform-l5-n1",
    ]


def test_every_part_is_named() -> None:
    assert list(PARTS) == ["tmaze", "presets", "ladder", "frontier"]
