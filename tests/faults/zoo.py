"""Small environments, each unusual or invalid in one way; ``EnvConfig(id="zoo:Walk")`` makes one."""

import itertools
import multiprocessing
import os
import time

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Text


class Walk(gym.Env):
    """A random walk between -1 and 1 whose reward is its position; the base class of all others.

    Action 0 moves it by -0.1 and action 1 by 0.1. An episode ends after ``length`` steps.
    """

    observation_space = Box(-2.0, 2.0, (2,), np.float32)
    action_space = Discrete(2)
    metadata = {"render_modes": []}
    length = 12

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.position = 0, float(self.np_random.uniform(-0.5, 0.5))
        return self.observation(), {}

    def step(self, action):
        self.steps += 1
        self.position = float(np.clip(self.position + 0.1 * self.direction(action), -1.0, 1.0))
        return self.observation(), self.reward(), self.steps >= self.length, False, {}

    def direction(self, action):
        assert action in (0, 1)
        return 2 * action - 1

    def observation(self):
        return np.array([self.position, self.steps / 10], dtype=self.observation_space.dtype)

    def reward(self):
        return self.position


# Valid environments


class EndsAtOnce(Walk):
    length = 1


class NeverEnds(Walk):
    length = 10**9


class LimitOfOne(gym.wrappers.TimeLimit):
    def __init__(self):
        super().__init__(NeverEnds(), 1)


class Doubles(Walk):
    observation_space = Box(-2.0, 2.0, (2,), np.float64)


class DoublesForFloats(Walk):
    """Returns float64, and declares float32."""

    def observation(self):
        return super().observation().astype(np.float64)


class Ints(Walk):
    """Returns a list."""

    observation_space = Box(-100, 100, (3,), np.int64)

    def observation(self):
        return [self.steps, round(10 * self.position), -3]


class Bytes(Walk):
    """A vector, such as the memory of a console, and not a picture."""

    observation_space = Box(0, 255, (4,), np.uint8)

    def observation(self):
        return np.array([self.steps, 2, 3, 255], dtype=np.uint8)


class CountsFromOne(Walk):
    action_space = Discrete(2, start=1)

    def direction(self, action):
        return super().direction(action - 1)


class OneAction(Walk):
    action_space = Discrete(1)


class NumbersForFlags(Walk):
    """``terminated`` and ``truncated`` are integers, and the type of ``info`` changes."""

    def step(self, action):
        observation, reward, terminated, truncated, _ = super().step(action)
        info = {"key": [1, "x", {}][int(100 * self.position) % 3]}
        return observation, np.float64(reward), int(terminated), int(truncated), info


class RaisesInClose(Walk):
    def close(self):
        raise OSError("cannot close")


class Picture(Walk):
    """An orange bar on black at the walk's position; read-only and flipped, as frames often are."""

    shape, colour = (60, 80, 3), (255, 128, 0)
    observation_space = Box(0, 255, shape, np.uint8)

    def observation(self):
        picture = np.zeros(self.shape, dtype=np.uint8)
        column = round((self.position + 1) / 2 * 70)
        picture[:, column : column + 10] = self.colour
        picture.flags.writeable = False
        return picture[::-1]


class GreyPicture(Picture):
    shape, colour = (60, 80, 1), 200
    observation_space = Box(0, 255, shape, np.uint8)


class FlatPicture(Picture):
    shape, colour = (60, 80), 200
    observation_space = Box(0, 255, shape, np.uint8)


class SystemEntropy(Walk):
    """Does not repeat itself."""

    def reward(self):
        return os.urandom(1)[0] / 256


class CountsInClass(Walk):
    """Counts the steps of all copies in the class."""

    count = 0

    def reward(self):
        CountsInClass.count += 1
        return 1 / self.count


class SlowCartPole(gym.Wrapper):
    """Takes 5 ms a step."""

    def __init__(self):
        super().__init__(gym.make("CartPole-v1"))

    def step(self, action):
        time.sleep(0.005)
        return self.env.step(action)


# Environments that make_env refuses


def walk_with(**spaces):
    """Return a function that makes a walk with other spaces."""

    def make():
        env = Walk()
        vars(env).update(spaces)
        return env

    return make


texts = walk_with(observation_space=Dict(name=Text(9), position=Box(-2.0, 2.0, (2,), np.float32)))
matrix_observations = walk_with(observation_space=Box(-2.0, 2.0, (2, 2), np.float32))
empty_observations = walk_with(observation_space=Box(-2.0, 2.0, (0,), np.float32))
no_observations = walk_with(observation_space=None)
continuous_actions = walk_with(action_space=Box(-1.0, 1.0, (1,), np.float32))
many_actions = walk_with(action_space=MultiDiscrete([100, 100, 100]))


def exits():
    raise SystemExit(3)


def raises():
    raise ValueError("no\nlicence")


def returns_none():
    return None


def nan_bounds():
    return walk_with(observation_space=Box(np.nan, np.nan, (2,), np.float32))()


copies = itertools.count(1)


def differing_spaces():
    return walk_with(observation_space=Box(-2.0, 2.0 + next(copies), (2,), np.float32))()


def fails_in_workers():
    if multiprocessing.parent_process() is not None:
        raise OSError("the licence server does not answer")
    return Walk()


not_a_function = 3
