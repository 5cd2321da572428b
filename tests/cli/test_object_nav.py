"""A policy that sees, from training to a film: judged in other houses, and what its memory attends to is shown."""

import json
from pathlib import Path

import pytest
from PIL import Image

from mnemic.cli.main import main

from .conftest import TINY

EASY = [
    *("--env.houses", "2", "--env.size", "32", "--env.max-rooms", "3", "--env.max-things", "25"),
    *(
        "--env.episode-steps",
        "16",
        "--env.trial-steps",
        "32",
        "--env.wrong-stop",
        "stays",
        "--env.wrong-reward",
        "-0.1",
    ),
]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two updates with attention; not to be changed."""
    run = tmp_path_factory.mktemp("runs") / "seen"
    tiny = [*TINY, "--evaluation.every", "1", "--evaluation.episodes", "2", "--evaluation.confirm-episodes", "2"]
    memory = ["--memory", "memo", "--memory.segment", "4", "--memory.summaries", "1", "--memory.heads", "2"]
    assert main(["train", "--env", "object-nav", "--run", str(run), "--steps", "256", *memory, *EASY, *tiny]) == 0
    return run


def test_it_is_judged_in_the_houses_of_validation(seen: Path) -> None:
    (file,) = seen.glob("eval-*.json")
    env = json.loads(file.read_text())["env"]
    assert (env["split"], env["wrong_stop"], env["wrong_reward"]) == ("validation", "ends", 0.0)
    env = json.loads((seen / "config.json").read_text())["env"]
    assert (env["split"], env["wrong_stop"], env["wrong_reward"]) == ("train", "stays", -0.1)


def test_a_film_shows_what_it_attends_to(seen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "film.gif"
    assert main(["play", str(seen), "--gif", str(path), "--steps", "9", "--episodes", "1", "--sample"]) == 0
    with Image.open(path) as film:
        assert film.width == 660  # the view and the map
        film.seek(1)
        strip = film.convert("RGB").crop((10, film.height - 29, 650, film.height - 11)).getcolors(1 << 20)
    assert strip is not None
    assert len(strip) > 1
    assert main(["play", str(seen), "--steps", "2"]) == 0
    assert "attends |" in capsys.readouterr().out
