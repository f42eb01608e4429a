"""Unusual environments work; invalid ones are refused in one line, and faulty ones end in one."""

import multiprocessing
import sys

import faulty
import gymnasium as gym
import numpy as np
import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st

from recdqn import Config, evaluate, make_env, make_policy, train
from recdqn.config import EnvConfig
from recdqn.envs.arrays import WrongObservation
from recdqn.envs.entries import Reader
from recdqn.errors import ConfigError, UserError
from recdqn.film import film

LIMIT = 30  # environment steps
PLAIN = {"observation": "whole", "loc": (0.0,), "scale": (1.0,), "reward_scale": 1.0, "max_steps": LIMIT}
PICTURES = {"arrays": ("picture",)}

VECTORS = [
    zoo.Walk,
    zoo.EndsAtOnce,
    zoo.NeverEnds,
    zoo.LimitOfOne,
    zoo.Doubles,
    zoo.DoublesForFloats,
    zoo.Ints,
    zoo.Bytes,
    zoo.CountsFromOne,
    zoo.OneAction,
    zoo.NumbersForFlags,
    zoo.RaisesInClose,
]


@pytest.fixture
def small(tiny) -> Config:
    return tiny.replace(
        env={**PLAIN, "num_envs": 4, "step_seconds": 120.0},
        train={"total_frames": 256, "warmup_frames": 128, "frames_per_batch": 32, "eval_every": 2},
        policy={"channels": (4, 4, 4)},
    )


def expected_steps(kind, row, seed):
    """Step ``kind`` itself with the actions of ``row``; return lists with an entry for each step."""
    env = kind()
    start = int(env.action_space.start)
    env.reset(seed=seed)  # set_seed resets once, and the rollout resets again without a seed
    first, steps, count = env.reset()[0], [], 0
    for action in row["action"].argmax(-1).tolist():
        observation, reward, terminated, truncated, _ = env.step(action + start)
        count += 1
        truncated = truncated or count == LIMIT
        steps.append((first, observation, reward, bool(terminated), bool(truncated)))
        first = observation
        if terminated or truncated:
            first, count = env.reset()[0], 0
    return map(list, zip(*steps, strict=True))


@pytest.mark.parametrize(
    ("kind", "num_envs", "workers"),
    [*((kind, 3, False) for kind in VECTORS), (zoo.Walk, 1, False), (zoo.NumbersForFlags, 3, True)],
)
def test_a_rollout_has_what_the_environment_returns(kind, num_envs, workers):
    env = make_env(EnvConfig(**PLAIN, id=kind, num_envs=num_envs, workers=workers))
    env.set_seed(5)
    data = env.rollout(2 * LIMIT + 3, break_when_any_done=False).reshape(num_envs, -1)
    env.close()
    assert data["observation"].dtype == torch.float32
    for i, row in enumerate(data):
        first, observation, reward, terminated, truncated = expected_steps(kind, row, 5 + i)
        np.testing.assert_array_equal(row["observation"], np.array(first, dtype=np.float32))
        np.testing.assert_array_equal(row["next", "observation"], np.array(observation, dtype=np.float32))
        np.testing.assert_allclose(row["next", "reward"][:, 0], reward, rtol=1e-6)
        assert row["next", "terminated"][:, 0].tolist() == terminated
        assert row["next", "truncated"][:, 0].tolist() == truncated
        assert any(terminated) or any(truncated)


@pytest.mark.parametrize(
    ("kind", "num_envs"), [(zoo.Picture, 3), (zoo.GreyPicture, 3), (zoo.FlatPicture, 3), (zoo.Picture, 1)]
)
def test_resized_pictures_show_the_bar_at_its_position(kind, num_envs):
    env = make_env(EnvConfig(**PLAIN, **PICTURES, id=kind, num_envs=num_envs, image_size=60))
    env.set_seed(5)
    data = env.rollout(20, break_when_any_done=False).reshape(num_envs, 20)
    assert data["pixels"].shape == (num_envs, 20, 1, 60, 60) and data["pixels"].dtype == torch.uint8
    level = 0.299 * 255 + 0.587 * 128 if kind is zoo.Picture else 200
    for i, row in enumerate(data):
        first, *_ = expected_steps(kind, row, 5 + i)
        for resized, picture in zip(row["pixels"].numpy(), first, strict=True):
            bar = np.flatnonzero(picture.reshape(60, 80, -1)[0, :, 0])
            columns = resized[0].mean(0)
            assert columns.mean() == pytest.approx(level * 10 / 80, abs=1)
            centre = (columns * (np.arange(60) + 0.5)).sum() / columns.sum()
            assert centre == pytest.approx((bar.mean() + 0.5) * 60 / 80, abs=0.2)


class Frame(gym.Env):
    """Always shows the same picture."""

    action_space = gym.spaces.Discrete(2)

    def __init__(self, frame):
        self.frame = frame
        self.observation_space = gym.spaces.Box(0, 255, frame.shape, np.uint8)

    def reset(self, seed=None, options=None):
        return self.frame, {}


@settings(deadline=None)
@given(
    st.tuples(st.integers(1, 200), st.integers(1, 200)),
    st.lists(st.integers(0, 255), max_size=3).filter(lambda colour: len(colour) != 2),
    st.integers(9, 25).map((4).__mul__),
)
def test_a_picture_of_one_colour_keeps_it(shape, colour, size):
    frame = np.full((*shape, *([len(colour)] if colour else [])), colour or 77, dtype=np.uint8)
    space = Frame(frame).observation_space
    pixels = Reader(space, EnvConfig(id=Frame, image_size=size, **PICTURES), 2)(frame, {})["pixels"]
    assert pixels.shape == (1, size, size) and pixels.dtype == np.uint8
    grey = np.dot([0.299, 0.587, 0.114], colour) if len(colour) == 3 else (colour or [77])[0]
    assert np.abs(pixels - grey).max() <= 1


@pytest.mark.parametrize(
    ("kind", "length"),
    [
        (zoo.EndsAtOnce, 1),
        (zoo.LimitOfOne, 1),
        (zoo.NeverEnds, LIMIT),
        (zoo.OneAction, 12),
        (zoo.CountsFromOne, 12),
        (zoo.RaisesInClose, 12),
        (zoo.FlatPicture, 12),
    ],
)
def test_training_and_evaluation(kind, length, small):
    run = train(small.replace(env={"id": kind, **PICTURES}), progress=False)
    assert run.metrics[-1]["updates"] == 5 * 2  # from 128 frames on, after each of 32, up to 256
    assert np.isfinite(run.metrics[-1]["loss"]) and run.metrics[-1]["grad_norm"] > 0
    result = evaluate(run.policy, run.cfg.env, episodes=3)
    assert result.lengths == (length,) * 3
    assert evaluate(run.policy, run.cfg.env, episodes=3) == result


def test_returns_are_the_sums_of_the_environments_rewards(small):
    """With one action every policy walks to the left."""
    cfg = small.replace(env={"id": zoo.OneAction, "reward_scale": 0.5})
    result = evaluate(make_policy(cfg.policy, make_env(cfg.env)), cfg.env, episodes=2)
    for i in range(2):
        env = zoo.OneAction()
        env.reset(seed=1_000_000 + i)
        env.reset()
        assert result.returns[i] == pytest.approx(sum(env.step(0)[1] for _ in range(12)), rel=1e-6)


REFUSED = {
    "texts": r"in 'name' observations Text\(.*\): leave it out by env.entries=\('position',\)",
    "matrix_observations": r"an array Box\(.*\(2, 2\), float32\), a picture or codes: .*'grid'",
    "empty_observations": r"observations Box\(.*\(0,\), float32\): wrap it so that it returns a Box",
    "no_observations": r"observations None: expected at least one number",
    "continuous_actions": r"actions Box\(.*\): expected a finite number .*DiscretizeAction\(env, bins=5\)",
    "many_actions": r"actions MultiDiscrete\(.*, 1,000,000 combinations: expected 1 to 10,000; wrap it",
    "raises": r"cannot be made: ValueError: no; expected one of Gymnasium's ids, or",
    "exits": r"cannot be made: SystemExit: 3; expected one of Gymnasium's ids, or",
    "returns_none": r"makes a NoneType: expected a gymnasium.Env",
    "nan_bounds": r"cannot be made: ValueError: .*nan",
    "differing_spaces": r"makes environments that differ",
}
IN_WORKERS = ["continuous_actions", "raises", "differing_spaces"]


@pytest.mark.parametrize(
    ("name", "workers"), [*((name, False) for name in REFUSED), *((name, True) for name in IN_WORKERS)]
)
def test_an_invalid_environment_is_refused_in_one_line(name, workers, small):
    with pytest.raises(ConfigError, match=f"^env.id='zoo:{name}' (has |shows )?{REFUSED[name]}") as caught:
        train(small.replace(env={"id": f"zoo:{name}", "workers": workers}), progress=False)
    assert "\n" not in str(caught.value)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"id": "Nothing-v0"}, "^env.id='Nothing-v0' cannot be made: NameNotFound: .*one of Gymnasium's ids"),
        ({"id": "CartPole-v7"}, "^env.id='CartPole-v7' cannot be made: VersionNotFound"),
        ({"id": "not an id"}, "^env.id='not an id' cannot be made: Error: Malformed"),
        ({"id": "no_such_module:make"}, "cannot be made: there is no module 'no_such_module' here"),
        ({"id": "zoo:no_such_function"}, "cannot be made: NameNotFound: .*'module:function'"),
        ({"id": "zoo:not_a_function"}, "cannot be made: NameNotFound: .*'module:function'"),
        ({"id": zoo.Walk, "loc": (0.0,) * 3}, r"^env.loc=\(0.0, 0.0, 0.0\): expected 1 or 2 numbers"),
        ({"id": zoo.Ints, "scale": (2.0, 20.0)}, r"^env.scale=\(2.0, 20.0\): expected 1 or 3 numbers"),
        (
            {"id": zoo.Picture, "observation": "masked", "visible": (0,), **PICTURES},
            "^env.observation='masked': zoo:Picture shows more than a vector of numbers",
        ),
        (
            {"id": zoo.Ints, "observation": "masked", "visible": (0, 3)},
            r"^env.visible=\(0, 3\): expected some of 0 to 2",
        ),
        (
            {"id": zoo.Walk, "observation": "pixels"},
            "^env.observation='pixels': zoo:Walk does not draw, .* 'rgb_array'",
        ),
    ],
)
def test_settings_that_do_not_fit_the_environment_are_refused_in_one_line(values, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make_env(EnvConfig(**{**PLAIN, "num_envs": 2, **values}))
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "Box2D", None)  # as if it were not installed
    for name in [name for name in sys.modules if name.startswith("gymnasium.envs.box2d")]:
        monkeypatch.delitem(sys.modules, name)  # another test may have imported it
    message = "^env.id='LunarLander-v3' cannot be made: DependencyNotInstalled: .*pip install"
    with pytest.raises(ConfigError, match=message):
        make_env(EnvConfig(**PLAIN, id="LunarLander-v3"))


def test_a_film_of_an_environment_that_does_not_draw_is_refused(small, tmp_path):
    cfg = small.replace(env={"id": zoo.Walk}).env
    policy = make_policy(small.policy, make_env(cfg))
    with pytest.raises(UserError, match=r"^zoo:Walk \(copy 0\) cannot be drawn: .*render_mode='rgb_array'"):
        film(policy, cfg, tmp_path / "a.gif")
    assert list(tmp_path.iterdir()) == []


FAILURES = {
    faulty.RaisesInStep: (
        ValueError,
        "step raised ValueError: off the map: second line, 100% sure; .*check",
    ),
    faulty.RaisesUnpicklable: (faulty.Unpicklable, r"step raised Unpicklable: \(3, 'lost'\)"),
    faulty.RaisesInReset: (KeyError, "reset raised KeyError: 'map'"),
    faulty.NoInfo: (TypeError, "reset raised TypeError: argument of type 'NoneType'"),
    faulty.Exits: (SystemExit, "step raised SystemExit: 3"),
    faulty.OldStep: (ValueError, r"step raised ValueError: not enough values .* \(expected 5, got 4\)"),
    faulty.NoReward: (TypeError, "step raised TypeError: float"),
    faulty.WrongShape: (WrongObservation, r"step returned an observation of shape \(1,\) .* declared \(2,\)"),
    faulty.WrongType: (WrongObservation, "step returned an observation .*type float64, and declared .*uint8"),
    faulty.NoObservation: (WrongObservation, "step returned .*type object, and declared .*float32"),
    faulty.WrongPicture: (WrongObservation, r"step returned an observation of shape \(59, 80, 3\)"),
}
FAIL_IN_WORKERS = [faulty.RaisesInStep, faulty.RaisesUnpicklable, faulty.RaisesInReset, faulty.Exits]


@pytest.mark.parametrize(
    ("kind", "workers"), [*((kind, False) for kind in FAILURES), *((kind, True) for kind in FAIL_IN_WORKERS)]
)
def test_a_failure_in_training_ends_with_one_line(kind, workers, small, capfd):
    cause, message = FAILURES[kind]
    message = rf"^faulty:{kind.__name__} \(copy [0-3]\) failed: {message}"
    with pytest.raises(UserError, match=message) as caught:
        train(small.replace(env={"id": kind, "workers": workers, **PICTURES}), progress=False)
    assert "\n" not in str(caught.value)
    if workers:  # the exception stayed in its process; its traceback was sent
        assert cause.__name__ in str(caught.value.__cause__)
    else:
        assert isinstance(caught.value.__cause__, cause)
    assert multiprocessing.active_children() == []
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("workers", [False, True])
def test_a_failure_in_an_evaluation_ends_with_one_line(workers, small):
    policy = make_policy(small.policy, make_env(small.replace(env={"id": zoo.Walk}).env))
    broken = small.replace(env={"id": faulty.RaisesInStep, "workers": workers}).env
    with pytest.raises(
        UserError, match=r"^faulty:RaisesInStep \(copy [0-2]\) failed: step raised ValueError"
    ):
        evaluate(policy, broken, episodes=3)
    assert multiprocessing.active_children() == []
