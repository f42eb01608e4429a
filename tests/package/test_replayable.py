"""An episode that is replayed elsewhere goes on as the first one does, or is found to be different."""

import io
import os
import random

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchrl.checkpoint import GlobalRNGState

from recdqn.envs import RenderedPixels
from recdqn.envs.replayable import Replayable, get_episodes, restore_episodes


def through_a_file(episode):
    file = io.BytesIO()
    torch.save(episode, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def play(env, actions, over=False):
    """Step, reset where an episode is over, and return what was seen and whether the last episode is over."""
    seen = []
    for action in actions:
        if over:
            seen.append(np.asarray(env.reset()[0]).tolist())
        observation, reward, terminated, truncated, _ = env.step(action)
        seen.append((np.asarray(observation).tolist(), float(reward), terminated, truncated))
        over = terminated or truncated
    return seen, over


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), steps=st.integers(0, 300))
@pytest.mark.parametrize(
    "name",
    [
        "CartPole-v1",
        "Acrobot-v1",
        "MountainCar-v0",
        "FrozenLake-v1",
        "CliffWalking-v1",
        "Blackjack-v1",
        "Taxi-v4",
        "LunarLander-v3",
    ],
)
def test_an_episode_goes_on_exactly(name, seed, steps):
    """From any step of any episode, its last one included, and over the ends of later ones."""
    if name == "LunarLander-v3":
        pytest.importorskip("Box2D", reason="pip install recdqn[envs]")
    env, other = (Replayable(gym.make(name)) for _ in range(2))
    actions = np.random.default_rng(seed).integers(env.action_space.n, size=steps + 100)
    env.reset(seed=seed)
    other.reset(seed=seed + 1)
    _, over = play(env, actions[:steps])
    assert other.restore(through_a_file(env.episode)) == "exact"
    assert env.restore(other.episode) == "exact"
    assert play(other, actions[steps:], over) == play(env, actions[steps:], over)


def test_a_drawn_environment_goes_on_exactly():
    def make():
        return RenderedPixels(Replayable(gym.make("CartPole-v1", render_mode="rgb_array")), 84)

    env, other = make(), make()
    env.reset(seed=3)
    env.step(1)
    other.reset(seed=99)
    assert restore_episodes(other, through_a_file(get_episodes(env)), seconds=600.0) == "exact"
    for k in range(6):
        assert (env.step(k % 2)[0]["pixels"] == other.step(k % 2)[0]["pixels"]).all()


class Toy(gym.Env):
    """Shows a number that :meth:`draw` returns; an episode has five steps."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float64)

    def __init__(self):
        self.action_space = gym.spaces.Discrete(2)
        self.resets = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        self.resets += 1
        return np.array([self.draw()]), {}

    def step(self, action):
        self.steps += 1
        return np.array([self.draw()]), 0.0, self.steps == 5, False, {}

    def draw(self):
        return 0.0


class OtherGenerators(Toy):
    """Draws from its spaces, and from a generator of another kind."""

    def __init__(self):
        super().__init__()
        self.dictionary = gym.spaces.Dict(a=gym.spaces.Discrete(1_000), b=gym.spaces.Discrete(1_000))
        self.generator = np.random.Generator(np.random.MT19937())

    def draw(self):
        return self.np_random.random() + self.dictionary.sample()["b"] + self.generator.random()


class GlobalGenerators(Toy):
    def draw(self):
        return random.random() + np.random.random() + torch.rand(()).item()


@pytest.mark.parametrize("kind, alone", [(OtherGenerators, False), (GlobalGenerators, True)])
@pytest.mark.parametrize("steps", [0, 3, 8])
def test_all_generators_that_an_environment_draws_from_are_restored(kind, alone, steps):
    """The global ones only where it is alone in its process."""
    env, other = (Replayable(kind(), alone) for _ in range(2))
    other.reset(seed=2)
    env.reset(seed=1)
    _, over = play(env, [0] * steps)
    saved = through_a_file(env.episode)
    expected = play(env, [0] * 12, over)
    assert other.restore(saved) == "exact"
    assert play(other, [0] * 12, over) == expected


def test_a_seed_also_seeds_a_process_that_belongs_to_the_environment():
    seen = [[Replayable(GlobalGenerators(), a).reset(seed=4)[0] for _ in range(2)] for a in (True, False)]
    assert seen[0][0] == seen[0][1] and seen[1][0] != seen[1][1]


class SystemEntropy(Toy):
    def draw(self):
        return float(os.urandom(1)[0])


class CountsInClass(Toy):
    count = 0

    def draw(self):
        type(self).count += 1
        return float(self.count)


class Curriculum(Toy):
    """Harder from episode to episode."""

    def draw(self):
        return float(self.resets)


class HiddenEntropy(Toy):
    """Its generator is in another state after each replay; what it has returned so far does not show it."""

    def step(self, action):
        self.np_random.random(os.urandom(1)[0])
        return super().step(action)


class EndsEarly(Toy):
    def step(self, action):
        observation, *_ = super().step(action)
        return observation, 0.0, self.steps >= 6 - self.resets, False, {}


class FailsLater(Toy):
    def step(self, action):
        if self.resets > 1:
            raise OSError("the device is gone")
        return super().step(action)


@pytest.mark.parametrize(
    "kind",
    [GlobalGenerators, SystemEntropy, CountsInClass, Curriculum, HiddenEntropy, EndsEarly, FailsLater],
)
def test_an_environment_that_does_not_repeat_itself_is_noticed(kind):
    env, other = (Replayable(kind()) for _ in range(2))
    env.reset(seed=1)
    other.reset(seed=2)
    play(env, [0, 1, 0, 1])
    assert other.restore(env.episode) == "different"


def test_what_is_no_episode_is_refused():
    env = Replayable(gym.make("CartPole-v1"))
    env.reset(seed=0)
    for wrong in ({}, env.episode | {"actions": ["up"]}, env.episode | {"random": {"generators": "{"}}):
        assert env.restore(wrong) == "different"


def test_a_replay_stops_when_its_time_is_up():
    """All environments share the time."""
    env = Replayable(Toy())
    env.reset(seed=0)
    assert env.restore(env.episode, seconds=0.0) == "exact"  # there is nothing to replay
    env.step(0)
    assert env.restore(env.episode, seconds=0.0) == "late"
    vector = gym.vector.SyncVectorEnv([lambda: Replayable(Toy())] * 2)
    vector.reset(seed=0)
    vector.step(np.zeros(2, dtype=np.int64))
    episodes = get_episodes(vector)
    assert restore_episodes(vector, episodes, seconds=600.0) == "exact"
    assert restore_episodes(vector, episodes, seconds=0.0) == "late"


def test_what_others_draw_does_not_count_where_the_process_is_shared():
    env, other = (Replayable(Toy()) for _ in range(2))
    env.reset(seed=1)
    before = GlobalRNGState().state_dict()
    saved = env.episode
    random.random()
    torch.rand(1)
    assert other.restore(saved) == "exact"
    GlobalRNGState().load_state_dict(before)
