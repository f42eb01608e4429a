"""Environments that fail while they run, each in one way; ``EnvConfig(id="faulty:Hangs")`` makes one."""

import multiprocessing
import os
import signal
import time

import numpy as np
from gymnasium.spaces import Box
from zoo import Picture, Walk


class Faulty(Walk):
    """Calls ``fault`` in place of ``observation`` at one step of each episode."""

    at_step = 7

    def observation(self):
        return self.fault() if self.steps == self.at_step else super().observation()


class RaisesInStep(Faulty):
    def fault(self):
        raise ValueError("off the map:\nsecond line, 100% sure")


class Unpicklable(Exception):
    """Cannot be pickled, and its pickle could not be read."""

    def __init__(self, position, *, why):
        super().__init__(position, why)
        self.how = lambda: position


class RaisesUnpicklable(Faulty):
    def fault(self):
        raise Unpicklable(3, why="lost")


class Exits(Faulty):
    def fault(self):
        raise SystemExit(3)


class Killed(Faulty):
    """Ends as a worker process whose memory ran out."""

    def fault(self):
        os.kill(os.getpid(), signal.SIGKILL)


class Hangs(Faulty):
    def fault(self):
        while True:
            time.sleep(0.1)


class HangsInAWorker(Walk):
    """Cannot be made more than once, and waits until it can."""

    def __init__(self):
        while multiprocessing.parent_process() is not None:
            time.sleep(0.1)


class WrongShape(Faulty):
    def fault(self):
        return np.zeros(1, dtype=np.float32)


class WrongType(Faulty):
    observation_space = Box(0, 255, (2,), np.uint8)

    def fault(self):
        return np.array([0.5, 0.5])


class NoObservation(Faulty):
    def fault(self):
        return None


class WrongPicture(Picture):
    def observation(self):
        return super().observation()[: 59 if self.steps == 7 else 60]


class NoReward(Walk):
    def reward(self):
        return None


class OldStep(Walk):
    """Returns four values, as Gym did before 0.26."""

    def step(self, action):
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, info


class FaultyReset(Walk):
    """Calls ``fault`` in the third reset of each copy."""

    resets = 0

    def reset(self, seed=None, options=None):
        self.resets += 1
        if self.resets == 3:
            self.fault()
        return super().reset(seed=seed)


class RaisesInReset(FaultyReset):
    def fault(self):
        raise KeyError("map")


class NoInfo(Walk):
    def reset(self, seed=None, options=None):
        return super().reset(seed=seed)[0], None


class HangsInReset(FaultyReset):
    def fault(self):
        while True:
            time.sleep(0.1)


# A number that is not finite, at step 24 or 20, or in the reset after step 20


class NanObservation(Faulty):
    at_step, length = 24, 30

    def fault(self):
        return np.full(2, np.nan, dtype=np.float32)


class NanFirstObservation(Walk):
    length, resets = 20, 0

    def reset(self, seed=None, options=None):
        self.resets += 1
        observation, info = super().reset(seed=seed)
        return observation * (np.nan if self.resets > 2 else 1), info  # set_seed and the first episode reset


class InfiniteReward(Walk):
    length = 30

    def reward(self):
        return np.inf if self.steps == 20 else 0.0


class LateReward(InfiniteReward):
    """Its reward is infinite where the seed is that of an evaluation."""

    seed = 0

    def reset(self, seed=None, options=None):
        self.seed = self.seed if seed is None else seed
        return super().reset(seed=seed)

    def reward(self):
        return super().reward() if self.seed >= 1_000_000 else 0.0
