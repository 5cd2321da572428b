"""From what an agent sees to the features that its memory takes in.

Shapes: everything here takes any leading axes (T and B, or B alone) before those of one observation; D features.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, get_args

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from .vision import LEAST, ImageNet, Net, grid_net, image_net, is_image

Obs = Tensor | dict[str, Tensor]


class Inputs(NamedTuple):
    """Everything that a policy is told at a step, (..., and the axes of one row)."""

    obs: Obs
    action: Tensor  # the previous action; ignored where a trial starts
    reward: Tensor  # (...) float32: the previous reward; ignored where a trial starts
    episode_start: Tensor  # (...) bool
    trial_start: Tensor  # (...) bool


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """What the policy is told besides the observation, and how wide its first layers are."""

    previous_action: bool = True
    """Tell the policy its last action of the trial."""
    previous_reward: bool = True
    """Tell the policy its last reward of the trial."""
    episode_flag: bool = True
    """Tell the policy when an episode opens: what separates episodes inside a trial."""
    layers: int = 1
    """Layers, each linear and a ReLU, between the observation and the memory."""
    hidden: int = 0
    """Width of these layers but the last; 0: that of the memory. The wider, the sooner one part of an observation is
    looked up by another, as the cell of a cube by its colour."""
    channels: int = 16
    """Channels of the first convolution over a grid; later ones have two and four times as many. Over an image twice as
    many are the first, and four (light) or sixteen (resnet18) times as many the most."""
    whole_grid: bool = False
    """Convolve a grid without strides, so that all its cells come to the linear layer after it."""
    net: Net = "light"
    """What looks at images, 32 x 32 pixels or more: a light net, or a ResNet-18 (of half the usual width with 16
    channels) with GroupNorm. Smaller grids have a net of their own."""
    backbone: str = ""
    """A frozen net in the place of the encoder's own for RGB images, as module:function, without arguments and
    annotated as returning a torch.nn.Module: bytes (N, H, W, 3) to features (N, F). Each image is looked at once, and
    its features are stored in its place."""

    def __post_init__(self) -> None:
        """Refuse sizes that no encoder can have."""
        if self.net not in get_args(Net):
            raise ValueError(f"encoder: net is {self.net!r}; choose one of {', '.join(get_args(Net))}")
        for field in ("layers", "channels"):
            if getattr(self, field) < 1:
                raise ValueError(f"encoder: {field} is {getattr(self, field)}; it must be at least 1")
        if self.hidden < 0:
            raise ValueError(f"encoder: hidden is {self.hidden}; it must be at least 0")
        if self.hidden and self.layers < 2:
            raise ValueError(f"encoder: hidden is {self.hidden} and layers is {self.layers}; make layers at least 2")


class Encoder(nn.Module):
    """Vectors side by side, grids and images through convolutions, then linear layers to D features.

    Images of one height and width, as colour and depth are, lie in one another's channels and share a net; every grid
    has its own. The first linear layer over a one-hot vector is an embedding of it, so goals and actions need no other.

    Args:
        config: what to tell the policy, and sizes.
        observation_space: a Box of one axis (a vector) or three (height, width, channels), or a Dict of such.
        action_space: Discrete (told as one-hot) or a Box of one axis (told as it is).
        width: D.
        features: by name, how many numbers stand in the place of an image, which a backbone has looked at.

    Raises:
        ValueError: a space of another kind, or a net for images where there are none.
    """

    def __init__(
        self,
        config: EncoderConfig,
        observation_space: spaces.Space[object],
        action_space: spaces.Space[object],
        width: int,
        features: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        features = features or {}
        self.config = config
        self.actions = int(action_space.n) if isinstance(action_space, spaces.Discrete) else None
        vector = config.previous_reward + config.episode_flag
        vector += action_size(action_space) if config.previous_action else 0
        # By name, so that neither the order of a dictionary nor a checkpoint can swap two observations.
        self.vector_names: list[str] = []
        self.feature_names = sorted(features)
        self.image_names: list[tuple[str, ...]] = []  # what each net sees
        self.images = nn.ModuleList()
        found = {name: box for name, box in sorted(boxes(observation_space).items()) if name not in features}
        images = {name: box for name, box in found.items() if is_image(box)}
        for name, space in found.items():
            if name in images:
                alike = [other for other, box in images.items() if box.shape[:2] == space.shape[:2]]
                if name == alike[0]:
                    self.image_names.append(tuple(alike))
                    self.images.append(image_net(config.net, [images[n] for n in alike], config.channels, width))
            elif len(space.shape) == 3:
                self.image_names.append((name,))
                self.images.append(grid_net(space, config.channels, width, whole=config.whole_grid))
            elif len(space.shape) == 1:
                self.vector_names.append(name)
                vector += space.shape[0]
            else:
                raise ValueError(
                    f"the observation {name!r} has shape {space.shape}; an encoder takes vectors (n,) and "
                    "grids or images (height, width, channels)"
                )
        if config.net != "light" and not images:
            raise ValueError(
                f"encoder: net is {config.net!r}, which looks at images of {LEAST} x {LEAST} pixels or more, and there "
                "are none here; leave net as it is"
            )
        if config.whole_grid and all(len(space.shape) != 3 or name in images for name, space in found.items()):
            raise ValueError("encoder: whole_grid is on, and there are no grids here; leave it off")
        # Of whatever size the features of a backbone are, those that are told beside them are not drowned.
        self.projections = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(features[name]), nn.Linear(features[name], width), nn.ReLU())
            for name in self.feature_names
        )
        joined = vector + width * (len(self.images) + len(self.feature_names))
        sizes = [joined, *[config.hidden or width] * (config.layers - 1), width]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        for layer in self.layers:
            nn.init.orthogonal_(layer.weight, math.sqrt(2))  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, inputs: Inputs) -> Tensor:
        """Return (..., D)."""
        named = inputs.obs if isinstance(inputs.obs, dict) else {"obs": inputs.obs}
        dtype: torch.dtype = self.layers[0].weight.dtype  # type: ignore[assignment]
        pieces = [named[name].to(dtype) for name in self.vector_names]
        known = (~inputs.trial_start).unsqueeze(-1).to(dtype)
        if self.config.previous_action:
            action = inputs.action if self.actions is None else F.one_hot(inputs.action, self.actions)
            pieces.append(action * known)
        if self.config.previous_reward:
            pieces.append(inputs.reward.unsqueeze(-1) * known)
        if self.config.episode_flag:
            pieces.append(inputs.episode_start.unsqueeze(-1).to(dtype))
        pieces += [net(named[name].to(dtype)) for name, net in zip(self.feature_names, self.projections, strict=True)]
        pieces += [
            _over_leading_axes(net, [named[name] for name in names], dtype)
            for names, net in zip(self.image_names, self.images, strict=True)
        ]
        x = torch.cat(pieces, -1)
        for layer in self.layers:
            x = _linear_relu(layer, x)  # type: ignore[arg-type]
        return x


class EncoderPair(nn.Module):
    """Two encoders of the same inputs, their features side by side."""

    def __init__(self, actor: Encoder, critic: Encoder) -> None:
        super().__init__()
        self.actor, self.critic = actor, critic

    def forward(self, inputs: Inputs) -> Tensor:
        """Return (..., D), the actor's features first."""
        return torch.cat([self.actor(inputs), self.critic(inputs)], -1)


def _linear_relu(layer: nn.Linear, x: Tensor) -> Tensor:
    """Return relu(W x + b), (..., D).

    On a CPU with W turned first: where inputs are few, the product that its gradient takes is then narrow on the side
    that the library is fast with, five times as fast for eight inputs. In place: no backward needs what was there.
    """
    if x.device.type != "cpu":
        return F.relu(layer(x))
    turned = layer.weight.t().contiguous()
    return torch.addmm(layer.bias, x.flatten(0, -2), turned).relu_().view(*x.shape[:-1], -1)


def boxes(space: spaces.Space[object]) -> dict[str, spaces.Box]:
    """Return the boxes of an observation space by name; a bare Box is named `obs`.

    Raises:
        ValueError: another kind of space.
    """
    named = dict(space.spaces) if isinstance(space, spaces.Dict) else {"obs": space}
    for name, part in named.items():
        if not isinstance(part, spaces.Box):
            raise ValueError(
                f"the observation {name!r} is a {type(part).__name__}; an encoder takes Box, or Dict of Box"
            )
    return named  # type: ignore[return-value]


def action_size(space: spaces.Space[object]) -> int:
    """Return how many numbers tell an action: the choices of a Discrete space, the length of a Box.

    Raises:
        ValueError: another kind of space.
    """
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        return space.shape[0]
    raise ValueError(f"the action space is {space}; a policy takes Discrete, or Box with one axis")


def _over_leading_axes(net: nn.Module, parts: list[Tensor], dtype: torch.dtype) -> Tensor:
    flat = [part.flatten(0, part.ndim - 4) for part in parts]
    features: Tensor = net(flat) if isinstance(net, ImageNet) else net(flat[0].to(dtype))
    return features.view(*parts[0].shape[:-3], -1)
