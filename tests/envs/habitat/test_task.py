"""Object navigation in Habitat's processes, with a stand-in for habitat-sim: trained, played and killed."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mnemic.cli.main import main
from mnemic.envs.habitat import Habitat
from mnemic.envs.houses import HouseConfig, generate
from mnemic.envs.laws import check_env
from mnemic.envs.object_nav import ObjectNavConfig, world
from mnemic.envs.object_nav.env import HabitatObjectNav
from mnemic.eval.protocol import play_rule

STOP, FORWARD, LEFT = 0, 1, 2
EASY = {"houses": 3, "max_rooms": 3, "size": 8, "episode_steps": 20, "trial_steps": 50}


@pytest.fixture(autouse=True, scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory):
    """A folder for exported houses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("caches")))
        yield


@pytest.fixture
def config(python: str, orders: Path) -> ObjectNavConfig:
    return ObjectNavConfig(simulator="habitat", habitat_python=python, **EASY)


@pytest.fixture
def env(config: ObjectNavConfig) -> HabitatObjectNav:
    env = config.build(4, 0)
    assert isinstance(env, HabitatObjectNav)
    yield env
    env.close()


def act(env: HabitatObjectNav, state: object, action: int):
    return env.step(state, torch.full((env.batch,), action))


def test_the_laws_hold(config: ObjectNavConfig) -> None:
    check_env(config, steps=60)


def test_an_episode_whose_worker_is_killed_is_truncated_and_its_trial_goes_on(
    env: HabitatObjectNav, caplog: pytest.LogCaptureFixture
) -> None:
    state, step = env.reset()
    for _ in range(3):
        state, step = act(env, state, FORWARD)
        assert not step.truncated.any()
        assert not step.info["lost"].any()
    begun_B, house_B = state.task.start_B3, state.task.agents.house_B
    lost_B = torch.from_numpy(env.simulator._share(house_B.numpy()) == 0)
    assert lost_B.any()
    assert not lost_B.all()
    os.kill(env.simulator.processes[0], signal.SIGKILL)
    state, step = act(env, state, FORWARD)
    assert torch.equal(step.truncated, lost_B)
    assert torch.equal(step.info["lost"], lost_B)
    assert torch.equal(step.episode_start, lost_B)
    assert not step.trial_start.any()
    assert not step.terminated.any()
    assert not step.info["success"].any()
    assert torch.equal(state.episode_step, torch.where(lost_B, 0, 4))
    assert state.trial_step.tolist() == [4] * 4
    assert torch.equal(state.task.agents.house_B, house_B)
    assert torch.equal((state.task.start_B3 == begun_B).all(1), ~lost_B)
    (message,) = caplog.messages
    assert "SIGKILL" in message
    assert "restart 1 in all" in message
    _, step = act(env, state, FORWARD)
    assert not step.truncated.any()


def test_all_episodes_of_a_killed_worker_are_lost_whatever_their_agents_did(env: HabitatObjectNav) -> None:
    """One that turns is not asked about while others move."""
    state, _ = env.reset()
    lost_B = torch.from_numpy(env.simulator._share(state.task.agents.house_B.numpy()) == 0)
    action_B = torch.where(lost_B.cumsum(0) == 1, FORWARD, LEFT)
    assert set(action_B[lost_B].tolist()) == {FORWARD, LEFT}
    os.kill(env.simulator.processes[0], signal.SIGKILL)
    _, step = env.step(state, action_B)
    assert torch.equal(step.truncated, lost_B)


def test_a_loss_while_drawing_is_noticed_in_the_next_step(env: HabitatObjectNav, orders: Path) -> None:
    state, _ = env.reset()
    (orders / "die").touch()
    state, step = act(env, state, FORWARD)
    assert not step.truncated.any()
    home_B = env.simulator._share(state.task.agents.house_B.numpy())
    _, step = act(env, state, FORWARD)
    assert sorted(set(home_B[step.truncated].tolist())) in ([0], [1])
    assert torch.equal(step.truncated, step.info["lost"])


def test_an_episode_that_ends_by_itself_is_not_lost(env: HabitatObjectNav, orders: Path) -> None:
    state, _ = env.reset()
    (orders / "die").touch()
    state, _ = act(env, state, FORWARD)
    _, step = act(env, state, STOP)
    assert step.terminated.all()
    assert not step.truncated.any()
    assert not step.info["lost"].any()


def test_evaluations_count_what_was_lost(config: ObjectNavConfig, orders: Path) -> None:
    def forward(obs: object, reward_B: torch.Tensor, *_: object) -> torch.Tensor:
        if not (orders / "killed").exists() and reward_B.any():
            (orders / "killed").touch()
            (orders / "die").touch()
        return torch.full(reward_B.shape, FORWARD)

    played = play_rule(forward, config, episodes=4, rows=4)
    assert "lost" in played.rates
    assert 1 <= sum(played.info["lost"]) <= 3
    assert sum(played.info["success"]) == 0


def test_every_environment_has_workers_of_its_own_and_ends_them(config: ObjectNavConfig) -> None:
    one, other = config.build(2, 0), config.build(2, 0)
    assert isinstance(one, HabitatObjectNav)
    pids = one.simulator.processes
    one.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    state, _ = other.reset()
    other.step(state, torch.tensor([FORWARD, FORWARD]))
    other.close()
    ours = replace(config, simulator="embedded", habitat_python="").build(2, 0)
    assert ours.on_device
    assert not other.on_device
    assert "lost" not in ours.step(ours.reset()[0], torch.tensor([FORWARD, FORWARD]))[1].info


@pytest.mark.parametrize(
    ("device", "given", "told"),
    [("cpu", 0, 0), ("cpu", 2, 2), ("cuda:3", 0, 3), ("cuda:3", 2, 2), ("cuda:3", -1, -1), ("cuda", 0, 1)],
)
def test_workers_draw_on_the_gpu_of_their_rank_unless_another_is_named(
    config: ObjectNavConfig, monkeypatch: pytest.MonkeyPatch, device: str, given: int, told: int
) -> None:
    """What the workers are told; the tensors stay where there is no GPU."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(world, "Habitat", lambda houses, device, **more: Habitat(houses, "cpu", **more))
    homes = [generate(seed, HouseConfig(max_rooms=3)) for seed in range(2)]
    sim = world.make_simulator(homes, replace(config, habitat_gpu=given), torch.device(device))
    sim.close()
    assert [worker.setup["gpu"] for worker in sim._pool.workers] == [told, told]


def test_options_that_do_not_fit_are_refused_in_one_line(config: ObjectNavConfig) -> None:
    given = r"habitat_python is '/x', habitat_gpu is -1, and simulator is 'embedded'; make simulator 'habitat', or "
    with pytest.raises(ValueError, match=given + r"habitat_python '', habitat_gpu 0$"):
        ObjectNavConfig(habitat_python="/x", habitat_gpu=-1)
    for options, words in (
        ({"simulator": "other"}, "simulator is 'other'; choose one of embedded, habitat"),
        ({"habitat_gpu": -2}, "habitat_gpu is -2"),
        ({"habitat_workers": 0}, "habitat_workers is 0"),
    ):
        with pytest.raises(ValueError, match=words):
            replace(config, **options)
    with pytest.raises(ValueError, match=r"cannot import habitat_sim|cannot be run") as refused:
        replace(config, habitat_python="/no/python").build(1, 0)
    assert "\n" not in str(refused.value)


def test_what_was_trained_in_one_simulator_plays_in_the_other(
    python: str, orders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    task = [word for name, value in EASY.items() for word in (f"--env.{name.replace('_', '-')}", str(value))]
    small = ["--steps", "64", "--ppo.rows", "4", "--ppo.window", "16", "--memory", "gru"]
    rated = ["--evaluation.episodes", "4", "--evaluation.confirm-episodes", "4"]
    habitat = ["--env.simulator", "habitat", "--env.habitat-python", python, "--env.habitat-workers", "1"]
    assert main(["train", "--env", "object-nav", *task, *small, *rated, "--run", str(run)]) == 0
    assert main(["eval", str(run), "--episodes", "4", "--rows", "2", "--env.split", "validation", *habitat]) == 0
    (written,) = (path for path in run.glob("eval-*.json") if "lost" in path.read_text())
    found = json.loads(written.read_text())
    assert found["env"]["simulator"] == "habitat"
    assert found["figures"]["lost"]["value"] == 0
    # And the other way round.
    run = tmp_path / "other"
    assert main(["train", "--env", "object-nav", *task, *habitat, *small, *rated, "--run", str(run)]) == 0
    capsys.readouterr()
    assert main(["eval", str(run), "--episodes", "4", "--rows", "2", "--env.simulator", "embedded"]) == 2
    assert "habitat_workers is 1, and simulator is 'embedded'" in capsys.readouterr().err
    ours = ["--env.simulator", "embedded", "--env.habitat-python", "", "--env.habitat-workers", "2"]
    assert main(["eval", str(run), "--episodes", "4", "--rows", "2", *ours]) == 0
