"""What can be asked of a goal in real homes; by hand, in a hall with one thing: test_rules.py."""

from dataclasses import replace

import torch

from mnemic.envs.object_nav import ObjectNavConfig

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HOMES = ObjectNavConfig(size=16, houses=3, max_rooms=3, max_things=25, episode_steps=200, trial_steps=600)


def test_a_goal_can_be_known_once_it_was_in_a_picture_of_the_trial_while_it_was_looked_for() -> None:
    env = replace(HOMES, sensors="depth,mask", episode_steps=12, trial_steps=60, goals="large").build(8, 0, DEVICE)
    state, step = env.reset()
    known: list[set[int]] = [set() for _ in range(8)]
    counts = [0, 0]
    for action_B in torch.randint(1, 6, (150, 8), generator=torch.Generator().manual_seed(0)).to(DEVICE):
        told_B = env.hidden(state, step)["place"].told
        for row, kind in enumerate(step.obs["goal"].argmax(1).tolist()):
            if step.trial_start[row]:
                known[row].clear()
            if step.obs["mask"][row].any():
                known[row].add(kind)
            assert bool(told_B[row]) == (kind in known[row])
            counts[bool(told_B[row])] += 1
        state, step = env.step(state, action_B)
    assert min(counts) > 100


def test_the_way_leads_to_the_goal() -> None:
    env = HOMES.build(8, 0, DEVICE)
    state, step = env.reset()
    over, found = 0, 0
    for _ in range(150):
        way = env.hidden(state, step)["way"]
        assert way.values == 6
        state, step = env.step(state, way.value)
        over += int(step.episode_start.sum())
        found += int((step.info["success"] & step.terminated).sum())
    assert over >= 20
    assert found >= 0.9 * over
