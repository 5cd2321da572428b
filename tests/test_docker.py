"""What docker/ builds from is there, and what it says of mnemic is true. No image is built: tests have no engine."""

import re
import shlex
import tomllib
from pathlib import Path
from unittest.mock import Mock

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from mnemic.cli import players
from mnemic.cli.players import evaluate_player
from mnemic.cli.train import _configure
from mnemic.envs.step import EnvConfig
from mnemic.train.config import TrainConfig

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docker"
DOCKERFILES = sorted(FOLDER.glob("*.Dockerfile"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
PAGE = (ROOT / "docs" / "docker.md").read_text()


def instructions(path: Path) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile and what follows each, on one line."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def let_in() -> set[str]:
    return set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))


def commands() -> list[list[str]]:
    """What images are told to do: in the heads of the files of docker/, in docs/docker.md and by compose."""
    heads = [
        re.sub(r"^# ?", "", path.read_text(), flags=re.MULTILINE) for path in (*DOCKERFILES, FOLDER / "compose.yaml")
    ]
    text = re.sub(r"\\\n\s*", "", "\n".join([*heads, PAGE]))
    calls = re.findall(r"^ *docker (?:run .* mnemic:\w+|compose .* run --rm \S+) (.+)$", text, re.MULTILINE)
    return [
        *map(shlex.split, calls),
        *(service["command"] for service in SERVICES.values() if "entrypoint" not in service),
    ]


def test_there_is_something_to_check() -> None:
    assert [path.name for path in DOCKERFILES] == ["habitat.Dockerfile", "train.Dockerfile"]
    assert len(commands()) >= 5
    assert len(SERVICES) == 4


def test_the_context_is_the_package() -> None:
    """Every package and what its metadata names, and no run, environment or history of somebody's checkout."""
    packages = {name.split(".")[1] for name in PROJECT["tool"]["setuptools"]["packages"] if "." in name}
    metadata = {PROJECT["project"]["readme"], *PROJECT["project"]["license-files"], "pyproject.toml", "constraints.txt"}
    assert let_in() == packages | metadata | {"__init__.py", "__main__.py", "py.typed"}
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"
    assert [name for name in let_in() if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_what_is_taken_is_there(path: Path) -> None:
    """From the checkout, what .dockerignore lets in; from a stage, one that comes before."""
    stages: list[str] = []
    for word, rest in instructions(path):
        if word == "FROM":
            stages += re.findall(r" AS (\w+)$", rest)
        flags = dict(part.removeprefix("--").split("=", 1) for part in rest.split() if re.match(r"--\w+=", part))
        mounts = [dict(item.split("=") for item in mount.split(",")) for mount in re.findall(r"--mount=(\S+)", rest)]
        taken = [flags | {"source": part} for part in rest.split()[:-1] if part[:2] != "--"] if word == "COPY" else []
        for entry in taken + [mount for mount in mounts if mount["type"] == "bind"]:
            assert entry["from"] in stages if "from" in entry else entry["source"] in let_in() | {"."}


def test_versions_are_those_of_the_project() -> None:
    train = instructions(FOLDER / "train.Dockerfile")
    (python,) = [rest.removeprefix("PYTHON=") for word, rest in train if word == "ARG" and rest.startswith("PYTHON=")]
    assert python in SpecifierSet(PROJECT["project"]["requires-python"])
    installs = [rest.partition("pip install ")[2] for word, rest in train if "pip install" in rest]
    assert [line.startswith("--constraint /tmp/constraints.txt ") for line in installs] == [True, True]
    (torch,) = [Requirement(text) for text in PROJECT["project"]["dependencies"] if Requirement(text).name == "torch"]
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert pins["torch"] in torch.specifier
    text = (FOLDER / "habitat.Dockerfile").read_text()
    assert re.search(r"^ARG HABITAT_SIM=(\S+)$", text, re.MULTILINE)[1] in SpecifierSet(">=0.3.3")


def test_the_image_that_habitats_begins_with_is_built_first() -> None:
    (base,) = [rest.removeprefix("TRAIN_IMAGE=") for _, rest in instructions(FOLDER / "habitat.Dockerfile")[:1]]
    builds = [
        f"docker build --file docker/train.Dockerfile --tag {base} .",
        "docker build --file docker/habitat.Dockerfile --tag mnemic:habitat .",
    ]
    assert "\n".join(builds) in PAGE.partition("## Habitat")[2]
    assert [argv for argv in commands() if "habitat" in argv and argv[:2] == ["eval", "oracle"]]


def test_habitats_interpreter_is_where_it_is_said_to_be() -> None:
    text = (FOLDER / "habitat.Dockerfile").read_text()
    (made,) = re.findall(r"--prefix (\S+)", text)
    assert ("COPY", f"--from=habitat {made} {made}") in instructions(FOLDER / "habitat.Dockerfile")
    assert set(re.findall(r"--env\.habitat-python ([\w/]+)", text + PAGE)) == {f"{made}/bin/python"}


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_does_not_run_as_root(path: Path) -> None:
    assert [rest for word, rest in instructions(path) if word == "USER"][-1] == "1000"


def test_the_entry_point_is_a_command_of_the_package() -> None:
    (entry,) = [
        yaml.safe_load(rest) for word, rest in instructions(FOLDER / "train.Dockerfile") if word == "ENTRYPOINT"
    ]
    assert entry == list(PROJECT["project"]["scripts"])


@pytest.mark.parametrize("argv", commands(), ids=" ".join)
def test_commands_are_understood(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    at = next(index for index, word in enumerate(argv) if word in ("train", "eval"))
    launcher, name, words = argv[:at], argv[at], argv[at + 1 :]
    assert launcher in ([], ["--standalone", "--nproc-per-node", "gpu", "-m", "mnemic"])
    if name == "eval":
        played = Mock(side_effect=InterruptedError)
        monkeypatch.setattr(players, "play_rule", played)
        with pytest.raises(InterruptedError):
            evaluate_player(words)
        assert isinstance(played.call_args.args[1], EnvConfig)
        return
    config, _, path = _configure(words)
    assert isinstance(config, TrainConfig)
    assert path is None


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_whole(name: str) -> None:
    service = SERVICES[name]
    context = (FOLDER / service["build"]["context"]).resolve()
    assert context == ROOT.resolve()
    assert context / service["build"]["dockerfile"] in [path.resolve() for path in DOCKERFILES]
    arguments = {rest.partition("=")[0] for word, rest in instructions(FOLDER / "train.Dockerfile") if word == "ARG"}
    assert set(service["build"].get("args", {})) <= arguments
    (volume,) = service["volumes"]
    default, target = re.fullmatch(r"\$\{MNEMIC_RUNS:-(\w+)\}:([\w/]+)(?::ro)?", volume).groups()
    assert default in COMPOSE["volumes"]
    assert target == "/workspace/runs"
    (profile,) = service["profiles"]
    assert service["image"] == {"gpu": "mnemic:cuda", "cpu": "mnemic:cpu"}[profile]


def test_only_training_on_a_gpu_takes_one() -> None:
    assert [name for name, service in SERVICES.items() if "deploy" in service] == ["train"]
    assert [name for name, service in SERVICES.items() if "cuda" in service["command"]] == ["train"]
    ports = [service["ports"] for service in SERVICES.values() if "ports" in service]
    assert ports == [["127.0.0.1:6006:6006"]] * 2  # TensorBoard asks nobody who they are
