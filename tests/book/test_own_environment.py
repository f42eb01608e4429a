"""The page on one's own environment: its task, and its loop of one's own."""

import nbformat
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from torchrl.envs import ExplorationType, set_exploration_type

from benchmarks.bridge import PAGE, page_settings
from recdqn import add_primers, make_env, make_policy
from recdqn.errors import resolve

CELLS = {cell.id: cell for cell in nbformat.read(PAGE, as_version=4).cells}


@pytest.fixture(scope="module")
def cfg():
    return page_settings()


def test_the_sign_is_seen_once_and_decides_at_the_far_end(cfg):
    env = resolve(cfg.env.id)()
    signs = []
    for seed in range(20):
        seen, done, reward = [env.reset(seed=seed)[0]], False, 0.0
        while not done:
            assert reward == 0
            observation, reward, terminated, truncated, _ = env.step(seed % 2)
            done = terminated or truncated
            seen.append(observation)
        sign = seen[0][0]
        signs.append(sign)
        assert len(seen) == 12 and terminated and reward == (seed % 2 == (sign > 0))
        np.testing.assert_array_equal(seen[0], [sign, 0])
        np.testing.assert_array_equal(seen[1:10], np.zeros((9, 2)))
        np.testing.assert_array_equal(seen[10], [0, 1])
    assert set(signs) == {-1, 1}
    check_env(env, skip_render_check=True)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_loop_of_ones_own_computes_what_a_rollout_computes(cfg, cell):
    cfg = cfg.replace(env={"num_envs": 1}, policy={"cell": cell, "initial_value": 0.0})
    torch.manual_seed(1)
    env = make_env(cfg.env)
    policy = make_policy(cfg.policy, env)
    add_primers(env, policy)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(3)  # so that memory shows in the values
    own = {"torch": torch}
    exec(CELLS["play"].source, own)
    signs = {}
    for seed in range(4):
        start = env.reset(seed=seed)
        with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
            rollout = env.rollout(50, policy, auto_reset=False, tensordict=start)
        single = resolve(cfg.env.id)()
        total, values = own["play"](policy, single, seed)
        assert single.sign == rollout["observation"][0, 0]
        torch.testing.assert_close(torch.tensor(values), rollout["action_value"])
        assert total == rollout["next", "reward"].sum()
        signs[single.sign] = values[-1]
    assert max(abs(a - b) for a, b in zip(signs[1], signs[-1], strict=True)) > 1e-4


def test_code_that_readers_copy_names_no_profile():
    for cell in CELLS.values():
        if "remove-cell" not in cell.metadata.get("tags", ()):
            assert "profile" not in cell.source.lower(), cell.id


def test_the_commands_of_the_page_train_the_page_s_task(cfg):
    """``go.py`` and the command line have the settings of the page's cell."""
    text = CELLS["next"].source
    train, env = cfg.train, cfg.env
    for name, value in {
        "--env.max_steps": env.max_steps,
        "--train.solved_return": train.solved_return,
        "--train.total_frames": f"{train.total_frames:_}",
        "--train.updates": train.updates,
    }.items():
        assert f"{name} {value}" in text
    assert f'"total_frames": {train.total_frames:_}, "updates": {train.updates}' in text
