"""The way in: help, version, speed, and what becomes of errors."""

import errno
import subprocess
import sys
import time

import pytest

from mnemic import __version__
from mnemic.cli.main import COMMANDS, main

HEAVY = ("torch", "numpy", "numba", "gymnasium", "matplotlib", "tensorboard", "rich", "tyro")


def test_help_names_every_command(capsys) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert f"mnemic {name} {command.usage}" in said
        assert command.summary in said
    assert main([]) == 0
    assert capsys.readouterr().out == said


def test_version(capsys) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"mnemic {__version__}\n"


def test_python_m_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "mnemic", "--version"], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"mnemic {__version__}\n", "")


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_help_and_import_load_nothing_heavy() -> None:
    code = f"""
import sys, mnemic
from mnemic.cli.main import main
main(["--help"]); main(["--version"]); main(["trian"])
print("LOADED", *(name for name in {HEAVY} if name in sys.modules))
"""
    assert run_python(code).splitlines()[-1] == "LOADED"


def test_import_and_help_are_quick() -> None:
    timed = "import time; t = time.perf_counter(); import mnemic; print(time.perf_counter() - t)"
    assert min(float(run_python(timed)) for _ in range(3)) < 0.3

    def seconds() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "mnemic", "--help"], capture_output=True, check=True)
        return time.perf_counter() - began

    assert min(seconds() for _ in range(3)) < 1.5


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys) -> None:
    assert main([command, "--help"]) == 0
    said = capsys.readouterr()
    assert f"mnemic {command}" in said.out
    assert said.err == ""


def test_help_of_train_lists_the_choices_and_the_flags_of_the_task(capsys) -> None:
    assert main(["train", "--memory", "none", "--help"]) == 0
    said = capsys.readouterr().out
    for word in ("endless-tmaze-lstm", "gym:ID", "the floor that every other core must beat", "--ppo.learning-rate"):
        assert word in said


def test_list(capsys) -> None:
    assert main(["list"]) == 0
    everything = capsys.readouterr().out
    for word in ("envs", "memories", "recipes", "endless-tmaze", "lstm", "gym:ID"):
        assert word in everything
    assert main(["list", "memories"]) == 0
    assert "recipes" not in capsys.readouterr().out


def raising(error: BaseException):
    def command(argv: list[str]) -> int:
        raise error

    return command


@pytest.fixture
def listing_raises(monkeypatch):
    def use(error: BaseException) -> None:
        monkeypatch.setattr("mnemic.cli.listing.listing", raising(error))

    return use


def test_an_error_of_the_system_is_one_line(listing_raises, capsys) -> None:
    listing_raises(OSError(errno.ENOSPC, "No space left on device", "runs/a/checkpoints"))
    assert main(["list"]) == 2
    assert capsys.readouterr().err == "mnemic: runs/a/checkpoints: No space left on device\n"


def test_ctrl_c_is_quiet(listing_raises, capsys) -> None:
    listing_raises(KeyboardInterrupt())
    assert main(["list"]) == 130
    assert capsys.readouterr().err == "mnemic: interrupted\n"


@pytest.mark.parametrize("error", [ValueError("from a library"), RuntimeError("a bug"), KeyError("a bug")])
def test_what_mnemic_did_not_raise_on_purpose_keeps_its_traceback(listing_raises, error: Exception) -> None:
    listing_raises(error)
    with pytest.raises(type(error)):
        main(["list"])


def test_a_reader_that_leaves_is_no_error() -> None:
    code = f"{sys.executable} -m mnemic --help | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.strip() in ("0", "1")
