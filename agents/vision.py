"""Nets that see: grids through a few small convolutions, images through a light net or a ResNet-18.

Shapes: N observations, H height, W width, K planes of an observation, C channels, D features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

Net = Literal["light", "resnet18"]
LEAST = 32
"""Cells of each side from which on a grid is an image."""


def is_image(space: spaces.Box) -> bool:
    """Say whether a box (H, W, K) is an image; smaller ones are grids, whose cells count one by one."""
    return len(space.shape) == 3 and min(space.shape[:2]) >= LEAST


def image_net(net: Net, boxes: Sequence[spaces.Box], channels: int, width: int) -> ImageNet:
    """Return a net from a list of images of one height and width, each (N, H, W, K), to (N, D).

    Args:
        net: `light` or `resnet18`.
        boxes: what the images are, K together.
        channels: of the first convolution of a grid's net; this one begins with twice as many.
        width: D.
    """
    height, breadth, _ = boxes[0].shape
    planes = sum(box.shape[-1] for box in boxes)
    make = {"light": _light, "resnet18": _resnet18}[net]
    return ImageNet(boxes, make(planes, height, breadth, channels, width), channels_last=net == "light")


class ImageNet(nn.Module):
    """Images side by side in their channels, in -1..1 by the bounds of their spaces, then a net.

    Bytes become numbers here, one minibatch at a time and in the precision of the net: nothing before this holds more
    than a byte of a byte. Since an observation has its channels last, so has what the net is given, without a copy, and
    convolutions go on so; the normalisation of a ResNet is one for channels first on a GPU. Weights lie as ever, since
    those of a checkpoint do, and the optimiser's numbers beside them.
    """

    def __init__(self, boxes: Sequence[spaces.Box], net: nn.Sequential, *, channels_last: bool) -> None:
        super().__init__()
        self.net, self.channels_last = net, channels_last
        self.ranges = [_range(box) for box in boxes]

    def forward(self, images: Sequence[Tensor]) -> Tensor:
        """Return (N, D) of images (N, H, W, K)."""
        kind, dtype = images[0].device.type, next(self.parameters()).dtype
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        scaled = [
            image.to(dtype).sub(middle).mul(1 / half) for image, (middle, half) in zip(images, self.ranges, strict=True)
        ]
        x_NKHW = torch.cat(scaled, -1).movedim(-1, 1)
        features: Tensor = self.net(x_NKHW if self.channels_last else x_NKHW.contiguous())
        return features


def _range(box: spaces.Box) -> tuple[float, float]:
    """Return what lies in the middle of a space and half of its extent; 0 and 1 where it has no bounds."""
    low, high = float(box.low.min()), float(box.high.max())
    return ((low + high) / 2, (high - low) / 2) if math.isfinite(high - low) and high > low else (0.0, 1.0)


def _light(planes: int, height: int, breadth: int, channels: int, width: int) -> nn.Sequential:
    """Return a net of a few million multiply-adds at 64 x 64: what is large is over after one layer.

    An 8x8 convolution with stride 4, then 4x4 ones with stride 2 down to a side of 4 to 7, as the three layers of the
    net of Mnih et al. (2015, Nature 518, "Methods") with padding, so that sides are halved and nothing at the border is
    lost.
    """
    out, most = 2 * channels, 4 * channels
    layers: list[nn.Module] = [nn.Conv2d(planes, out, 8, stride=4, padding=2), nn.ReLU()]
    height, breadth, planes, out = height // 4, breadth // 4, out, most
    while min(height, breadth) >= 8:
        layers += [nn.Conv2d(planes, out, 4, stride=2, padding=1), nn.ReLU()]
        height, breadth, planes = height // 2, breadth // 2, out
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(planes * height * breadth, width), nn.ReLU())
    for layer in net:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            _begin(layer, math.sqrt(2))
    return net


class _Block(nn.Module):
    """The basic block of ResNet-18 (He et al. 2015, arXiv 1512.03385, figure 2), normalised by groups of channels."""

    def __init__(self, planes: int, out: int, stride: int, groups: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(planes, out, 3, stride=stride, padding=1, bias=False),
            nn.GroupNorm(groups, out),
            nn.ReLU(inplace=True),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            nn.GroupNorm(groups, out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or planes != out:
            conv = nn.Conv2d(planes, out, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.GroupNorm(groups, out))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch(x) + self.shortcut(x))


def _resnet18(planes: int, height: int, breadth: int, channels: int, width: int) -> nn.Sequential:
    """Return a ResNet-18 whose stages have 2, 4, 8 and 16 times `channels`: with 16, half the usual width.

    As in habitat-baselines (DD-PPO, Wijmans et al. 2019, arXiv 1911.00357): GroupNorm of `channels` groups, since the
    statistics of a batch are those of whatever rows meet in it; and, in the place of the mean over all pixels, a
    convolution to so few channels that about 2,048 numbers are left. Departures: images of up to 128 pixels are not
    halved first (there, all are, of 256), and no more channels than the last stage has come out of the convolution.
    """
    base = 2 * channels
    layers: list[nn.Module] = []
    if min(height, breadth) > 128:
        layers.append(nn.AvgPool2d(2))
        height, breadth = height // 2, breadth // 2
    layers += [nn.Conv2d(planes, base, 7, stride=2, padding=3, bias=False), nn.GroupNorm(channels, base)]
    layers += [nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2, padding=1)]
    height, breadth, planes = -(-height // 4), -(-breadth // 4), base
    for stage in range(4):
        out, stride = base * 2**stage, 1 if stage == 0 else 2
        layers += [_Block(planes, out, stride, channels), _Block(out, out, 1, channels)]
        height, breadth, planes = -(-height // stride), -(-breadth // stride), out
    left = min(planes, round(2048 / (height * breadth)) or 1)
    layers += [nn.Conv2d(planes, left, 3, padding=1, bias=False), nn.GroupNorm(1, left), nn.ReLU(inplace=True)]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(left * height * breadth, width), nn.ReLU())
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            _begin(layer, math.sqrt(2))
    return net


class _Scale(nn.Module):
    """Channels first, and bytes to 0..1 by the upper bound of the space."""

    def __init__(self, space: spaces.Box) -> None:
        super().__init__()
        self.high = max(float(space.high.max()), 1.0) if space.dtype == np.uint8 else 1.0

    def forward(self, grid: Tensor) -> Tensor:
        return (grid if self.high == 1 else grid / self.high).movedim(-1, -3)


def grid_net(space: spaces.Box, channels: int, width: int) -> nn.Sequential:
    """Return a small net from a grid (N, H, W, K) to (N, D).

    3x3 convolutions: with stride 2 while a side is longer than 8 cells, then two with stride 1.
    """
    height, breadth, planes = space.shape
    layers: list[nn.Module] = [_Scale(space)]
    out = channels
    while max(height, breadth) > 8:
        layers += [nn.Conv2d(planes, out, 3, stride=2, padding=1), nn.ReLU()]
        height, breadth, planes, out = (height + 1) // 2, (breadth + 1) // 2, out, min(2 * out, 4 * channels)
    for _ in range(2):
        if min(height, breadth) < 3:
            break
        layers += [nn.Conv2d(planes, out, 3), nn.ReLU()]
        height, breadth, planes, out = height - 2, breadth - 2, out, min(2 * out, 4 * channels)
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(planes * height * breadth, width), nn.ReLU())
    for layer in net:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            # Torch's default shrinks what is seen with every layer, until the one-hot vectors beside it drown it.
            _begin(layer, 2.0)
    return net


def _begin(layer: nn.Conv2d | nn.Linear, gain: float) -> None:
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
