"""The matrix-state family: linear attention, gated linear attention, the delta rule, the gated delta rule.

One recurrence with parts that can be left out; memory is a matrix for each head, from keys to values.
Shapes: T time, B rows, H heads, K width of queries and keys, V width of values.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..backend import Backend, Op
from .gates import exponential_gates

__all__ = ["OP", "delta_product", "delta_rule", "exponential_gates"]

OP = Op(
    "delta_rule",
    __name__,
    {
        "triton": Backend("one pass over chunks of time, the state on chip", triton=True),
        "chunked": Backend("matrix products over chunks of time"),
        "reference": Backend("step by step, the definition"),
    },
)


def delta_rule(
    query_TBHK: Tensor,
    key_TBHK: Tensor,
    value_TBHV: Tensor,
    beta_TBH: Tensor | None,
    log_decay: Tensor | None,
    state_BHKV: Tensor,
    start_TB: Tensor,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the recurrence over T steps; `reference.delta_rule` is its definition.

    Each step does this to the memory S (K x V) of a row and head, in this order::

        S = 0                                  where the row starts
        S = exp(log_decay) * S                 if there are decays; a decay for each key dimension scales rows of S
        u = beta * (value - S^T key)           with beta (the delta rule): what is known of the key is erased
        u = value                              without (linear attention)
        S = S + key u^T
        y = S^T query

    So S = exp(g) (I - beta k k^T) S + beta k v^T for a decay for each head, which commutes with erasing.
    Nothing is scaled or normalised here. The delta rule needs beta in [0, 2] and keys of length 1 at most, or S grows.

    Normalised reads (linear attention, mLSTM): give `value` one more column of ones; its part of y is the normaliser.
    Exponential input gates (mLSTM): `exponential_gates` makes of them a log decay and a scale of the keys. Several
    writes in a step: `delta_product`.

    Args:
        query_TBHK: what is asked at each step, (T, B, H, K), T >= 1.
        key_TBHK: where each step writes, (T, B, H, K).
        value_TBHV: what each step writes, (T, B, H, V).
        beta_TBH: (T, B, H): how much of what was known of the key is replaced, 0 to 2; None to add without erasing.
        log_decay: (T, B, H), or (T, B, H, K) for a decay for each key dimension; not above 0; None to keep all.
        state_BHKV: memory before the first step, (B, H, K, V); float32 also when the inputs are bfloat16.
        start_TB: (T, B) bool; true where a row forgets everything before it takes that step.
        backend: a name of `OP.backends`, or None for the fastest that fits.

    Returns:
        y (T, B, H, V), in the type of `value`, and the memory after the last step, in the type of `state`.

    Raises:
        ValueError: shapes that do not fit each other, or a named backend that cannot run here.
    """
    _check(query_TBHK, key_TBHK, value_TBHV, beta_TBH, log_decay, state_BHKV, start_TB)
    rather = "reference" if len(query_TBHK) < 4 and not query_TBHK.is_cuda else None
    wide_BHKV = state_BHKV if state_BHKV.dtype == torch.float64 else value_TBHV
    by_key = log_decay is not None and log_decay.ndim == 4
    facts = {"key": key_TBHK.shape[-1], "delta": beta_TBH is not None, "by_key": by_key}
    module = OP.pick(backend, wide_BHKV, rather=rather, **facts)
    y_TBHV, last_BHKV = module.delta_rule(query_TBHK, key_TBHK, value_TBHV, beta_TBH, log_decay, state_BHKV, start_TB)
    return y_TBHV, last_BHKV


def delta_product(
    query_TBHK: Tensor,
    key_TNBHK: Tensor,
    value_TNBHV: Tensor,
    beta_TNBH: Tensor,
    log_decay_TBH: Tensor | None,
    state_BHKV: Tensor,
    start_TB: Tensor,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the delta rule with N writes in each step: forget and decay once, then erase and write N times, then read.

    With beta up to 2 a step multiplies memory by a product of N Householder matrices, such as a rotation for N = 2.
    Source: Siems et al. 2025, "DeltaProduct" (arXiv 2502.10297). It is `delta_rule` over T N tokens.

    Args:
        query_TBHK: what is asked after the writes of each step, (T, B, H, K), T >= 1.
        key_TNBHK: where each write goes, (T, N, B, H, K), N >= 1.
        value_TNBHV: what each writes, (T, N, B, H, V).
        beta_TNBH: how much each replaces, (T, N, B, H), 0 to 2.
        log_decay_TBH: what is kept from step to step, (T, B, H), not above 0; None to keep all.
        state_BHKV: as in `delta_rule`.
        start_TB: as in `delta_rule`.
        backend: as in `delta_rule`.

    Returns:
        y (T, B, H, V), and the memory after the last step.

    Raises:
        ValueError: as in `delta_rule`.
    """
    writes = key_TNBHK.shape[1]

    def spread(part: Tensor, *, at: int) -> Tensor:
        """Give what a step has once to one of its writes, and 0 to the others."""
        mine = torch.arange(writes, device=part.device).view(-1, *(1,) * (part.ndim - 1)) == at
        return torch.where(mine, part[:, None], torch.zeros_like(part[:, None])).flatten(0, 1)

    key, value, beta = (part.flatten(0, 1) for part in (key_TNBHK, value_TNBHV, beta_TNBH))
    decay = None if log_decay_TBH is None else spread(log_decay_TBH, at=0)
    query, start = spread(query_TBHK, at=writes - 1), spread(start_TB, at=0)
    y, last_BHKV = delta_rule(query, key, value, beta, decay, state_BHKV, start, backend)
    return y[writes - 1 :: writes], last_BHKV


def _check(
    query_TBHK: Tensor,
    key_TBHK: Tensor,
    value_TBHV: Tensor,
    beta_TBH: Tensor | None,
    log_decay: Tensor | None,
    state_BHKV: Tensor,
    start_TB: Tensor,
) -> None:
    head = query_TBHK.shape[:3]
    wanted = {
        "key": (key_TBHK, query_TBHK.shape),
        "value": (value_TBHV, (*head, value_TBHV.shape[-1])),
        "beta": (beta_TBH, head),
        "log_decay": (log_decay, query_TBHK.shape if log_decay is not None and log_decay.ndim == 4 else head),
        "state": (state_BHKV, (*head[1:], query_TBHK.shape[-1], value_TBHV.shape[-1])),
        "start": (start_TB, head[:2]),
    }
    for name, (part, shape) in wanted.items():
        if part is not None and tuple(part.shape) != tuple(shape):
            raise ValueError(
                f"delta_rule: {name} of {tuple(part.shape)} came, expected {tuple(shape)} "
                f"beside a query of {tuple(query_TBHK.shape)}"
            )
