"""The matrix-state family: linear attention, gated linear attention, the delta rule, the gated delta rule.

One recurrence with parts that can be left out; memory is a matrix for each head, from keys to values.
Shapes: T time, B rows, H heads, K width of queries and keys, V width of values.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..backend import Backend, Op

__all__ = ["OP", "delta_rule"]

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
    An exponential input gate with its stabiliser (mLSTM): with log gates i, f and m_t = max(f_t + m_{t-1}, i_t), use
    log_decay = f_t + m_{t-1} - m_t, which is not above 0, and key * exp(i_t - m_t). m is a running maximum, carried by
    the caller, and where a row starts m_t = i_t.

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
