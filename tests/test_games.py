"""The state of a game, saved and loaded: complete, or not at all."""

import collections
import enum
import io

import gymnasium as gym
import numpy as np
import pytest
import torch

from recdqn.envs import Pictures
from recdqn.games import Game


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
    "name", ["CartPole-v1", "Acrobot-v1", "MountainCar-v0", "Pendulum-v1", "CliffWalking-v1"]
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
    env, other = (Game(Pictures(gym.make("CartPole-v1", render_mode="rgb_array"), 84)) for _ in range(2))
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
        {"a": torch.zeros(2, requires_grad=True)[:1], "b": object()},
        {"a": Doubler()},
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


def test_slots_are_not_seen():
    assert Game(Slotted()).game is None


def test_another_environment_is_refused():
    with pytest.raises(ValueError):
        Game(Toy()).game = Game(gym.wrappers.TimeLimit(Toy(), 5)).game
