import pytest
from gymnasium import spaces

from mnemic.envs import ENVS, config_from_dict, config_to_dict, make_config
from mnemic.envs.color_cubes import ColorCubesConfig
from mnemic.envs.endless_tmaze import EndlessTMazeConfig
from mnemic.envs.from_gymnasium import GymConfig

MEMORY = "MiniGrid-MemoryS7-v0"


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


@pytest.mark.parametrize("name", [*ENVS, "trials:tmaze", f"gym:{MEMORY}", f"trials:gym:{MEMORY}"])
def test_every_action_of_a_task_of_ours_and_of_minigrid_has_a_name(name: str) -> None:
    env = make_config(name).build(1, 0)
    assert len(env.action_names) == len(set(env.action_names)) == env.action_space.n
    env.close()


def test_the_names_of_actions_are_in_the_order_of_their_numbers() -> None:
    def names(name: str, **options: object) -> tuple[str, ...]:
        env = make_config(name, **options).build(1, 0)
        env.close()
        return env.action_names

    assert names("object-nav") == ("stop", "forward", "left", "right", "up", "down")
    assert names("color-cubes") == ("up", "down", "left", "right")
    assert names("color-cubes", interact=True) == ("up", "down", "left", "right", "collect")
    assert names("trials:tmaze") == names("tmaze") == ("forward", "up", "back", "down")
    assert names(f"gym:{MEMORY}")[:3] == ("left", "right", "forward")
    assert names("gym:CartPole-v1") == ()


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
