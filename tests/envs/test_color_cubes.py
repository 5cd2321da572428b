import dataclasses
import itertools

import pytest
import torch

from mnemic.envs import make_config
from mnemic.envs.color_cubes import ColorCubesConfig
from mnemic.envs.color_cubes_figures import Tally
from mnemic.envs.color_cubes_grid import as_vector
from mnemic.envs.color_cubes_presets import LADDER
from mnemic.envs.oracle import play_trials
from mnemic.envs.picture import to_text
from mnemic.envs.step import Step


def play(config: ColorCubesConfig, batch: int, steps: int, noise: float = 0.3):
    """States before and after each step of a player who sees all and sometimes errs, and what was done and said."""
    env = config.build(batch, 0)
    state, step = env.reset()
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        target = state.task.cell.gather(1, state.task.target[:, None]).squeeze(1)
        wise = env.grid.toward(state.task.own, target)
        drawn = torch.randint(0, env.actions, (batch,), generator=generator)
        action = torch.where(torch.rand(batch, generator=generator) < noise, drawn, wise)
        before, told = state, step
        state, step = env.step(state, action)
        yield before, told, action, state, step


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "options",
    [
        {"preset": "trivial"},
        {"preset": "medium"},
        {"preset": "extreme"},
        {"preset": "extreme", "teleport": 1.0},
        {"preset": "extreme", "encoding": "ordered"},
        {"preset": "extreme", "encoding": "ordered", "movers": "many", "teleport": 0.5},
        {"preset": "medium", "movers": "many", "teleport": 0.5},
        {"preset": "medium", "phase_reveal": False},
        {"preset": "extreme", "phase_reveal": False, "size": 7, "cubes": 6, "phases": 8, "teleport": 0.5},
        {"preset": "extreme", "encoding": "ordered", "phase_reveal": False, "own_position": False},
        {"preset": "extreme", "interact": True, "target_shown": "always"},
        {"preset": "observed"},
        {"preset": "observed", "update_colours": False},
        {"preset": "observed", "update_colours": False, "encoding": "ordered", "teleport": 0.5},
        {"preset": "latched"},
        {"preset": "distractors"},
        {"preset": "jumps", "cubes": 2},
        {"preset": "ordered"},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_the_oracle_always_succeeds_on_the_shortest_ways(options: dict[str, object], seed: int) -> None:
    # The horizon leaves no step to spare in the worst case, so one wrong turn would show.
    longest = make_config("color-cubes", **options).longest_way
    config = make_config("color-cubes", **options, horizon=longest)
    trials = play_trials(config, config.oracle().act, batch=500, seed=seed)
    assert bool((trials.info["success"] == 1).all())
    assert trials.returns.unique().tolist() == [config.resolved().phases]
    # Who never strays is never accused, wherever the cubes were before.
    for figure in ("stale_visits", "stale_steps", "wrong_visits"):
        assert not bool(trials.info[figure].any())


@pytest.mark.parametrize("size", [3, 5, 10])
def test_a_phase_takes_two_thirds_of_the_size(size: int) -> None:
    config = ColorCubesConfig(size=size, phases=1, step_reward=-0.01)
    trials = play_trials(config, config.oracle().act, batch=4000)
    error = 4 * float(trials.steps.double().std()) / 4000**0.5
    assert float(trials.steps.double().mean()) == pytest.approx(2 * size / 3, abs=error)
    torch.testing.assert_close(trials.returns, 1 - 0.01 * trials.steps.double(), atol=1e-5, rtol=0)


def test_the_pace_is_one_on_the_shortest_ways_and_counts_all_steps_where_nothing_is_solved() -> None:
    config = ColorCubesConfig(size=5)
    trials = play_trials(config, config.oracle().act, batch=2000)
    torch.testing.assert_close(trials.info["pace"], trials.steps.double() / 10, atol=1e-5, rtol=1e-5)
    assert float(trials.info["pace"].mean()) == pytest.approx(1, abs=0.03)

    def into_the_corner(obs, reward, episode_start, trial_start):
        return torch.full((len(obs),), 0)

    idle = play_trials(config, into_the_corner, batch=200)
    none = idle.info["phases"] == 0
    torch.testing.assert_close(idle.info["pace"][none], torch.full((int(none.sum()),), 14.4).double())


def placed(config: ColorCubesConfig, own: int, cells: list[int], target: int):
    """One grid with everything where it is said, about to be played."""
    env = config.build(1, 0)
    state, _ = env.reset()
    cell = torch.tensor([cells])
    task = state.task._replace(
        own=torch.tensor([own]), cell=cell, target=torch.tensor([target]), tally=Tally.nothing(cell)
    )
    return env, state._replace(task=task)


def test_visits_to_where_a_cube_was_are_counted_by_hand() -> None:
    # 0 1 2    The target (cube 0) stood on 8 and is on 0 now; cube 1 is on 5. The agent is on 4.
    # 3 4 5
    # 6 7 8
    config = ColorCubesConfig(size=3, cubes=2, phases=2, teleport=0.0, horizon=50)
    env, state = placed(config, 4, [0, 5], 0)
    task = state.task
    state = state._replace(task=task._replace(tally=task.tally._replace(old=torch.tensor([[8, 5]]))))
    up, down, left, right = (torch.tensor([move]) for move in range(4))
    figures = ("stale_visits", "stale_steps", "wrong_visits", "reveals", "phases")
    said = []
    for move in (right, down, up, left, right, up, left, left):
        state, step = env.step(state, move)
        said.append([int(step.info[name]) for name in figures])
    assert said == [
        [0, 1, 1, 0, 0],  # onto cube 1, nearer to 8
        [1, 2, 1, 0, 0],  # onto 8
        [1, 2, 1, 0, 0],  # onto cube 1 again, but nearer to the target: on the way
        [1, 2, 1, 0, 0],
        [1, 3, 2, 0, 0],  # and back once more
        [1, 3, 2, 0, 0],
        [1, 3, 2, 0, 0],
        [1, 3, 2, 1, 1],  # collected: a reveal
    ]
    # Now the old cell of cube 0 is where it was collected.
    assert state.task.tally.old.tolist() == [[0, 5]]
    # A step into the border visits nothing.
    state = state._replace(task=state.task._replace(target=torch.tensor([0])))
    before = state.task.tally
    state, _ = env.step(state, up)
    assert torch.equal(state.task.tally.stale_visits, before.stale_visits)


def test_an_agent_that_keeps_the_first_map_goes_to_where_cubes_were() -> None:
    config = ColorCubesConfig(teleport=0.3)
    first, wanted = {}, {}

    def stubborn(obs, reward, episode_start, trial_start):
        seen = {name: obs[:, where] for name, where in config.layout().items()}
        fresh = seen["coloured"].reshape(-1, 3, 25).argmax(2)
        first["map"] = torch.where(trial_start[:, None], fresh, first.get("map", fresh))
        target = seen["target"].argmax(1)
        wanted["is"] = torch.where(seen["target"].any(1), target, wanted.get("is", target))
        own = seen["own"].argmax(1)
        goal = first["map"].gather(1, wanted["is"][:, None]).squeeze(1)
        return config.build(1, 0).grid.toward(own, goal).clamp(max=3)

    trials = play_trials(config, stubborn, batch=300)
    assert float(trials.info["stale_visits"].mean()) > 0.2
    assert float(trials.info["stale_steps"].mean()) > float(trials.info["stale_visits"].mean())


def test_a_player_without_memory_sweeps_and_is_far_below_the_oracle() -> None:
    def success(**options: object) -> float:
        config = ColorCubesConfig(**options)
        return float(play_trials(config, config.memoryless().act, batch=1000).info["success"].mean())

    # Where every frame tells the cell, it needs no memory.
    assert success(preset="observed") == success(preset="latched") == 1
    # A sweep from one end to the other takes 2 C - 2 steps at most, so a long horizon finds a single cube for sure.
    assert success(preset="trivial", horizon=48) == 1
    assert success(slack=1.0) < success() < 0.8
    assert success(preset="extreme", size=10, cubes=8, phases=10) < 0.1
    assert ColorCubesConfig(interact=True).memoryless() is None
    assert ColorCubesConfig(own_position=False).memoryless() is None


def test_every_rung_of_the_ladder_is_one_step_above_the_one_before() -> None:
    rungs = [ColorCubesConfig(preset=name).resolved() for name in LADDER]
    assert len(rungs) == 8
    steps = []
    for lower, upper in itertools.pairwise(rungs):
        own, other = dataclasses.asdict(lower), dataclasses.asdict(upper)
        steps.append({name for name in own if own[name] != other[name]} - {"preset"})
    assert steps == [
        {"reveal", "target_shown", "latch"},
        {"latch", "phases", "teleport"},
        {"teleport"},
        {"phases"},
        {"update_colours", "encoding"},
        {"encoding"},
        {"movers"},
    ]


def test_the_twin_that_sees_all_shows_all_in_every_frame() -> None:
    config = ColorCubesConfig(preset="observed")
    for _, _, _, after, step in play(config, 50, 30):
        seen = parts(config, step)
        assert torch.equal(seen["coloured"], onto(after.task.cell, 25).flatten(1))
        assert torch.equal(seen["target"], onto(after.task.target, 3))


def test_the_latch_tells_the_target_s_cell() -> None:
    config = ColorCubesConfig(preset="latched", teleport=0.5)
    for _, _, _, after, step in play(config, 50, 30):
        goal = after.task.cell.gather(1, after.task.target[:, None]).squeeze(1)
        assert torch.equal(parts(config, step)["latch"], onto(goal, 25))
        assert step.obs.shape == (50, 25 + 75 + 25 + 3 + 25)


@pytest.mark.parametrize("preset", ["medium", "extreme", "latched"])
def test_a_grid_says_what_the_vector_says(preset: str) -> None:
    """In every frame of the same games, and to the oracle, which plays them alike."""
    told = {}
    for view in ("vector", "grid"):
        config = ColorCubesConfig(preset=preset, size=4, teleport=0.3, view=view)
        env, player, frames = config.build(16, 3), config.oracle(), []
        state, step = env.reset()
        for _ in range(40):
            frames.append(step.obs)
            action = player.act(step.obs, step.reward, step.episode_start, step.trial_start)
            state, step = env.step(state, action)
        told[view] = torch.stack(frames)
    layout = config.layout()
    grid, vector = told["grid"], told["vector"]
    assert grid.dtype == torch.uint8
    assert grid.shape[2:] == env.observation_space.shape == (4, 4, 1 + 3 + 1 + 3 + (preset == "latched"))
    assert torch.equal(as_vector(grid.flatten(0, 1), layout, 4), vector.flatten(0, 1))
    own = vector[..., layout["own"]].argmax(-1)
    assert torch.equal(grid[..., 0].flatten(-2).argmax(-1), own)
    assert torch.equal(grid[:, :, 1, 2, 5:8].float(), vector[..., layout["target"]])


def test_cubes_that_jump_together_cost_a_player_of_extreme_some_steps_but_not_the_others() -> None:
    def steps_and_wrong(**options: object) -> tuple[float, float]:
        config = make_config("color-cubes", teleport=0.5, movers="many", interact=True, wrong_reward=-1.0, **options)
        trials = play_trials(config, config.oracle().act, batch=2000)
        assert bool((trials.info["success"] == 1).all())
        return float(trials.steps.double().mean()), float(3 - trials.returns.mean())

    steps, wrong = steps_and_wrong(preset="extreme")
    assert wrong > 0.05
    for options in ({"preset": "medium"}, {"preset": "extreme", "encoding": "ordered"}):
        steps_known, wrong_known = steps_and_wrong(**options)
        assert wrong_known == 0
        assert steps > steps_known + 0.5


def test_wandering_seldom_solves_it() -> None:
    generator = torch.Generator().manual_seed(0)

    def wander(obs, reward, episode_start, trial_start):
        return torch.randint(0, 4, (len(obs),), generator=generator)

    success = play_trials(ColorCubesConfig(), wander, batch=1000).info["success"]
    assert float(success.mean()) < 0.15


@pytest.mark.parametrize("interact", [False, True])
@pytest.mark.parametrize("movers", ["one", "many"])
def test_who_moves_when_and_where(movers: str, interact: bool) -> None:
    config = ColorCubesConfig(movers=movers, teleport=0.3, interact=interact, size=4, wrong_reward=-0.5, horizon=99)
    chances = jumps = collected = wrong = 0
    movers_seen, targets_seen, landed = torch.zeros(3), torch.zeros(3), torch.zeros(16)
    for before, _, action, after, step in play(config, 300, 60):
        old, new = before.task, after.task
        running = ~step.episode_start
        row = torch.arange(300)
        same = old.own == new.own
        moved = (old.cell != new.cell) & running[:, None]
        on_cube = old.cell == new.own[:, None]
        is_target = torch.arange(3) == old.target[:, None]
        tries = action == 4 if interact else ~same
        hit = (on_cube & is_target).any(1) & tries
        miss = (on_cube & ~is_target).any(1) & tries
        torch.testing.assert_close(step.reward[running], hit[running].float() - 0.5 * miss[running].float())
        assert torch.equal(new.phase[running], (old.phase + hit)[running])
        # The target moves when it is collected, and then nothing else does.
        assert torch.equal(moved[row, old.target], hit & running)
        assert int(moved.sum(1).max()) <= (1 if movers == "one" else 2)
        assert not bool((moved & ~is_target)[hit].any())
        # Every cube that moved went to a cell that was free before and that nobody else went to.
        landing = new.cell[moved]
        owner = moved.nonzero()[:, 0]
        assert not bool((old.cell[owner] == landing[:, None]).any())
        assert not bool((new.own[owner] == landing).any())
        assert all(len(set(cells)) == 3 for cells in new.cell.tolist())
        chances += int((running & ~hit).sum())
        jumps += int((moved & ~is_target).sum())
        collected, wrong = collected + int((hit & running).sum()), wrong + int((miss & running).sum())
        movers_seen += (moved & ~is_target).sum(0)
        targets_seen += torch.bincount(new.target[hit & running], minlength=3)
        landed += torch.bincount(landing, minlength=16)
    rate = 0.3 if movers == "one" else 0.6
    assert jumps / chances == pytest.approx(rate, abs=4 * (rate * 0.8 / chances) ** 0.5)
    assert collected > 1000
    assert wrong > 50
    for counts in (movers_seen, targets_seen):
        assert float((counts / counts.sum() - 1 / 3).abs().max()) < 0.04
    assert float(landed.min()) > 0.5 * float(landed.mean())


def parts(config: ColorCubesConfig, step: Step, final: bool = False) -> dict[str, torch.Tensor]:
    obs = step.final_obs if final else step.obs
    return {name: obs[:, where] for name, where in config.layout().items()}


def onto(cells: torch.Tensor, size: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(cells, size).float()


@pytest.mark.parametrize("phase_reveal", [True, False])
@pytest.mark.parametrize("encoding", ["unordered", "ordered"])
@pytest.mark.parametrize("preset", ["medium", "extreme"])
def test_a_frame_shows_what_it_should_and_nothing_else(preset: str, encoding: str, phase_reveal: bool) -> None:
    config = ColorCubesConfig(preset=preset, encoding=encoding, phase_reveal=phase_reveal, teleport=0.3, horizon=60)
    kinds = set()
    for before, _, _, after, step in play(config, 100, 50):
        old, new = before.task, after.task
        first = step.episode_start
        moved = (old.cell != new.cell) & ~first[:, None]
        collected = (old.phase != new.phase) & ~first
        event = moved.any(1)
        shown = (event | first)[:, None].expand(-1, 3)
        if not phase_reveal:
            shown = torch.where(collected[:, None], moved, shown)
        colours = first | event & (preset == "medium")
        seen = parts(config, step)
        assert torch.equal(seen["own"], onto(new.own, 25))
        assert torch.equal(seen["target"], onto(new.target, 3) * (first | collected)[:, None])
        where = onto(new.cell, 25) * shown[:, :, None]
        if encoding == "unordered":
            assert torch.equal(seen["coloured"], (where * colours[:, None, None]).flatten(1))
            assert torch.equal(seen["full"], where.sum(1))
        else:
            places = new.order[:, :, None]
            assert torch.equal(seen["listed"], where.gather(1, places.expand(-1, -1, 25)).flatten(1))
            assert torch.equal(seen["names"], (onto(new.order, 3) * colours[:, None, None]).flatten(1))
            assert torch.equal(new.order[~first], old.order[~first])
        kinds |= set(zip(first.tolist(), event.tolist(), collected.tolist(), strict=True))
    assert kinds == {(True, False, False), (False, False, False), (False, True, False), (False, True, True)}


def test_hiding_the_own_cell_and_always_showing_the_target() -> None:
    config = ColorCubesConfig(own_position=False, target_shown="always", teleport=0.0)
    for before, told, _, after, step in play(config, 50, 30):
        seen = parts(config, step)
        assert torch.equal(seen["own"].any(1), step.episode_start)
        assert torch.equal(seen["target"], onto(after.task.target, 3))
        assert not bool(parts(config, step, final=True)["own"].any())
        assert told.obs.shape == (50, 25 + 75 + 25 + 3)
        assert before.task.told.all()


def test_the_list_has_another_order_in_every_episode() -> None:
    state, _ = ColorCubesConfig(encoding="ordered").build(600, 0).reset()
    orders, counts = state.task.order.unique(dim=0, return_counts=True)
    assert len(orders) == 6
    assert int(counts.min()) > 60


def test_presets_are_filled_in_and_given_options_win() -> None:
    def big(config: ColorCubesConfig) -> tuple[object, ...]:
        full = config.resolved()
        return full.cubes, full.phases, full.teleport, full.update_colours

    assert big(ColorCubesConfig(preset="trivial")) == (1, 1, 0.0, True)
    assert big(ColorCubesConfig()) == (3, 3, 0.1, True)
    assert big(ColorCubesConfig(preset="extreme")) == (3, 3, 0.1, False)
    assert big(ColorCubesConfig(cubes=1)) == (1, 3, 0.0, True)  # who is alone never jumps
    assert big(ColorCubesConfig(preset="extreme", cubes=4, teleport=0.0)) == (4, 3, 0.0, False)
    full = ColorCubesConfig(preset="extreme", phases=5).resolved()
    assert None not in dataclasses.asdict(full).values()
    assert full.resolved() == full
    assert ColorCubesConfig().build(1, 0).episode_steps == 2 * 3 * 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cubes": 3, "size": 2}, "3 cubes, the agent and free cells to jump to need 5 cells and 2x2 has 4"),
        ({"cubes": 5, "size": 3, "movers": "many"}, "need 11 cells and 3x3 has 9"),
        ({"cubes": 9}, "cubes is 9; there are 8 colours"),
        ({"cubes": 0}, "cubes is 0"),
        ({"phases": 0}, "phases is 0"),
        ({"size": 1}, "size is 1"),
        ({"teleport": 1.5}, "teleport is 1.5; it must lie in 0..1"),
        ({"horizon": 23}, "horizon is 23 and the shortest ways can take 24 steps"),
        ({"horizon": 26, "interact": True}, "can take 27 steps"),
        ({"preset": "hard"}, "choose one of trivial, observed, latched, .*, many"),
        ({"wrong_reward": 1.0}, "wrong_reward is 1.0"),
        ({"step_reward": float("inf")}, "step_reward is inf; it must be a finite number"),
        ({"cubes": 1, "teleport": 0.2}, "teleport is 0.2 and the only cube is the target, which never jumps"),
        ({"cubes": 2, "movers": "many"}, "movers is 'many' and cubes is 2: the target never jumps, so at most 1 can"),
        ({"preset": "many", "cubes": 2}, "movers is 'many' and cubes is 2"),
        ({"preset": "observed", "phase_reveal": False}, "reveal is 'always' and phase_reveal is off"),
        ({"view": "map"}, "view is 'map'; choose one of vector, grid"),
        ({"view": "grid", "preset": "ordered"}, "view is 'grid' and encoding is 'ordered': a list of cubes has no"),
        ({"slack": 0.9}, "slack is 0.9; it must lie in 1..inf"),
        ({"movers": "two"}, "movers is 'two'; choose one of one, many"),
        ({"reveal": "never"}, "choose one of events, always"),
        ({"preset": "jumps", "horizon": 7}, "horizon is 7 and the shortest ways can take 8 steps"),
    ],
)
def test_contradictions_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^color-cubes: .*{message}"):
        make_config("color-cubes", **options)


def test_the_picture_shows_what_is_seen_and_what_must_be_remembered() -> None:
    config = ColorCubesConfig(teleport=0.0, size=3)
    env = config.build(1, 0)
    state, _ = env.reset()
    target = ["red", "green", "blue"][int(state.task.target[0])]
    text = to_text(env.draw(state, 0))
    assert (text.count("■"), text.count("□"), text.count("@")) == (3, 0, 1)
    assert text.endswith(f"phase 1 of 3, target {target}")
    wall = 0 if int(state.task.own[0]) < 3 else 1 if int(state.task.own[0]) > 5 else 2
    for action in (wall, 3, 3):
        before = int(state.task.phase[0])
        state, _ = env.step(state, torch.tensor([action]))
        text = to_text(env.draw(state, 0))
        hollow = 0 if int(state.task.phase[0]) > before else 3 - int((state.task.cell == state.task.own[:, None]).sum())
        assert text.count("□") == hollow
