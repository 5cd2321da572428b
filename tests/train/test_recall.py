"""Asking a memory what the task hides: what is asked and when, the loss by hand, and what a run keeps of it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mnemic.agents.checkpoint import CheckpointError, load_policy
from mnemic.agents.encoder import EncoderConfig
from mnemic.agents.losses import Loss
from mnemic.envs import make_config as make_env
from mnemic.envs.step import Hidden
from mnemic.eval.diagnose.contents import contents
from mnemic.eval.diagnose.record import Track
from mnemic.memory import make_config
from mnemic.memory.core import map_state, parts
from mnemic.train.config import EvalConfig, PPOConfig, TrainConfig
from mnemic.train.loop import act, improve, update
from mnemic.train.ppo import advantages, gradient
from mnemic.train.recall import Recall, Thing, asked, begin, follow
from mnemic.train.rollout import collect, start
from mnemic.train.run import RunFolder, Training, begin_from

YES, NO = True, False
PPO = PPOConfig(rows=6, window=7, minibatches=2, epochs=2, recall_weight=0.5)


def configured(toys, memory="gru", ppo=PPO, trial_steps=9, **options):
    given = {
        "env": toys.LightConfig(trial_steps=trial_steps),
        "memory": make_config(memory, width=8),
        "ppo": ppo,
        "evaluation": EvalConfig(every=0),
        "steps": 10**6,
    }
    return TrainConfig(**given | options)


def followed(track, starts_TB):
    """What a window would keep of a track, from its first moment on."""
    value_TB, shown_TB, turn_TB, values, back = track
    seen, now = [], {}
    for t, start_B in enumerate(starts_TB):
        hidden = {"it": Hidden(value_TB[t], values, shown_TB[t], turn_TB[t], back)}
        now = follow(now, hidden, start_B) if t else begin(hidden, hidden, start_B)
        seen.append(now["it"])
    return Thing(*map(torch.stack, zip(*seen, strict=True)))


def test_what_counts_as_told():
    """Nothing before it is shown, everything after; a new trial forgets; the content before the present one stays."""
    value = torch.tensor([[1], [1], [1], [2], [2], [0], [0], [0]])
    shown = torch.tensor([[NO], [YES], [NO], [YES], [NO], [NO], [YES], [NO]])
    starts = torch.tensor([[YES], [NO], [NO], [NO], [NO], [YES], [NO], [NO]])
    thing = followed((value, shown, torch.zeros_like(value), 3, 1), starts)
    assert thing.told[:, 0, 0].tolist() == [NO, YES, YES, YES, YES, NO, YES, YES]
    assert thing.told[:, 0, 1].tolist() == [NO, NO, NO, YES, YES, NO, NO, NO]
    assert thing.value[:, 0, 0].tolist() == value[:, 0].tolist()
    assert thing.value[3:5, 0, 1].tolist() == [1, 1]


def test_a_task_that_keeps_count_of_what_it_told_is_believed():
    """Told, then another value that the row was not told, then the first one again."""
    one = torch.ones(1, dtype=torch.int64)
    now, seen = {}, []
    for t, (value, told) in enumerate([(1, YES), (2, NO), (1, YES)]):
        told_B = torch.tensor([told])
        hidden = {"it": Hidden(value * one, 3, ~told_B, 0 * one, told=told_B)}
        now = follow(now, hidden, torch.tensor([NO])) if t else begin(hidden, hidden, torch.tensor([YES]))
        seen.append(now["it"].told.item())
    assert seen == [YES, NO, YES]


def test_another_turn_is_another_content_though_the_value_is_the_same():
    one, all_ = torch.ones(3, 1, dtype=torch.int64), torch.ones(3, 1, dtype=torch.bool)
    thing = followed((one, all_, torch.tensor([[0], [1], [1]]), 2, 2), torch.tensor([[YES], [NO], [NO]]))
    assert thing.told[:, 0].tolist() == [[YES, NO, NO], [YES, YES, NO], [YES, YES, NO]]


def test_what_is_asked_is_what_a_probe_looks_for():
    """At every moment: told where `diagnose` knows an age, with the values that it knows."""
    rng = np.random.default_rng(0)
    shape, back = (60, 40), 2
    value, turn = rng.integers(0, 3, shape), rng.integers(0, 2, shape)
    shown, starts = rng.random(shape) < 0.2, rng.random(shape) < 0.1
    starts[0] = True
    thing = followed((*map(torch.from_numpy, (value, shown, turn)), 3, back), torch.from_numpy(starts))
    want = contents(Track(value, shown, turn, 3, back), starts, back)
    told = want.age_NTB >= 0
    assert (thing.told.permute(2, 0, 1).numpy() == told).all()
    assert (thing.value.permute(2, 0, 1).numpy() == want.value_NTB)[told].all()
    assert 0.1 < told.mean() < 0.9


def heads():
    """Two things: one of two values, one of three with the content before it; the first feature speaks for value 1."""
    nothing = torch.zeros(1, dtype=torch.int64)
    recall = Recall(
        2, {"a": Hidden(nothing, 2, nothing > 0, nothing), "b": Hidden(nothing, 3, nothing > 0, nothing, 1)}
    )
    with torch.no_grad():
        recall.out.weight[1, 0] = recall.out.weight[2 + 1, 0] = 1.0  # a is 1; the present b is 1
        recall.out.bias[2 + 3 + 2] = 2.0  # the b before is 2
    return recall


def test_the_loss_by_hand():
    """One step of two rows: of row 0 everything is told, of row 1 only `a`."""
    y = torch.tensor([[[1.0, 5.0, 7.0], [-1.0, 5.0, 7.0]]])  # the last feature belongs to a critic
    hidden = {
        "a": Thing(torch.tensor([[[1], [1]]]), torch.tensor([[[YES], [YES]]]), torch.zeros(1, 2)),
        "b": Thing(torch.tensor([[[1, 0], [2, 2]]]), torch.tensor([[[YES, YES], [NO, NO]]]), torch.zeros(1, 2)),
    }
    before = Loss(torch.tensor(10.0), {"policy_loss": torch.tensor(1.0)})
    loss = heads().added_to(before, 0.25, y, hidden)
    e = math.exp
    a_right, a_wrong = -math.log(e(1) / (1 + e(1))), -math.log(e(-1) / (1 + e(-1)))
    b_now, b_before = -math.log(e(1) / (2 + e(1))), -math.log(1 / (2 + e(2)))
    mean = (a_right + a_wrong + b_now + b_before) / 4
    assert loss.total.item() == pytest.approx(10 + 0.25 * mean, rel=1e-6)
    assert loss.figures["recall"].item() == pytest.approx(mean, rel=1e-6)
    assert loss.figures["recall_accuracy"].item() == pytest.approx(2 / 4)
    assert list(loss.figures) == ["policy_loss", "recall", "recall_accuracy"]


def test_where_nothing_has_been_told_nothing_is_added():
    y, told = torch.ones(1, 2, 2, requires_grad=True), torch.zeros(1, 2, 2, dtype=torch.bool)
    hidden = {
        "a": Thing(told[..., :1].long(), told[..., :1], torch.zeros(1, 2)),
        "b": Thing(told.long(), told, torch.zeros(1, 2)),
    }
    loss = heads().added_to(Loss(torch.tensor(1.0), {}), 1.0, y, hidden)
    loss.total.backward()
    assert loss.total == 1
    assert not y.grad.any()
    assert [value.item() for value in loss.figures.values()] == [0, 0]


def test_a_window_in_pieces_asks_what_one_asks_and_acts_the_same(toys):
    """Acting is not disturbed; what was shown before a window began counts as told in it."""
    training = Training(configured(toys))
    env, policy = training.env, training.policy
    found = []
    for lengths, recall in (([12], ["light"]), ([5, 7], ["light"]), ([12], [])):
        acting, generator, windows = start(env, policy, recall=recall), torch.Generator().manual_seed(0), []
        for length in lengths:
            window, acting = collect(env, policy, acting, length, generator, True)
            windows.append(window)
        found.append([map_state(lambda *some: torch.cat(some), *each) for each in zip(*windows, strict=True)])
    (*whole, hidden), (*_, in_pieces), (*plain, nothing) = found
    assert all(torch.equal(part, parts(in_pieces)[name]) for name, part in parts(hidden).items())
    assert nothing == ()
    assert len(whole) == len(plain)
    assert all(torch.equal(part, parts(plain)[name]) for name, part in parts(whole).items())
    lit = window_light(whole[0])
    told = hidden["light"].told[..., 0]
    assert torch.equal(hidden["light"].value[..., 0][lit >= 0], lit[lit >= 0])
    assert told.all()  # a trial opens with the light, which stays what it is
    assert (lit < 0).any()


def window_light(inputs):
    """Which light each step shows, -1 where none."""
    shown = inputs.obs["light"]
    return torch.where(shown.any(-1), shown.argmax(-1), -1)


@pytest.mark.parametrize("skip", [0, 3])
def test_the_loss_of_a_minibatch_holds_it(toys, skip):
    """The mean of the steps that are judged, in the total with its weight; and heads get a gradient."""
    training = Training(configured(toys))
    window, config = act(training), training.config.ppo
    torch.nn.init.normal_(training.recall.out.weight)
    every = torch.arange(PPO.rows)[None]
    said = {}
    for weight in (0.0, 0.5):
        said[weight] = gradient(
            replace(config, recall_weight=weight),
            training.policy,
            window,
            advantages(config, window),
            every,
            entropy_weight=0.01,
            precision=torch.float32,
            skip=skip,
            recall=training.recall if weight else None,
        )
    y, _ = training.policy.features(window.inputs, window.memory)
    logits = training.recall.out(y[skip:])
    want = torch.nn.functional.cross_entropy(logits.flatten(0, 1), window.hidden["light"].value[skip:].flatten())
    torch.testing.assert_close(said[0.5]["recall"], want.detach())
    torch.testing.assert_close(said[0.5]["loss"] - said[0.0]["loss"], 0.5 * want.detach())
    assert said[0.5].keys() - said[0.0].keys() == {"recall", "recall_accuracy"}
    assert training.recall.out.weight.grad.any()


def test_the_norm_of_the_gradient_is_of_the_heads_too(toys):
    training = Training(configured(toys, ppo=replace(PPO, recall_weight=100.0, max_grad_norm=0.1)))
    improve(training, act(training))
    grads = [part.grad for part in training.parameters]
    assert torch.stack([grad.norm() for grad in grads]).norm() <= 0.1 * (1 + 1e-4)
    assert training.recall.out.weight.any()


def test_with_a_critic_of_its_own_the_actor_is_asked(toys):
    training = Training(configured(toys, separate_critic=True))
    torch.nn.init.normal_(training.recall.out.weight)
    window = act(training)
    y, _ = training.policy.features(window.inputs, window.memory)
    training.recall.added_to(Loss(torch.zeros(()), {}), 1.0, y, window.hidden).total.backward()
    core = training.policy.core
    assert all(part.grad.any() for part in core.actor.parameters())
    assert not any(part.grad is not None and part.grad.any() for part in core.critic.parameters())


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_a_memory_learns_to_hold_what_a_net_without_memory_cannot_tell(toys, precision):
    """The light is shown in one step of at most four; chance is a half."""
    accuracy = {}
    for memory in ("gru", "none"):
        ppo = replace(PPO, rows=64, window=8, learning_rate=1e-2, recall_weight=1.0, schedule="constant")
        blind = EncoderConfig(previous_reward=False)  # a reward tells the light, too
        training = Training(configured(toys, memory, ppo, trial_steps=0, precision=precision, encoder=blind))
        for _ in range(15):
            figures = update(training)
        accuracy[memory] = figures["losses/recall_accuracy"]
    assert accuracy["gru"] > 0.95
    assert 0.5 < accuracy["none"] < 0.85


def state(training):
    """All that a run goes on from."""
    data, tensors = training.contents()[1:]
    return data, tensors | {f"policy.{name}": part for name, part in training.policy.state_dict().items()}


@pytest.mark.parametrize(
    "options",
    [{}, {"separate_critic": True}, {"ppo": replace(PPO, recompute=9, full_update=False, weight_decay=0.01)}],
    ids=["plain", "critic", "history"],
)
def test_a_restored_run_goes_on_with_the_same_bits(toys, tmp_path, options):
    config = configured(toys, **options)
    folder, training = RunFolder.create(tmp_path / "run", config), Training(config)
    for _ in range(3):
        update(training)
    saved = folder.save(training, keep=1)
    again = Training(config)
    again.restore(saved)
    for _ in range(2):
        said, said_again = update(training), update(again)
        assert said["losses/recall"] == said_again["losses/recall"]
    want, got = state(training)[1], state(again)[1]
    assert want.keys() == got.keys()
    assert all(torch.equal(got[name], part) for name, part in want.items())
    assert torch.equal(again.recall.out.weight, training.recall.out.weight)
    assert "acting.hidden.light.told" in want
    assert ("history.hidden.light.told" in want) == bool(config.ppo.recompute)


def test_a_policy_is_saved_without_heads_and_a_run_that_asks_nothing_keeps_nothing(toys, tmp_path):
    found = {}
    for weight in (0.5, 0.0):
        config = configured(toys, ppo=replace(PPO, recall_weight=weight))
        folder, training = RunFolder.create(tmp_path / str(weight), config), Training(config)
        said = update(training)
        saved = folder.save(training, keep=1)
        assert (saved / "recall").exists() == bool(weight)
        policy = load_policy(saved / "policy")
        found[weight] = policy.state_dict().keys(), state(training)[1].keys(), said.keys()
    assert found[0.5][0] == found[0.0][0]
    new = {f"acting.hidden.light.{name}" for name in Thing._fields}
    beside = {name for name in found[0.5][1] - found[0.0][1] if not name.startswith("optimizer.")}
    assert beside == new
    assert found[0.5][2] - found[0.0][2] == {"losses/recall", "losses/recall_accuracy"}


def test_a_checkpoint_without_heads_does_not_fit_a_run_with_them(toys, tmp_path):
    config = configured(toys)
    saved = RunFolder.create(tmp_path / "run", config).save(
        Training(replace(config, ppo=replace(PPO, recall_weight=0))), 1
    )
    with pytest.raises(ValueError, match="does not fit the configuration of its run") as caught:
        Training(config).restore(saved)
    assert "\n" not in str(caught.value)


def test_damaged_heads_are_refused(toys, tmp_path):
    config = configured(toys)
    saved = RunFolder.create(tmp_path / "run", config).save(Training(config), 1)
    path = saved / "recall" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"^\S+recall/model.safetensors is damaged or cut short"):
        Training(config).restore(saved)


def test_a_run_that_begins_with_another_goes_on_with_its_heads_where_it_asks_the_same(tmp_path):
    first = TrainConfig(env=make_env("color-cubes"), ppo=replace(PPO, recall=("red cube",)))
    folder, training = RunFolder.create(tmp_path / "run", first), Training(first)
    update(training)
    folder.save(training, keep=1)
    for names, told in (("red cube",), True), (("blue cube",), False), ((), False):
        then = Training(replace(first, ppo=replace(PPO, recall=names), init=str(folder.path)))
        begin_from(then.policy, folder.path, then.recall)
        heads = then.recall.out.weight
        assert bool(heads.any()) == told
        assert not told or torch.equal(heads, training.recall.out.weight)


def test_what_is_named_alone_is_asked():
    env = make_env("color-cubes").build(2, 0)
    assert list(asked(env)) == ["target", "red cube", "green cube", "blue cube"]
    assert list(asked(env, ["blue cube", "target"])) == ["blue cube", "target"]
    with pytest.raises(ValueError, match=r"recall asks for 'door', and color-cubes hides target, red cube, .*; choose"):
        asked(env, ["target", "door"])
    training = Training(
        TrainConfig(env=make_env("color-cubes"), ppo=replace(PPO, recall=("target",))),
    )
    assert list(act(training).hidden) == ["target"]
    assert training.recall.out.out_features == 25


@pytest.mark.parametrize("env", ["gym:CartPole-v1", "trials:gym:CartPole-v1"])
def test_a_task_that_does_not_say_what_it_hides_is_refused(env):
    with pytest.raises(ValueError, match=r"CartPole-v1 does not say what that is; .*color-cubes, .*trials") as caught:
        Training(TrainConfig(env=make_env(env), ppo=PPO))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "env", ["color-cubes", "repeat-previous", "tmaze", "darkroom", "trials:endless-tmaze", "object-nav"]
)
def test_every_task_that_hides_can_be_asked(env):
    training = Training(TrainConfig(env=make_env(env), memory=make_config("gru", width=8), ppo=PPO))
    said = update(training)
    assert said["losses/recall"] >= 0
    assert 0 <= said["losses/recall_accuracy"] <= 1
