"""Checkpoints: what goes in comes out, and what is not whole and ours is refused in one line."""

import errno
import json
import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from gymnasium import spaces

from mnemic.agents import checkpoint
from mnemic.agents.checkpoint import CheckpointError, load_policy, policy_contents, read, write
from mnemic.agents.encoder import EncoderConfig, Inputs
from mnemic.agents.policy import Policy
from mnemic.memory import MEMORIES, make_config

VECTOR = spaces.Box(-np.inf, np.inf, (3,))
PICTURES = spaces.Dict(
    OrderedDict(
        vector=spaces.Box(np.array([-1, -2, 0], np.float32), np.array([1, 2, 1], np.float32)),
        image=spaces.Box(0, 255, (9, 9, 3), np.uint8),
        grid=spaces.Box(0, 1, (3, 3, 2), np.uint8),
    )
)


def policy_of(memory="none", observation_space=VECTOR, action_space=None, **options):
    torch.manual_seed(0)
    action_space = action_space or spaces.Discrete(3)
    return Policy(EncoderConfig(**options), make_config(memory), observation_space, action_space)


def told(policy, rows=4):
    def seen(space):
        if isinstance(space, spaces.Dict):
            return {name: seen(part) for name, part in space.spaces.items()}
        return torch.randint(0, 2, (rows, *space.shape)).to(torch.uint8 if space.dtype == np.uint8 else torch.float32)

    generator = torch.Generator().manual_seed(0)
    action = policy.head.sample(torch.zeros(rows, policy.head.size), generator)
    starts = torch.tensor([True, False] * (rows // 2))
    return Inputs(seen(policy.observation_space), action, torch.rand(rows), starts, starts)


@pytest.fixture
def saved(tmp_path):
    """A folder with the checkpoint of a small policy."""
    policy = policy_of()
    write(tmp_path / "100", {"policy": policy_contents(policy)})
    return tmp_path / "100" / "policy"


def refusal(folder, kind="policy"):
    """The one line that a folder is refused with."""
    with pytest.raises(CheckpointError) as caught:
        read(folder, kind)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


@pytest.mark.parametrize("memory", sorted(MEMORIES))
def test_a_policy_comes_back_bit_for_bit(tmp_path, memory):
    policy = policy_of(memory)
    write(tmp_path / "p", {"policy": policy_contents(policy)})
    loaded = load_policy(tmp_path / "p" / "policy")
    assert loaded.memory_config == policy.memory_config
    state, other = policy.initial_memory(4), loaded.initial_memory(4)
    with torch.no_grad():
        for _ in range(3):
            inputs = told(policy)
            out, state = policy.step(inputs, state)
            out2, other = loaded.step(inputs, other)
            assert torch.equal(out.action, out2.action)
            assert torch.equal(out.value, out2.value)


@pytest.mark.parametrize("action_space", [spaces.Discrete(3), spaces.Box(-1, 1, (2,))], ids=["discrete", "box"])
def test_spaces_and_encoder_come_back(tmp_path, action_space):
    """Dictionaries whatever their order, bytes, bounds of all kinds."""
    policy = policy_of("none", PICTURES, action_space, layers=2, channels=4, previous_reward=False)
    write(tmp_path / "p", {"policy": policy_contents(policy)})
    loaded = load_policy(tmp_path / "p" / "policy")
    assert loaded.observation_space == policy.observation_space
    assert loaded.action_space == policy.action_space
    assert loaded.encoder_config == policy.encoder_config
    inputs = told(policy)
    assert torch.equal(loaded.step(inputs, ((),))[0].action, policy.step(inputs, ((),))[0].action)
    assert not loaded.training


@pytest.mark.parametrize("name", [checkpoint.DATA, checkpoint.TENSORS])
def test_missing(saved, name):
    (saved / name).unlink()
    assert refusal(saved).endswith(f"is not a mnemic checkpoint: it has no {name}")


def test_no_folder(tmp_path):
    assert "is not a mnemic checkpoint" in refusal(tmp_path / "nothing")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
@pytest.mark.parametrize("name", [checkpoint.DATA, checkpoint.TENSORS])
def test_cut_short(saved, name, share):
    whole = (saved / name).read_bytes()
    (saved / name).write_bytes(whole[: int(share * len(whole))])
    assert "is damaged" in refusal(saved)


def test_any_flipped_bit_of_the_data_is_noticed(saved):
    path = saved / checkpoint.DATA
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in (1, 32, 128):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            refusal(saved)


def test_any_flipped_bit_of_the_tensors_is_noticed(saved):
    path = saved / checkpoint.TENSORS
    whole = path.read_bytes()
    for place in (*range(20), *range(20, len(whole), len(whole) // 97), len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        refusal(saved)


@pytest.mark.parametrize("foreign", ["{}", "[]", "5", "null", '{"format": "pt"}', "[" * 100_000, "{nonsense"])
def test_foreign(saved, foreign):
    (saved / checkpoint.DATA).write_text(foreign)
    assert refusal(saved)


def test_foreign_says_so(saved):
    (saved / checkpoint.DATA).write_text('{"model_type": "llama"}')
    assert "was not written by mnemic" in refusal(saved)


def test_another_version(saved):
    path = saved / checkpoint.DATA
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    assert refusal(saved).endswith("has checkpoint version 2; this mnemic reads version 1")


def test_another_kind(saved):
    assert refusal(saved, "training state").endswith("holds a policy; a training state is expected")


class Planted:
    """Runs code where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("how", ["torch", "torch legacy", "pickle 2", "pickle 4"])
@pytest.mark.parametrize("with_digest", [False, True])
def test_pickled_code_is_refused_and_does_not_run(saved, tmp_path, how, with_digest):
    path, planted = saved / checkpoint.TENSORS, tmp_path / "planted"
    if how.startswith("torch"):
        torch.save({"w": Planted(planted)}, path, _use_new_zipfile_serialization=how == "torch")
    else:
        path.write_bytes(pickle.dumps(Planted(planted), protocol=int(how[-1])))
    if with_digest:
        forge(saved, lambda data: data)
    assert refusal(saved).endswith("holds pickled code; only safetensors are read")
    assert not planted.exists()


def forge(folder, change):
    """Change the data of a checkpoint and make the digests fit."""
    path = folder / checkpoint.DATA
    found = json.loads(path.read_text())
    found["data"] = change(found["data"])
    found["data_sha256"] = checkpoint._digest(json.dumps(found["data"], sort_keys=True).encode())
    found["tensors_sha256"] = checkpoint._digest((folder / checkpoint.TENSORS).read_bytes())
    path.write_text(json.dumps(found))


def test_garbage_with_the_right_digest_is_refused(saved):
    (saved / checkpoint.TENSORS).write_bytes(b"garbage")
    forge(saved, lambda data: data)
    assert "is damaged" in refusal(saved)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: [],
        lambda data: None,
        lambda data: {name: part for name, part in data.items() if name != "memory"},
        lambda data: data | {"encoder": {"layers": 2}},
        lambda data: data | {"encoder": {"colour": "red"}},
        lambda data: data | {"memory": {"name": "elephant"}},
        lambda data: data | {"memory": {"name": "none", "width": 7}},
        lambda data: data | {"action_space": {"kind": "discrete", "n": 5}},
        lambda data: data | {"observation_space": {"kind": "box", "shape": [3], "dtype": "x", "low": 0, "high": 1}},
    ],
)
def test_a_policy_that_cannot_be_built_is_refused_in_one_line(saved, change):
    forge(saved, change)
    with pytest.raises(CheckpointError, match=r"policy does not fit this version of mnemic: .") as caught:
        load_policy(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [640, 896, 1152, 1408, 0x4B50])
def test_a_header_whose_length_looks_like_a_pickle_is_none(tmp_path, length):
    """Safetensors open with the length of their header, and 640 is written as the first two bytes of a pickle."""
    from safetensors.torch import save

    tensor = torch.ones(1)
    overhead = int.from_bytes(save({"n": tensor})[:8], "little")
    name = "n" * (length - overhead)
    assert int.from_bytes(save({name: tensor})[:8], "little") == length
    write(tmp_path / "p", {"x": ("x", {}, {name: tensor})})
    assert read(tmp_path / "p" / "x", "x")[1][name].item() == 1


def test_tensors_that_share_memory_or_are_views_are_written_as_they_look(tmp_path):
    base = torch.arange(12.0).view(3, 4)
    tensors = {"whole": base, "turned": base.t(), "row": base[1], "scalar": torch.tensor(3), "empty": torch.ones(0, 2)}
    write(tmp_path / "p", {"x": ("x", {}, tensors)})
    _, found = read(tmp_path / "p" / "x", "x")
    assert found.keys() == tensors.keys()
    for name, part in tensors.items():
        assert torch.equal(found[name], part)
        assert found[name].dtype == part.dtype


def hidden(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


SYNCS = 5  # of a checkpoint with one part: tensors, data, their folder, the whole; then, after the rename, its parent


@pytest.mark.parametrize("there", [False, True], ids=["fresh", "over another"])
@pytest.mark.parametrize("failing", range(1, SYNCS + 2))
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, failing, there):
    """Whenever it strikes, one whole checkpoint or none stands under the name, and nothing beside it."""
    calls = 0
    fsync = os.fsync

    def full(handle):
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    def contents(value):
        return {"x": ("x", {"value": value}, {"w": torch.full((3,), value)})}

    if there:
        write(tmp_path / "100", contents(1.0))
    monkeypatch.setattr(os, "fsync", full)
    if failing > SYNCS:
        write(tmp_path / "100", contents(2.0))
    else:
        with pytest.raises(OSError, match="No space left on device"):
            write(tmp_path / "100", contents(2.0))
    assert hidden(tmp_path) == []
    if failing < SYNCS and not there:
        assert not (tmp_path / "100").exists()
    else:
        data, tensors = read(tmp_path / "100" / "x", "x")
        assert data["value"] == tensors["w"][0] == (1 if failing < SYNCS else 2)


def test_writing_again_replaces(tmp_path):
    for value in (1, 2):
        write(tmp_path / "p", {"x": ("x", {"value": value}, {"w": torch.tensor(value)})})
    data, tensors = read(tmp_path / "p" / "x", "x")
    assert data == {"value": 2}
    assert tensors["w"].item() == 2
    assert hidden(tmp_path) == []
