"""Memory cores: what an agent remembers, and how it forgets."""

from __future__ import annotations

from dataclasses import asdict, fields
from difflib import SequenceMatcher
from typing import Any

from .aaren import AarenConfig
from .agalite import AGaLiTeConfig
from .core import Core, MemoryConfig, State
from .deltanet import DeltaNetConfig
from .ffm import FFMConfig
from .gtrxl import GTrXLConfig
from .linear_attention import BasedConfig, LinearAttentionConfig
from .memo import MemoConfig
from .mingru import MinGRUConfig
from .mlstm import MLSTMConfig
from .mom import MoMConfig
from .none import NoneConfig
from .para import ParaGRUConfig, ParaLSTMConfig
from .rat import RATConfig
from .rnn import GRUConfig, LSTMConfig
from .shm import SHMConfig
from .slots import SlotsConfig
from .slstm import SLSTMConfig
from .state_space import LRUConfig, S4DConfig, S5Config
from .transformer import TransformerConfig

__all__ = ["MEMORIES", "Core", "MemoryConfig", "State", "config_from_dict", "config_to_dict", "make_config"]

MEMORIES: dict[str, type[MemoryConfig]] = {
    "none": NoneConfig,
    "gru": GRUConfig,
    "lstm": LSTMConfig,
    "paragru": ParaGRUConfig,
    "paralstm": ParaLSTMConfig,
    "mingru": MinGRUConfig,
    "lru": LRUConfig,
    "s4d": S4DConfig,
    "s5": S5Config,
    "ffm": FFMConfig,
    "shm": SHMConfig,
    "slstm": SLSTMConfig,
    "mlstm": MLSTMConfig,
    "linear-attention": LinearAttentionConfig,
    "based": BasedConfig,
    "deltanet": DeltaNetConfig,
    "mom": MoMConfig,
    "aaren": AarenConfig,
    "transformer": TransformerConfig,
    "memo": MemoConfig,
    "gtrxl": GTrXLConfig,
    "agalite": AGaLiTeConfig,
    "rat": RATConfig,
    "slots": SlotsConfig,
}


def _choices(name: str, known: list[str]) -> str:
    """Return the known names, those most like the given one first."""
    return ", ".join(sorted(known, key=lambda one: -SequenceMatcher(None, name, one).ratio()))


def make_config(name: str, **options: Any) -> MemoryConfig:
    """Return the configuration of a core by name; its `build` makes the core.

    Raises:
        ValueError: for an unknown name, an unknown option, or a value that the core refuses.
    """
    if name not in MEMORIES:
        raise ValueError(f"unknown memory {name!r}; choose one of {_choices(name, list(MEMORIES))}")
    known = [field.name for field in fields(MEMORIES[name])]
    for option in options:
        if option not in known:
            raise ValueError(f"memory {name} has no option {option!r}; it has {_choices(option, known)}")
    return MEMORIES[name](**options)


def config_to_dict(config: MemoryConfig) -> dict[str, Any]:
    """Return the name and all options of a configuration, as JSON can hold them."""
    return {"name": config.name, **asdict(config)}


def config_from_dict(data: dict[str, Any]) -> MemoryConfig:
    """Return the configuration that `config_to_dict` wrote down.

    Raises:
        ValueError: when there is no name, or for what `make_config` refuses.
    """
    options = dict(data)
    if not isinstance(name := options.pop("name", None), str):
        raise ValueError(f"a memory configuration needs a name; choose one of {', '.join(MEMORIES)}")
    return make_config(name, **options)
