"""The laws hold for every core of the registry, and each of them catches cores that break it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mnemic.memory import MEMORIES, make_config
from mnemic.memory.core import Core, State, map_state, select
from mnemic.memory.laws import LAWS, BrokenLaw, Scale, check_core
from mnemic.memory.pair import Pair

# Shorter than the window, so that rings wrap and segments end. Memo goes far with a longer segment, to be quick.
SMALL: dict[str, dict[str, Any]] = {
    "transformer": {"heads": 2, "context": 8},
    "memo": {"heads": 2, "segment": 8, "summaries": 2, "sets": 2},
    "aaren": {"heads": 2},
    "lru": {"modes": 6},
    "s4d": {"modes": 3},
    "s5": {"modes": 6},
    "ffm": {"traces": 5, "contexts": 2},
    "shm": {"size": 6},
    "gtrxl": {"heads": 2, "context": 6},
    "agalite": {"heads": 2},
    "rat": {"heads": 2, "chunk": 4, "chunks": 3},
    "slots": {"slots": 4, "slot_width": 5, "key_width": 3},
    "slstm": {"heads": 2},
    "mlstm": {"heads": 2},
    "linear-attention": {"heads": 2},
    "based": {"heads": 2, "window": 8},
    "deltanet": {"heads": 2},
    "mom": {"heads": 2},
}
STACKED: dict[str, Any] = {"depth": 2, "residual": "gate", "mlp": 2}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in MEMORIES},
    **{f"{name}-stacked": (name, STACKED) for name in MEMORIES},
    "gru-heads": ("gru", {"heads": 2}),
    "lstm-heads": ("lstm", {"heads": 4, "depth": 2, "residual": "add"}),
    "mingru-positive": ("mingru", {"candidate": "positive", "hold": 0.0}),
    "s5-lin": ("s5", {"init": "lin", "dt_max": 1.0, "residual": "none"}),
    "s4d-inv": ("s4d", {"init": "inv"}),
    "lru-ring": ("lru", {"r_min": 0.9, "r_max": 0.999, "phase": 0.3}),
    "ffm-memoroid": ("ffm", {"init": "memoroid", "residual": "add"}),
    "shm-constant": ("shm", {"rows": "constant", "ceiling": 1.0, "residual": "none"}),
    "transformer-sink": ("transformer", {"sink": "kv", "context": 3}),
    "transformer-kv0": ("transformer", {"sink": "kv0", "context": 100}),
    "transformer-k0v": ("transformer", {"sink": "k0v", "residual": "gate"}),
    "transformer-k0v0": ("transformer", {"sink": "k0v0", "depth": 2}),
    "transformer-episode": ("transformer", {"positions": "episode", "episode_positions": 4, "depth": 2}),
    "memo-overwrite": ("memo", {"store": "overwrite", "depth": 2}),
    "memo-one-segment-of-gradient": ("memo", {"summary_gradient": 1}),
    "memo-direct": ("memo", {"reread": False, "depth_dropout": 0.5, "segment_jitter": 0.2}),
    "mlstm-conv": ("mlstm", {"conv": 3, "key_width": 3, "value_width": 5}),
    "linear-attention-relu": ("linear-attention", {"feature": "relu", "conv": 4}),
    "linear-attention-sum": ("linear-attention", {"normalise": False, "window": 5}),
    "deltanet-gated": ("deltanet", {"gate": "scalar", "conv": 2}),
    "deltanet-product": ("deltanet", {"gate": "scalar", "beta_max": 2.0, "steps": 3, "value_width": 3}),
    "mom-linear-attention": ("mom", {"rule": "linear-attention", "memories": 3, "active": 1}),
    "mom-mlstm": ("mom", {"rule": "mlstm", "shared": False}),
    "mom-product": ("mom", {"gate": "none", "beta_max": 2.0, "steps": 2, "memories": 2, "active": 1, "conv": 3}),
    "memo-direct-overwrite": ("memo", {"reread": False, "store": "overwrite", "depth": 2}),
    "gtrxl-past-alone": ("gtrxl", {"current": False, "past_gradient": False, "positions": "learned"}),
    "gtrxl-sinusoidal": ("gtrxl", {"positions": "sinusoidal", "depth": 2, "context": 30}),
    "gtrxl-no-positions": ("gtrxl", {"positions": "none", "current": False, "residual": "none"}),
    "agalite-published": ("agalite", {"frequencies": "published", "rank": 3}),
    "galite": ("agalite", {"product": "exact", "depth": 2}),
    "rat-attention": ("rat", {"chunk": 1, "chunks": 30}),
    "rat-one-chunk": ("rat", {"chunk": 7, "chunks": 1, "groups": 1, "depth": 2}),
    "slots-writes": ("slots", {"writes": 3, "reads": 2, "residual": "add", "depth": 2}),
    "slots-soft": ("slots", {"write": "soft", "temperature": 0.5}),
    "slots-feedback": ("slots", {"write": "gumbel", "feedback": True}),
}
FAR = {"memo": {"segment": 200}}


def config(variant: str, **options: Any) -> Any:
    name, own = VARIANTS[variant]
    return make_config(name, **{"width": 8, **SMALL.get(name, {}), **own, **options})


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_core_keeps_every_law(variant: str, law: str) -> None:
    LAWS[law](config(variant).build, Scale(far=300, stream=300))


@pytest.mark.parametrize("law", LAWS)
def test_two_cores_side_by_side_keep_every_law(law: str) -> None:
    LAWS[law](lambda: Pair(config("gru").build(), config("transformer").build()), Scale(far=300, stream=300))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", MEMORIES)
def test_every_core_keeps_every_law_on_a_gpu(name: str, law: str) -> None:
    LAWS[law](lambda: config(name).build().cuda(), Scale(far=300, stream=300))


@pytest.mark.parametrize("name", MEMORIES)
def test_the_state_is_as_large_as_it_says_after_100_000_steps(name: str) -> None:
    LAWS["state is data"](config(name, **FAR.get(name, {})).build, Scale(far=100_000))


class Plain(Core):
    """A recurrent core that keeps all laws, and what the broken ones below change."""

    def __init__(self) -> None:
        super().__init__(4)
        self.of_input, self.of_hidden = nn.Linear(4, 4), nn.Linear(4, 4)

    def initial_state(self, batch: int) -> State:
        return self.of_input.weight.new_zeros(batch, 4)

    def forget(self, state: State, start_B: Tensor) -> State:
        return select(start_B, self.initial_state(1), state)

    def move(self, x_BD: Tensor, state: State) -> tuple[Tensor, State]:
        y_BD = torch.tanh(self.of_input(x_BD) + self.of_hidden(state))
        return y_BD, y_BD

    def step(self, x_BD: Tensor, state: State, start_B: Tensor) -> tuple[Tensor, State]:
        return self.move(x_BD, self.forget(state, start_B))

    def unroll(self, x_TBD: Tensor, state: State, start_TB: Tensor) -> tuple[Tensor, State]:
        outputs = []
        for x_BD, start_B in zip(x_TBD, start_TB, strict=True):
            y_BD, state = Plain.step(self, x_BD, state, start_B)
            outputs.append(y_BD)
        return torch.stack(outputs), state


class ForgetsAfterTheStep(Plain):
    def step(self, x_BD: Tensor, state: State, start_B: Tensor) -> tuple[Tensor, State]:
        y_BD, state = self.move(x_BD, state)
        return y_BD, self.forget(state, start_B)


class ForgetsTheOtherWayInUnroll(Plain):
    def unroll(self, x_TBD: Tensor, state: State, start_TB: Tensor) -> tuple[Tensor, State]:
        return super().unroll(x_TBD, state, start_TB[:1].expand_as(start_TB))


class LeavesAnotherMemory(Plain):
    """Its outputs of the window are right, and what it carries on is not."""

    def unroll(self, x_TBD: Tensor, state: State, start_TB: Tensor) -> tuple[Tensor, State]:
        y_TBD, state = super().unroll(x_TBD, state, start_TB)
        return y_TBD, state * 1.01


class OneClockForAllRows(Plain):
    """A position that is right for the first row is taken for every row, in unroll."""

    def initial_state(self, batch: int) -> State:
        return super().initial_state(batch), torch.zeros(batch, 1, dtype=torch.int64)

    def move(self, x_BD: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, clock = state
        y_BD, hidden = super().move(x_BD + clock.to(x_BD).cos(), hidden)
        return y_BD, (hidden, clock + 1)

    def unroll(self, x_TBD: Tensor, state: State, start_TB: Tensor) -> tuple[Tensor, State]:
        hidden, clock = state
        return super().unroll(x_TBD, (hidden, clock[:1].expand_as(clock)), start_TB)


class IgnoresWhatIsCarried(Plain):
    def unroll(self, x_TBD: Tensor, state: State, start_TB: Tensor) -> tuple[Tensor, State]:
        return super().unroll(x_TBD, torch.zeros_like(state), start_TB)


class CountsFromTheWindow(Plain):
    def unroll(self, x_TBD: Tensor, state: State, start_TB: Tensor) -> tuple[Tensor, State]:
        time_T11 = torch.arange(len(x_TBD), dtype=x_TBD.dtype)[:, None, None]
        return super().unroll(x_TBD + time_T11.cos(), state, start_TB)


class ForgetsByMultiplying(Plain):
    def forget(self, state: State, start_B: Tensor) -> State:
        return state * ~start_B[:, None]


class ForgetsInTheOutputOnly(Plain):
    def forget(self, state: State, start_B: Tensor) -> State:
        return state

    def unroll(self, x_TBD: Tensor, state: State, start_TB: Tensor) -> tuple[Tensor, State]:
        y_TBD, state = super().unroll(x_TBD, state, start_TB)
        return torch.where(start_TB[..., None], 0.0, y_TBD), state


class KeepsATrace(Plain):
    def forget(self, state: State, start_B: Tensor) -> State:
        return torch.where(start_B[:, None], 1e-9 * state, state)


class KeepsAGradient(Plain):
    """The values forget, the gradient does not."""

    def forget(self, state: State, start_B: Tensor) -> State:
        return super().forget(state, start_B) + torch.where(start_B[:, None], state - state.detach(), 0.0)


class LooksAhead(Plain):
    def unroll(self, x_TBD: Tensor, state: State, start_TB: Tensor) -> tuple[Tensor, State]:
        return super().unroll(x_TBD + 1e-6 * x_TBD.roll(-1, 0), state, start_TB)


class LooksAheadWithoutGradient(Plain):
    def unroll(self, x_TBD: Tensor, state: State, start_TB: Tensor) -> tuple[Tensor, State]:
        return super().unroll(x_TBD + x_TBD.mean(0, keepdim=True).sign(), state, start_TB)


class SeesALaterStart(Plain):
    def unroll(self, x_TBD: Tensor, state: State, start_TB: Tensor) -> tuple[Tensor, State]:
        return super().unroll(x_TBD + start_TB.any(0)[:, None], state, start_TB)


class NormalisesOverRows(Plain):
    def move(self, x_BD: Tensor, state: State) -> tuple[Tensor, State]:
        return super().move(x_BD - x_BD.mean(0), state)


class MixesGradientsOfRows(Plain):
    def move(self, x_BD: Tensor, state: State) -> tuple[Tensor, State]:
        mean_D = x_BD.mean(0)
        return super().move(x_BD + mean_D - mean_D.detach(), state)


class WritesIntoTheStateItIsGiven(Plain):
    def step(self, x_BD: Tensor, state: State, start_B: Tensor) -> tuple[Tensor, State]:
        y_BD, after = super().step(x_BD, state, start_B)
        with torch.no_grad():
            state.copy_(after)
        return y_BD, after


class CountsInABuffer(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def move(self, x_BD: Tensor, state: State) -> tuple[Tensor, State]:
        self.calls += 1
        return super().move(x_BD, state)


class KeepsItInTheModule(Plain):
    hidden: Tensor | None = None

    def move(self, x_BD: Tensor, state: State) -> tuple[Tensor, State]:
        if self.hidden is not None and self.hidden.shape == state.shape:
            state = state + self.hidden.to(state)
        self.hidden = super().move(x_BD, state)[0].detach()
        return self.hidden, self.hidden


class GrowsWithoutSayingSo(Plain):
    """A cache that holds every input of the trial."""

    def initial_state(self, batch: int) -> State:
        return super().initial_state(batch), self.of_input.weight.new_zeros(batch, 0, 4)

    def move(self, x_BD: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, cache = state
        y_BD, hidden = super().move(x_BD, hidden)
        return y_BD, (hidden, torch.cat([cache, x_BD.to(cache)[:, None]], 1))


class KeepsATensorThatIsNotInTheState(Plain):
    """What a row remembers stands behind a number, as an index into a list of the module."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = [torch.zeros(4)]

    def initial_state(self, batch: int) -> State:
        return super().initial_state(batch), torch.zeros(batch, 1, dtype=torch.int64)

    def move(self, x_BD: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, index = state
        y_BD, hidden = super().move(x_BD + len(self.seen), hidden)
        self.seen.append(y_BD[0].detach())
        return y_BD, (hidden, index + 1)


class CutsTheGradientToTheState(Plain):
    def unroll(self, x_TBD: Tensor, state: State, start_TB: Tensor) -> tuple[Tensor, State]:
        return super().unroll(x_TBD, map_state(Tensor.detach, state), start_TB)


class CutsTheGradientOfTheMemoryItLeaves(Plain):
    def unroll(self, x_TBD: Tensor, state: State, start_TB: Tensor) -> tuple[Tensor, State]:
        y_TBD, state = super().unroll(x_TBD, state, start_TB)
        return y_TBD, state.detach()


class ScalesAWeightGradient(Plain):
    def unroll(self, x_TBD: Tensor, state: State, start_TB: Tensor) -> tuple[Tensor, State]:
        y_TBD, state = super().unroll(x_TBD, state, start_TB)
        bias = self.of_input.bias
        return y_TBD + 1e-3 * (bias - bias.detach()), state


class AdvancesOtherwise(Plain):
    def advance(self, x_BD: Tensor, state: State, start_B: Tensor) -> tuple[Tensor, State]:
        return self.step(x_BD, state, torch.zeros_like(start_B))


class NeverSettles(Plain):
    settles = True

    def unsettled(self, state: State) -> Tensor:
        return torch.ones(len(state), dtype=torch.bool)


class TakesEpisodesFromTheFirstRow(Plain):
    """It counts the episodes of a trial, for all rows as for the first, in unroll."""

    episodic = True

    def initial_state(self, batch: int) -> State:
        return super().initial_state(batch), torch.zeros(batch, 1, dtype=torch.int64)

    def step(
        self, x_BD: Tensor, state: State, start_B: Tensor, episode_B: Tensor | None = None
    ) -> tuple[Tensor, State]:
        hidden, count = self.forget(state, start_B)
        count = count + (start_B if episode_B is None else episode_B)[:, None]
        y_BD, hidden = self.move(x_BD + count.to(x_BD).cos(), hidden)
        return y_BD, (hidden, count)

    def forget(self, state: State, start_B: Tensor) -> State:
        return select(start_B, self.initial_state(1), state)

    def unroll(
        self, x_TBD: Tensor, state: State, start_TB: Tensor, episode_TB: Tensor | None = None
    ) -> tuple[Tensor, State]:
        assert episode_TB is not None
        outputs = []
        for x_BD, start_B, episode_B in zip(x_TBD, start_TB, episode_TB, strict=True):
            y_BD, state = self.step(x_BD, state, start_B, episode_B[:1].expand_as(episode_B))
            outputs.append(y_BD)
        return torch.stack(outputs), state


class Overflows(Plain):
    def move(self, x_BD: Tensor, state: State) -> tuple[Tensor, State]:
        weight = torch.exp(x_BD)
        return weight / (1 + weight), state


class DividesByZero(Plain):
    def move(self, x_BD: Tensor, state: State) -> tuple[Tensor, State]:
        return super().move(x_BD / x_BD.norm(dim=-1, keepdim=True), state)


class LeavesHalfPrecision(Plain):
    def move(self, x_BD: Tensor, state: State) -> tuple[Tensor, State]:
        y_BD, state = super().move(x_BD, state)
        return y_BD.double(), state


class GrowsWithoutBound(Plain):
    def move(self, x_BD: Tensor, state: State) -> tuple[Tensor, State]:
        state = 1.2 * state + self.of_input(x_BD)
        return state, state


BROKEN: list[tuple[str, type[Core]]] = [
    ("step is unroll", ForgetsAfterTheStep),
    ("step is unroll", ForgetsTheOtherWayInUnroll),
    ("step is unroll", LeavesAnotherMemory),
    ("step is unroll", OneClockForAllRows),
    ("advance then settle is step", AdvancesOtherwise),
    ("advance then settle is step", NeverSettles),
    ("step is unroll", TakesEpisodesFromTheFirstRow),
    ("chunks do not matter", IgnoresWhatIsCarried),
    ("chunks do not matter", CountsFromTheWindow),
    ("forgetting is exact", ForgetsAfterTheStep),
    ("forgetting is exact", ForgetsByMultiplying),
    ("forgetting is exact", ForgetsInTheOutputOnly),
    ("forgetting is exact", KeepsATrace),
    ("forgetting is exact", KeepsAGradient),
    ("causal", LooksAhead),
    ("causal", LooksAheadWithoutGradient),
    ("causal", SeesALaterStart),
    ("rows are independent", NormalisesOverRows),
    ("rows are independent", MixesGradientsOfRows),
    ("state is data", WritesIntoTheStateItIsGiven),
    ("state is data", CountsInABuffer),
    ("state is data", KeepsItInTheModule),
    ("state is data", GrowsWithoutSayingSo),
    ("state is data", KeepsATensorThatIsNotInTheState),
    ("gradients agree", CutsTheGradientToTheState),
    ("gradients agree", CutsTheGradientOfTheMemoryItLeaves),
    ("gradients agree", ScalesAWeightGradient),
    ("survives", Overflows),
    ("survives", DividesByZero),
    ("survives", LeavesHalfPrecision),
    ("survives", GrowsWithoutBound),
]


@pytest.mark.parametrize(("law", "broken"), BROKEN, ids=lambda value: getattr(value, "__name__", value))
def test_a_broken_core_is_caught(law: str, broken: type[Core]) -> None:
    with pytest.raises(BrokenLaw, match=f"^law '{law}': ") as caught:
        LAWS[law](broken, Scale(far=100, stream=1_000))
    assert caught.value.law == law


def test_every_law_catches_something() -> None:
    assert {law for law, _ in BROKEN} == set(LAWS)


def test_a_core_of_ones_own_in_one_call() -> None:
    check_core(Plain, Scale(far=1_000, stream=100))


def test_one_call_tries_every_law(monkeypatch: pytest.MonkeyPatch) -> None:
    names, tried = list(LAWS), []
    for name in names:
        monkeypatch.setitem(LAWS, name, lambda build, scale, name=name: tried.append((name, build, scale.steps)))
    check_core(Plain)
    assert tried == [(name, Plain, 24) for name in names]


def test_the_message_says_what_was_seen_expected_and_where() -> None:
    with pytest.raises(BrokenLaw, match=r"part state, afterwards: \S+ instead of \S+ at \[\d, \d\], worst difference"):
        LAWS["state is data"](WritesIntoTheStateItIsGiven, Scale(far=100))


def test_the_laws_leave_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    LAWS["causal"](Plain, Scale())
    assert torch.equal(torch.get_rng_state(), before)


def test_too_small_a_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 rows and 4 steps, not 1 and 24"):
        check_core(Plain, Scale(batch=1))
