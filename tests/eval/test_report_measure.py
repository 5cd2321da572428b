"""Groups and figures of a report, on runs made by hand, with numbers worked out by hand."""

import math
from pathlib import Path

import numpy as np
import pytest

from mnemic.envs import config_to_dict, make_config
from mnemic.eval.report import rows, tables
from mnemic.eval.report.group import group, told_apart, words
from mnemic.eval.report.measure import (
    POINTS,
    by_episode,
    curve,
    elsewhere,
    over_seeds,
    own_evaluation,
    reached,
    scores,
    tag_of,
)
from mnemic.eval.report.runs import Evaluation, Run, newest_of_each_seed
from mnemic.eval.statistics import Interval

TMAZE = {"name": "tmaze", "length": 20}


OBJECT_NAV = config_to_dict(make_config("object-nav", houses=200, wrong_stop="stays"))


def config(memory="lstm", seed=0, env=TMAZE, **more):
    return {"env": env, "memory": {"name": memory, "width": 8}, "ppo": {"window": 16}, "seed": seed, "steps": 50} | more


def run(
    values=(), *, tag="eval/success", path="", about=None, evaluations=(), streams=(), solved=False, apart=10, **options
):
    """A run with a figure every ten steps, each of which took 0.25 s of acting and 0.75 s of learning."""
    time = {"time/acting_seconds": 0.25, "time/learning_seconds": 0.75, "charts/sps": 10.0}
    lines = [{"steps": apart * (i + 1), tag: value} | time for i, value in enumerate(values)]
    if solved:
        lines[-1]["eval/solved"] = 1.0
    path = path or f"{options.get('memory', 'lstm')}-{options.get('seed', 0)}"
    return Run(
        path=Path(path),
        config=config(**options),
        about=about or {},
        lines=lines,
        evaluations=list(evaluations),
        streams=list(streams),
        diagnoses=[],
    )


def evaluation(success, *, checkpoint=50, env=TMAZE, episodes=100, by_episode=(), **options):
    figures = {"success": Interval(success, success - 0.1, success + 0.1)}
    return Evaluation(
        checkpoint=checkpoint, env=env, options=options, episodes=episodes, figures=figures, by_episode=list(by_episode)
    )


def only_task(*runs):
    (task,), _ = group(runs)
    return task


def view(*runs, figure="", threshold=None, published=(), references=()):
    task = only_task(*runs)
    return tables.View(task, scores(task, figure), threshold, dict(published), dict(references))


def test_runs_that_differ_in_seed_and_place_are_one_entry() -> None:
    task = only_task(run(seed=2, device="cuda", threads=3), run(seed=0, device="cpu"), run(seed=1, threads=1))
    (entry,) = task.entries
    assert (task.title, entry.name) == ("tmaze", "lstm")
    assert [each.seed for each in entry.runs] == [0, 1, 2]


def test_entries_are_called_by_what_tells_them_apart() -> None:
    lstm, gru = (run(memory=memory) for memory in ("lstm", "gru"))
    assert [entry.name for entry in only_task(lstm, gru).entries] == ["lstm", "gru"]
    long, fast = run(ppo={"window": 64}), run(ppo={"window": 16, "rate": 0.1})
    # The window alone has two values among the three; the rate tells the two with 16 apart.
    assert [entry.name for entry in only_task(lstm, long, fast, gru).entries] == [
        "lstm, window 16, rate not set",
        "lstm, window 64",
        "lstm, window 16, rate 0.1",
        "gru",
    ]


def test_options_are_said_as_one_says_them() -> None:
    options = {"ppo.cut_returns": False, "kernels": ["rnn=loop", "gae=triton"], "memory.heads": 4}
    assert words("ppo.cut_returns", options) == "no cut returns"
    assert words("ppo.cut_returns", {"ppo.cut_returns": True}) == "cut returns"
    assert words("kernels", options) == "kernels rnn=loop gae=triton"
    assert words("memory.heads", options) == "heads 4"
    assert told_apart(["a", "b", "a"], [{"x": 1}, {}, {"x": 2}]) == ["a, x 1", "b", "a, x 2"]


def test_tasks_are_apart_and_called_by_what_is_other() -> None:
    tasks, notes = group([run(), run(env=TMAZE | {"length": 30}), run(env={"name": "of another version"})])
    assert [task.title for task in tasks] == ["tmaze, length 20", "tmaze, length 30", "of another version"]
    assert notes == []


def test_a_seed_counts_once() -> None:
    short, longer, twin = run([0.5], path="a"), run([0.5, 1], path="b"), run([1, 1], path="c")
    assert newest_of_each_seed([short, longer]) == ([longer], [short])
    assert newest_of_each_seed([longer, short]) == ([longer], [short])
    assert newest_of_each_seed([longer, twin]) == ([twin], [longer])
    _, notes = group([short, longer])
    assert notes == ["a is left out: another run has its configuration and its seed"]


def test_seconds_add_up_and_what_is_no_number_is_left_out() -> None:
    found = run([0.1, math.nan, 0.3]).series("eval/success")
    assert found.steps.tolist() == [10, 30]
    assert found.seconds.tolist() == [1, 3]
    assert found.values.tolist() == [0.1, 0.3]


def test_final_figures_are_of_evaluations_where_all_runs_have_one() -> None:
    runs = [run([0.2, seed], seed=seed, evaluations=[evaluation(0.5 + seed / 10)]) for seed in (0, 1)]
    found = scores(only_task(*runs))
    assert found.by_entry == {"lstm": {"success": [0.5, 0.6]}}
    assert "100 fresh episodes" in found.source
    runs.append(run([0.2, 0.75], seed=2))
    found = scores(only_task(*runs))
    assert found.by_entry == {"lstm": {"success": [0.0, 1.0, 0.75]}}
    assert "while it trained" in found.source


def test_the_figure_of_a_task_is_that_of_its_trials_or_success_or_return() -> None:
    runs = [run([1.0], tag=f"eval/{name}", seed=seed) for seed, name in enumerate(("return", "success", "length"))]
    assert scores(only_task(*runs)).figures == ["success", "return", "length"]
    assert scores(only_task(*runs, run([9.0], tag="eval/trial_return", seed=5))).figure == "trial_return"
    assert scores(only_task(*runs), "length").figures == ["length", "return", "success"]
    with pytest.raises(ValueError, match="no run on tmaze has the figure 'sucess'; choose one of return, success"):
        scores(only_task(*runs), "sucess")
    with pytest.raises(ValueError, match="has been evaluated: `mnemic eval lstm-0`"):
        scores(only_task(run([1.0], tag="charts/success")))


def test_the_newest_and_largest_evaluation_on_the_runs_own_task_speaks_for_it() -> None:
    old, small, best = evaluation(0.1, checkpoint=40, episodes=900), evaluation(0.2), evaluation(0.3, episodes=200)
    other = evaluation(0.4, env=TMAZE | {"length": 30}, episodes=999)
    drawn, cut = evaluation(0.5, sample=True, episodes=999), evaluation(0.6, steps=1000, episodes=999)
    made = run(evaluations=[old, best, small, other, drawn, cut])
    assert own_evaluation(made) == best
    assert elsewhere(made) == {"length 30": other, "sampled actions": drawn, "at most 1,000 steps": cut}
    assert own_evaluation(run(evaluations=[other])) is None


def test_where_a_task_names_another_to_be_judged_by_that_one_speaks() -> None:
    judged = OBJECT_NAV | {"split": "validation", "houses": 128, "wrong_stop": "ends"}
    trained, seen = evaluation(0.9, env=OBJECT_NAV), evaluation(0.4, env=judged)
    made = run(env=OBJECT_NAV, evaluations=[trained, seen])
    assert own_evaluation(made) == seen
    assert elsewhere(made) == {"houses 200, split train, wrong stop stays": trained}


def test_statistics_over_five_seeds_by_hand() -> None:
    # Of 0, 0, 1, 1, 9 one goes at either end: (0 + 1 + 1) / 3.
    runs = [run([1.0], seed=seed, evaluations=[evaluation(v)]) for seed, v in enumerate((0, 0, 1, 1, 9))]
    line = tables.results(view(*runs)).lines[0]
    assert line[:2] == ["lstm", "5"]
    assert line[2].startswith("0.667 (")
    assert line[3] == "2.200"  # the mean
    assert tables.results(view(*runs[:4])).lines[0][1] == "4 (fewer than 5)"
    assert tables.results(view(runs[2])).lines[0][2] == "1.000"  # one seed: no interval


def test_a_threshold_is_reached_where_it_is_held() -> None:
    assert reached(run([0.9, 0.5, 0.9, 0.9, 0.9]), "success", 0.9) == (30, 3)
    assert reached(run([0.9, 0.9, 0.5, 0.9, 0.9]), "success", 0.9) is None
    assert reached(run([0.9, 0.9, 0.9]), "success", 0.91) is None
    # The second evaluation that ended the run is what the others would have been for.
    assert reached(run([0.1, 0.95], solved=True), "success", 0.9) == (20, 2)
    assert reached(run([0.95, 0.95], solved=True), "success", 0.9) == (10, 1)
    assert reached(run([0.95, 0.95], solved=True), "return", 0.9) is None


def test_cost_says_when_a_threshold_was_held() -> None:
    fast, slow, never = (run(v, seed=s) for s, v in enumerate(([1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 0, 0])))
    found = tables.cost(view(fast, slow, never, threshold=0.5))
    line = dict(zip(found.header, found.lines[0], strict=True))
    assert line["held success ≥ 0.5"] == "2 of 3"
    assert line["steps until then"] == "15.0 (10.0 to 20.0)"
    assert line["seconds until then"] == "1.5 (1.0 to 2.0)"
    assert line["steps"] == "40.0 (30.0 to 50.0)"
    assert line["steps/s"] == "10.000"


def test_a_curve_ends_where_a_run_ends_that_was_not_solved() -> None:
    long, short = run([0.0, 0.2, 0.4, 0.6], seed=0), run([1.0, 1.0], seed=1)
    (entry,) = only_task(long, short).entries
    found = curve(entry, "eval/success")
    assert found.x.tolist() == [10, 20]
    assert [y.value for y in found.y] == [0.5, 0.6]
    (entry,) = only_task(long, run([1.0, 1.0], seed=1, solved=True)).entries
    found = curve(entry, "eval/success", "seconds")
    assert found.x.tolist() == [1, 2, 3, 4]
    assert [y.value for y in found.y] == pytest.approx([0.5, 0.6, 0.7, 0.8])
    assert curve(entry, "eval/return") is None


def test_a_run_counts_with_what_it_showed_last() -> None:
    (entry,) = only_task(run([0.0, 1.0, 0.0], seed=0), run([0.5, 0.5], seed=1, apart=15)).entries
    found = curve(entry, "eval/success")
    assert found.x.tolist() == [15, 20, 30]  # 10 is before the second run has shown anything
    assert [y.value for y in found.y] == [0.25, 0.75, 0.25]


def test_a_curve_is_thinned_but_keeps_its_ends() -> None:
    (entry,) = only_task(run(np.arange(1000.0).tolist())).entries
    found = curve(entry, "eval/success")
    assert len(found.x) == POINTS
    assert (found.x[0], found.x[-1]) == (10, 10_000)
    assert [y.value for y in found.y] == (found.x / 10 - 1).tolist()


def test_curves_of_runs_without_evaluations_show_training() -> None:
    assert tag_of(only_task(run([1.0], tag="charts/success")), "success") == "charts/success"
    assert tag_of(only_task(run([1.0], tag="charts/success"), run([1.0], seed=1)), "success") == "eval/success"


def test_episodes_of_a_trial_are_apart() -> None:
    places = [[{"return": Interval(v, v, v)} for v in values] for values in ((0.0, 2.0, 7.0), (1.0, 4.0))]
    runs = [run(seed=s, evaluations=[evaluation(1.0, by_episode=each)]) for s, each in enumerate(places)]
    (entry,) = only_task(*runs).entries
    assert [y.value for y in by_episode(entry, "return")] == [0.5, 3.0]  # the third place is known of one run only
    (columns,) = tables.trials(view(*runs)).values()
    found = tables.trial("return", columns)
    assert found.lines == [["1", "0.500 (0.000 to 1.000)"], ["2", "3.000 (2.000 to 4.000)"]]


def test_players_that_do_not_learn_stand_beside() -> None:
    oracle = evaluation(0.9, by_episode=[{"return": Interval(v, v - 1, v + 1)} for v in (5, 6)])
    seen = view(run(evaluations=[evaluation(0.5)]), references={"oracle": oracle})
    assert tables.results(seen).lines[-1] == ["oracle", "", "0.900 (0.800 to 1.000)", "0.900"]
    assert list(tables.trials(seen)["return"]) == ["oracle"]
    assert [line[0] for line in rows.rows(seen).lines] == ["lstm", "oracle"]


def test_long_tables_are_thinned_and_keep_their_ends() -> None:
    assert tables.thinned(3, 10) == [0, 1, 2]
    assert tables.thinned(100, 4) == [0, 33, 66, 99]
    assert tables.thinned(1, 4) == [0]
    assert tables.thinned(0, 4) == []


def test_places_in_a_trial_are_closer_where_an_agent_still_learns() -> None:
    assert tables.early(3, 16) == [0, 1, 2]
    assert tables.early(1, 16) == [0]
    assert tables.early(0, 16) == []
    shown = tables.early(200, 16)
    assert shown[:4] == [0, 1, 2, 3]
    assert shown[-1] == 199
    assert len(shown) <= 16


def test_entries_are_compared_the_better_one_first() -> None:
    worse = [run([v], seed=s, memory="none") for s, v in enumerate((0.0, 0.1))]
    better = [run([v], seed=s) for s, v in enumerate((0.5, 0.7))]
    found = tables.pairs(view(*worse, *better))
    assert found.lines == [["lstm", "none", "1.000 (1.000 to 1.000)", "0.550 (0.400 to 0.700)"]]
    assert tables.pairs(view(*better)) is None


def test_success_is_put_together_over_tasks() -> None:
    longer = TMAZE | {"length": 30}
    lstm = [run([v], seed=s, env=env) for env, vs in ((TMAZE, (1, 1)), (longer, (0.5, 0.5))) for s, v in enumerate(vs)]
    (one, other), _ = group([*lstm, run([0.1], memory="gru")])
    views = [tables.View(task, scores(task), None, {}, {}) for task in (one, other)]
    # Of 1, 1, 0.5, 0.5 one goes at either end; within a task no draw differs. `gru` is not in every task.
    assert tables.across(views).lines == [["lstm", "2", "4", "0.750 (0.750 to 0.750)", "0.750"]]
    assert tables.across(views[:1]) is None


def test_runs_that_begin_with_other_runs_are_one_entry() -> None:
    began = [run(seed=seed, init=f"runs/{seed}") for seed in (0, 1)]
    assert [entry.name for entry in only_task(*began, run(seed=2, init="")).entries] == ["lstm, init", "lstm, no init"]
    assert len(only_task(run(seed=0, init=""), run(seed=1)).entries) == 1  # before there was such an option


def test_what_was_evaluated_elsewhere_has_its_own_table() -> None:
    longer = TMAZE | {"length": 30}
    runs = [run([1.0], seed=s, evaluations=[evaluation(v, env=longer)]) for s, v in enumerate((0.2, 0.4))]
    found = tables.other_tasks(view(*runs))
    assert found.lines == [["length 30", "lstm", "2 (fewer than 5)", "0.300 (0.200 to 0.400)"]]


def test_commands_are_joined_over_seeds() -> None:
    def about(seed):
        return {"command": f"mnemic train --env tmaze --run 'runs/a b{seed}' --seed={seed} --ppo.rows 8"}

    (entry,) = only_task(*(run(seed=seed, about=about(seed)) for seed in (0, 1))).entries
    assert tables.commands(entry) == ["mnemic train --env tmaze --ppo.rows 8 --seed S        # S = 0, 1"]
    (entry,) = only_task(run()).entries
    assert tables.commands(entry) == []


def test_a_run_that_stopped_early_is_told() -> None:
    assert tables.unfinished(run([0.0] * 4)) == "lstm-0 has 40 of its 50 steps"
    assert tables.unfinished(run([0.0] * 5)) == ""
    assert tables.unfinished(run([1.0], solved=True)) == ""


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.12345, "0.123"), (99.5, "99.500"), (123.456, "123.5"), (12345.6, "12,346"), (-0.5, "-0.500"), (math.nan, "")],
)
def test_numbers_have_the_digits_they_deserve(value: float, said: str) -> None:
    assert tables.number(value) == said


def test_no_seeds_have_no_figure() -> None:
    assert tables.interval(over_seeds([])) == ""
    assert [tables.size(n) for n in (0, 512, 1536, 3 * 2**20, 5 * 2**30)] == [
        "0 B", "512 B", "1.5 KiB", "3.0 MiB", "5.00 GiB",
    ]  # fmt: skip
