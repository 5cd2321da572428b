"""What the encoder is told, what it ignores, and what it refuses."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from gymnasium import spaces

from mnemic.agents.encoder import Encoder, EncoderConfig, Inputs, boxes

ACTIONS = spaces.Discrete(3)
BARE = EncoderConfig(previous_action=False, previous_reward=False, episode_flag=False)


def vector(size=4):
    return spaces.Box(-1.0, 1.0, (size,))


def grid(height=5, breadth=5, planes=3):
    return spaces.Box(0.0, 1.0, (height, breadth, planes))


def image(side=20):
    return spaces.Box(0, 255, (side, side, 3), np.uint8)


def seen(space, *lead):
    """Random observations with the given leading axes."""
    if isinstance(space, spaces.Dict):
        return {name: seen(part, *lead) for name, part in space.spaces.items()}
    if space.dtype == np.uint8:
        return torch.randint(0, 256, (*lead, *space.shape), dtype=torch.uint8)
    return torch.rand(*lead, *space.shape)


def inputs(space, *lead, action_space=ACTIONS):
    discrete = isinstance(action_space, spaces.Discrete)
    return Inputs(
        seen(space, *lead),
        torch.randint(0, 3, lead) if discrete else torch.rand(*lead, *action_space.shape),
        torch.rand(lead),
        torch.rand(lead) < 0.5,
        torch.zeros(lead, dtype=torch.bool),
    )


SPACES = {
    "vector": vector(),
    "grid": grid(),
    "flat grid": grid(2, 2, 5),
    "wide grid": grid(3, 21, 2),
    "image": image(),
    "dict": spaces.Dict({"eye": image(), "map": grid(), "joints": vector(), "goal": vector(2)}),
}


@pytest.mark.parametrize("name", SPACES)
def test_time_and_batch_axes_are_only_axes(name):
    """(T, B) rows encode as each one by one."""
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(), SPACES[name], ACTIONS, 8)
    told = inputs(SPACES[name], 3, 2)
    together = encoder(told)
    assert together.shape == (3, 2, 8)
    assert together.std() > 0
    for t in range(3):
        for b in range(2):
            one = Inputs(
                {key: part[t, b : b + 1] for key, part in told.obs.items()}
                if isinstance(told.obs, dict)
                else told.obs[t, b : b + 1],
                *(part[t, b : b + 1] for part in told[1:]),
            )
            torch.testing.assert_close(encoder(one)[0], together[t, b])


@pytest.mark.parametrize("name", ["grid", "image", "dict"])
def test_every_part_of_the_observation_counts(name):
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(), SPACES[name], ACTIONS, 32)
    told = inputs(SPACES[name], 4)
    before = encoder(told)
    parts = list(told.obs) if isinstance(told.obs, dict) else [None]
    for part in parts:
        changed = dict(told.obs) if part is not None else told.obs.flip(-1)
        if part is not None:
            changed[part] = changed[part].flip(-1)
        assert not torch.equal(encoder(told._replace(obs=changed)), before)


@pytest.mark.parametrize("action_space", [ACTIONS, spaces.Box(-1.0, 1.0, (3,))], ids=["discrete", "box"])
def test_action_and_reward_are_forgotten_where_a_trial_starts_and_only_there(action_space):
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(), vector(), action_space, 16)
    told = inputs(vector(), 3, action_space=action_space)
    told = told._replace(
        episode_start=torch.tensor([False, True, True]), trial_start=torch.tensor([False, False, True])
    )
    other_action = (told.action + 1) % 3 if isinstance(action_space, spaces.Discrete) else told.action + 1
    for changed in (told._replace(action=other_action), told._replace(reward=told.reward + 1)):
        moved = (encoder(changed) != encoder(told)).any(-1)
        assert moved.tolist() == [True, True, False]


def test_the_episode_flag_tells_an_episode_and_the_trial_flag_is_no_input():
    torch.manual_seed(0)
    config = EncoderConfig(previous_action=False, previous_reward=False)
    encoder = Encoder(config, vector(), ACTIONS, 16)
    told = inputs(vector(), 2)
    flipped = encoder(told._replace(episode_start=~told.episode_start))
    assert (flipped != encoder(told)).any(-1).all()
    assert torch.equal(encoder(told._replace(trial_start=~told.trial_start)), encoder(told))


def test_what_stands_in_the_input_by_hand():
    """One layer with the identity as weights shows the pieces: the vector, the action, the reward, the flag."""
    encoder = Encoder(EncoderConfig(), vector(2), ACTIONS, 7)
    torch.nn.init.eye_(encoder.layers[0].weight)
    told = Inputs(
        torch.tensor([[0.25, 0.5], [0.25, 0.5]]),
        torch.tensor([2, 2]),
        torch.tensor([4.0, 4.0]),
        torch.tensor([True, True]),
        torch.tensor([False, True]),
    )
    assert encoder(told).tolist() == [[0.25, 0.5, 0, 0, 1, 4, 1], [0.25, 0.5, 0, 0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("flags", "width"),
    [
        ({}, 4 + 3 + 1 + 1),
        ({"previous_action": False}, 4 + 1 + 1),
        ({"previous_reward": False}, 4 + 3 + 1),
        ({"episode_flag": False}, 4 + 3 + 1),
        ({"previous_action": False, "previous_reward": False, "episode_flag": False}, 4),
    ],
)
def test_flags_change_the_input_width(flags, width):
    encoder = Encoder(EncoderConfig(**flags), vector(), ACTIONS, 8)
    assert encoder.layers[0].in_features == width
    assert encoder(inputs(vector(), 2)).shape == (2, 8)


def test_layers_is_the_number_of_linear_layers():
    assert len(Encoder(EncoderConfig(layers=3), vector(), ACTIONS, 8).layers) == 3


def test_layers_but_the_last_can_have_a_width_of_their_own():
    encoder = Encoder(EncoderConfig(layers=3, hidden=20), vector(), ACTIONS, 8)
    assert [layer.out_features for layer in encoder.layers] == [20, 20, 8]
    assert encoder(inputs(vector(), 2)).shape == (2, 8)
    with pytest.raises(ValueError, match="hidden is 20 and layers is 1; make layers at least 2"):
        EncoderConfig(hidden=20)
    with pytest.raises(ValueError, match="hidden is -1"):
        EncoderConfig(hidden=-1)


@pytest.mark.parametrize(("high", "expected"), [(255, 0.5), (1, 127.5)])
def test_bytes_are_scaled_by_the_upper_bound_of_the_space(high, expected):
    """An image of bytes 0..255 becomes 0..1, and a grid of zeros and ones stays as it is."""
    space = spaces.Box(0, high, (1, 1, 1), np.uint8)
    encoder = Encoder(BARE, space, ACTIONS, 1)
    for layer in (*encoder.images[0], *encoder.layers):
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.ones_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
    told = inputs(space, 1)._replace(obs=torch.full((1, 1, 1, 1), 255, dtype=torch.uint8))
    assert encoder(told).item() == pytest.approx(2 * expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.uint8, torch.bool])
def test_numbers_of_any_type_are_taken(dtype):
    torch.manual_seed(0)
    encoder = Encoder(BARE, vector(), ACTIONS, 8)
    numbers = torch.tensor([[0, 1, 1, 0]])
    told = inputs(vector(), 1)
    assert torch.equal(encoder(told._replace(obs=numbers.to(dtype))), encoder(told._replace(obs=numbers.float())))


def test_the_order_of_a_dictionary_does_not_matter():
    """Not that of the observation, and not that of the space (a checkpoint sorts it)."""
    torch.manual_seed(0)
    parts = {"b": vector(2), "a": vector(2), "d": grid(), "c": grid()}
    told = inputs(spaces.Dict(parts), 3)
    encoder = Encoder(EncoderConfig(), spaces.Dict(parts), ACTIONS, 8)
    expected = encoder(told)
    backwards = told._replace(obs=dict(reversed(told.obs.items())))
    assert torch.equal(encoder(backwards), expected)
    unsorted = spaces.Dict(OrderedDict(parts))
    assert list(unsorted.spaces) != list(spaces.Dict(parts).spaces)
    other = Encoder(EncoderConfig(), unsorted, ACTIONS, 8)
    other.load_state_dict(encoder.state_dict())
    assert torch.equal(other(told), expected)


@pytest.mark.parametrize("name", ["type", "keys", "a.b", "images"])
def test_an_observation_may_have_any_name(name):
    space = spaces.Dict({name: grid(), "vector": vector()})
    assert Encoder(EncoderConfig(), space, ACTIONS, 8)(inputs(space, 2)).shape == (2, 8)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Discrete(4), "observation 'obs' is a Discrete"),
        (spaces.Dict({"eye": image(), "facing": spaces.Discrete(4)}), "observation 'facing' is a Discrete"),
        (spaces.Box(0, 1, (4, 4)), r"'obs' has shape \(4, 4\)"),
        (spaces.Box(0, 1, ()), r"'obs' has shape \(\)"),
    ],
)
def test_refused_observations(space, message):
    with pytest.raises(ValueError, match=message):
        Encoder(EncoderConfig(), space, ACTIONS, 8)


@pytest.mark.parametrize("space", [spaces.MultiBinary(3), spaces.Box(0, 1, (2, 2))])
def test_refused_actions(space):
    with pytest.raises(ValueError, match="a policy takes Discrete, or Box with one axis"):
        Encoder(EncoderConfig(), vector(), space, 8)


@pytest.mark.parametrize("field", ["layers", "channels"])
def test_refused_sizes(field):
    with pytest.raises(ValueError, match=f"{field} is 0; it must be at least 1"):
        EncoderConfig(**{field: 0})


def test_boxes_names_a_bare_box():
    assert list(boxes(vector())) == ["obs"]
