"""A frozen net looks at every image once, wherever a policy acts, and goes with its checkpoint by name and digest."""

import sys
import types

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from mnemic.agents.backbone import Backbone, BackboneError
from mnemic.agents.checkpoint import CheckpointError, load_policy, policy_contents, write
from mnemic.agents.encoder import EncoderConfig, Inputs, boxes
from mnemic.agents.policy import Policy
from mnemic.memory import make_config
from mnemic.memory.core import parts

RGB = spaces.Box(0, 255, (32, 40, 3), np.uint8)
HOUSE = spaces.Dict({"rgb": RGB, "depth": spaces.Box(0, 1, (32, 40, 1)), "goal": spaces.Box(0, 1, (4,))})
ACTIONS = spaces.Discrete(3)
FEATURES = 7


class Eye(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, FEATURES, 8, stride=8), nn.BatchNorm2d(FEATURES)
        self.drop = nn.Dropout(0.5)
        self.seen = 0

    def forward(self, image):
        assert image.dtype == torch.uint8
        self.seen += len(image)
        return self.drop(self.norm(self.conv(image.movedim(-1, 1) / 255))).mean((-2, -1))


def open_eye() -> nn.Module:
    return Eye()


def unannotated():
    raise AssertionError("not called")


def makes_no_net() -> nn.Module:
    return 3


def makes_maps() -> nn.Module:
    return nn.Flatten(2)


def fails() -> nn.Module:
    return nn.Linear(5, 5)


@pytest.fixture(autouse=True)
def eyes(monkeypatch):
    module = types.ModuleType("eyes")
    for function in (open_eye, unannotated, makes_no_net, makes_maps, fails):
        setattr(module, function.__name__, function)
    monkeypatch.setitem(sys.modules, "eyes", module)
    return module


def policy_of(space=HOUSE, path="eyes:open_eye", **options):
    torch.manual_seed(0)
    return Policy(EncoderConfig(backbone=path, channels=4), make_config("gru", width=8), space, ACTIONS, **options)


def told(space, *lead):
    obs = {
        name: torch.randint(0, 256, (*lead, *box.shape)).byte()
        if box.dtype == np.uint8
        else torch.rand(*lead, *box.shape)
        for name, box in boxes(space).items()
    }
    flag = torch.zeros(lead, dtype=torch.bool)
    obs = obs if isinstance(space, spaces.Dict) else obs["obs"]
    return Inputs(obs, torch.randint(0, 3, lead), torch.rand(lead), flag, flag)


@pytest.mark.parametrize("separate", [False, True])
def test_features_take_the_place_of_the_image_and_are_not_made_again(separate):
    policy = policy_of(separate_critic=separate)
    made = policy.backbone.net.seen
    raw = told(HOUSE, 4, 2)
    looked = policy.look(raw)
    assert policy.backbone.net.seen == made + 8
    assert looked.obs["rgb"].shape == (4, 2, FEATURES)
    assert looked.obs["rgb"].dtype == torch.float32
    assert looked.obs["depth"] is raw.obs["depth"]
    for _ in range(3):
        policy.unroll(looked, policy.initial_memory(2))
    assert policy.backbone.net.seen == made + 8
    one_by_one = torch.stack([policy.look(Inputs(*(_at(part, t) for part in raw))).obs["rgb"] for t in range(4)])
    torch.testing.assert_close(one_by_one, looked.obs["rgb"])


def _at(part, t):
    return {name: each[t] for name, each in part.items()} if isinstance(part, dict) else part[t]


def test_a_bare_image_becomes_a_bare_vector():
    policy = policy_of(RGB)
    looked = policy.look(told(RGB, 5))
    assert looked.obs.shape == (5, FEATURES)
    assert policy.step(looked, policy.initial_memory(5))[0].value.shape == (5,)


def test_it_is_frozen_and_no_part_of_the_policy():
    policy = policy_of()
    before = policy.backbone.digest
    assert not [name for name in policy.state_dict() if "conv" in name]
    policy.train()
    looked = policy.look(told(HOUSE, 3, 2))
    output, _ = policy.unroll(looked, policy.initial_memory(2))
    (output.value.square().mean() + output.action.square().mean()).backward()
    assert all(part.grad is None and not part.requires_grad for part in policy.backbone.net.parameters())
    for name, part in policy.encoder.named_parameters():
        assert part.grad is not None, name
        assert part.grad.abs().sum() > 0, name
    assert not policy.backbone.net.training
    del policy.backbone.digest
    assert policy.backbone.digest == before


def test_random_weights_are_the_same_every_time_and_draw_nothing_from_the_run():
    torch.manual_seed(1)
    first = Backbone("eyes:open_eye", boxes(HOUSE))
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn)
    torch.manual_seed(2)
    assert Backbone("eyes:open_eye", boxes(HOUSE)).digest == first.digest


def test_a_saved_policy_acts_as_it_did(tmp_path):
    policy = policy_of().eval()
    write(tmp_path / "saved", {"policy": policy_contents(policy)})
    loaded = load_policy(tmp_path / "saved" / "policy")
    raw = told(HOUSE, 5)
    said, memory = policy.step(policy.look(raw), policy.initial_memory(5))
    again, memory_again = loaded.step(loaded.look(raw), loaded.initial_memory(5))
    assert torch.equal(said.action, again.action)
    assert torch.equal(said.value, again.value)
    assert all(torch.equal(part, parts(memory_again)[name]) for name, part in parts(memory).items())


def test_a_checkpoint_is_refused_with_other_weights_or_without_the_module(tmp_path, eyes, monkeypatch):
    write(tmp_path / "saved", {"policy": policy_contents(policy_of())})

    def other() -> nn.Module:
        eye = Eye()
        nn.init.zeros_(eye.conv.weight)
        return eye

    monkeypatch.setattr(eyes, "open_eye", other)
    with pytest.raises(CheckpointError, match="backbone eyes:open_eye has other weights than when the policy learned"):
        load_policy(tmp_path / "saved" / "policy")
    monkeypatch.delitem(sys.modules, "eyes")
    with pytest.raises(CheckpointError, match=r"module of the backbone eyes:open_eye cannot be imported \(No module"):
        load_policy(tmp_path / "saved" / "policy")


def test_operations_of_a_step_hold_those_of_the_backbone():
    plain = Policy(EncoderConfig(channels=4), make_config("gru", width=8), spaces.Dict({"a": RGB, "b": RGB}), ACTIONS)
    policy = policy_of(spaces.Dict({"a": RGB, "b": RGB}))
    assert plain.flops_per_step(1) > 0
    looked = 2 * (2 * 4 * 5 * 8 * 8 * 3 * FEATURES)
    projected = 2 * (2 * FEATURES * 8)
    bare = Policy(EncoderConfig(), make_config("gru", width=8), spaces.Box(0, 1, (16,)), ACTIONS)
    assert policy.flops_per_step(1) - bare.flops_per_step(1) == looked + projected


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("eyes", "backbone is 'eyes'; it must be module:function"),
        ("nowhere:net", "cannot be imported .*; put its folder into PYTHONPATH"),
        ("eyes:nothing", "eyes has no function nothing"),
        ("eyes:unannotated", "must be annotated as `-> torch.nn.Module`"),
        ("os:abort", "must be annotated"),
        ("eyes:makes_no_net", "gave a int, not a torch.nn.Module"),
        ("eyes:makes_maps", r"made shape \(2, 32, 120\) of 2 images; it must make \(2, F\)"),
        ("eyes:fails", r"takes no bytes of shape \(N, 32, 40, 3\): "),
    ],
)
def test_refused_functions(path, message):
    with pytest.raises(BackboneError, match=message) as raised:
        policy_of(path=path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 255, (7, 7, 3), np.uint8),
        spaces.Box(0, 1, (64, 64, 3)),
        spaces.Box(0, 255, (64, 64, 1), np.uint8),
        spaces.Box(0, 1, (4,)),
    ],
    ids=["grid", "floats", "grey", "vector"],
)
def test_refused_without_rgb_images(space):
    with pytest.raises(BackboneError, match=r"looks at RGB images, .* there are none here; leave backbone empty"):
        policy_of(space)


def test_a_net_for_images_is_refused_where_the_backbone_sees_them_all():
    with pytest.raises(ValueError, match="net is 'resnet18'"):
        Policy(EncoderConfig(backbone="eyes:open_eye", net="resnet18"), make_config("gru", width=8), RGB, ACTIONS)
