"""Nets for images: what they take, what they leave of it, and that grids are seen as they always were."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.nn import functional as F

from mnemic.agents.encoder import Encoder, EncoderConfig, Inputs
from mnemic.agents.vision import image_net, is_image

ACTIONS = spaces.Discrete(6)
BYTES = spaces.Box(0, 255, (64, 64, 3), np.uint8)
DEPTH = spaces.Box(0.0, 1.0, (64, 64, 1), np.float32)
HOUSE = spaces.Dict({"rgb": BYTES, "depth": DEPTH, "goal": spaces.Box(0, 1, (28,)), "pose": spaces.Box(-9, 9, (5,))})
NETS = ("light", "resnet18")


def seen(space, *lead):
    if isinstance(space, spaces.Dict):
        return {name: seen(part, *lead) for name, part in space.spaces.items()}
    if space.dtype == np.uint8:
        return torch.randint(0, 256, (*lead, *space.shape), dtype=torch.uint8)
    return torch.rand(*lead, *space.shape)


def inputs(space, *lead):
    flag = torch.zeros(lead, dtype=torch.bool)
    return Inputs(seen(space, *lead), torch.randint(0, 6, lead), torch.rand(lead), flag, flag)


def box(height, breadth, planes, dtype=np.uint8):
    return spaces.Box(0, 255 if dtype == np.uint8 else 1, (height, breadth, planes), dtype)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("lead", [(3,), (2, 3), (2, 1, 2)], ids=str)
def test_any_leading_axes(net, lead):
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(net=net, channels=4), HOUSE, ACTIONS, 8)
    together = encoder(inputs(HOUSE, *lead))
    assert together.shape == (*lead, 8)
    assert together.isfinite().all()
    assert together.std() > 0


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 64), (45, 96), (128, 128), (160, 120), (256, 256)], ids=str)
def test_any_size(net, size):
    made = image_net(net, [box(*size, 3), box(*size, 1, np.float32)], 2, 8)
    assert made([seen(box(*size, 3), 2), seen(box(*size, 1, np.float32), 2)]).shape == (2, 8)


def test_images_of_one_size_share_a_net_and_others_do_not():
    encoder = Encoder(EncoderConfig(), HOUSE, ACTIONS, 8)
    assert encoder.image_names == [("depth", "rgb")]
    assert encoder.images[0].net[0].in_channels == 4
    parts = {"depth": box(32, 64, 1), "eye": BYTES, "hand": box(32, 64, 3), "map": box(9, 9, 2), "wide": box(31, 99, 1)}
    mixed = spaces.Dict(parts)
    encoder = Encoder(EncoderConfig(), mixed, ACTIONS, 8)
    assert encoder.image_names == [("depth", "hand"), ("eye",), ("map",), ("wide",)]
    assert encoder(inputs(mixed, 2)).shape == (2, 8)
    assert [is_image(part) for part in parts.values()] == [True, True, True, False, False]


@pytest.mark.parametrize("net", NETS)
def test_every_parameter_gets_a_gradient_and_every_image_counts(net):
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(net=net, channels=4), HOUSE, ACTIONS, 32)
    told = inputs(HOUSE, 4)
    before = encoder(told)
    before.square().mean().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    for name in told.obs:
        changed = told.obs | {name: told.obs[name].flip(-1) if name != "depth" else 1 - told.obs[name]}
        assert not torch.equal(encoder(told._replace(obs=changed)), before), name


@pytest.mark.parametrize("net", NETS)
def test_rows_do_not_depend_on_each_other(net):
    """As they would with the statistics of a batch."""
    torch.manual_seed(0)
    made = image_net(net, [BYTES], 4, 8).double().train()
    image_N = seen(BYTES, 3)
    other_N = image_N.clone()
    other_N[1:] = 255 - other_N[1:]
    together = made([image_N])
    torch.testing.assert_close(made([other_N])[:1], together[:1])
    torch.testing.assert_close(made([image_N[:1]]), together[:1])
    assert not torch.allclose(made([other_N])[1:], together[1:])


@pytest.mark.parametrize(
    ("space", "given", "scaled"),
    [
        (box(32, 32, 1), [0, 51, 255], [-1, -0.6, 1]),
        (spaces.Box(0, 2, (32, 32, 1), np.float32), [0, 0.5, 2], [-1, -0.5, 1]),
        (spaces.Box(-np.inf, np.inf, (32, 32, 1), np.float32), [-7, 0, 7], [-7, 0, 7]),
    ],
    ids=["bytes", "bounded", "unbounded"],
)
def test_numbers_are_scaled_by_the_bounds_of_the_space(space, given, scaled):
    made = image_net("light", [space], 1, 1)
    taken = []
    made.net[0].register_forward_pre_hook(lambda _, args: taken.append(args[0]))
    image = torch.zeros(1, 32, 32, 1).to(torch.uint8 if space.dtype == np.uint8 else torch.float32)
    image[0, 0, :3, 0] = torch.tensor(given).to(image.dtype)
    made([image])
    torch.testing.assert_close(taken[0][0, 0, 0, :3], torch.tensor(scaled, dtype=torch.float32))


def test_a_net_in_bfloat16_is_given_no_float32():
    """Bytes go straight into what the net computes with: float32 images of a minibatch would be much."""
    made = image_net("light", [BYTES, DEPTH], 4, 8)
    taken = []
    made.net[0].register_forward_pre_hook(lambda _, args: taken.append(args[0]))
    images = [seen(BYTES, 3), seen(DEPTH, 3)]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = made(images)
    assert taken[0].dtype == torch.bfloat16
    assert taken[0].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(mixed.float(), made(images), rtol=0.1, atol=0.1)


def test_a_resnet_has_the_form_of_habitat_baselines():
    """Stages of 2, 2, 2, 2 blocks from 32 planes on, groups of 16, 2,048 numbers into the last layer."""
    made = image_net("resnet18", [box(256, 256, 3)], 16, 512).net
    convolutions = [part for part in made.modules() if isinstance(part, torch.nn.Conv2d)]
    assert [part.out_channels for part in convolutions if part.kernel_size == (3, 3)] == (
        [32] * 4 + [64] * 4 + [128] * 4 + [256] * 4 + [128]
    )
    assert {part.num_groups for part in made.modules() if isinstance(part, torch.nn.GroupNorm)} == {16, 1}
    assert made[-2].in_features == 2048
    assert not [part for part in made.modules() if isinstance(part, torch.nn.BatchNorm2d)]


def test_a_whole_grid_keeps_all_its_cells():
    """One cell that changes moves the numbers of the cells around it, and no others."""
    torch.manual_seed(0)
    net = Encoder(EncoderConfig(whole_grid=True, channels=4), box(10, 10, 3), ACTIONS, 8).images[0]
    before = torch.zeros(1, 10, 10, 3)
    after = before.clone()
    after[0, 6, 5] = 255
    for layer in net[:5]:  # as bytes to numbers, and two convolutions
        before, after = layer(before), layer(after)
    assert before.shape == (1, 4, 10, 10)
    moved = (before != after).any(1)[0].nonzero()
    assert moved.amin(0).tolist() == [4, 3]
    assert moved.amax(0).tolist() == [8, 7]
    assert net(torch.rand(2, 10, 10, 3)).shape == (2, 8)
    for space in (spaces.Box(0, 1, (4,)), HOUSE):
        with pytest.raises(ValueError, match="whole_grid is on, and there are no grids here"):
            Encoder(EncoderConfig(whole_grid=True), space, ACTIONS, 8)


def test_grids_have_the_net_of_the_published_results():
    """Parameters under the same names and of the same shapes, and the same function of them."""
    torch.manual_seed(0)
    space = spaces.Dict({"image": spaces.Box(0, 255, (7, 7, 3), np.uint8), "map": spaces.Box(0, 1, (11, 11, 20))})
    encoder = Encoder(EncoderConfig(), space, spaces.Discrete(3), 8)
    weights = {name: part for name, part in encoder.named_parameters() if name.startswith("images")}
    assert {name: tuple(part.shape) for name, part in weights.items() if name.endswith("weight")} == {
        "images.0.1.weight": (16, 3, 3, 3),
        "images.0.3.weight": (32, 16, 3, 3),
        "images.0.6.weight": (8, 32 * 3 * 3),
        "images.1.1.weight": (16, 20, 3, 3),
        "images.1.3.weight": (32, 16, 3, 3),
        "images.1.5.weight": (64, 32, 3, 3),
        "images.1.8.weight": (8, 64 * 2 * 2),
    }
    told = inputs(space, 5)
    for number, strides, x in ((0, (1, 1), told.obs["image"] / 255), (1, (2, 1, 1), told.obs["map"])):
        *convolutions, last = [int(name.split(".")[2]) for name in weights if name.startswith(f"images.{number}.")][::2]
        x = x.movedim(-1, 1)
        for place, stride in zip(convolutions, strides, strict=True):
            weight, bias = (weights[f"images.{number}.{place}.{kind}"] for kind in ("weight", "bias"))
            x = F.relu(F.conv2d(x, weight, bias, stride=stride, padding=1 if stride == 2 else 0))
        weight, bias = (weights[f"images.{number}.{last}.{kind}"] for kind in ("weight", "bias"))
        grid = told.obs["map" if number else "image"].float()
        torch.testing.assert_close(encoder.images[number](grid), F.relu(F.linear(x.flatten(1), weight, bias)))


@pytest.mark.parametrize(
    ("options", "space", "message"),
    [
        ({"net": "resnet18"}, box(8, 8, 3), r"'resnet18', which looks at images of 32 x 32 pixels or more, and there"),
        ({"net": "resnet18"}, spaces.Box(0, 1, (4,)), "leave net as it is"),
        ({"net": "vgg"}, BYTES, "net is 'vgg'; choose one of light, resnet18"),
    ],
)
def test_refusals(options, space, message):
    with pytest.raises(ValueError, match=message) as raised:
        Encoder(EncoderConfig(**options), space, ACTIONS, 8)
    assert "\n" not in str(raised.value)
