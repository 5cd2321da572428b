"""Gymnasium environments behind the batched contract: the same bookkeeping, clear errors, nothing left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from mnemic.envs.from_gymnasium import GymConfig
from mnemic.envs.gym_rows import row_seed

MEMORY = "MiniGrid-MemoryS7-v0"
TOYS = '''
import os
import gymnasium
import numpy as np
from gymnasium import spaces


class Toy(gymnasium.Env):
    """Counts its steps, ends after 5, and misbehaves on action 1."""

    action_space = spaces.Discrete(3, start=-1)

    def __init__(self, kind):
        self.kind = kind
        self.observation_space = {
            "dict": spaces.Dict({
                "choice": spaces.Discrete(3, start=2),
                "choices": spaces.MultiDiscrete([2, 3]),
                "bits": spaces.MultiBinary(2),
                "image": spaces.Box(0, 255, (2, 2, 3), np.uint8),
                "words": spaces.Text(20),
            }),
            "tuple": spaces.Tuple([spaces.Discrete(2)]),
        }.get(kind, spaces.Box(-np.inf, np.inf, (2,), np.float32))

    def look(self):
        if self.kind == "dict":
            n = self.count
            return {"choice": 2 + n % 3, "choices": np.array([n % 2, n % 3]), "bits": np.array([1, n % 2], np.int8),
                    "image": np.full((2, 2, 3), n, np.uint8), "words": "the same"}
        return np.array([self.count, 0.5])  # float64 where float32 was promised: common, and harmless

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self.look(), {}

    def step(self, action):
        self.count += 1
        obs, info = self.look(), {"is_success": self.count == 5}
        if action == 1 and self.count > 1:
            if self.kind == "raises":
                raise KeyError("a missing part")
            if self.kind == "dies":
                os._exit(3)
            obs = {"nan": np.array([np.nan, 0.0]), "shape": np.zeros(3), "type": np.array([1j, 0])}.get(self.kind, obs)
        return obs, float(action), self.count == 5, False, info


for kind in ("dict", "tuple", "raises", "dies", "nan", "shape", "type"):
    gymnasium.register(f"Toy-{kind}-v0", Toy, max_episode_steps=9, kwargs={"kind": kind})
'''


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """A module that registers badly behaved environments, importable here and in child processes."""
    (tmp_path / "toys_of_test.py").write_text(TOYS)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(gymnasium.registry)
    yield lambda kind: f"toys_of_test:Toy-{kind}-v0"
    for id in set(gymnasium.registry) - before:
        del gymnasium.registry[id]
    sys.modules.pop("toys_of_test", None)


@pytest.fixture
def build():
    made = []

    def make(id, batch=3, seed=7, **options):
        made.append(GymConfig(id=id, **{"workers": 1} | options).build(batch, seed))
        return made[-1]

    yield make
    for env in made:
        env.close()


def planes(image):
    """One-hot planes of MiniGrid's view, written out cell by cell."""
    out = np.zeros((*image.shape[:2], 20), np.float32)
    for (y, x), _ in np.ndenumerate(image[..., 0]):
        for offset, value in zip((0, 11, 17), image[y, x], strict=True):
            out[y, x, offset + value] = 1
    return out


def shown(id, obs):
    """What the adapter owes for one observation of the plain environment."""
    if id == MEMORY:
        return {"image": planes(obs["image"]), "direction": np.eye(4, dtype=np.float32)[obs["direction"]]}
    return obs


def assert_same(found, row, expected):
    if isinstance(expected, dict):
        assert set(found) == set(expected)
        for name, part in expected.items():
            assert_same(found[name], row, part)
    else:
        assert found.dtype == torch.from_numpy(expected).dtype
        assert np.array_equal(found[row].numpy(), expected)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("id", "steps", "actions"), [("CartPole-v1", 120, 2), (MEMORY, 400, 3)])
def test_bookkeeping_is_that_of_a_plain_loop(build, id, steps, actions, workers):
    env = build(id, workers=workers)
    plain = [gymnasium.make(id) for _ in range(env.batch)]
    state, step = env.reset()
    for row, one in enumerate(plain):
        obs, _ = one.reset(seed=row_seed(7, row))
        assert_same(step.obs, row, shown(id, obs))
    assert step.episode_start.all()
    assert step.trial_start.all()
    assert not step.reward.any()
    assert step.info == {}
    generator, episodes = torch.Generator().manual_seed(0), 0
    for _ in range(steps):
        action = torch.randint(actions, (env.batch,), generator=generator)
        state, step = env.step(state, action)
        for row, one in enumerate(plain):
            obs, reward, terminated, truncated, _ = one.step(int(action[row]))
            over = terminated or truncated
            assert_same(step.final_obs, row, shown(id, obs))
            if over:
                episodes += 1
                obs, _ = one.reset()
            assert_same(step.obs, row, shown(id, obs))
            assert step.reward[row].item() == np.float32(reward)
            assert step.terminated[row].item() == terminated
            assert step.truncated[row].item() == (truncated and not terminated)
            assert step.episode_start[row].item() == step.trial_start[row].item() == over
            if id == MEMORY:
                assert step.info["success"][row].item() == (terminated and reward > 0)
            else:
                assert step.info == {}
    assert episodes >= env.batch
    again = env.reset()[1].obs
    first = build(id, workers=1).reset()[1].obs
    for row in range(env.batch):
        assert_same(
            again, row, {k: v[row].numpy() for k, v in first.items()} if isinstance(first, dict) else first[row].numpy()
        )


@pytest.mark.parametrize("workers", [1, 2])
def test_what_one_step_returned_is_not_overwritten_by_the_next(build, workers):
    env = build("CartPole-v1", workers=workers)
    state, first = env.reset()
    kept = first.obs.clone()
    _, second = env.step(state, torch.zeros(3, dtype=torch.int64))
    assert torch.equal(first.obs, kept)
    assert not torch.equal(second.obs, kept)


def test_a_row_depends_on_the_seed_and_its_number_alone(build):
    few, many, other = (
        build("CartPole-v1", batch=2),
        build("CartPole-v1", batch=5),
        build("CartPole-v1", batch=2, seed=8),
    )
    few_obs, many_obs, other_obs = (env.reset()[1].obs for env in (few, many, other))
    assert torch.equal(few_obs, many_obs[:2])
    part = GymConfig(id="CartPole-v1", workers=1).build_part(range(3, 5), many.seed)
    assert torch.equal(part.reset()[1].obs, many_obs[3:])
    assert not torch.equal(few_obs, other_obs)
    assert not torch.equal(few_obs[0], few_obs[1])


def test_the_clock_truncates_and_the_last_observation_is_kept(build):
    env = build("Pendulum-v1", batch=2, max_episode_steps=3)
    assert env.episode_steps == env.trial_steps == 3
    state, _ = env.reset()
    for count in range(1, 7):
        state, step = env.step(state, torch.zeros(2, 1))
        assert step.truncated.all().item() == step.episode_start.any().item() == (count % 3 == 0)
        assert torch.equal(step.final_obs, step.obs) == (count % 3 != 0)
        assert not step.terminated.any()


def test_spaces_and_limits_of_minigrid(build):
    env = build(MEMORY)
    assert env.observation_space == spaces.Dict(
        image=spaces.Box(0, 1, (7, 7, 20), np.float32), direction=spaces.Box(0, 1, (4,), np.float32)
    )
    assert env.action_space == spaces.Discrete(7)
    assert env.episode_steps == 5 * 7**2
    assert not env.resumable
    plain = build(MEMORY, one_hot=False)
    assert plain.observation_space["image"] == spaces.Box(0, 255, (7, 7, 3), np.uint8)
    assert plain.reset()[1].obs["image"].dtype == torch.uint8


def test_a_mission_with_blanks_becomes_one_hot_for_each_blank(build):
    env = build("MiniGrid-Fetch-5x5-N2-v0", batch=8)
    mission = env.reset()[1].obs["mission"]
    plain = gymnasium.make("MiniGrid-Fetch-5x5-N2-v0")
    blanks = plain.observation_space["mission"].ordered_placeholders
    assert mission.shape == (8, sum(map(len, blanks)))
    for row in range(8):
        text = plain.reset(seed=row_seed(7, row))[0]["mission"]
        pieces = mission[row].split([len(words) for words in blanks])
        words = [words[int(piece.argmax())] for words, piece in zip(blanks, pieces, strict=True)]
        assert mission[row].sum() == len(blanks)
        assert plain.observation_space["mission"].mission_func(*words) == text


def test_a_text_that_changes_freely_is_refused(build):
    with pytest.raises(ValueError, match=r"BabyAI-GoToObj-v0: mission is a text that changes freely"):
        build("BabyAI-GoToObj-v0")


def test_every_kind_of_observation(build, toys):
    env = build(toys("dict"), batch=2)
    assert env.observation_space == spaces.Dict(
        choice=spaces.Box(0, 1, (3,), np.float32),
        choices=spaces.Box(0, 1, (5,), np.float32),
        bits=spaces.Box(0, 1, (2,), np.float32),
        image=spaces.Box(0, 255, (2, 2, 3), np.uint8),
    )
    assert env.action_space == spaces.Discrete(3)
    state, _ = env.reset()
    _, step = env.step(state, torch.tensor([0, 2]))
    assert step.reward.tolist() == [-1.0, 1.0]  # this space counts from -1
    assert step.obs["choice"].tolist() == [[0, 1, 0]] * 2
    assert step.obs["choices"].tolist() == [[0, 1, 0, 1, 0]] * 2
    assert step.obs["bits"].tolist() == [[1, 1]] * 2
    assert step.obs["image"].dtype == torch.uint8
    assert (step.obs["image"] == 1).all()
    for name, part in step.obs.items():
        assert part[0].numpy() in env.observation_space[name]


def test_the_environments_own_word_on_success(build, toys):
    env = build(toys("dict"), batch=2)
    state, _ = env.reset()
    seen = []
    for _ in range(6):
        state, step = env.step(state, torch.zeros(2, dtype=torch.int64))
        seen.append(step.info["success"].tolist())
    assert seen == [[False] * 2] * 4 + [[True] * 2] + [[False] * 2]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("nan", ValueError, "row 1: observation is not finite"),
        ("shape", ValueError, r"row 1: observation has shape \(3,\); its space promises \(2,\)"),
        ("type", ValueError, "row 1: observation has type complex128; its space promises float32"),
        ("raises", RuntimeError, "row 1: the environment raised KeyError: 'a missing part' .*line"),
    ],
)
def test_a_bad_environment_is_named_with_its_row(build, toys, kind, error, message, workers):
    env = build(toys(kind), workers=workers)
    state, _ = env.reset()
    state, _ = env.step(state, torch.tensor([0, 2, 0]))
    with pytest.raises(error, match=f"^gym:{toys(kind)}: {message}"):
        env.step(state, torch.tensor([0, 2, 0]))
    assert not multiprocessing.active_children()
    with pytest.raises(ValueError, match="is closed; build it anew"):
        env.step(state, torch.tensor([0, 0, 0]))


def test_a_process_that_dies_is_named_with_its_rows(build, toys):
    env = build(toys("dies"), workers=2)
    state, _ = env.reset()
    state, _ = env.step(state, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(RuntimeError, match=r"the process of rows 1 to 2 died \(exit code 3\)"):
        env.step(state, torch.tensor([0, 0, 2]))
    assert not multiprocessing.active_children()


def test_a_killed_process_is_noticed(build):
    env = build("CartPole-v1", workers=2)
    state, _ = env.reset()
    child = multiprocessing.active_children()[0]
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    with pytest.raises(RuntimeError, match=r"died \(exit code -9\)"):
        env.step(state, torch.zeros(3, dtype=torch.int64))
    assert not multiprocessing.active_children()


class OnlyHere(gymnasium.Env):
    """Child processes cannot import a test module, and so not this class."""

    action_space = observation_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return 0, {}

    def step(self, action):
        return action, 0.0, False, False, {}


def test_an_environment_that_other_processes_cannot_find(build, monkeypatch):
    monkeypatch.setitem(gymnasium.registry, "OnlyHere-v0", gymnasium.envs.registration.EnvSpec("OnlyHere-v0", OnlyHere))
    build("OnlyHere-v0", workers=1).reset()
    with pytest.raises(RuntimeError, match=r"gym:OnlyHere-v0: .*define it in a module that can be imported"):
        build("OnlyHere-v0", workers=2)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("id", "message"),
    [
        ("MiniGrid-MemoryS8-v0", "unknown Gymnasium id 'MiniGrid-MemoryS8-v0'; the closest are MiniGrid-MemoryS"),
        ("zzz", "unknown Gymnasium id 'zzz'; import the package that registers it"),
        ("no_such_module:A-v0", "the module 'no_such_module' cannot be imported"),
    ],
)
def test_an_unknown_id(build, id, message):
    with pytest.raises(ValueError, match=message) as caught:
        build(id)
    assert "\n" not in str(caught.value)


def test_a_space_that_no_agent_can_take(build, toys):
    with pytest.raises(ValueError, match=r"Toy-tuple-v0: the observation space is Tuple.*is expected"):
        build(toys("tuple"))


def test_an_environment_whose_parts_are_missing(build, monkeypatch):
    spec = gymnasium.envs.registration.EnvSpec("Missing-v0", "no_such_module:Env")
    monkeypatch.setitem(gymnasium.registry, "Missing-v0", spec)
    with pytest.raises(ValueError, match=r"gym:Missing-v0 cannot be made: ModuleNotFoundError: .*no_such_module"):
        build("Missing-v0")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"workers": -1}, "workers is -1"), ({"max_episode_steps": 0}, "max_episode_steps is 0")],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        GymConfig(id="CartPole-v1", **options)


@pytest.mark.parametrize(
    ("id", "action", "message"),
    [
        ("CartPole-v1", torch.tensor([0, 2, 1]), "action 2 in row 1; the space is Discrete"),
        ("CartPole-v1", torch.tensor([0, 1]), r"actions of shape \(2,\) came; \(3,\) is expected"),
        ("CartPole-v1", torch.zeros(3), "actions of type torch.float32 came; torch.int64 is expected"),
        ("Pendulum-v1", torch.tensor([[0.0], [0.0], [torch.nan]]), "row 2: the action is not finite"),
    ],
)
def test_actions_outside_the_space(build, id, action, message):
    env = build(id, workers=1)
    state, _ = env.reset()
    with pytest.raises(ValueError, match=f"gym:{id}.*{message}"):
        env.step(state, action)


def test_pictures(build):
    env = build(MEMORY, workers=2)
    state, _ = env.reset()
    picture = env.draw(state, 2)
    assert [len(line) for line in picture.cells] == [7] * 7
    assert "".join(cell.glyph for line in picture.cells for cell in line).count("▶") == 1
    assert picture.caption.startswith("go to the matching object")
    pole = build("CartPole-v1", workers=1)
    state, _ = pole.reset()
    cells = pole.draw(state, 0).cells
    assert len(cells[0]) > len(cells) > 10
    assert len({cell.colour for line in cells for cell in line}) > 2


def test_an_environment_without_images_cannot_be_drawn(build, toys):
    env = build(toys("dict"), workers=1)
    state, _ = env.reset()
    with pytest.raises(ValueError, match="cannot be drawn"):
        env.draw(state, 0)


def test_nothing_is_left_behind():
    before = set(os.listdir("/dev/shm")) if Path("/dev/shm").is_dir() else set()
    env = GymConfig(id="CartPole-v1", workers=2).build(4, 0)
    children = multiprocessing.active_children()
    assert len(children) == 2
    env.reset()
    env.close()
    env.close()
    assert not multiprocessing.active_children()
    assert not any(child.is_alive() for child in children)
    dropped = GymConfig(id="CartPole-v1", workers=2).build(4, 0)
    assert len(multiprocessing.active_children()) == 2
    del dropped
    assert not multiprocessing.active_children()
    after = set(os.listdir("/dev/shm")) if Path("/dev/shm").is_dir() else set()
    assert after <= before


SCRIPT = """
import multiprocessing, sys, time
import torch
from mnemic.envs.from_gymnasium import GymConfig

if __name__ == "__main__":
    env = GymConfig(id="CartPole-v1", workers=2).build(4, 0)
    state, _ = env.reset()
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    while sys.argv[1] == "forever":
        state, _ = env.step(state, torch.zeros(4, dtype=torch.int64))
"""


def alive(pid):
    """Say whether a process runs; one that has ended and waits for its parent to notice does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
@pytest.mark.parametrize("end", ["exit", "ctrl-c", "kill"])
def test_processes_go_with_their_parent_and_without_a_word(tmp_path, end):
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    process = subprocess.Popen(
        [sys.executable, "script.py", "once" if end == "exit" else "forever"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that Ctrl-C reaches all processes, as it does in a terminal
    )
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 2
    if end == "ctrl-c":
        os.killpg(process.pid, signal.SIGINT)
    elif end == "kill":
        process.kill()
    _, errors = process.communicate(timeout=30)
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(alive(pid) for pid in pids)
    assert errors.count("Traceback") == (end == "ctrl-c")  # the parent's own
    assert "Process" not in errors
