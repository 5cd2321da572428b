"""The laws of environments, as checks that run on any of them: the tasks of this package and your own.

`check_env(config)` checks all of them; each law is also a function of its own. A broken law raises `BrokenLaw`, which
says the environment, the law and where it broke. They play with random actions, so they are fast and say nothing of
how hard a task is; an oracle (`EnvConfig.oracle`, `mnemic.envs.oracle.play_trials`) says what can be reached.

Shapes: T steps, B rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, NoReturn

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from .step import Env, EnvConfig

BATCH, STEPS = 4, 64


class BrokenLaw(AssertionError):
    """An environment broke a law."""


def check_env(config: EnvConfig, *, steps: int = STEPS, device: torch.device | str = "cpu") -> None:
    """Check every law.

    Args:
        config: of the environment to check.
        steps: how long to play in each check; more than an episode, or ends are not looked at.
        device: where to play.

    Raises:
        BrokenLaw: a law does not hold; it says which and where.
    """
    for law in LAWS:
        law(config, steps=steps, device=device)


def the_seed_decides(config: EnvConfig, *, steps: int = STEPS, device: torch.device | str = "cpu") -> None:
    """The same seed gives the same bits, another seed gives others; `reset` begins anew."""
    with _built(config, BATCH, 0, device) as env:
        first, again = (_play(env, actions(env, steps)) for _ in range(2))
    _same(config, "the same seed gives the same bits", first, again, "after a second reset")
    with _built(config, BATCH, 0, device) as env:
        _same(config, "the same seed gives the same bits", first, _play(env, actions(env, steps)), "when built anew")
    for seed in (1, 2, 3):  # a task with few variants may begin the same way once, and not again and again
        with _built(config, BATCH, seed, device) as env:
            if not _equal(first, _play(env, actions(env, steps))):
                return
    _broken(config, "another seed gives other bits", f"seeds 0 to 3 gave the same {steps} steps")


def rows_depend_on_seed_and_place(
    config: EnvConfig, *, steps: int = STEPS, device: torch.device | str = "cpu", large: int = 4 * BATCH
) -> None:
    """Row i of a small batch is, bit for bit, row i of a large one, and rows differ from each other."""
    law = "row i depends on the seed and i only"
    with _built(config, BATCH, 0, device) as env, _built(config, large, 0, device) as larger:
        action = actions(larger, steps)
        few, many = _play(env, action[:, :BATCH]), _play(larger, action)
        same_action = action[:, :1].expand_as(action)
        alike = _play(larger, same_action)
    for t, (a, b) in enumerate(zip(few, many, strict=True)):
        for name, part in a.items():
            if not torch.equal(part, b[name][:BATCH]):
                _broken(config, law, f"`{name}` differs at step {t} between a batch of {BATCH} and one of {large}")
    if all(torch.equal(part, part[:1].expand_as(part)) for step in alike for part in step.values()):
        _broken(config, law, f"all {large} rows are the same under the same actions")


def parts_play_as_the_whole(config: EnvConfig, *, steps: int = STEPS, device: torch.device | str = "cpu") -> None:
    """Rows that are built as a part of a batch (`build_part`) are, bit for bit, those rows of the whole."""
    law = "a part of a batch plays as in the whole"
    first = BATCH // 2
    with (
        _built(config, BATCH, 0, device) as env,
        closing(config.build_part(range(first, BATCH), 0, device)) as half,
    ):
        action = actions(env, steps)
        whole, part = _play(env, action), _play(half, action[:, first:])
    for t, (a, b) in enumerate(zip(whole, part, strict=True)):
        for name, seen in a.items():
            if not torch.equal(seen[first:], b[name]):
                _broken(config, law, f"`{name}` differs at step {t} from rows {first} to {BATCH - 1} of the whole")


def episodes_restart(config: EnvConfig, *, steps: int = STEPS, device: torch.device | str = "cpu") -> None:
    """Rows restart by themselves, the flags fit together, and no episode or trial outlives its clock."""
    law = "flags fit together"
    with _built(config, BATCH, 0, device) as env:
        state, step = env.reset()
        for name in ("episode_start", "trial_start"):
            if not bool(getattr(step, name).all()):
                _broken(config, law, f"`reset` opens no episode: `{name}` is not true in every row")
        if bool((step.terminated | step.truncated).any()) or bool(step.reward.any()) or step.info:
            _broken(config, law, "`reset` ends an episode, or gives reward or info, before any action")
        episode_B, trial_B = (torch.zeros(env.batch, dtype=torch.int64, device=env.device) for _ in range(2))
        for t, action_B in enumerate(actions(env, steps)):
            state, step = env.step(state, action_B)
            ended_B = step.terminated | step.truncated
            episode_B, trial_B = episode_B + 1, trial_B + 1
            cut_B = step.truncated if env.on_device else torch.zeros_like(step.truncated)
            clock_B = _over(episode_B, ~cut_B, env.episode_steps) | _over(trial_B, ~step.trial_start, env.trial_clock)
            for wrong_B, reason in (
                (step.terminated & step.truncated, "an episode is terminated and truncated at once"),
                (step.episode_start != ended_B, "`episode_start` is not `terminated or truncated`"),
                (step.trial_start & ~step.episode_start, "a trial starts inside an episode"),
                (cut_B & ~clock_B, "an episode is truncated before its clock or that of its trial has run out"),
                (_over(episode_B, ended_B, env.episode_steps), f"an episode is longer than {env.episode_steps} steps"),
                (_over(trial_B, step.trial_start, env.trial_steps), f"a trial is longer than {env.trial_steps} steps"),
            ):
                _none(config, law, wrong_B, t, reason)
            for name, part in tensors(step.obs).items():
                changed_B = (part != tensors(step.final_obs)[name]).flatten(1).any(1)
                _none(config, law, changed_B & ~ended_B, t, "`final_obs` is not `obs`, and no episode ended")
            episode_B, trial_B = episode_B * ~ended_B, trial_B * ~step.trial_start


def observations_are_in_the_space(config: EnvConfig, *, steps: int = STEPS, device: torch.device | str = "cpu") -> None:
    """Observations have the shape, type and range of the space, rewards are finite float32, flags and info fit."""
    law = "observations lie in the space"
    with _built(config, BATCH, 0, device) as env:
        state, step = env.reset()
        names = None
        for t, action_B in enumerate(actions(env, steps)):
            for when, obs in (("obs", step.obs), ("final_obs", step.final_obs)):
                for row in range(env.batch):
                    _in_space(config, law, env.observation_space, obs, row, f"`{when}` of row {row} at step {t}")
            state, step = env.step(state, action_B)
            if step.reward.dtype != torch.float32 or step.reward.shape != (env.batch,):
                _broken(
                    config, law, f"reward is {step.reward.dtype} {tuple(step.reward.shape)}; float32 (B,) is expected"
                )
            _none(config, law, ~step.reward.isfinite(), t, "the reward is not finite")
            for name in ("terminated", "truncated", "episode_start", "trial_start"):
                flag = getattr(step, name)
                if flag.dtype != torch.bool or flag.shape != (env.batch,):
                    _broken(config, law, f"`{name}` is {flag.dtype} {tuple(flag.shape)}; bool (B,) is expected")
            names = names or set(step.info)
            if set(step.info) != names or any(part.shape != (env.batch,) for part in step.info.values()):
                _broken(
                    config, law, f"info is {sorted(step.info)} at step {t}; {sorted(names)}, each (B,), is expected"
                )
            if "success" in step.info and step.info["success"].dtype != torch.bool:
                _broken(config, law, f"info `success` is {step.info['success'].dtype}; bool is expected")


def bad_actions_are_refused(config: EnvConfig, *, steps: int = STEPS, device: torch.device | str = "cpu") -> None:
    """Actions of a wrong shape, type or value raise a ValueError with the environment's name, a bad value also its row.

    Values are looked at on the CPU and for discrete actions only: a GPU does not wait for a look at them.
    """
    law = "bad actions are refused"
    with _built(config, BATCH, 0, device) as env:
        state, _ = env.reset()
        good = actions(env, 1)[0]
        bad = {"of one row too few": (good[1:], ""), "of a wrong type": (good.bool(), "")}
        if isinstance(env.action_space, spaces.Discrete) and env.device.type == "cpu":
            for value in (-1, int(env.action_space.n)):
                wrong = good.clone()
                wrong[2] = value
                bad[f"of value {value} in row 2"] = wrong, "row 2"
        for what, (action_B, row) in bad.items():
            try:
                env.step(state, action_B)
            except ValueError as error:
                if config.label not in str(error) or row not in str(error):
                    _broken(config, law, f"the message on actions {what} names not both environment and row: {error}")
            else:
                _broken(config, law, f"actions {what} were taken")


def steps_are_functions(config: EnvConfig, *, steps: int = STEPS, device: torch.device | str = "cpu") -> None:
    """`step` leaves the state, the actions and what it returned before untouched; a copy of the state goes on equally.

    The state is made of tensors with one row for each environment, in tuples (named or not) and dictionaries, and
    nothing else counts: another object of the same configuration, batch and seed can go on from it. Environments that
    live in other processes (`resumable` is false) have no such state and are not checked.
    """
    law = "step is a function of the state"
    with _built(config, BATCH, 0, device) as env, _built(config, BATCH, 0, device) as other:
        if not env.resumable:
            return
        state, step = env.reset()
        for t, action_B in enumerate(actions(env, steps)):
            for name, part in tensors(state).items():
                if part.ndim == 0 or len(part) != env.batch:
                    _broken(config, law, f"`{name}` of the state has shape {tuple(part.shape)}; (B, ...) is expected")
            before = {name: part.clone() for name, part in tensors((state, step, action_B)).items()}
            copied = map_tensors(Tensor.clone, state)
            next_state, next_step = env.step(state, action_B)
            for name, part in tensors((state, step, action_B)).items():
                if not torch.equal(part, before[name]):
                    _broken(config, law, f"step {t} changed what it was given: part `{name}`")
            for player, what in ((env, "the same object"), (other, "another object")):
                again_state, again_step = player.step(copied, action_B)
                if not _equal([tensors((next_state, next_step))], [tensors((again_state, again_step))]):
                    _broken(config, law, f"{what} goes on differently from a copy of the state at step {t}")
            state, step = next_state, next_step


def what_is_hidden_is_only_told_to_probes(
    config: EnvConfig, *, steps: int = STEPS, device: torch.device | str = "cpu"
) -> None:
    """`hidden` has the same names at every moment, values in range, one row each; asking for it changes nothing."""
    law = "what is hidden is told to probes alone"
    with _built(config, BATCH, 0, device) as env:
        state, step = env.reset()
        names = env.hidden(state, step).keys()
        for t, action_B in enumerate(actions(env, steps)):
            before = {name: part.clone() for name, part in tensors((state, step)).items()}
            found = env.hidden(state, step)
            if found.keys() != names:
                _broken(config, law, f"{sorted(found)} are hidden at step {t}; {sorted(names)} are expected")
            for name, one in found.items():
                parts = [(one.value, torch.int64), (one.shown, torch.bool), (one.turn, torch.int64)]
                for part, dtype in [*parts, (one.shown if one.told is None else one.told, torch.bool)]:
                    if part.shape != (env.batch,) or part.dtype != dtype:
                        _broken(config, law, f"{name} has {part.dtype} {tuple(part.shape)}; {dtype} (B,) is expected")
                outside_B = (one.value < 0) | (one.value >= one.values)
                _none(config, law, outside_B, t, f"the value of {name} lies outside 0..{one.values - 1}")
            if not _equal([before], [tensors((state, step))]):
                _broken(config, law, f"asking at step {t} changed the state, or what was said")
            state, step = env.step(state, action_B)


LAWS: tuple[Callable[..., None], ...] = (
    the_seed_decides,
    rows_depend_on_seed_and_place,
    episodes_restart,
    observations_are_in_the_space,
    bad_actions_are_refused,
    steps_are_functions,
    parts_play_as_the_whole,
    what_is_hidden_is_only_told_to_probes,
)


def actions(env: Env, steps: int, seed: int = 0) -> Tensor:
    """Return random actions, (T, B) or (T, B, ...); those of a row do not depend on how many rows there are."""
    space = env.action_space
    rows = []
    for row in range(env.batch):
        rng = np.random.default_rng([seed, row])
        if isinstance(space, spaces.Discrete):
            drawn = rng.integers(int(space.n), size=steps)
        elif isinstance(space, spaces.MultiDiscrete):
            drawn = rng.integers(space.nvec, size=(steps, *space.nvec.shape))
        elif isinstance(space, spaces.Box):
            low, high = np.maximum(space.low, -1), np.minimum(space.high, 1)
            drawn = rng.uniform(low, high, size=(steps, *space.shape)).astype(np.float32)
        else:
            env.config.refuse(f"the laws cannot draw actions from {space}")
        rows.append(torch.from_numpy(drawn))
    return torch.stack(rows, 1).to(env.device)


def _play(env: Env, action_TB: Tensor) -> list[dict[str, Tensor]]:
    """Return all that is said from `reset` on, step by step."""
    state, step = env.reset()
    said = [map_tensors(Tensor.clone, step)]
    for action_B in action_TB:
        state, step = env.step(state, action_B)
        said.append(map_tensors(Tensor.clone, step))
    return [tensors(step) for step in said]


@contextmanager
def _built(config: EnvConfig, batch: int, seed: int, device: torch.device | str) -> Iterator[Env]:
    env = config.build(batch, seed, device)
    try:
        yield env
    finally:
        env.close()


def map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """Apply a function to every tensor of a state or a step, and keep the structure."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return {name: map_tensors(function, part) for name, part in tree.items()}
    if not isinstance(tree, tuple):
        raise TypeError(f"a state holds a {type(tree).__name__}; tensors, tuples and dictionaries are expected")
    parts = [map_tensors(function, part) for part in tree]
    return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)


def tensors(tree: Any, prefix: str = "") -> dict[str, Tensor]:
    """Return the tensors of a state, a step or an observation by name, as in `task.position`."""
    if isinstance(tree, Tensor):
        return {prefix or "obs": tree}
    named = (
        tree.items() if isinstance(tree, dict) else zip(getattr(tree, "_fields", range(len(tree))), tree, strict=True)
    )
    found: dict[str, Tensor] = {}
    for name, part in named:
        found |= tensors(part, f"{prefix}.{name}" if prefix else str(name))
    return found


def _equal(a: list[dict[str, Tensor]], b: list[dict[str, Tensor]]) -> bool:
    return all(x.keys() == y.keys() and all(torch.equal(x[n], y[n]) for n in x) for x, y in zip(a, b, strict=True))


def _same(config: EnvConfig, law: str, a: list[dict[str, Tensor]], b: list[dict[str, Tensor]], when: str) -> None:
    for t, (x, y) in enumerate(zip(a, b, strict=True)):
        for name in x:
            if not torch.equal(x[name], y[name]):
                _broken(config, law, f"`{name}` differs at step {t} {when}")


def _over(count_B: Tensor, ended_B: Tensor, limit: int | None) -> Tensor:
    """Say which rows should have ended by now and have not."""
    return torch.zeros_like(ended_B) if limit is None else (count_B >= limit) & ~ended_B


def _in_space(config: EnvConfig, law: str, space: spaces.Space[Any], obs: Any, row: int, where: str) -> None:
    if isinstance(space, spaces.Dict):
        if not isinstance(obs, dict) or obs.keys() != space.spaces.keys():
            _broken(config, law, f"{where} is no dictionary with {', '.join(space.spaces)}")
        for name, part in space.spaces.items():
            _in_space(config, law, part, obs[name], row, f"{where}, `{name}`,")
        return
    seen = obs[row].cpu().numpy()
    if seen.dtype != space.dtype or seen.shape != space.shape:
        _broken(config, law, f"{where} is {seen.dtype} {seen.shape}; {space.dtype} {space.shape} is expected")
    if not np.isfinite(seen).all() or not space.contains(seen):
        _broken(config, law, f"{where} lies outside the space: {seen.tolist()}")


def _none(config: EnvConfig, law: str, wrong_B: Tensor, t: int, reason: str) -> None:
    if bool(wrong_B.any()):
        _broken(config, law, f"{reason}, in row {int(wrong_B.nonzero()[0])} at step {t}")


def _broken(config: EnvConfig, law: str, reason: str) -> NoReturn:
    raise BrokenLaw(f"{config.label} breaks the law that {law}: {reason}")
