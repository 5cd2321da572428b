"""Checkpoints: a folder with one JSON file and one safetensors file, checked by digests, loaded without running code.

`write` makes the folder under a temporary name, syncs it and renames it, so a reader sees all of it or nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..memory import config_from_dict, config_to_dict
from .backbone import BackboneError
from .encoder import EncoderConfig
from .policy import Policy

FORMAT = "mnemic"
VERSION = 1
DATA, TENSORS = "config.json", "model.safetensors"
PICKLE_STARTS = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


class CheckpointError(ValueError):
    """A checkpoint that cannot be used, and why, in one line."""


def write(folder: Path, contents: dict[str, tuple[str, dict[str, Any], dict[str, Tensor]]]) -> None:
    """Write a folder of checkpoints in one piece.

    Args:
        folder: where to; what stands there is replaced.
        contents: for each subfolder its kind, its data (JSON) and its tensors.

    Raises:
        OSError: the disk is full or not writable; what stood at `folder` is then untouched.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.parent / f".partial-{folder.name}-{os.getpid()}"
    replaced = partial.with_name(f"{partial.name}-replaced")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for name, (kind, data, tensors) in contents.items():
            (partial / name).mkdir(parents=True)
            blob = save({key: part.detach().cpu().contiguous().clone() for key, part in tensors.items()})
            text = json.dumps(data, sort_keys=True)
            head = {"format": FORMAT, "version": VERSION, "kind": kind}
            digests = {"data_sha256": _digest(text.encode()), "tensors_sha256": _digest(blob)}
            _write_synced(partial / name / TENSORS, blob)
            _write_synced(partial / name / DATA, json.dumps(head | digests | {"data": data}, indent=1).encode())
            _sync_folder(partial / name)
        _sync_folder(partial)
        if folder.exists():  # moved aside, so that no half of it ever stands under its name
            folder.rename(replaced)
        partial.rename(folder)
        _sync_folder(folder.parent)
    finally:
        if replaced.exists() and not folder.exists():
            replaced.rename(folder)
        for left in (partial, replaced):
            shutil.rmtree(left, ignore_errors=True)


def read(folder: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read one checkpoint folder: its data and its tensors.

    Raises:
        CheckpointError: it is missing, damaged, cut short, foreign, of another version, or holds pickled code.
    """
    data_path, tensors_path = folder / DATA, folder / TENSORS
    for path in (data_path, tensors_path):
        if not path.is_file():
            raise CheckpointError(f"{folder} is not a {FORMAT} checkpoint: it has no {path.name}")
    try:
        found = json.loads(data_path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{data_path} is damaged: not JSON ({error})") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise CheckpointError(f"{data_path} was not written by {FORMAT}: it has no 'format': '{FORMAT}'")
    if found.get("version") != VERSION:
        raise CheckpointError(
            f"{data_path} has checkpoint version {found.get('version')}; this {FORMAT} reads version {VERSION}"
        )
    if found.get("kind") != kind:
        raise CheckpointError(f"{data_path} holds a {found.get('kind')}; a {kind} is expected")
    blob = tensors_path.read_bytes()
    # Safetensors open with the length of a header, which may have the same bytes, and then with the header's brace.
    if blob[:2] in PICKLE_STARTS and blob[8:9] != b"{":
        raise CheckpointError(f"{tensors_path} holds pickled code; only safetensors are read")
    if _digest(json.dumps(found.get("data"), sort_keys=True).encode()) != found.get("data_sha256"):
        raise CheckpointError(f"{data_path} is damaged: its contents do not match their digest")
    if _digest(blob) != found.get("tensors_sha256"):
        raise CheckpointError(f"{tensors_path} is damaged or cut short: its contents do not match their digest")
    try:
        # Copies, aligned as torch aligns: a product of the same numbers may differ in its last bit elsewhere.
        return found["data"], {name: part.clone() for name, part in load(blob).items()}
    except SafetensorError as error:
        raise CheckpointError(f"{tensors_path} is damaged: {error}") from None


def policy_contents(policy: Policy) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """Return what `write` takes for a policy."""
    data = {
        "encoder": asdict(policy.encoder_config),
        "memory": config_to_dict(policy.memory_config),
        "observation_space": _space_to_dict(policy.observation_space),
        "action_space": _space_to_dict(policy.action_space),
        "separate_critic": policy.separate_critic,
    }
    if policy.backbone is not None:
        data["backbone_sha256"] = policy.backbone.digest
    return "policy", data, dict(policy.state_dict())


def check_backbone(policy: Policy, data: dict[str, Any]) -> None:
    """Refuse a policy whose backbone is not the one that a checkpoint was written with, to the weights.

    Raises:
        BackboneError: it is another one, or there is one on one side alone.
    """
    here = None if policy.backbone is None else policy.backbone.digest
    if here != data.get("backbone_sha256"):
        then, now = (config or "none" for config in (data["encoder"].get("backbone"), policy.encoder_config.backbone))
        differs = f"is {now} and was {then}" if then != now else f"{now} has other weights than"
        raise BackboneError(f"encoder: the backbone {differs} when the policy learned; give it the same one")


def load_policy(folder: Path, device: torch.device | str = "cpu") -> Policy:
    """Return the policy of a checkpoint folder (`.../policy`), ready to act.

    Raises:
        CheckpointError: the checkpoint cannot be used; the message says why.
    """
    data, tensors = read(folder, "policy")
    try:
        policy = Policy(
            EncoderConfig(**data["encoder"]),
            config_from_dict(data["memory"]),
            _space_from_dict(data["observation_space"]),
            _space_from_dict(data["action_space"]),
            separate_critic=data.get("separate_critic", False),  # checkpoints from before it have no such entry
        )
        policy.load_state_dict(tensors)
        check_backbone(policy, data)
    except BackboneError as error:
        raise CheckpointError(f"{folder}: {error}") from None
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{folder} does not fit this version of {FORMAT}: {reason}") from None
    return policy.to(device).eval()


def _digest(blob: bytes) -> str:
    return hashlib.sha256(blob).hexdigest()


def _write_synced(path: Path, blob: bytes) -> None:
    with path.open("wb") as file:
        file.write(blob)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _space_to_dict(space: spaces.Space[Any]) -> dict[str, Any]:
    if isinstance(space, spaces.Dict):
        return {"kind": "dict", "spaces": {name: _space_to_dict(part) for name, part in space.spaces.items()}}
    if isinstance(space, spaces.Discrete):
        return {"kind": "discrete", "n": int(space.n)}
    assert isinstance(space, spaces.Box)  # the encoder and the head took it, so it is one of these
    bounds = {name: _bound(getattr(space, name)) for name in ("low", "high")}
    return {"kind": "box", "shape": list(space.shape), "dtype": str(space.dtype), **bounds}


def _bound(bound: np.ndarray[Any, Any]) -> Any:
    same = bound.size > 0 and bool((bound == bound.flat[0]).all())
    return bound.flat[0].item() if same else bound.tolist()


def _space_from_dict(found: dict[str, Any]) -> spaces.Space[Any]:
    if found["kind"] == "dict":
        return spaces.Dict({name: _space_from_dict(part) for name, part in found["spaces"].items()})
    if found["kind"] == "discrete":
        return spaces.Discrete(found["n"])
    dtype = np.dtype(found["dtype"])
    low, high = (np.broadcast_to(np.asarray(found[name], dtype), found["shape"]) for name in ("low", "high"))
    return spaces.Box(low, high, tuple(found["shape"]), dtype.type)
