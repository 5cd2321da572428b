"""Many processes do what one does: the same rows, the same curve, one log, one checkpoint, one voice."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch.distributed import HashStore

from mnemic.agents.checkpoint import read
from mnemic.agents.heads import build_head
from mnemic.agents.noise import PartGenerator, draw, plain
from mnemic.cli.main import main
from mnemic.envs import make_config as make_env
from mnemic.train.config import PPOConfig, TrainConfig
from mnemic.train.episodes import EpisodeMeter, means
from mnemic.train.ppo import minibatches
from mnemic.train.ranks import Cutoff, Launch, Ranks, RanksError
from mnemic.train.rollout import Window

STEPS = 16 * 16
TINY = [
    *("--threads", "1", "--ppo.rows", "16", "--ppo.window", "16", "--ppo.minibatches", "2", "--ppo.epochs", "2"),
    *("--memory.width", "16", "--evaluation.every", "2", "--evaluation.episodes", "4", "--evaluation.stop-at", "0"),
    *("--evaluation.confirm-episodes", "4", "--checkpoint-seconds", "0", "--keep-checkpoints", "99"),
]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}


@contextmanager
def torchrun(ranks, *argv, **more):
    """`mnemic` in some processes at once; nothing of it is left behind."""
    command = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m")
    process = subprocess.Popen(
        [*command, "--", "mnemic", *map(str, argv)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT | more,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def said_by(process):
    """What mnemic has said, on stdout and on stderr, without torchrun's own words; and the exit code."""
    out, err = process.communicate(timeout=120)
    print(err)  # shown where a test fails
    return out, [line for line in err.splitlines() if line.startswith("mnemic: ")], process.returncode


def run(ranks, *argv, **more):
    with torchrun(ranks, *argv, **more) as process:
        return said_by(process)


def state_of(checkpoint):
    _, weights = read(checkpoint / "policy", "policy")
    data, state = read(checkpoint / "training_state", "training state")
    if (checkpoint / "recall").exists():
        state |= {f"recall.{name}": part for name, part in read(checkpoint / "recall", "recall")[1].items()}
    return data, weights, state


def same_but_for_rounding(close, one, other):
    """Two checkpoints: weights and memories by the table of tolerances, environments and random numbers bit for bit."""
    (data, weights, state), (other_data, other_weights, other_state) = state_of(one), state_of(other)
    assert data["updates"] == other_data["updates"]
    assert state.keys() == other_state.keys()
    for name, part in (weights | state).items():
        found = (other_weights | other_state)[name]
        if part.is_floating_point():
            close(name, found, part)
        else:
            assert torch.equal(found, part), name


def cut_back(run, steps):
    """Leave a run as if it had been killed after so many steps."""
    for path in run.glob("checkpoints/[0-9]*"):
        if int(path.name) > steps:
            shutil.rmtree(path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same run in one process and in two."""
    folder = tmp_path_factory.mktemp("runs")
    assert main(["train", "--run", str(folder / "one"), "--steps", str(6 * STEPS), *TINY]) == 0
    out, complaints, code = run(2, "train", "--run", folder / "two", "--steps", 6 * STEPS, *TINY)
    assert (complaints, code) == ([], 0)
    (folder / "said").write_text(out)
    return folder


def test_two_ranks_end_with_the_weights_and_rows_of_one(runs, close):
    for update in range(7):
        checkpoint = f"checkpoints/{update * STEPS}"
        same_but_for_rounding(close, runs / "one" / checkpoint, runs / "two" / checkpoint)


def test_two_ranks_go_through_the_trial_again_as_one_does(tmp_path, close):
    """Episodes of 4 steps in trials of 40: each rank keeps and shuffles the history of its own rows."""
    task = ("--env", "dark-key-to-door", "--env.size", "3", "--env.episode-steps", "4", "--env.trial-steps", "40")
    again = ("--ppo.recompute", "40", "--ppo.shuffle", "--ppo.no-cut-returns", "--memory", "lstm")
    argv = (*task, *again, "--steps", str(4 * STEPS), *TINY)
    assert main(["train", "--run", str(tmp_path / "one"), *argv]) == 0
    _, complaints, code = run(2, "train", "--run", tmp_path / "two", *argv)
    assert (complaints, code) == ([], 0)
    kept = set()
    for update in range(1, 5):
        one, two = (tmp_path / name / f"checkpoints/{update * STEPS}" for name in ("one", "two"))
        same_but_for_rounding(close, one, two)
        history = state_of(two)[2]["history.value"]
        assert len(history) == 16
        kept.add(history.shape[1])
    assert kept == {16, 32, 8, 24}


def test_two_ranks_ask_what_the_task_hides_as_one_does(tmp_path, close, toys):
    """Keys are found late and seldom, so one rank has more to ask than the other."""
    task = ("--env", "dark-key-to-door", "--env.size", "3", "--env.episode-steps", "12", "--env.trial-steps", "24")
    argv = (*task, "--ppo.recall-weight", "2", "--memory", "gru", "--steps", str(3 * STEPS), *TINY)
    assert main(["train", "--run", str(tmp_path / "one"), *argv]) == 0
    _, complaints, code = run(2, "train", "--run", tmp_path / "two", *argv)
    assert (complaints, code) == ([], 0)
    for update in range(1, 4):
        one, two = (tmp_path / name / f"checkpoints/{update * STEPS}" for name in ("one", "two"))
        same_but_for_rounding(close, one, two)
    assert state_of(two)[2]["recall.out.weight"].any()
    curves = (toys.metrics(tmp_path / name) for name in ("one", "two"))
    for alone, together in zip(*curves, strict=True):
        for tag in ("losses/recall", "losses/recall_accuracy"):
            assert together[tag] == pytest.approx(alone[tag], rel=1e-4)


def test_two_ranks_have_the_learning_curve_of_one(runs, toys):
    own = (
        "memory/",
        "losses/explained_variance",
        "eval/",
    )  # of the first rank's rows, a mean of shares, other episodes
    one, two = (
        [{tag: value for tag, value in line.items() if not tag.startswith(own)} for line in toys.metrics(runs / name)]
        for name in ("one", "two")
    )
    assert len(one) == 6
    assert [pytest.approx(line, rel=1e-4, abs=1e-5) for line in one] == two
    assert any("charts/success" in line for line in two)


def test_two_ranks_speak_with_one_voice(runs):
    said = (runs / "said").read_text()
    for words in ("1 thread each of 2 ranks", "all steps done", "4 fresh episodes", f"mnemic eval {runs / 'two'}"):
        assert said.count(words) == 1
    assert len(list((runs / "two").glob("events.*"))) == 1
    assert len((runs / "two" / "metrics.jsonl").read_text().splitlines()) == 6
    assert json.loads((runs / "two" / "config.json").read_text())["device"] == "cpu"


@pytest.mark.parametrize("ranks", [1, 4])
def test_another_number_of_ranks_goes_on(runs, tmp_path, close, ranks):
    shutil.copytree(runs / "two", tmp_path / "run", symlinks=True)
    cut_back(tmp_path / "run", 3 * STEPS)
    if ranks == 1:
        assert main(["resume", str(tmp_path / "run")]) == 0
    else:
        out, complaints, code = run(ranks, "resume", tmp_path / "run")
        assert (complaints, code) == ([], 0)
        assert out.count(f"from step {3 * STEPS}") == 1
    for update in (4, 6):
        checkpoint = f"checkpoints/{update * STEPS}"
        same_but_for_rounding(close, runs / "one" / checkpoint, tmp_path / "run" / checkpoint)
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 6


def test_a_batch_that_does_not_divide_is_refused_in_one_line_by_all(tmp_path):
    with torchrun(2, "train", "--run", tmp_path / "run", *TINY, "--ppo.rows", "18") as process:
        _, noise = process.communicate(timeout=120)
    words = "ppo: 18 rows do not divide over 2 ranks with 2 minibatches each; make rows a multiple of 4"
    assert [line for line in noise.splitlines() if line.startswith("mnemic: ")] == [f"mnemic: {words}"]
    assert noise.count("exitcode  : 2 ") == 2
    assert process.returncode != 0
    assert not (tmp_path / "run").exists()


def workers_of(process):
    """The process of every rank, by rank."""
    found = {}
    for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
        found |= {int(word.removeprefix("RANK=")): int(pid) for word in variables if word.startswith("RANK=")}
    return found


def until(look, process):
    deadline = time.monotonic() + 60
    while not look():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def lines(run):
    path = run / "metrics.jsonl"
    return path.read_text().count("\n") if path.is_file() else 0


def test_a_signal_to_one_rank_stops_all_of_them_with_a_checkpoint(tmp_path):
    path = tmp_path / "run"
    with torchrun(2, "train", "--run", path, "--steps", 10**7, *TINY, "--checkpoint-seconds", "1000") as process:
        until(lambda: lines(path) > 2, process)
        for _ in range(2):  # as from a terminal and from torchrun
            os.kill(workers_of(process)[1], signal.SIGTERM)
        out, complaints, code = said_by(process)
    assert (complaints, code) == ([], 1)  # torchrun's; the ranks end with 130
    steps = lines(path) * STEPS
    assert out.count(f"stopped after {steps:,} steps") == 1
    assert sorted(entry.name for entry in (path / "checkpoints").iterdir()) == ["0", str(steps), "last"]
    assert state_of(path / "checkpoints" / "last")[0]["updates"] == lines(path)


SLOW = """
import os, time
import gymnasium
import numpy as np
from gymnasium import spaces


class Slow(gymnasium.Env):
    observation_space, action_space = spaces.Box(0, 1, (1,), np.float32), spaces.Discrete(2)
    steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        if os.environ["RANK"] == "1":
            time.sleep(0.1)
            if self.steps == int(os.environ["FAILS_AT"]):
                raise OSError("the simulator is gone")
        return np.zeros(1, np.float32), float(action), self.steps % 5 == 0, False, {}


gymnasium.register("Slow-v0", entry_point=Slow)
"""


def test_slow_ranks_are_cut_off_and_a_rank_that_fails_takes_all_down_with_one_line(tmp_path):
    """The slow rank plays a quarter of its window, and little more; its environment breaks at its 14th step."""
    (tmp_path / "slow_toy.py").write_text(SLOW)
    path, python_path = tmp_path / "run", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    options = ("--env", "gym:slow_toy:Slow-v0", "--env.workers", "1", "--ppo.rows", "4", "--ppo.wait-for", "0.5")
    began = time.monotonic()
    with torchrun(
        2, "train", "--run", path, *TINY, *options, "--evaluation.every", "0", PYTHONPATH=python_path, FAILS_AT="14"
    ) as process:
        until(lambda: lines(path), process)
        out, complaints, code = said_by(process)
    assert complaints == [
        "mnemic: gym:slow_toy:Slow-v0: row 0: the environment raised OSError: the simulator is gone "
        f"({tmp_path / 'slow_toy.py'}, line 21)"
    ]
    assert code != 0
    assert "run folder" in out
    assert time.monotonic() - began < 100  # nobody waits for the rank that is gone
    seen = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    played = [round(32 * line["time/window_played"]) - 16 for line in seen]  # by the slow rank
    assert min(played) == 4
    assert max(played) < 16
    assert 4 * len(played) <= sum(played) < 14
    assert state_of(path / "checkpoints" / "last")[0]["updates"] == len(played)


@pytest.mark.parametrize("ranks", [1, 2])
def test_gpus_learn_together(tmp_path, close, ranks):
    if torch.cuda.device_count() < ranks:
        pytest.skip(f"needs {ranks} GPUs")
    given = ["--steps", 6 * STEPS, "--device", "cuda", "--precision", "float32", *TINY]
    assert main(["train", "--run", str(tmp_path / "alone"), *map(str, given)]) == 0
    assert run(ranks, "train", "--run", tmp_path / "ranks", *given)[1:] == ([], 0)
    weights, found = (state_of(tmp_path / name / "checkpoints" / str(STEPS))[1] for name in ("alone", "ranks"))
    for name, part in weights.items():
        close(name, found[name], part)
    assert main(["resume", str(tmp_path / "ranks")]) == 0


def test_noise_of_parts_is_that_of_the_whole():
    for function in (torch.rand, torch.randn):
        whole = draw(function, (24, 3), torch.Generator().manual_seed(5))
        parts = [draw(function, (6, 3), PartGenerator("cpu", part, 4).manual_seed(5)) for part in range(4)]
        assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("space", ["discrete", "box"])
def test_actions_of_parts_are_those_of_the_whole(space):
    from gymnasium import spaces

    head = build_head(spaces.Discrete(3) if space == "discrete" else spaces.Box(-1, 1, (3,)))
    given = torch.randn(8, 3)
    whole = head.sample(given, torch.Generator().manual_seed(1))
    halves = [head.sample(given[4 * i : 4 * i + 4], PartGenerator("cpu", i, 2).manual_seed(1)) for i in range(2)]
    assert torch.equal(torch.cat(halves), whole)


def test_minibatches_of_parts_are_those_of_the_whole():
    whole = minibatches(24, 3, torch.Generator().manual_seed(2))
    assert sorted(whole.flatten().tolist()) == list(range(24))
    parts = [minibatches(6, 3, PartGenerator("cpu", part, 4).manual_seed(2)) + 6 * part for part in range(4)]
    assert torch.equal(torch.cat(parts, 1), whole)
    other = minibatches(24, 3, torch.Generator().manual_seed(3))
    assert not torch.equal(other, whole)


def test_figures_of_parts_are_those_of_the_whole():
    """Also where only one part has seen a trial of many episodes, or any end at all."""
    generator = torch.Generator().manual_seed(0)
    done, over = (torch.rand(12, 6, generator=generator) < chance for chance in (0.4, 0.3))
    over[:, :2], done[:, 4:] = True, False
    found = {
        "reward_next": torch.rand(12, 6, generator=generator),
        "terminated_next": done,
        "truncated_next": torch.zeros_like(done),
        "trial_over_next": done & over,
    }
    success = torch.rand(12, 6, generator=generator) < 0.5
    blank = dict.fromkeys(("inputs", "memory", "action", "log_prob", "value", "value_next"))

    def totals(begin, end):
        cut = {name: part[:, begin:end] for name, part in found.items()}
        window = Window(**blank, **cut, info_next={"success": success[:, begin:end]})
        return EpisodeMeter(end - begin).update(window).totals()

    assert "trial/return" in means([totals(0, 6)])
    assert "trial/return" not in means([totals(0, 2)])
    assert means([totals(0, 2), totals(2, 4), totals(4, 6)]) == pytest.approx(means([totals(0, 6)]))


def config(**ppo):
    return TrainConfig(ppo=PPOConfig(**{"rows": 24, "minibatches": 2} | ppo))


def test_a_process_that_nobody_launched_is_alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert Launch.here() == Launch(0, 1, 0, 1, many=False)
    ranks = Ranks()
    assert (ranks.first, ranks.rows(24), ranks.any(True, False)) == (True, range(24), (True, False))
    assert (ranks.collect("a"), ranks.share("b")) == (["a"], "b")
    assert type(ranks.generator("cpu")) is torch.Generator
    part = torch.ones(3)
    ranks.average([part])
    assert ranks.whole(part) is part


def test_the_launch_is_read_from_the_environment(monkeypatch):
    found = {"RANK": 5, "WORLD_SIZE": 8, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 4}
    for name, value in found.items():
        monkeypatch.setenv(name, str(value))
    assert Launch.here() == Launch(5, 8, 1, 4, many=True)
    assert Ranks(Launch.here()).rows(24) == range(15, 18)


@pytest.mark.parametrize(("world", "fits"), [(1, True), (2, True), (3, True), (4, True), (5, False), (8, False)])
def test_rows_divide_over_ranks_and_minibatches(world, fits):
    launch = Launch(0, world, 0, world, many=True)
    if fits:
        launch.check(config())
        return
    with pytest.raises(ValueError, match=f"24 rows do not divide over {world} ranks with 2 .* multiple of {2 * world}"):
        launch.check(config())


def test_each_rank_takes_the_gpu_of_its_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert Launch(3, 4, 1, 2, many=True).device("cuda") == torch.device("cuda:1")
    assert Launch(3, 4, 1, 2, many=True).device("cpu") == torch.device("cpu")
    assert Launch().device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ValueError, match="4 ranks on this machine need as many GPUs, and it has 2; start 2"):
        Launch(0, 4, 0, 4, many=True).device("cuda")
    with pytest.raises(ValueError, match="each takes the GPU of its own number; 'cuda:1' came"):
        Launch(0, 2, 0, 2, many=True).device("cuda:1")


@pytest.mark.parametrize(("enough", "needed"), [(0.6, 3), (0.2, 1), (0.61, 4)])
def test_a_window_is_cut_once_enough_ranks_have_finished_theirs(enough, needed):
    store = HashStore()
    cutoffs = [Cutoff(Ranks(Launch(rank, 5, rank, 5, many=True), store), 16, enough) for rank in range(5)]
    for _ in range(3):  # windows
        for finished, cutoff in enumerate(cutoffs):
            assert not cutoffs[-1](3)  # less than a quarter
            assert cutoffs[-1](4) == (finished >= needed)
            cutoff.finish()


def test_weights_that_drift_apart_are_noticed(monkeypatch):
    ranks = Ranks(Launch(0, 2, 0, 2, many=True), HashStore())
    weights = [torch.randn(3, 4), torch.randn(5)]
    monkeypatch.setattr(ranks, "collect", lambda value: [value, value])
    ranks.check_equal(weights)
    seen = []
    monkeypatch.setattr(ranks, "collect", lambda value: seen.append(value) or seen)
    ranks.check_equal(weights)
    weights[0][1, 2], weights[0][2, 1] = weights[0][2, 1].item(), weights[0][1, 2].item()
    with pytest.raises(RanksError, match="have drifted apart"):
        ranks.check_equal(weights)


def test_rows_of_a_part_are_those_of_the_whole():
    env = make_env("endless-tmaze", sampling="uniform")
    whole = env.build(12, 3).reset()[1].obs
    assert torch.equal(env.build_part(range(8, 12), 3).reset()[1].obs, whole[8:])


def test_a_rank_that_is_killed_leaves_good_checkpoints_and_one_line(tmp_path):
    path = tmp_path / "run"
    with torchrun(2, "train", "--run", path, "--steps", 10**7, *TINY, "--checkpoint-seconds", "1000") as process:
        until(lambda: lines(path) > 1, process)
        os.kill(workers_of(process)[1], signal.SIGKILL)
        _, complaints, code = said_by(process)
    assert code != 0
    assert len(complaints) == 1
    for words in ("a rank could not ", "another has ended", "the last good checkpoint is ", "checkpoints/0"):
        assert words in complaints[0]


def test_the_state_of_a_part_is_that_of_the_whole():
    whole, part = torch.Generator().manual_seed(3), PartGenerator("cpu", 1, 2).manual_seed(3)
    draw(torch.rand, (4, 2), whole), draw(torch.rand, (2, 2), part)
    assert torch.equal(part.get_state(), whole.get_state())
    other = PartGenerator("cpu", 0, 2).set_state(whole.get_state())
    rows = [draw(torch.rand, (2,), generator) for generator in (other, part)]
    assert torch.equal(torch.cat(rows), draw(torch.rand, (4,), whole))
    assert type(plain(part)) is torch.Generator  # CUDA graphs take no subclass
    assert plain(whole) is whole
