"""TorchRL's kernels for LSTM and GRU with resets, for comparison: one head, on a CUDA GPU.

They take batches first and, for every step, the state that a row has after a reset; they compute in float32, with
products in the type of the inputs. Their first call at a new size tunes itself, which takes seconds to minutes.

Shapes: T time, B rows, D input features, H hidden units, N heads, K = H / N units of a head, G gates.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..backend import installed, no_triton

RECOMPUTES = True


def refusal(like: Tensor, *, cell: str = "lstm", heads: int = 1, **_: Any) -> str | None:
    """Say why TorchRL's kernels cannot run, or return None."""
    if not installed("torchrl"):
        return "torchrl is not installed (`pip install mnemic[torchrl]`)"
    if not like.is_cuda:
        return no_triton(like) or "TorchRL's kernels need a CUDA GPU"
    if cell not in ("lstm", "gru"):
        return f"torchrl has no kernel for the cell {cell!r}"
    if heads != 1:
        return f"torchrl's kernels have one head, not {heads}"
    if like.dtype == torch.float64:
        return "torchrl's kernels compute in float32, not float64"
    return None


def _options(x_TBD: Tensor, recompute: bool) -> dict[str, Any]:
    precise = torch.get_float32_matmul_precision() == "highest"
    dtype = torch.bfloat16 if x_TBD.dtype == torch.bfloat16 else torch.float32
    return {"compute_dtype": dtype, "input_precision": "tf32x3" if precise else "tf32", "recompute": recompute}


def _after_resets(state_BH: Tensor, start_TB: Tensor) -> Tensor:
    """Return (B, T, H): zeros, but the given state at the first step of the rows that do not start there."""
    state_BTH = state_BH.new_zeros(len(state_BH), len(start_TB), state_BH.shape[1], dtype=torch.float32)
    first_BH = torch.where(start_TB[0][:, None], 0.0, state_BH.float())
    return torch.cat([first_BH[:, None], state_BTH[:, 1:]], 1)


def lstm(
    x_TBD: Tensor,
    input_weight: Tensor,
    bias: Tensor,
    recurrent_GNKK: Tensor,
    hidden_BH: Tensor,
    cell_BH: Tensor,
    start_TB: Tensor,
    recompute: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run TorchRL's LSTM; see `mnemic.kernels.rnn.lstm`."""
    from torchrl.modules.tensordict_module._rnn_triton import lstm_triton

    y_BTH, _, hidden, cell = lstm_triton(
        x_TBD.float().transpose(0, 1).contiguous(),
        _after_resets(hidden_BH, start_TB),
        _after_resets(cell_BH, start_TB),
        input_weight.float(),
        recurrent_GNKK.float().flatten(0, 2),
        bias.float(),
        torch.zeros_like(bias, dtype=torch.float32),
        start_TB.t().contiguous(),
        **_options(x_TBD, recompute),
    )
    return y_BTH.transpose(0, 1).to(x_TBD.dtype), hidden.to(hidden_BH.dtype), cell.to(cell_BH.dtype)


def gru(
    x_TBD: Tensor,
    input_weight: Tensor,
    bias: Tensor,
    recurrent_GNKK: Tensor,
    recurrent_bias: Tensor,
    hidden_BH: Tensor,
    start_TB: Tensor,
    recompute: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run TorchRL's GRU; see `mnemic.kernels.rnn.gru`."""
    from torchrl.modules.tensordict_module._rnn_triton import gru_triton

    units = len(recurrent_bias)
    y_BTH, hidden = gru_triton(
        x_TBD.float().transpose(0, 1).contiguous(),
        _after_resets(hidden_BH, start_TB),
        input_weight.float(),
        recurrent_GNKK.float().flatten(0, 2),
        bias.float(),
        torch.cat([bias.new_zeros(2 * units, dtype=torch.float32), recurrent_bias.float()]),
        start_TB.t().contiguous(),
        **_options(x_TBD, recompute),
    )
    return y_BTH.transpose(0, 1).to(x_TBD.dtype), hidden.to(hidden_BH.dtype)
