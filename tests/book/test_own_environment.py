"""The page on one's own environment: its task, and its loop of one's own."""

import ast
import json
import re

import gymnasium as gym
import nbformat
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple
from gymnasium.utils.env_checker import check_env
from torch.optim.swa_utils import AveragedModel
from torchrl.envs import ExplorationType, GymWrapper, set_exploration_type
from torchrl.objectives import SoftUpdate

from benchmarks.bridge import PAGE, margin, page_settings, trained
from recdqn import (
    Config,
    RecurrentDQNLoss,
    add_primers,
    make_collector,
    make_env,
    make_policy,
    make_replay_buffer,
)
from recdqn.book.recorded import RESULTS
from recdqn.errors import ConfigError, resolve

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
    own = {}
    exec(CELLS["play"].source, own)
    agent, signs = own["Agent"](policy, cfg.env), {}
    for seed in range(4):
        start = env.reset(seed=seed)
        with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
            rollout = env.rollout(50, policy, auto_reset=False, tensordict=start)
        single = resolve(cfg.env.id)()
        total, values = own["play"](agent, single, seed)
        assert single.sign == rollout["observation"][0, 0]
        torch.testing.assert_close(torch.tensor(np.array(values)), rollout["action_value"])
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


def test_the_sign_leaves_a_small_trace_in_an_untrained_memory(cfg):
    """Less than two percent after ten steps, less than a thousandth of a percent after thirty."""
    own = {"np": np}
    exec(CELLS["play"].source, own)
    exec(CELLS["trace"].source.partition("untrained =")[0], own)
    env = make_env(cfg.env)
    for seed in range(5):
        torch.manual_seed(seed)
        trace = own["sign_trace"](own["Agent"](make_policy(cfg.policy, env), cfg.env))
        assert 0.001 < trace[10] / trace[0] < 0.02 and trace[30] / trace[0] < 1e-5
    env.close()


def test_about_half_of_the_slices_begin_after_the_sign(cfg):
    cfg = cfg.replace(train={"total_frames": 3_200})
    torch.manual_seed(0)
    env = make_env(cfg.env)
    policy = make_policy(cfg.policy, env)
    add_primers(env, policy)
    buffer = make_replay_buffer(cfg)
    collector = make_collector(cfg, env, policy, buffer)
    for _ in collector:
        pass
    collector.shutdown()
    batches = torch.cat([buffer.sample() for _ in range(20)])
    starts = batches["step_count"][batches["is_init"]]  # one for each slice
    assert 0.4 < (starts > 0).float().mean() < 0.55


def test_the_margin_is_that_of_the_sign_with_the_smaller_one(cfg):
    cfg_short = cfg.replace(train={"warmup_frames": 256})
    policy = trained(cfg_short, slice_len=5, state_source="zero", frames=512).policy
    own, margins = {}, {}
    exec(CELLS["play"].source, own)
    agent = own["Agent"](policy, cfg.env)
    env = resolve(cfg.env.id)()
    for seed in range(4):
        left, right = own["play"](agent, env, seed)[1][-1]
        margins[env.sign] = (right - left) * env.sign
    assert margin(policy, cfg) == pytest.approx(min(margins.values()), abs=1e-5)
    assert margins[1] == pytest.approx(-margins[-1], abs=0.1)  # untrained: one turn is best for both signs


def test_the_table_of_slices_is_the_recorded_one():
    """Each row of the page's table gives the margins of one way, and the returns of the same seeds."""
    rows = json.loads((RESULTS / "bridge.json").read_text(encoding="utf-8"))["rows"]
    ways = {}
    for row in rows:
        ways.setdefault((row["slice_len"], row["state_source"]), []).append((row["margin"], row["return"]))
    assert len(ways) == 4
    text = CELLS["bridge"].source
    for (slice_len, source), results in ways.items():
        margins, returns = zip(*sorted(results), strict=True)
        numbers = ", ".join(f"{value:.2f}" for value in margins).replace("-", "−")
        same_seeds = ", ".join(f"{value:.2f}" for value in returns)
        assert f"| {slice_len} | {source} | {numbers} | {same_seeds} |" in text
    lucky = [margin for margin, value in ways[5, "zero"] if value == 1.0]
    assert [f"{abs(margin):.2f}" for margin in lucky] == ["0.00"]


def test_a_picture_and_a_vector_train_in_the_loop_of_chapter_5():
    source = CELLS["dict-env"].source + "\n" + CELLS["dict-policy"].source
    page = {"gym": gym, "torch": torch, "add_primers": add_primers}
    exec(source.replace("both_env.close()", ""), page)
    env, policy = page["both_env"], page["both_policy"]
    settings = {"total_frames": 60, "frames_per_batch": 20, "warmup_frames": 20, "updates": 2}
    cfg = Config.preset("masked-cartpole").replace(
        env={"num_envs": 1}, train=settings, replay={"slices": 4, "slice_len": 5, "capacity": 100}
    )
    loss = RecurrentDQNLoss(policy, action_space=env.action_spec)
    buffer = make_replay_buffer(cfg)
    loop = {
        "torch": torch,
        "buffer": buffer,
        "policy": policy,
        "loss_fn": loss,
        "target": SoftUpdate(loss, tau=0.01),
        "optimiser": torch.optim.Adam(loss.parameters()),
        "average": AveragedModel(policy),
    }
    chapter = nbformat.read(PAGE.parent / "chapters" / "05-training-loop.ipynb", as_version=4)
    (learn,) = [cell.source for cell in chapter.cells if cell.id == "loop-learn"]
    exec(learn, loop)
    before = [parameter.clone() for parameter in policy.parameters()]
    collector = make_collector(cfg, env, policy, buffer)
    losses = [loop["learn"](20 * k, cfg.train) for k, _ in enumerate(collector)]
    collector.shutdown()
    assert len(losses) == 3 and np.isfinite(losses).all()
    assert all((a != b).any() for a, b in zip(before, policy.parameters(), strict=True))
    assert {"pixels", "numbers"} <= set(buffer.sample().keys())


def test_torchrl_renames_an_entry_of_a_dict_that_is_called_state():
    drawn = gym.make("CartPole-v1", render_mode="rgb_array")
    both = gym.wrappers.AddRenderObservation(drawn, render_only=False)
    assert set(both.observation_space) == {"pixels", "state"}
    env = GymWrapper(both)
    assert set(env.observation_spec.keys()) == {"pixels", "observation"}
    env.close()


SPACES = {
    "vector": Box(-1, 1, (3,)),
    "`Discrete`": MultiDiscrete([2, 3]),
    "nested": Dict(a=Box(-1, 1, (2,)), b=Tuple((Discrete(3), MultiBinary(2)))),
    "only some": Dict(camera=Discrete(2), arm=Dict(angles=Box(-1, 1, (3,)), force=Discrete(9)), name=Text(3)),
    "colours first": Box(0, 1, (3, 40, 50)),
    "several pictures": Box(0, 255, (4, 40, 50), np.uint8),
    "grid of codes": Box(0, 2, (3, 3), np.int64),
    "any other array": Box(-np.inf, np.inf, (2, 3, 4, 5)),
    "several kinds": Dict(camera=Box(0, 255, (40, 50, 3), np.uint8), board=Box(0, 5, (4, 4), np.int8)),
    "rendered": Box(-1, 1, (3,)),
}
SEEN = {
    "`Discrete`": {"observation": 5},
    "nested": {"observation": 2 + 3 + 2},
    "only some": {"observation": 2 + 3},
    "colours first": {"pixels": 1},
    "several pictures": {"pixels": 4},
    "grid of codes": {"codes": 9},
    "any other array": {"observation": 120},
    "several kinds": {"pixels": 1, "codes": 16},
    "rendered": {"pixels": 1},
    "MiniGrid": {"codes": 147, "observation": 4},
    "Atari": {"pixels": 1},
    "POPGym": {"observation": 4},
    "Box2D": {"observation": 8},
}
TABLE = re.findall(r"(?m)^\| (.*?) \| `(\{.*?\})` \| .* \|$", CELLS["dict-md"].source)


class Task(gym.Env):
    """Shows a sample of its space; three of its combinations of actions are legal."""

    metadata, render_mode = {"render_modes": []}, "rgb_array"
    observation_space = action_space = Discrete(4)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), self.info()

    def step(self, action):
        assert self.action_space.contains(action)
        return self.observation_space.sample(), 0.0, False, False, self.info()

    def info(self):
        return {"action_mask": np.array([1, 0, 1, 1])} if self.masks else {}

    def render(self):
        return np.zeros((60, 80, 3), np.uint8)


@pytest.mark.parametrize(("kind", "setting"), TABLE)
def test_each_line_of_the_table_of_spaces_works(kind, setting, monkeypatch):
    key = next((name for name in SPACES if name in kind), "vector")
    monkeypatch.setattr(Task, "observation_space", SPACES[key])
    monkeypatch.setattr(Task, "masks", "action_mask" in kind, raising=False)
    if kind.startswith("`MultiDiscrete`"):
        monkeypatch.setattr(Task, "action_space", Dict(a=MultiDiscrete([2, 2]), b=Tuple((MultiBinary(1),))))
    change = {"num_envs": 2} | ast.literal_eval(setting.replace("Task", repr(f"{__name__}:Task")))
    try:
        env = make_env(Config.preset("masked-cartpole").replace(env=change).env)
    except ConfigError as error:
        if any(
            f"No module named {name!r}" in str(error) for name in ("minigrid", "ale_py", "popgym", "Box2D")
        ):
            pytest.skip("pip install 'recdqn[envs]'")
        raise
    steps = env.rollout(2)
    env.close()
    found = {one: steps[one].shape[-3 if one == "pixels" else -1] for one in SHOWN if one in steps}
    assert found == SEEN.get(next((name for name in SEEN if name in kind), ""), {"observation": 3})
    if "mask" in change:
        assert not steps["action"][..., 1].any()


SHOWN = ("observation", "pixels", "codes")


def test_the_table_of_spaces_has_a_line_for_each_kind():
    assert len(TABLE) == 18 and set(SPACES) <= {name for name in SPACES for kind, _ in TABLE if name in kind}
