"""The run folder: what it keeps, what it drops, what it refuses."""

import errno
import json
import os

import pytest
import torch

from mnemic.agents.checkpoint import CheckpointError, read
from mnemic.memory import make_config
from mnemic.train.config import PPOConfig, TrainConfig
from mnemic.train.run import RunFolder, Training, begin_from


def config(**options):
    return TrainConfig(memory=make_config("none"), ppo=PPOConfig(rows=4, window=4, minibatches=2), **options)


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "run", config())


def test_a_new_run_opens_with_the_configuration_it_was_made_with(tmp_path):
    RunFolder.create(tmp_path / "a" / "b", config(seed=3))
    opened, found = RunFolder.open(tmp_path / "a" / "b")
    assert found == config(seed=3)
    assert opened.path == tmp_path / "a" / "b"


@pytest.mark.parametrize("what", ["folder", "file", "run"])
def test_what_exists_is_not_overwritten(tmp_path, what):
    path = tmp_path / "run"
    if what == "folder":
        path.mkdir()
    elif what == "file":
        path.write_text("mine")
    else:
        RunFolder.create(path, config())
    with pytest.raises(ValueError, match="run exists and is not overwritten; choose another folder with --run"):
        RunFolder.create(path, config(seed=1))
    if what == "file":
        assert path.read_text() == "mine"
    if what == "run":
        assert RunFolder.open(path)[1].seed == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is not a run folder: it has no config.json"),
        ("", "config.json is damaged: not JSON"),
        ("{", "config.json is damaged: not JSON"),
        ("{}", "the configuration does not fit this version of mnemic"),
        ("7", "the configuration does not fit this version of mnemic"),
    ],
)
def test_a_folder_that_is_no_run_is_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        RunFolder.open(tmp_path)


def test_the_newest_are_kept_and_last_points_to_the_newest(folder):
    training = Training(config())
    for update in (0, 1, 2, 10, 11):
        training.updates = update
        folder.save(training, keep=2)
        assert os.readlink(folder.checkpoints / "last") == str(16 * update)
        assert folder.last() == folder.checkpoints / str(16 * update)
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == ["160", "176", "last"]


def test_last_is_by_number_whatever_else_lies_there(folder):
    training = Training(config())
    for update in (1, 10):
        training.updates = update
        folder.save(training, keep=5)
    (folder.checkpoints / "999 (my copy)").mkdir()
    assert folder.last().name == "160"


def test_a_run_without_a_checkpoint_says_so(folder):
    assert not folder.begun()
    with pytest.raises(CheckpointError, match="run has no checkpoint yet"):
        folder.last()


def test_saving_the_same_step_again_touches_nothing(folder):
    """So that nothing is ever missing, not even while it is written."""
    training = Training(config())
    before = folder.save(training, keep=1).stat().st_ino
    assert folder.save(training, keep=1).stat().st_ino == before


def test_what_a_killed_run_left_half_written_is_never_read_and_then_dropped(folder):
    training = Training(config())
    folder.save(training, keep=2)
    half = folder.checkpoints / ".partial-16-4242"
    (half / "policy").mkdir(parents=True)
    (half / "policy" / "config.json").write_text("{")
    assert folder.last().name == "0"
    training.updates = 1
    folder.save(training, keep=2)
    assert not half.exists()


def test_a_full_disk_leaves_the_earlier_checkpoint(folder, monkeypatch):
    training = Training(config())
    folder.save(training, keep=1)

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    training.updates = 1
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        folder.save(training, keep=1)
    monkeypatch.undo()
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == ["0", "last"]
    Training(config()).restore(folder.last())


def test_the_training_state_comes_back(folder):
    training = Training(config())
    training.updates, training.seconds, training.figures = 3, 1.25, {"success": 0.1 + 0.2}
    torch.rand(3, generator=training.sampling)
    torch.rand(5, generator=training.shuffling)
    torch.rand(7)
    training.meter.state["episode_return"] += 2
    folder.save(training, keep=1)
    expected = [torch.rand(3, generator=g) for g in (training.sampling, training.shuffling, None)]
    again = Training(config())
    again.restore(folder.last())
    found = [torch.rand(3, generator=g) for g in (again.sampling, again.shuffling, None)]
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert (again.updates, again.seconds, again.figures) == (3, 1.25, {"success": 0.1 + 0.2})
    assert again.meter.state["episode_return"].tolist() == [2.0] * 4
    again.meter.state["episode_return"] += 1  # what was read can be written to


@pytest.mark.parametrize(
    "other",
    [
        TrainConfig(memory=make_config("none", width=32), ppo=PPOConfig(rows=4, window=4, minibatches=2)),
        TrainConfig(memory=make_config("gru"), ppo=PPOConfig(rows=4, window=4, minibatches=2)),
        TrainConfig(memory=make_config("none"), ppo=PPOConfig(rows=8, window=4, minibatches=2)),
    ],
    ids=["width", "memory", "rows"],
)
def test_a_checkpoint_of_another_configuration_is_refused(folder, other):
    saved = folder.save(Training(config()), keep=1)
    with pytest.raises(CheckpointError, match="does not fit the configuration of its run: ") as caught:
        Training(other).restore(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["policy", "training_state"])
def test_a_damaged_part_is_refused(folder, part):
    saved = folder.save(Training(config()), keep=1)
    path = saved / part / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="is damaged or cut short"):
        Training(config()).restore(saved)


def test_a_training_state_with_missing_data_is_refused(folder):
    saved = folder.save(Training(config()), keep=1)
    read(saved / "training_state", "training state")
    path = saved / "training_state" / "config.json"
    found = json.loads(path.read_text())
    del found["data"]["updates"]
    path.write_text(json.dumps(found))
    with pytest.raises(CheckpointError, match="do not match their digest"):
        Training(config()).restore(saved)


def test_a_run_begins_with_the_policy_of_another(folder):
    folder.save(Training(config(seed=1)), keep=1)
    training = Training(config(seed=2))
    begin_from(training.policy, folder.path)
    for mine, theirs in zip(training.policy.parameters(), Training(config(seed=1)).policy.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_policy_of_another_form_is_no_beginning(folder):
    folder.save(Training(config()), keep=1)
    training = Training(TrainConfig(memory=make_config("none", width=8)))
    before = [part.clone() for part in training.policy.parameters()]
    with pytest.raises(ValueError, match=r"not fit this run: \S+ is of shape \(64,\) there and of shape \(8,\) here"):
        begin_from(training.policy, folder.path)
    assert all(torch.equal(a, b) for a, b in zip(before, training.policy.parameters(), strict=True))


def test_a_policy_with_another_memory_is_no_beginning(folder):
    folder.save(Training(config()), keep=1)
    training = Training(TrainConfig(memory=make_config("gru", width=64)))
    with pytest.raises(ValueError, match=r"does not fit this run: \S+ is missing there and of shape \(.*\) here"):
        begin_from(training.policy, folder.path)
