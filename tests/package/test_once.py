"""An environment of which only one can exist at a time, against the same one without that limit."""

import gymnasium as gym
import pytest
import torch
from gymnasium.envs.classic_control import CartPoleEnv

from recdqn import Config, evaluate, make_env, make_policy, resume, train
from recdqn.agent import Agent


class Many(gym.Wrapper):
    """CartPole."""

    def __init__(self):
        super().__init__(gym.make("CartPole-v1"))


class Once(Many):
    """Holds what only one can hold, such as a port."""

    held = False

    def __init__(self):
        if Once.held:
            raise OSError("Address already in use")
        super().__init__()
        Once.held = True

    def close(self):
        Once.held = False
        super().close()


class Silent(CartPoleEnv):
    """Names a render mode, and takes no ``render_mode``."""

    def __init__(self):
        super().__init__()


def test_training_is_that_of_an_environment_that_can_be_copied(tiny, tmp_path):
    runs = {}
    for kind in (Many, Once):
        cfg = tiny.replace(env={"id": kind, "num_envs": 1}, train={"total_frames": 512, "eval_episodes": 3})
        runs[kind] = train(cfg, out=tmp_path / kind.__name__, progress=False)
        assert not Once.held
        runs[kind] = resume(tmp_path / kind.__name__, frames=640, progress=False)
    weights = [run.policy.state_dict() for run in runs.values()]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    assert len(runs[Once].metrics[-1]["returns"]) == 3 and len(runs[Once].metrics) > 1


def test_an_evaluation_plays_its_episodes_in_turn():
    cfg = Config(env={"id": Once})
    with pytest.raises(Exception, match="Address already in use"):
        make_env(cfg.env)  # 32 of them
    assert not Once.held
    policy = make_policy(cfg.policy, make_env(Config(env={"id": Many}).env))
    result = evaluate(policy, cfg.env, episodes=4)
    assert not Once.held
    agent, env = Agent(policy, cfg.env), gym.make("CartPole-v1")
    env.reset(seed=1_000_000)
    for returned, length in zip(result.returns, result.lengths, strict=True):
        observation, _ = env.reset()
        state, done, steps = agent.initial_state(), False, 0
        while not done:
            action, state = agent.act(observation, state)
            observation, _, terminated, truncated, _ = env.step(action)
            steps, done = steps + 1, terminated or truncated
        assert (returned, length) == (float(steps), steps)


@pytest.mark.parametrize("num_envs", [1, 2])
def test_what_cannot_be_drawn_is_not_asked_to(num_envs):
    gym.register("test/Silent-v0", Silent)
    try:
        make_env(Config(env={"id": "test/Silent-v0", "num_envs": num_envs}).env).close()
    finally:
        del gym.registry["test/Silent-v0"]
