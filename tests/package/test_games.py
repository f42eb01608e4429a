"""The state of a game, saved and loaded: complete, or not at all."""

import collections
import enum
import functools
import io
import random

import gymnasium as gym
import numpy as np
import pygame
import pytest
import torch
from torchrl.checkpoint import GlobalRNGState

from recdqn.envs import RenderedPixels
from recdqn.envs.replayable import Game


def through_a_file(game):
    file = io.BytesIO()
    torch.save(game, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def play(env, actions):
    """What an environment returns from where it stands, over its episodes."""
    seen = []
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        seen.append((np.asarray(observation).tolist(), float(reward), bool(terminated), bool(truncated)))
        if terminated or truncated:
            seen.append(np.asarray(env.reset()[0]).tolist())
    return seen


@pytest.mark.parametrize(
    "name",
    [
        "CartPole-v1",
        "Acrobot-v1",
        "MountainCar-v0",
        "MountainCarContinuous-v0",
        "Pendulum-v1",
        "CliffWalking-v1",
    ],
)
@pytest.mark.parametrize("steps", [0, 7])
def test_gymnasiums_games_go_on_exactly(name, steps):
    env, other = (Game(gym.make(name)) for _ in range(2))
    env.action_space.seed(0)
    env.reset(seed=3)
    play(env, [env.action_space.sample() for _ in range(steps)])
    saved = through_a_file(env.game)
    actions = [env.action_space.sample() for _ in range(250)]
    expected = play(env, actions)
    other.reset(seed=99)
    other.game = saved
    assert play(other, actions) == expected


def test_a_drawn_game_goes_on_exactly():
    def make():
        return Game(RenderedPixels(gym.make("CartPole-v1", render_mode="rgb_array"), 84))

    env, other = make(), make()
    env.reset(seed=3)
    env.step(1)
    saved = through_a_file(env.game)
    expected = [env.step(k % 2)[0]["pixels"] for k in range(6)]
    other.reset(seed=99)
    other.game = saved
    assert all((other.step(k % 2)[0]["pixels"] == picture).all() for k, picture in enumerate(expected))


class Toy(gym.Env):
    """Holds whatever it is given."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, **attributes):
        vars(self).update(attributes)


class Slotted(Toy):
    __slots__ = ("hidden",)


def counter():
    count = 0

    def step():
        nonlocal count
        count += 1
        return count

    return step


class Doubler:
    """A function with a memory."""

    def __call__(self):
        pass


def test_values_come_back_as_they_were():
    generator = np.random.default_rng(5)
    generator.bit_generator.seed_seq.spawn(2)
    array, many = np.arange(6.0).reshape(2, 3), [1, 2.5, None, "x", True, (3, [4])]
    held = {
        "array": array,
        "again": array,
        "many": many,
        "table": {(1, 2): many, "k": {"n": np.float32(0.1)}},
        "tensor": torch.arange(3),
        "rng": generator,
        "draw": generator,
        "whole": np.int64(7),
        "loop": [],
    }
    held["loop"].append(held["loop"])
    env, other = Game(Toy(**held)), Game(Toy())
    saved = through_a_file(env.game)
    array += 1  # the saved state is a copy
    other.game = saved
    now = vars(other.unwrapped)
    assert (now["array"] == np.arange(6.0).reshape(2, 3)).all() and now["again"] is now["array"]
    assert now["many"] == many and now["table"] == held["table"] and now["table"][1, 2] is now["many"]
    assert type(now["table"]["k"]["n"]) is np.float32 and type(now["whole"]) is np.int64
    assert torch.equal(now["tensor"], torch.arange(3)) and now["loop"][0] is now["loop"]
    assert now["rng"] is now["draw"] and now["rng"].random() == generator.random()
    assert now["rng"].spawn(1)[0].random() == generator.spawn(1)[0].random()


Point = collections.namedtuple("Point", "x y")
shared = np.zeros(4)


@pytest.mark.parametrize(
    "held",
    [
        {"a": collections.deque([1])},
        {"a": Point(1, 2)},
        {"a": enum.IntEnum("Side", "LEFT").LEFT},
        {"a": {1, 2}},
        {"a": np.random.RandomState(0)},
        {"a": np.array([{}], dtype=object)},
        {"a": np.ma.array([1.0])},
        {"a": shared, "b": shared[1:]},
        {"a": Doubler()},
        {"a": counter()},
        {"a": Doubler().__call__},
        {"a": functools.partial(len, [1])},
        {"a": pygame.Rect(0, 0, 1, 1)},
        {"a": np.arange(2, dtype=">f4")},
        {"a": gym.make("CartPole-v1")},
        {"a": torch.ones(1, requires_grad=True)},
        {"a": torch.nn.Linear(1, 1)},
        {"a": Toy()},
        {"a": [0, {"b": object()}]},
        {"a": (i for i in range(2))},
    ],
    ids=lambda held: type(held["a"]).__name__,
)
def test_what_may_hold_more_than_is_seen_is_not_guessed(held):
    assert Game(Toy()).game is not None
    assert Game(Toy(**held)).game is None
    assert Game(gym.wrappers.TimeLimit(Toy(**held), 5)).game is None


def test_wrappers_remember_what_made_them_and_that_is_no_part_of_the_game():
    def make():
        env = gym.make("CartPole-v1")
        return Game(gym.wrappers.TransformAction(env, lambda action: action, env.action_space))

    env, other = make(), make()
    env.reset(seed=3)
    other.reset(seed=99)
    other.game = through_a_file(env.game)
    assert play(other, [0, 1, 1]) == play(env, [0, 1, 1])


class Dice(gym.Env):
    """Draws with everything there is to draw with."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (5,), np.float64)

    def __init__(self):
        self.action_space = gym.spaces.Dict(a=gym.spaces.Discrete(1_000), b=gym.spaces.Discrete(1_000))
        self.old = np.random.Generator(np.random.MT19937(3))

    @property
    def total(self):
        return vars(self)["total"]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        vars(self)["total"] = 0.0
        return self.step(0)[0], {}

    def step(self, action):
        drawn = [self.np_random.random(), self.old.random(), self.action_space.sample()["b"]]
        drawn += [random.random(), np.random.random()]
        vars(self)["total"] += sum(drawn)
        return np.array(drawn), self.total, False, False, {}


@pytest.mark.parametrize("alone", [False, True])
def test_all_that_an_environment_may_draw_from_goes_on(alone):
    """Global random numbers are those of the process, and the game's only where it is alone in one."""
    env, other = (Game(Dice(), alone=alone) for _ in range(2))
    env.reset(seed=1)
    saved = through_a_file(env.game)
    numbers = GlobalRNGState().state_dict()
    expected = play(env, range(5))
    other.reset(seed=2)
    if not alone:
        GlobalRNGState().load_state_dict(numbers)
    other.game = saved
    assert play(other, range(5)) == expected


def test_a_seed_is_that_of_the_process_where_the_environment_is_alone():
    seen = [
        [Game(Dice(), alone=alone).reset(seed=4)[0][3:].tolist() for _ in range(2)] for alone in (True, False)
    ]
    assert seen[0][0] == seen[0][1] and seen[1][0] != seen[1][1]


class Machine(Toy):
    """A state machine: what it does next is a method."""

    def __init__(self):
        self.next = self.up
        self.ready = len

    def up(self):
        self.next = self.down

    def down(self):
        self.next = self.up


def test_a_method_that_changes_is_a_state():
    env = Machine()
    game = Game(env)
    assert game.game is not None
    env.next()
    assert game.game is None


def test_slots_are_not_seen():
    assert Game(Slotted()).game is None


def test_another_environment_is_refused():
    with pytest.raises(ValueError):
        Game(Toy()).game = Game(gym.wrappers.TimeLimit(Toy(), 5)).game
