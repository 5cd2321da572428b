"""Which backend of a kernel runs: a named one runs or raises; without a name, the fastest that fits runs.

A kernel is a folder. Its `__init__.py` makes one `Op`, whose backends are modules of the folder with the same functions
in them. A module is imported when it is first asked for, so that Triton need not be installed where it cannot run.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
from collections.abc import Iterable
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

from torch import Tensor

OPS: dict[str, Op] = {}
"""Every kernel by name; filled as the kernels are imported."""


class Backend(NamedTuple):
    """One way to compute a kernel. Its module may have `refusal(like, **facts)`, which says why it cannot, or None."""

    summary: str
    triton: bool = False
    """Written in Triton: needs a CUDA GPU, or Triton's interpreter on the CPU."""
    on_request: bool = False
    """Runs only when it is named: a peer for comparison."""


class Op:
    """A kernel and its backends, the fastest first; the last is `reference`, the definition, which runs everywhere.

    Attributes:
        name: what users call it.
        backends: by the name of their module.
        chosen: the backend that ran last, or None.
    """

    def __init__(self, name: str, package: str, backends: dict[str, Backend]) -> None:
        self.name, self.backends, self._package = name, backends, package
        self.chosen: str | None = None
        self._preferred: str | None = None
        self._modules: dict[str, ModuleType] = {}
        OPS[name] = self

    def pick(self, name: str | None, like: Tensor, *, rather: str | None = None, **facts: Any) -> ModuleType:
        """Return the module of a backend.

        Args:
            name: the backend; None for the one that `prefer` named, or the fastest that fits.
            like: a tensor on the device and in the type of the computation.
            rather: the fastest of those that run everywhere, where the kernel knows it by the sizes.
            facts: sizes that a backend may refuse.

        Raises:
            ValueError: an unknown name, or a named backend that cannot run here; the message says why and what would.
        """
        name = name or self._preferred or rather
        if name is None:
            name = self.default(like, **facts)
        elif reason := self.refusal(name, like, **facts):
            others = [each for each in self.backends if each != name and not self.refusal(each, like, **facts)]
            raise ValueError(f"{self.name}: backend {name!r} cannot run here: {reason}; what can: {', '.join(others)}")
        if self.chosen != name:
            self.chosen = name
        return self._module(name)

    def default(self, like: Tensor, **facts: Any) -> str:
        """Return the backend that runs on tensors like this one where none is named."""
        fits = (each for each in self.backends if self._unasked(each, like) and not self.refusal(each, like, **facts))
        return next(fits)

    def refusal(self, name: str, like: Tensor, **facts: Any) -> str | None:
        """Say why a backend cannot run on tensors like this one, or return None.

        Raises:
            ValueError: there is no backend of that name.
        """
        self._known(name)
        if self.backends[name].triton and (reason := no_triton(like)):
            return reason
        asked = getattr(self._module(name), "refusal", None)
        return None if asked is None else asked(like, **facts)

    def prefer(self, name: str | None) -> None:
        """Let a backend run wherever none is named; None for the fastest that fits."""
        if name is not None:
            self._known(name)
        self._preferred = name

    def _known(self, name: str) -> None:
        if name not in self.backends:
            raise ValueError(f"{self.name}: unknown backend {name!r}; choose one of {', '.join(self.backends)}")

    def _unasked(self, name: str, like: Tensor) -> bool:
        # The interpreter is for tests: no one wants it without asking.
        return not self.backends[name].on_request and (like.is_cuda or not self.backends[name].triton)

    def _module(self, name: str) -> ModuleType:
        if name not in self._modules:
            self._modules[name] = importlib.import_module(f".{name}", self._package)
        return self._modules[name]


def no_triton(like: Tensor) -> str | None:
    """Say why Triton cannot run on tensors like this one, or return None."""
    if not installed("triton"):
        return "triton is not installed (`pip install triton`)"
    if like.is_cuda or interpreted():
        return None
    return f"its tensors are on the {like.device.type}, and Triton needs a CUDA GPU"


@cache
def installed(package: str) -> bool:
    """Say whether a package is there. The answer is kept: looking costs as much as launching several kernels."""
    return importlib.util.find_spec(package) is not None


def interpreted() -> bool:
    """Say whether Triton interprets kernels on the CPU, which is slow and for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def load() -> dict[str, Op]:
    """Import every kernel of the package, so that all are in `OPS`, and return them by name."""
    package = __package__ or ""
    for found in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if found.ispkg:
            importlib.import_module(f"{package}.{found.name}")
    return OPS


def read(choices: Iterable[str]) -> dict[str, str]:
    """Return the backend of each kernel that words like `rnn=triton` name.

    Raises:
        ValueError: a word of another form, or an unknown kernel or backend.
    """
    wanted: dict[str, str] = {}
    for word in choices:
        op, sign, name = word.partition("=")
        if not sign or op not in OPS:
            raise ValueError(f"kernels: {word!r} came; write KERNEL=BACKEND with a kernel of {', '.join(sorted(OPS))}")
        OPS[op]._known(name)
        wanted[op] = name
    return wanted


def prefer(choices: Iterable[str]) -> None:
    """Set backends by words like `rnn=triton`; kernels that are not named choose for themselves.

    What ran before is forgotten: a run begins.

    Raises:
        ValueError: a word of another form, or an unknown kernel or backend.
    """
    wanted = read(choices)
    for op, kernel in OPS.items():
        kernel.prefer(wanted.get(op))
        kernel.chosen = None


def chosen() -> str:
    """Return the backends that ran last, such as `gae=triton rnn=triton`; kernels that never ran are left out."""
    return " ".join(f"{name}={op.chosen}" for name, op in sorted(OPS.items()) if op.chosen)
