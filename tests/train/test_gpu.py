"""Training on a GPU runs in both precisions, on the tasks of the CPU, and leaves a policy that a CPU can load."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from mnemic.agents.checkpoint import load_policy
from mnemic.eval.protocol import evaluate
from mnemic.memory import MEMORIES, make_config
from mnemic.train.loop import train
from mnemic.train.recipes import endless_tmaze_lstm
from mnemic.train.run import RunFolder, Training

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("memory", [name for name in MEMORIES if name != "none"])
def test_a_run_on_a_gpu_learns(tmp_path, memory, precision):
    config = endless_tmaze_lstm()
    config = replace(
        config,
        memory=make_config(memory),
        device="cuda",
        precision=precision,
        steps=80 * config.ppo.batch_steps,
        evaluation=replace(config.evaluation, stop_at=0.0, every=0),
    )
    folder = RunFolder.create(tmp_path / "run", config)
    train(config, folder, partial(evaluate, env_config=config.env), quiet=True)
    policy = load_policy(folder.last() / "policy", "cpu")
    assert evaluate(policy, config.env, episodes=256, seed=1)["success"] > 0.5  # chance is 0.125


def test_the_first_tasks_are_those_of_the_cpu():
    config = endless_tmaze_lstm()
    on = {device: Training(replace(config, device=device)).acting.inputs.obs.cpu() for device in ("cpu", "cuda")}
    assert torch.equal(on["cpu"], on["cuda"])
