"""Slots: an LSTM with a memory of slots, in which a write overwrites one slot and leaves the others as they are.

Shapes: T time, B rows, D features, M slots, V width of a slot, A width of an address, W writes a step, R reads a step,
U = 2 D numbers that queries and values are made of, N numbers side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..kernels.linear_scan import linear_scan
from .core import Core, MemoryConfig, count_parameters, select
from .rnn import LSTM, LSTMState
from .stack import Stack

Write = Literal["straight-through", "gumbel", "soft"]


class SlotState(NamedTuple):
    """What a layer remembers."""

    controller: LSTMState
    """The state of the LSTM."""
    slots_BMV: Tensor
    """(B, M, V): what stands in the slots."""
    read_BN: Tensor
    """With feedback (B, R * V), what the step before has read; (B, 0) without."""


class Slots(Core):
    """One layer: controller, slots, and a gate that merges what is read with the controller's state.

    Every slot has a learned key. With h from the LSTM and u = [x; h], each write w makes an address from a query,
    p = softmax over slots and "no write" of (query_w(u) . key / sqrt A + bias) / temperature, and a value v_w(u), and
    S_m = (1 - a_m) S_m + a_m v_w for all slots, one write after the other. a is p itself (soft), or 1 at the highest p
    and 0 elsewhere, with the gradient of p (straight-through: Bengio et al. 2013; gumbel: the highest after Gumbel
    noise, Jang et al. 2017, in learning only). Reads are softmax means of slots, with queries from u, and
    y = (1 - f) h + f W_o read with f = sigmoid(W_f [h; read] + b_f).

    Sources: the idea of ALER (arXiv 2610.00592: an LSTM, slots that a concentrated write overwrites, a learned gate
    before the heads), of which only the abstract was read; the equations are our own. The keys of slots are learned
    and stay as they are, whatever stands in the slots: they are places, and what belongs together learns to go to one.
    """

    def __init__(
        self,
        width: int,
        slots: int,
        slot_width: int,
        key_width: int,
        writes: int,
        reads: int,
        write: Write,
        temperature: float,
        feedback: bool,
        forget_bias: float,
        hold_bias: float,
    ) -> None:
        super().__init__(width)
        self.sizes, self.writes, self.reads = (slots, slot_width), writes, reads
        self.write, self.temperature = write, temperature
        self.controller = LSTM(width, forget_bias=forget_bias)
        # The last key is that of "no write", and its bias is added for it.
        self.keys = nn.Parameter(torch.randn(slots + 1, key_width))
        self.hold_bias = nn.Parameter(torch.tensor([hold_bias]))
        self.write_query = nn.Linear(2 * width, writes * key_width)
        self.value = nn.Linear(2 * width, writes * slot_width)
        self.read_query = nn.Linear(2 * width, reads * key_width)
        self.read_out = nn.Linear(reads * slot_width, width, bias=False)
        self.fuse = nn.Linear(width + reads * slot_width, width)
        self.back = nn.Linear(reads * slot_width, width, bias=False) if feedback else None

    def initial_state(self, batch: int) -> SlotState:
        """Return zeros; slots are float32 at least, since in bfloat16 a soft write may be too small to move them."""
        dtype = torch.promote_types(self.keys.dtype, torch.float32)
        slots_BMV = torch.zeros(batch, *self.sizes, dtype=dtype, device=self.keys.device)
        read = 0 if self.back is None else self.back.in_features
        return SlotState(self.controller.initial_state(batch), slots_BMV, self.keys.new_zeros(batch, read))

    def step(self, x_BD: Tensor, state: SlotState, start_B: Tensor) -> tuple[Tensor, SlotState]:
        """Take one step, without noise."""
        return self._step(x_BD, select(start_B, self.initial_state(1), state), noisy=False)

    def unroll(self, x_TBD: Tensor, state: SlotState, start_TB: Tensor) -> tuple[Tensor, SlotState]:
        """Take T steps: in parallel but for the loop of the LSTM, or with `feedback` one after the other."""
        noisy = self.training and self.write == "gumbel"
        if self.back is None:
            h_TBD, controller = self.controller.unroll(x_TBD, state.controller, start_TB)
            y_TBD, slots_BMV, _ = self._remember(x_TBD, h_TBD, state.slots_BMV, start_TB, noisy)
            return y_TBD, SlotState(controller, slots_BMV, state.read_BN)
        outputs = []
        for x_BD, start_B in zip(x_TBD, start_TB, strict=True):
            y_BD, state = self._step(x_BD, select(start_B, self.initial_state(1), state), noisy)
            outputs.append(y_BD)
        return torch.stack(outputs), state

    def _step(self, x_BD: Tensor, state: SlotState, noisy: bool) -> tuple[Tensor, SlotState]:
        never_B = torch.zeros(len(x_BD), dtype=torch.bool, device=x_BD.device)
        h_BD, controller = self.controller.step(self._heard(x_BD, state), state.controller, never_B)
        y_1BD, slots_BMV, read_1BN = self._remember(x_BD[None], h_BD[None], state.slots_BMV, never_B[None], noisy)
        read_BN = state.read_BN if self.back is None else read_1BN[0].to(state.read_BN.dtype)
        return y_1BD[0], SlotState(controller, slots_BMV, read_BN)

    def _heard(self, x_BD: Tensor, state: SlotState) -> Tensor:
        """Return the controller's input: with feedback, what was read at the step before joins it."""
        if self.back is None:
            return x_BD
        heard_BD: Tensor = x_BD + self.back(state.read_BN)
        return heard_BD

    def _remember(
        self, x_TBD: Tensor, h_TBD: Tensor, slots_BMV: Tensor, start_TB: Tensor, noisy: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Write, read and merge at T steps; returns the outputs, what stands in the slots after them, and the reads."""
        both_TBU = torch.cat([x_TBD, h_TBD], -1)
        address_TBWM, value_TBWV = self._written(both_TBU, noisy)
        kept_TBM1: Tensor = torch.ones_like(address_TBWM[:, :, 0, :, None])
        added_TBMV = torch.zeros_like(value_TBWV[:, :, 0, None]).expand(-1, -1, *self.sizes)
        # All writes of a step as one: what each leaves of a slot is left of the writes before it, too.
        for number in range(self.writes):
            address_TBM1, value_TB1V = address_TBWM[:, :, number, :, None], value_TBWV[:, :, number, None]
            kept_TBM1 = (1 - address_TBM1) * kept_TBM1
            added_TBMV = (1 - address_TBM1) * added_TBMV + address_TBM1 * value_TB1V
        kept_TBN = kept_TBM1.expand_as(added_TBMV).flatten(2)
        slots_TBN, slots_BN = linear_scan(kept_TBN, added_TBMV.flatten(2), slots_BMV.flatten(1), start_TB)
        read_TBN = self._read(both_TBU, slots_TBN.view(added_TBMV.shape))
        fuse_TBD = self.fuse(torch.cat([h_TBD, read_TBN], -1)).sigmoid()
        y_TBD = (1 - fuse_TBD) * h_TBD + fuse_TBD * self.read_out(read_TBN)
        return y_TBD, slots_BN.view(slots_BMV.shape), read_TBN

    def _written(self, both: Tensor, noisy: bool) -> tuple[Tensor, Tensor]:
        """Return where each write goes, (..., W, M), all zeros for nowhere, and what it says, (..., W, V)."""
        query = self.write_query(both).unflatten(-1, (self.writes, -1))
        score = query @ self.keys.t().to(query.dtype) * query.shape[-1] ** -0.5
        score = torch.cat([score[..., :-1], score[..., -1:] + self.hold_bias.to(score.dtype)], -1)
        if noisy:
            score = score - torch.empty_like(score).exponential_().clamp(min=1e-20).log()
        soft = (score / self.temperature).softmax(-1)
        value = self.value(both).unflatten(-1, (self.writes, -1))
        if self.write == "soft":
            return soft[..., :-1], value
        hard = torch.zeros_like(soft).scatter(-1, score.argmax(-1, keepdim=True), 1.0)
        # s + (1 - s) and s + (0 - s) are 1 and 0 to the last bit, so that other slots stay as they are.
        return (soft + (hard - soft).detach())[..., :-1], value

    def _read(self, both: Tensor, slots: Tensor) -> Tensor:
        """Return what each read finds, side by side, (..., R * V)."""
        query = self.read_query(both).unflatten(-1, (self.reads, -1))
        score = query @ self.keys[:-1].t().to(query.dtype) * query.shape[-1] ** -0.5
        read: Tensor = score.softmax(-1) @ slots.to(query.dtype)
        return read.flatten(-2)

    def gates(self, x_BD: Tensor, state: SlotState, start_B: Tensor) -> dict[str, Tensor]:
        """Return the controller's gates, whether each write takes place (B, W), and how much is read (B, D)."""
        state = select(start_B, self.initial_state(1), state)
        heard_BD = self._heard(x_BD, state)
        never_B = torch.zeros_like(start_B)
        h_BD, _ = self.controller.step(heard_BD, state.controller, never_B)
        _, after = self._step(x_BD, state, noisy=False)
        both_BU = torch.cat([x_BD, h_BD], -1)
        address_BWM, _ = self._written(both_BU, noisy=False)
        fuse_BD = self.fuse(torch.cat([h_BD, self._read(both_BU, after.slots_BMV)], -1)).sigmoid()
        own = {"write": address_BWM.sum(-1).clamp(0, 1), "fuse": fuse_BD}
        return self.controller.gates(heard_BD, state.controller, never_B) | own

    def flops_per_step(self, steps: int) -> float:
        """Return what weights cost, the products with keys and slots, and a product and a sum to move each slot."""
        slots, slot_width = self.sizes
        keys = self.keys.shape[1] * (self.writes * (slots + 1) + self.reads * slots)
        moved = (self.reads + self.writes) * slots * slot_width
        return 2.0 * (count_parameters(self) - self.keys.numel() + keys + moved)


@dataclass(frozen=True, kw_only=True)
class SlotsConfig(MemoryConfig):
    """An LSTM with slots that are overwritten one at a time."""

    name: ClassVar[str] = "slots"
    summary: ClassVar[str] = "an LSTM with slots: a write overwrites one slot by its key, and no other"

    slots: int = 8
    """Slots; what is to be told apart needs one each."""
    slot_width: int = 32
    """Numbers in a slot."""
    key_width: int = 16
    """Numbers in a key."""
    write: Write = "straight-through"
    """How a slot is chosen: the best and no other, with the gradient of a softmax; the same after Gumbel noise, which
    is for the pass that learns only; or all of them, each as far as the softmax says."""
    writes: int = 1
    """Slots that a step can write to, one after the other: as many as one observation shows at once."""
    reads: int = 1
    """Queries that a step reads with."""
    temperature: float = 0.3
    """Divides the scores of an address before the softmax; the lower, the sharper it and its gradient are."""
    hold_bias: float = 0.0
    """What the bias of "no write" begins at: the higher, the seldomer slots are written to at first."""
    feedback: bool = False
    """What a step has read goes into the controller at the next; learning then runs step by step."""
    forget_bias: float = 1.0
    """What the bias of the controller's forget gate begins at: the higher, the longer its cell holds on at first."""

    def __post_init__(self) -> None:
        """Refuse sizes of nothing, and a temperature that is none."""
        super().__post_init__()
        for field in ("slots", "slot_width", "key_width", "writes", "reads"):
            if getattr(self, field) < 1:
                raise ValueError(f"memory {self.name}: {field} is {getattr(self, field)}; it must be at least 1")
        if not self.temperature > 0:
            raise ValueError(f"memory {self.name}: temperature is {self.temperature}; it must be above 0")
        if self.write not in ("straight-through", "gumbel", "soft"):
            raise ValueError(
                f"memory {self.name}: unknown write {self.write!r}; choose straight-through, gumbel or soft"
            )

    def build(self) -> Core:
        """Make the core."""
        sizes = (self.width, self.slots, self.slot_width, self.key_width, self.writes, self.reads)
        options = (self.write, self.temperature, self.feedback, self.forget_bias, self.hold_bias)
        return Stack(self, [Slots(*sizes, *options) for _ in range(self.depth)])
