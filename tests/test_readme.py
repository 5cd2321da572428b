"""What the documents say is run: Python blocks, commands, tables, links."""

import re
import shlex
import sys
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import pytest
import torch

from mnemic.cli import bench
from mnemic.cli import train as train_command
from mnemic.cli.main import main
from mnemic.envs import ENVS
from mnemic.memory import MEMORIES
from mnemic.memory.core import MemoryConfig

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TINY = [
    *("--threads", "1", "--steps", "64", "--ppo.rows", "8", "--ppo.window", "8", "--ppo.minibatches", "2"),
    *("--ppo.epochs", "1", "--memory.width", "8", "--evaluation.every", "0", "--evaluation.confirm-episodes", "8"),
]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def commands() -> list[str]:
    lines = [line.partition("#")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line.startswith("mnemic ")]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small run where README's commands expect one."""
    folder = tmp_path_factory.mktemp("workplace")
    assert main(["train", "--run", str(folder / "runs" / "NAME"), *TINY]) == 0
    return folder


@pytest.mark.parametrize("index", range(len(blocks("python"))))
def test_python_blocks_run(index: int, monkeypatch, capsys, workplace: Path) -> None:
    monkeypatch.chdir(workplace)
    module = ModuleType("readme_block")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # where a dataclass looks for its module
    before = set(MEMORIES)
    torch.manual_seed(0)
    try:
        exec(compile(blocks("python")[index], f"README.md, Python block {index + 1}", "exec"), module.__dict__)
        if "leaky" in MEMORIES:
            assert main(["train", "--memory", "leaky", "--run", "runs/leaky", *TINY]) == 0
            assert "memory leaky" in capsys.readouterr().out
        else:
            assert 0 <= float(capsys.readouterr().out.split()[-1]) < 0.05  # README says about 0
    finally:
        for name in set(MEMORIES) - before:
            del MEMORIES[name]


@pytest.mark.parametrize("command", commands())
def test_commands_are_understood(command: str, workplace: Path, monkeypatch, capsys) -> None:
    """Runs are set up but not trained, evaluations are small, benchmarks are parsed."""
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(train_command, "_run", lambda *set_up, resumed_at=None: 0)
    name, *argv = shlex.split(command, comments=True)[1:]
    if name == "bench":
        monkeypatch.setattr(bench, "_device", lambda options: sys.exit(0))  # what comes after the flags are read
    few = {
        "train": ["--threads", "1"],
        "eval": ["--episodes", "2"],
        "play": ["--steps", "3"],
        "diagnose": ["--long", "0"],
    }.get(name, [])
    few = ["--rows", "2"] if "--cache" in argv else few  # a stream, which has no episodes to count
    few += ["--run", f"runs/{abs(hash(command))}"] if name == "train" else []
    assert main([name, *argv, *few]) == 0, capsys.readouterr().err
    if name == "play":
        assert (workplace / argv[argv.index("--gif") + 1]).is_file()


def test_every_command_is_shown() -> None:
    assert {line.split()[1] for line in commands()} == {
        *("train", "resume", "eval", "diagnose", "report", "play", "list", "bench")
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_targets_are_there(document: Path) -> None:
    text = document.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"(?:^|`)make ([a-z]+)\b", text, re.MULTILINE)
    assert set(named) <= targets


def test_tables_name_all_there_is() -> None:
    text = (ROOT / "README.md").read_text()
    tasks, memories = (
        set(re.findall(r"`([^`]+)`", "".join(re.findall(r"^\| (`.*?) \|", part, re.MULTILINE))))
        for part in text.partition("| tasks |")[2].split("| memories |")
    )
    assert tasks == {*ENVS, "gym:ID", "trials:NAME"}
    assert memories == set(MEMORIES)


@pytest.mark.parametrize(
    ("page", "kinds", "common"),
    [("tasks.md", ENVS, ()), ("memories.md", MEMORIES, tuple(field.name for field in fields(MemoryConfig)))],
)
def test_pages_name_every_option(page: str, kinds: dict, common: tuple[str, ...]) -> None:
    head, *sections = (ROOT / "docs" / page).read_text().split("\n## ")
    by_name = {section[1 : section.index("`", 1)]: section for section in sections}
    assert set(by_name) >= set(kinds)
    assert [name for name in common if f"`{name}`" not in head] == []
    for name, kind in kinds.items():
        own = [field.name for field in fields(kind) if field.name not in common]
        assert [option for option in own if not re.search(rf"`{option}\b", by_name[name])] == [], name
