"""Tasks that need memory: a hand-written player, returns in closed form, twins, pictures; stacks; gates."""

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from torch import nn

from recdqn import Config, add_primers, make_env, make_policy
from recdqn.agent import Agent
from recdqn.config import EnvConfig
from recdqn.envs import make_vector_env
from recdqn.envs.memory import CELL, COPIES, CORRIDORS, MAZES
from recdqn.envs.replayable import Replayable
from recdqn.errors import ConfigError
from recdqn.policy.span import remember
from recdqn.presets import PRESETS

TASKS = [f"Corridor{n}" for n in CORRIDORS] + [f"TMaze{n}" for n in MAZES] + list(COPIES)


def play(env, act, seed):
    """Return the rewards and observations of an episode; ``act`` gets all observations so far."""
    seen, rewards = [env.reset(seed=seed)[0]], []
    while True:
        observation, reward, terminated, truncated, _ = env.step(act(seen))
        rewards.append(reward)
        if terminated or truncated:
            return rewards, seen
        seen.append(observation)


def remembers(name):
    """The best action, from all observations of the episode."""

    def walk(seen):
        side = int(seen[0][0] > 0)
        active = name.startswith("TMaze")
        return side + active if seen[-1][2] else 0

    def repeat(seen):
        symbols = [int(each[:4].argmax()) for each in seen if each[:4].any() and not each[5]]
        return symbols[sum(each[5] for each in seen).astype(int) - 1] if seen[-1][5] else 0

    return repeat if name == "Copy" else walk


@pytest.mark.parametrize("twin", ["", "Shown"])
@pytest.mark.parametrize("name", TASKS)
def test_the_best_player(name, twin):
    """It gets the highest return, in the number of steps that the task's name says."""
    env = gym.make(f"recdqn/{name}{twin}-v0")
    for seed in range(6):
        rewards, seen = play(env, remembers(name), seed)
        assert sum(rewards) == pytest.approx(1.0)
        if name == "Copy":
            assert len(rewards) == 12 and rewards[:8] == [0.0] * 8
        else:
            length = int(name.removeprefix("Corridor").removeprefix("TMaze"))
            assert len(rewards) == length + 1 and rewards[:-1] == [0.0] * length
            signs = [each[0] for each in seen]
            assert abs(signs[0]) == 1.0 and signs[1:] == ([signs[0]] * length if twin else [0.0] * length)
    env.close()


def test_returns_without_memory():
    """At the junction a fixed choice is right half of the time; a symbol is guessed with probability 1/4."""
    seeds = [0, *[None] * 399]  # goes on with the same generator
    corridor = gym.make("recdqn/Corridor10-v0")
    returns = [sum(play(corridor, lambda seen: 1, seed)[0]) for seed in seeds]
    assert abs(np.mean(returns)) < 0.15
    copy = gym.make("recdqn/Copy-v0")
    returns = [sum(play(copy, lambda seen: 2, seed)[0]) for seed in seeds]
    assert np.mean(returns) == pytest.approx(0.25, abs=0.03)
    # in the twin the current observation is enough
    twin = gym.make("recdqn/CopyShown-v0")
    returns = [sum(play(twin, lambda seen: seen[-1][:4].argmax(), seed)[0]) for seed in range(5)]
    assert returns == pytest.approx([1.0] * 5)


def test_wrong_actions_cost_time_in_the_maze():
    env = gym.make("recdqn/TMaze10-v0")
    rewards, seen = play(env, lambda seen: 1, seed=0)  # turns where there is no way
    assert len(rewards) == 40 and not any(rewards)
    assert [each[1] for each in seen] == [1.0] * 40 and abs(seen[0][0]) == 1 and not seen[1][0]

    def late(seen):  # every second step
        return 1 if len(seen) % 2 and not seen[-1][2] else remembers("TMaze")(seen)

    rewards, _ = play(env, late, seed=0)
    assert len(rewards) == 21 and sum(rewards) == 1.0


def test_flickering_hides_half_of_the_observations():
    env, plain = gym.make("recdqn/FlickeringCartPole-v0", render_mode="rgb_array"), gym.make("CartPole-v1")
    hidden = 0
    for seed in range(40):
        seen, _ = env.reset(seed=seed)
        true, _ = plain.reset(seed=seed)
        for _ in range(8):
            assert not seen.any() or (seen == true).all()
            assert bool(env.render().any()) == bool(seen.any())
            hidden += not seen.any()
            seen, true = env.step(0)[0], plain.step(0)[0]
    assert hidden / 320 == pytest.approx(0.5, abs=0.09)  # three standard deviations
    env.close()


def test_flickering_pictures_are_black():
    cfg = EnvConfig(id="recdqn/FlickeringCartPole-v0", observation="pixels", num_envs=2)
    env = make_env(cfg)
    env.set_seed(0)
    pixels = env.rollout(60, break_when_any_done=False)["pixels"].flatten(0, 1)
    black = (pixels == 0).flatten(1).all(1)
    assert 0.3 < black.float().mean() < 0.7
    assert (pixels[~black] > 200).float().mean() > 0.5
    env.close()


@pytest.mark.parametrize("name", ["Corridor10", "TMaze100Shown", "Copy"])
def test_gymnasiums_own_checks(name):
    check_env(gym.make(f"recdqn/{name}-v0", render_mode="rgb_array").unwrapped)


def test_pictures_show_the_sign_only_where_it_is_seen():
    def orange(picture):
        return (picture == (230, 159, 0)).all(-1).sum()

    for name, later in (("Corridor30", 0), ("Corridor30Shown", (CELL - 1) ** 2)):
        env = gym.make(f"recdqn/{name}-v0", render_mode="rgb_array")
        env.reset(seed=0)
        assert env.render().shape == (3 * CELL, 17 * CELL, 3)
        assert orange(env.render()) == (CELL - 1) ** 2
        for _ in range(30):
            env.step(0)
            assert orange(env.render()) == later


def test_episodes_can_be_replayed():
    for name in ("recdqn/Corridor10-v0", "recdqn/Copy-v0", "recdqn/FlickeringCartPole-v0"):
        env, other = (Replayable(gym.make(name)) for _ in range(2))
        env.reset(seed=3)
        for action in (0, 1, 1):
            env.step(action)
        assert other.restore(env.episode) == "exact"
        assert (env.step(0)[0] == other.step(0)[0]).all()


@pytest.mark.parametrize(
    "preset", [name for name in PRESETS if name not in ("masked-cartpole", "pixel-cartpole")]
)
def test_presets_fit_their_tasks(preset):
    needed = dict.fromkeys(("repeat-previous", "count-recall", "autoencode"), "popgym")
    package = "minigrid" if "minigrid" in preset else needed.get(preset, "recdqn")
    pytest.importorskip(package, reason="pip install 'recdqn[envs]'")
    cfg = Config.preset(preset)
    cfg.check_training()
    env = make_env(cfg.env)
    policy = make_policy(cfg.policy, env)
    assert add_primers(env, policy).rollout(3, policy)["action_value"].isfinite().all()


# --- the last observations side by side -----------------------------------------------------------------


def test_a_stack_of_observations_against_a_list():
    cfg = EnvConfig(num_envs=2, stack=3)
    env, plain = make_env(cfg), make_env(dataclasses.replace(cfg, stack=1))
    for each in (env, plain):
        each.set_seed(5)
    torch.manual_seed(0)
    stacked = env.rollout(60, break_when_any_done=False)
    torch.manual_seed(0)
    single = plain.rollout(60, break_when_any_done=False)
    assert stacked["observation"].shape == (2, 60, 6)
    for copy in range(2):
        for t in range(60):
            begin = max(s for s in range(t + 1) if single["is_init"][copy, s])
            expected = [single["observation"][copy, max(begin, t - back)] for back in (2, 1, 0)]
            torch.testing.assert_close(stacked["observation"][copy, t], torch.cat(expected))
    one = make_env(dataclasses.replace(cfg, num_envs=1))
    assert one.reset()["observation"].shape == (6,)


def test_an_agent_sees_a_stack_as_the_policy_does():
    cfg = Config().replace(env={"num_envs": 2, "stack": 4}, policy={"cell": "none"})
    env = make_env(cfg.env)
    policy = make_policy(cfg.policy, env)
    agent = Agent(policy, cfg.env)
    vector = make_vector_env(cfg.env)
    seen, _ = vector.reset(seed=0)
    assert seen.shape == (2, 4, 4)
    values, _ = agent.values(seen, agent.initial_state(2))
    td = env.reset()
    td["observation"] = torch.tensor(seen[..., [0, 2]] * np.array(cfg.env.scale, np.float32)).flatten(1)
    torch.testing.assert_close(torch.tensor(values), policy(td)["action_value"])
    assert agent.act(seen[0], agent.initial_state())[0] in (0, 1)


def test_stacks_are_of_vectors():
    with pytest.raises(ConfigError, match="env.stack=4: expected 1 for env.observation='pixels'"):
        Config().replace(env={"observation": "pixels", "stack": 4})


def test_a_stack_survives_a_resumed_episode():
    from recdqn.envs.replayable import get_episodes, restore_episodes

    cfg = EnvConfig(num_envs=2, stack=3)
    env, other = make_vector_env(cfg), make_vector_env(cfg)
    env.reset(seed=1)
    for _ in range(5):
        seen = env.step(np.array([0, 1]))[0]
    assert restore_episodes(other, get_episodes(env), seconds=10.0) == "exact"
    after = env.step(np.array([1, 0]))[0]
    assert (other.step(np.array([1, 0]))[0] == after).all() and (after[:, :-1] == seen[:, 1:]).all()


# --- gates with long time constants ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_states_decay_with_the_given_time_constants(kind):
    """Without inputs: the state of unit k is multiplied by its forget gate's value at each step."""
    torch.manual_seed(0)
    cell = kind(2, 400, batch_first=True)
    remember(cell, 50)
    with torch.no_grad():
        for name, weights in cell.named_parameters():
            if "weight" in name:
                weights.zero_()
        for name in ("bias_ih_l0", "bias_hh_l0"):
            getattr(cell, name)[-400:] = 0.0  # the candidate of a GRU, and the LSTM's output gate
        cell.bias_ih_l0[2 * 400 : 3 * 400] = 0.0  # the LSTM's candidate
        cell.bias_hh_l0[2 * 400 : 3 * 400] = 0.0
        start = torch.ones(1, 1, 400)
        state = (torch.zeros(1, 1, 400), start) if kind is nn.LSTM else start
        after = cell(torch.zeros(1, 1, 2), state)[1]
    kept = (after[1] if kind is nn.LSTM else after).flatten()
    steps = 1 / (1 - kept)  # 1 + u, u uniform between 1 and 49
    assert steps.min() >= 2.0 and steps.max() <= 50.0
    assert steps.mean() == pytest.approx(26.0, abs=2.5)


def test_without_a_span_the_initial_values_are_pytorchs():
    def weights(**policy):
        torch.manual_seed(0)
        cfg = Config().replace(policy=policy)
        return make_policy(cfg.policy, make_env(cfg.env)).state_dict()

    plain, long = weights(), weights(memory_span=20)
    changed = [key for key in plain if not plain[key].equal(long[key]) and "lstm" in key]
    assert changed == ["module.1.lstm.bias_ih_l0", "module.1.lstm.bias_hh_l0"]
