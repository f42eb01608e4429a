"""Environments that are wrong, or unusual, in one way each; ``EnvConfig(id="zoo:Hangs")`` makes one."""

import multiprocessing
import os
import signal
import time

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete

FAULT = 7  # the step of an episode at which a fault happens


class Walk(gym.Env):
    """A random walk between -1 and 1 that pays where it stands: the plain animal that the others derive from.

    An action moves by 0.1 to the left or to the right; an episode ends after ``length`` steps.
    """

    observation_space = Box(-2.0, 2.0, (2,), np.float32)
    action_space = Discrete(2)
    metadata = {"render_modes": []}
    length = 12

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.place = 0, float(self.np_random.uniform(-0.5, 0.5))
        return self.see(), {}

    def step(self, action):
        self.steps += 1
        self.place = float(np.clip(self.place + 0.1 * self.move(action), -1.0, 1.0))
        return self.see(), self.reward(), self.steps >= self.length, False, {}

    def move(self, action):
        assert action in (0, 1)
        return 2 * action - 1

    def see(self):
        return np.array([self.place, self.steps / 10], dtype=np.float32)

    def reward(self):
        return self.place


# What is accepted.


class EndsAtOnce(Walk):
    length = 1


class NeverEnds(Walk):
    length = 10**9


class LimitOfOne(gym.wrappers.TimeLimit):
    def __init__(self):
        super().__init__(NeverEnds(), 1)


class Doubles(Walk):
    """float64."""

    observation_space = Box(-2.0, 2.0, (2,), np.float64)

    def see(self):
        return np.array([self.place, self.steps / 10])


class Ints(Walk):
    """int64, and a list instead of an array."""

    observation_space = Box(-100, 100, (3,), np.int64)

    def see(self):
        return [self.steps, round(10 * self.place), -3]


class Bytes(Walk):
    """A vector of bytes is a vector: the memory of a machine, say."""

    observation_space = Box(0, 255, (4,), np.uint8)

    def see(self):
        return np.array([self.steps, 2, 3, 255], dtype=np.uint8)


class DoublesForFloats(Walk):
    """Returns another type than declared, but one that can be turned into it."""

    def see(self):
        return np.array([self.place, self.steps / 10])


class CountsFromOne(Walk):
    action_space = Discrete(2, start=1)

    def move(self, action):
        return super().move(action - 1)


class OneAction(Walk):
    action_space = Discrete(1)


class NumpyEnds(Walk):
    """Ends as numbers, an info that is of another type in every copy."""

    def step(self, action):
        seen, reward, terminated, truncated, _ = super().step(action)
        info = {"what": [1, "x", {}][int(100 * self.place) % 3]}
        return seen, np.float64(reward), int(terminated), int(truncated), info


class Picture(Walk):
    """An orange bar on black, where the walk is; read-only and turned over, as frames often are."""

    shape, colour = (60, 80, 3), (255, 128, 0)
    observation_space = Box(0, 255, shape, np.uint8)

    def see(self):
        picture = np.zeros(self.shape, dtype=np.uint8)
        column = round((self.place + 1) / 2 * 70)
        picture[:, column : column + 10] = self.colour
        picture.flags.writeable = False
        return picture[::-1]


class GreyPicture(Picture):
    shape, colour = (60, 80, 1), 200
    observation_space = Box(0, 255, shape, np.uint8)


class FlatPicture(Picture):
    shape, colour = (60, 80), 200
    observation_space = Box(0, 255, shape, np.uint8)


class RaisesInClose(Walk):
    """After all is done."""

    def close(self):
        raise OSError("cannot close")


# What is refused.


class DictSeen(Walk):
    observation_space = Dict(place=Box(-2.0, 2.0, (2,), np.float32))


class DiscreteSeen(Walk):
    observation_space = Discrete(16)


class Matrix(Walk):
    observation_space = Box(-2.0, 2.0, (2, 2), np.float32)


class NoNumbers(Walk):
    observation_space = Box(-2.0, 2.0, (0,), np.float32)


class NoSpace(Walk):
    observation_space = None


class Continuous(Walk):
    action_space = Box(-1.0, 1.0, (1,), np.float32)


class ManyActions(Walk):
    action_space = MultiDiscrete([2, 3])


def explodes():
    raise ValueError("no\nlicence")


def makes_nothing():
    return None


def nan_bounds():
    env = Walk()
    env.observation_space = Box(np.nan, np.nan, (2,), np.float32)
    return env


def differs(made=[]):  # noqa: B006 - it is to remember
    env = Walk()
    made.append(env)
    env.observation_space = Box(-2.0, 2.0 + len(made), (2,), np.float32)
    return env


not_a_function = 3


# What fails while it runs.


class RaisesInStep(Walk):
    def see(self):
        if self.steps == FAULT:
            raise ValueError("off the map:\nsecond line, 100% sure")
        return super().see()


class Unpicklable(Exception):
    """Cannot be pickled, and its pickle could not be read."""

    def __init__(self, place, *, why):
        super().__init__(place, why)
        self.how = lambda: place


class RaisesUnpicklable(Walk):
    def see(self):
        if self.steps == FAULT:
            raise Unpicklable(3, why="lost")
        return super().see()


class RaisesInReset(Walk):
    """Only in the third reset of each copy."""

    resets = 0

    def reset(self, seed=None, options=None):
        self.resets += 1
        if self.resets == 3:
            raise KeyError("map")
        return super().reset(seed=seed)


class Exits(Walk):
    def see(self):
        if self.steps == FAULT:
            raise SystemExit(3)
        return super().see()


class OldStep(Walk):
    """Four values, as Gym once had it."""

    def step(self, action):
        seen, reward, terminated, _, info = super().step(action)
        return seen, reward, terminated, info


class WrongShape(Walk):
    def see(self):
        return np.zeros(1 if self.steps == FAULT else 2, dtype=np.float32)


class WrongType(Walk):
    observation_space = Box(0, 255, (2,), np.uint8)

    def see(self):
        return np.array([0.5, 0.5]) if self.steps == FAULT else np.array([1, 2], dtype=np.uint8)


class SeesNone(Walk):
    def see(self):
        return None if self.steps == FAULT else super().see()


class NoReward(Walk):
    def reward(self):
        return None


class WrongPicture(Picture):
    def see(self):
        return super().see()[:-1] if self.steps == FAULT else super().see()


class Hangs(Walk):
    def see(self):
        while self.steps == FAULT:
            time.sleep(0.1)
        return super().see()


class HangsInReset(Walk):
    """Not in the first one, so that it can be made."""

    resets = 0

    def reset(self, seed=None, options=None):
        self.resets += 1
        while self.resets == 3:
            time.sleep(0.1)
        return super().reset(seed=seed)


class Killed(Walk):
    """As a process whose memory ran out, in a worker."""

    def see(self):
        if self.steps == FAULT:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().see()


def only_here():
    """Can be made in no worker."""
    if multiprocessing.parent_process() is not None:
        raise OSError("the licence server does not answer")
    return Walk()


# For checks of what is learned from: not finite.


class NanSeen(Walk):
    def see(self):
        return super().see() * (np.float32("nan") if self.steps == FAULT else 1)


class NanReward(Walk):
    def reward(self):
        return float("nan") if self.steps == FAULT else 0.0


class InfiniteReward(Walk):
    def reward(self):
        return float("inf") if self.steps == FAULT else 0.0
