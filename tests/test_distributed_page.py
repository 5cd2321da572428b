"""The shell blocks of docs/distributed.md are run, with stand-ins for the commands of a cluster."""

import os
import re
import shlex
import signal
import subprocess
import time
from itertools import product
from pathlib import Path

import pytest

from mnemic.cli.train import _configure

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "distributed.md").read_text(), re.DOTALL)
SWEEP = {(memory, str(seed)) for memory, seed in product(("gru", "lstm", "memo"), range(5))}
RECORD = '#!/bin/sh\necho "GPU=$CUDA_VISIBLE_DEVICES ID=$SLURM_ARRAY_TASK_ID" "$@" >> {log}\n'
STANDS_IN = {
    "mnemic": RECORD,
    "torchrun": RECORD + "[ -z {wait} ] || exec sleep 60\n",
    "srun": '#!/bin/sh\nexec "$@"\n',
    "scontrol": '#!/bin/sh\n[ "$1" = show ] && printf "node7\\nnode8\\n" || echo "$@" >> {log}\n',
    "sbatch": '#!/bin/sh\nfor word; do :; done\nfor i in $(seq 0 14); do SLURM_ARRAY_TASK_ID=$i sh -c "$word"; done\n',
}


def block(word):
    (found,) = (text for text in BLOCKS if word in text)
    return found


@pytest.fixture
def shell(tmp_path):
    """Starts a script in an empty folder, and says which commands it has called."""
    log = tmp_path / "log"
    log.touch()

    def start(text, *argv, wait="", **variables):
        (tmp_path / "bin").mkdir(exist_ok=True)
        for name, script in STANDS_IN.items():
            path = tmp_path / "bin" / name
            path.write_text(script.replace("{log}", str(log)).replace("{wait}", f'"{wait}"'))
            path.chmod(0o755)
        (tmp_path / "script").write_text(text)
        path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
        command = ["bash", str(tmp_path / "script"), *argv]
        return subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"PATH": path} | variables)

    start.called = lambda: log.read_text().splitlines()
    start.folder = tmp_path
    return start


@pytest.mark.parametrize("text", BLOCKS, ids=lambda text: text.split()[0])
def test_every_block_is_shell(text):
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize("word", ["nproc)", "process-slot-var", "--array"])
def test_a_sweep_starts_each_run_once(shell, word):
    assert shell(block(word)).wait(60) == 0
    seen = set()
    for line in shell.called():
        where, argv = line.partition(" train ")[::2]
        config, _, path = _configure(shlex.split(argv))
        assert path is None
        seen.add((config.memory.name, str(config.seed)))
        assert config.env.label == "endless-tmaze"
        assert (re.match(r"GPU=[0-3] ", where) is not None) == (word == "process-slot-var")
    assert seen == SWEEP
    assert len(shell.called()) == len(SWEEP)


SLURM = {"SLURM_JOB_ID": "42", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "node[7-8]"}


def test_a_job_trains_and_later_resumes(shell):
    """One torchrun on each machine meets the others at the first one."""
    assert shell(block("#SBATCH"), "--seed", "3", **SLURM).wait(60) == 0
    (shell.folder / "runs" / "42").mkdir(parents=True)
    (shell.folder / "runs" / "42" / "config.json").touch()
    assert shell(block("#SBATCH"), "--seed", "3", **SLURM).wait(60) == 0
    first, second = (line.partition(" ID= ")[2] for line in shell.called())
    meet, train = first.split(" -m -- mnemic train ")
    assert meet == "--nnodes 2 --nproc-per-node gpu --rdzv-backend c10d --rdzv-id 42 --rdzv-endpoint node7:29500"
    config, _, path = _configure(shlex.split(train))
    assert (config.seed, config.device, config.memory.name, path) == (3, "cuda", "gru", Path("runs/42"))
    assert second == f"{meet} -m -- mnemic resume runs/42"


def test_a_job_whose_time_is_up_stops_and_queues_again(shell):
    job = shell(block("#SBATCH"), wait="yes", **SLURM)
    deadline = time.monotonic() + 30
    while not shell.called():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(30) != 0
    assert shell.called()[1:] == ["requeue 42"]
