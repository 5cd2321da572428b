"""Layers one on top of the other, and what stands around each: norm, residual or gate, MLP. The same for every core.

Shapes: T time, B rows, D features. The functions of this file take any leading axes before D.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels.gated_unit import gated_unit
from .core import Core, MemoryConfig, State, count_parameters

EPS = 1e-6


class Norm(nn.RMSNorm):
    """RMSNorm in the type of its input: under autocast torch warns of a weight in another type, and is slow."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Norm (..., D)."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class GatedMLP(nn.Module):
    """silu(gate x) * (up x), projected back: the feed-forward part of LLaMA-style blocks, without biases."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_and_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        down: Tensor = self.down(gated_unit(self.gate_and_up(x)))
        return down


class GRUGate(nn.Module):
    """A GRU cell across depth: the stream is its state and the layer's output its input.

    Source: Parisotto et al. 2019, "Stabilizing Transformers for RL" (GTrXL), section 3.2. The bias of 2 on the update
    gate makes the block close to the identity at the start.
    """

    def __init__(self, width: int, bias: float = 2.0) -> None:
        super().__init__()
        self.of_layer = nn.Linear(width, 3 * width, bias=False)
        self.of_stream = nn.Linear(width, 2 * width, bias=False)
        self.of_reset = nn.Linear(width, width, bias=False)
        self.bias = nn.Parameter(torch.full((width,), bias))

    def forward(self, stream: Tensor, layer: Tensor) -> Tensor:
        """Merge a layer's output (..., D) into the stream (..., D)."""
        r, z, h_layer = self._gates(stream, layer)
        candidate = torch.tanh(h_layer + self.of_reset(r * stream))
        return (1 - z) * stream + z * candidate

    def update(self, stream: Tensor, layer: Tensor) -> Tensor:
        """Return the update gate, (..., D): how much of the stream is replaced."""
        return self._gates(stream, layer)[1]

    def _gates(self, stream: Tensor, layer: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r_layer, z_layer, h_layer = self.of_layer(layer).chunk(3, -1)
        r_stream, z_stream = self.of_stream(stream).chunk(2, -1)
        return torch.sigmoid(r_layer + r_stream), torch.sigmoid(z_layer + z_stream - self.bias), h_layer


class Block(nn.Module):
    """What stands around one layer: `before` prepares its input, `after` joins its output to the stream.

    Pre-norm (RMSNorm) wherever there is a residual or a gate; with residual "none" and no MLP it is the layer alone.
    """

    def __init__(self, config: MemoryConfig) -> None:
        super().__init__()
        width, self.residual = config.width, config.residual
        self.norm = nn.Identity() if config.residual == "none" else Norm(width)
        self.gate = GRUGate(width, config.residual_bias) if config.residual == "gate" else None
        self.mlp = nn.Sequential(Norm(width), GatedMLP(width, config.mlp * width)) if config.mlp else None
        self.mlp_gate = GRUGate(width, config.residual_bias) if config.mlp and config.residual == "gate" else None

    def before(self, stream: Tensor) -> Tensor:
        """Return what the layer takes in, (..., D)."""
        prepared: Tensor = self.norm(stream)
        return prepared

    def after(self, stream: Tensor, layer: Tensor, kept: Tensor | None = None) -> Tensor:
        """Return the stream after the layer and its MLP, (..., D); where `kept` is false, as it was before both."""
        joined = self._join(stream, layer, self.gate)
        joined = joined if self.mlp is None else self._join(joined, self.mlp(joined), self.mlp_gate)
        return joined if kept is None else torch.where(kept, joined, stream)

    def gates(self, stream: Tensor, layer: Tensor) -> dict[str, Tensor]:
        """Return the update gates through which the layer and its MLP enter the stream, where there are some."""
        found: dict[str, Tensor] = {}
        if self.gate is not None:
            found["residual"] = self.gate.update(stream, F.relu(layer))
        if self.mlp is not None and self.mlp_gate is not None:
            stream = self._join(stream, layer, self.gate)
            found["mlp"] = self.mlp_gate.update(stream, F.relu(self.mlp(stream)))
        return found

    def _join(self, stream: Tensor, layer: Tensor, gate: GRUGate | None) -> Tensor:
        if gate is not None:
            merged: Tensor = gate(stream, F.relu(layer))
            return merged
        return stream + layer if self.residual == "add" else layer


def kept_layers(core: nn.Module, chance: float, layers: int, like: Tensor) -> Tensor | None:
    """Draw, for one pass of learning, which layers take part: each is left out with a chance, for all rows at once.

    Depth dropout as in Memo (arXiv 2510.19732) and ReLIC (arXiv 2410.02751): what is kept is not scaled up. A layer
    that is left out remembers all the same.

    Returns:
        A bool by layer, or None where all take part: outside training mode.
    """
    if not (core.training and chance):
        return None
    return torch.rand(layers, device=like.device) >= chance


class Stack(Core):
    """Layers, each a core with a memory of its own; the state is a tuple with the state of each."""

    def __init__(self, config: MemoryConfig, layers: Sequence[Core]) -> None:
        super().__init__(config.width)
        self.layers = nn.ModuleList(layers)
        self.blocks = nn.ModuleList(Block(config) for _ in layers)
        self.norm = nn.Identity() if config.residual == "none" else Norm(config.width)
        self.settles = any(layer.settles for layer in layers)
        self.depth_dropout = config.depth_dropout

    def initial_state(self, batch: int) -> State:
        """Return the fresh memory of every layer."""
        return tuple(layer.initial_state(batch) for layer in self.layers)  # type: ignore[operator]

    def step(self, x_BD: Tensor, state: State, start_B: Tensor) -> tuple[Tensor, State]:
        """Take one step through all layers."""
        return self._run("step", x_BD, state, start_B)

    def unroll(self, x_TBD: Tensor, state: State, start_TB: Tensor) -> tuple[Tensor, State]:
        """Take T steps, layer after layer."""
        return self._run("unroll", x_TBD, state, start_TB)

    @torch.no_grad()
    def advance(self, x_BD: Tensor, state: State, start_B: Tensor) -> tuple[Tensor, State]:
        """Take one step through all layers, as each acts."""
        return self._run("advance", x_BD, state, start_B)

    def unsettled(self, state: State) -> Tensor:
        """Return the rows in which any layer has work left."""
        left = [layer.unsettled(part) for layer, part in self._settling(state)]
        return torch.stack(left).any(0)

    def slack(self, state: State) -> Tensor:
        """Return the least slack of any layer."""
        return torch.stack([layer.slack(part) for layer, part in self._settling(state)]).amin(0)

    def settle(self, state: State) -> State:
        """Settle every layer."""
        return tuple(layer.settle(part) for layer, part in zip(self.layers, state, strict=True))  # type: ignore[operator]

    def gates(self, x_BD: Tensor, state: State, start_B: Tensor) -> dict[str, Tensor]:
        """Return the gates of every layer, named by its number."""
        found: dict[str, Tensor] = {}
        for number, (layer, block, part) in enumerate(zip(self.layers, self.blocks, state, strict=True)):
            given_BD = block.before(x_BD)  # type: ignore[operator]
            y_BD, _ = layer.step(given_BD, part, start_B)  # type: ignore[operator]
            gates = layer.gates(given_BD, part, start_B) | block.gates(x_BD, y_BD)  # type: ignore[operator]
            found |= {f"{number}.{name}": gate for name, gate in gates.items()}
            x_BD = block.after(x_BD, y_BD)  # type: ignore[operator]
        return found

    def attends(self, x_BD: Tensor, state: State, start_B: Tensor, *more: Tensor) -> Tensor | None:
        """Return the mean over the layers, where they can say."""
        found: list[Tensor] = []
        for layer, block, part in zip(self.layers, self.blocks, state, strict=True):
            given_BD = block.before(x_BD)  # type: ignore[operator]
            share_BA = layer.attends(given_BD, part, start_B, *more)  # type: ignore[operator]
            if share_BA is None:
                return None
            found.append(share_BA)
            y_BD, _ = layer.step(given_BD, part, start_B, *more)  # type: ignore[operator]
            x_BD = block.after(x_BD, y_BD)  # type: ignore[operator]
        return torch.stack(found).mean(0)

    def check_episodes(self, steps: int | None) -> None:
        """Let every layer refuse episodes that are too long for it."""
        for layer in self.layers:
            layer.check_episodes(steps)  # type: ignore[operator]

    def state_bytes(self, steps: int) -> int:
        """Return the sum over the layers."""
        return sum(layer.state_bytes(steps) for layer in self.layers)  # type: ignore[operator]

    def context_entries(self, steps: int) -> int:
        """Return the entries of the layer that holds most: an entry is a key and a value in every layer."""
        most: int = max(layer.context_entries(steps) for layer in self.layers)  # type: ignore[operator]
        return most

    def flops_per_step(self, steps: int) -> float:
        """Return the sum over the layers and what stands around them."""
        layers: float = sum(layer.flops_per_step(steps) for layer in self.layers)  # type: ignore[operator]
        return layers + 2.0 * count_parameters(self.blocks, self.norm)

    def settling_flops(self, steps: int) -> float:
        """Return the sum over the layers."""
        return sum(layer.settling_flops(steps) for layer in self.layers)  # type: ignore[operator]

    def _settling(self, state: State) -> list[tuple[Core, State]]:
        return [(layer, part) for layer, part in zip(self.layers, state, strict=True) if layer.settles]  # type: ignore[misc]

    def _run(self, form: str, x: Tensor, state: State, start: Tensor, *more: Tensor) -> tuple[Tensor, State]:
        after = []
        kept = kept_layers(self, self.depth_dropout, len(self.layers), x) if form == "unroll" else None
        for index, (layer, block, part) in enumerate(zip(self.layers, self.blocks, state, strict=True)):
            y, part = getattr(layer, form)(block.before(x), part, start, *more)  # type: ignore[operator]
            x = block.after(x, y, None if kept is None else kept[index])  # type: ignore[operator]
            after.append(part)
        return self.norm(x), tuple(after)
