"""Frozen nets that look at images once: their features are stored in the place of the images, and learned from.

Shapes: N observations, H height, W width, F features.
"""

from __future__ import annotations

import hashlib
import importlib
import typing
from functools import cached_property
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from .vision import LEAST, is_image


class BackboneError(ValueError):
    """A backbone that cannot be used, and why, in one line."""


class Backbone:
    """A frozen net for the RGB images of an observation, bytes (H, W, 3) of at least 32 x 32 pixels.

    It is no part of a policy's parameters, learns nothing and is never in training mode. It is made with a random seed
    of its own, so that a net of random weights is the same one every time.

    Args:
        path: module:function; the function takes nothing and returns a module from uint8 (N, H, W, 3) to (N, F).
        images: the boxes of an observation by name; those that are no RGB images are left as they are.

    Attributes:
        features: F, by the name of each image.

    Raises:
        BackboneError: there is no such function, it makes something else, or there are no images for it.
    """

    def __init__(self, path: str, images: dict[str, spaces.Box]) -> None:
        self.path = path
        shown = {name: box.shape for name, box in images.items() if _is_rgb(box)}
        if not shown:
            raise BackboneError(
                f"encoder: the backbone {path} looks at RGB images, bytes of shape (height, width, 3) and {LEAST} x "
                f"{LEAST} pixels or more, and there are none here; leave backbone empty"
            )
        function = _find(path)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            self.net: nn.Module = function()
        if not isinstance(self.net, nn.Module):
            raise BackboneError(f"encoder: the backbone {path} gave a {type(self.net).__name__}, not a torch.nn.Module")
        self.net.requires_grad_(False).eval()
        self._device: torch.device | None = None
        self.features = {name: self._try(shape) for name, shape in shown.items()}

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the weights, in hexadecimal: a policy is of use with the ones that it has learned with."""
        found = hashlib.sha256()
        for name, part in sorted(self.net.state_dict().items()):
            found.update(name.encode())
            found.update(part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return found.hexdigest()

    @torch.no_grad()
    def __call__(self, obs: Tensor | dict[str, Tensor]) -> Tensor | dict[str, Tensor]:
        """Return an observation with features, float32 (..., F), in the place of images (..., H, W, 3)."""
        if not isinstance(obs, dict):
            return self._look(obs)
        return {name: self._look(part) if name in self.features else part for name, part in obs.items()}

    def _look(self, image: Tensor) -> Tensor:
        if image.device != self._device:
            self.net, self._device = self.net.to(image.device), image.device
        features: Tensor = self.net(image.flatten(0, image.ndim - 4))
        return features.float().view(*image.shape[:-3], -1)

    def _try(self, shape: tuple[int, ...]) -> int:
        """Return how many features an image has."""
        try:
            with torch.no_grad():
                features = self.net(torch.zeros(2, *shape, dtype=torch.uint8))
        except Exception as error:  # a net of any kind has any kind of error
            reason = " ".join(str(error).split())[:200]
            raise BackboneError(
                f"encoder: the backbone {self.path} takes no bytes of shape (N, {', '.join(map(str, shape))}): {reason}"
            ) from error
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != 2:
            came = f"shape {tuple(features.shape)}" if isinstance(features, Tensor) else f"a {type(features).__name__}"
            raise BackboneError(f"encoder: the backbone {self.path} made {came} of 2 images; it must make (2, F)")
        return features.shape[1]


def _is_rgb(box: spaces.Box) -> bool:
    return is_image(box) and box.shape[-1] == 3 and box.dtype == np.uint8


def _find(path: str) -> Any:
    """Return the function that a path names.

    Checkpoints name such functions, and no file may have others called that merely need no arguments: one that makes a
    net says so in its annotation.
    """
    module, _, name = path.partition(":")
    if not module or not name:
        raise BackboneError(f"encoder: backbone is {path!r}; it must be module:function")
    try:
        function = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise BackboneError(
            f"encoder: the module of the backbone {path} cannot be imported ({error}); put its folder into PYTHONPATH"
        ) from None
    if not callable(function):
        raise BackboneError(f"encoder: the backbone {path} is not there: {module} has no function {name}")
    try:
        gives = typing.get_type_hints(function).get("return")
    except (NameError, TypeError):
        gives = None
    if not (isinstance(gives, type) and issubclass(gives, nn.Module)):
        raise BackboneError(f"encoder: {name} of the backbone {path} must be annotated as `-> torch.nn.Module`")
    return function
