"""A small run that the tests of the commands share."""

from pathlib import Path

import pytest

from mnemic.cli.main import main

TINY = [
    *("--ppo.rows", "8", "--ppo.window", "16", "--ppo.minibatches", "2", "--ppo.epochs", "1", "--memory.width", "8"),
    *("--evaluation.every", "0", "--evaluation.confirm-episodes", "16"),
]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four updates that has ended; not to be changed."""
    run = tmp_path_factory.mktemp("runs") / "finished"
    assert main(["train", "--run", str(run), "--steps", "512", *TINY]) == 0
    return run
