import pytest
from gymnasium import spaces

from mnemic.envs import ENVS, config_from_dict, config_to_dict, make_config
from mnemic.envs.color_cubes import ColorCubesConfig
from mnemic.envs.endless_tmaze import EndlessTMazeConfig
from mnemic.envs.from_gymnasium import GymConfig


@pytest.mark.parametrize("name", ENVS)
def test_every_environment_is_made_by_name_and_back_from_plain_data(name: str) -> None:
    config = make_config(name)
    assert config.name == name
    assert config.summary
    plain = config_to_dict(config)
    assert plain["name"] == name
    assert config_from_dict(plain) == config
    env = config.build(2, 0)
    obs, space = env.reset()[1].obs, env.observation_space
    parts = obs if isinstance(obs, dict) else {"obs": obs}
    boxes = space.spaces if isinstance(space, spaces.Dict) else {"obs": space}
    assert {name: part.shape for name, part in parts.items()} == {n: (2, *box.shape) for n, box in boxes.items()}
    assert config.oracle() is not None


def test_options_are_passed_on() -> None:
    assert make_config("endless-tmaze", length=7) == EndlessTMazeConfig(length=7)
    cubes = ColorCubesConfig(preset="extreme", cubes=4)
    assert config_from_dict(config_to_dict(cubes)) == cubes


def test_gym_ids_are_names_too() -> None:
    config = make_config("gym:MiniGrid-MemoryS7-v0")
    assert config == GymConfig(id="MiniGrid-MemoryS7-v0")
    assert config_from_dict(config_to_dict(config)) == config


def test_an_unknown_name_lists_the_choices_closest_first() -> None:
    with pytest.raises(
        ValueError, match="unknown environment 'tmase'; choose one of tmaze, endless-tmaze, color-cubes"
    ):
        make_config("tmase")
    with pytest.raises(ValueError, match="gym:<id of a Gymnasium environment>"):
        make_config("gym:")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({}, "needs a name"),
        ({"name": "nowhere"}, "unknown environment 'nowhere'"),
        ({"name": "tmaze"}, "tmaze: length missing"),
        ({"name": "tmaze", "length": 5, "width": 3}, "tmaze: unknown option width; the options are length"),
        ({"name": "tmaze", "length": "5"}, "tmaze: length is '5'; it must be a whole number"),
        ({"name": "tmaze", "length": True}, "tmaze: length is True"),
        ({"name": "gym"}, "gym: id, .*missing"),
    ],
)
def test_damaged_data_is_refused_in_one_line(found: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        config_from_dict(found)
    assert "\n" not in str(caught.value)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValueError, match="endless-tmaze: unknown option lenght; the options are length, corridors"):
        make_config("endless-tmaze", lenght=3)
    with pytest.raises(ValueError, match="gym: id missing"):
        make_config("gym")
