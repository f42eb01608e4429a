"""The environments against plain Gymnasium, hand arithmetic, and a picture shrunk by hand."""

import os
import signal
import subprocess
import sys
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from tensordict import assert_close
from tensordict.nn import TensorDictModule
from torch.nn.functional import one_hot
from torchrl.data import Unbounded
from torchrl.envs import (
    Compose,
    GymWrapper,
    InitTracker,
    ObservationNorm,
    RewardScaling,
    StepCounter,
    TensorDictPrimer,
    TransformedEnv,
    UnaryTransform,
)
from torchrl.envs.utils import check_env_specs

from recdqn import Config, make_env
from recdqn.config import EnvConfig
from recdqn.envs import hide_velocities, prepare_display, small_grey
from recdqn.errors import ConfigError

SEED = 3
PIXELS = Config.preset("pixel-cartpole").env


def config(observation, num_envs, **values):
    base = PIXELS if observation == "pixels" else EnvConfig(observation=observation)
    return EnvConfig(**{**vars(base), "num_envs": num_envs, **values})


@pytest.fixture
def make():
    """``make_env`` that closes what it made."""
    made = []

    def build(observation="masked", num_envs=1, **values):
        made.append(make_env(config(observation, num_envs, **values)))
        return made[-1]

    yield build
    for env in made:
        if not env.is_closed:
            env.close()


def rollout(env, steps, seed=SEED):
    """Random steps over the ends of episodes, as rows: [num_envs, steps]."""
    torch.manual_seed(seed)
    env.set_seed(seed)
    data = env.rollout(steps, break_when_any_done=False)
    return data if data.ndim == 2 else data[None]


def replay(row, seed, see, render_mode=None):
    """What a plain Gymnasium environment shows for the actions of ``row``: at the root, and under "next"."""
    env = gym.make("CartPole-v1", render_mode=render_mode)
    env.reset(seed=seed)  # set_seed resets once, and the rollout resets again without a seed
    state, roots, nexts = env.reset()[0], [], []
    for action in row["action"].argmax(-1).tolist():
        roots.append(see(env, state))
        state, reward, terminated, truncated, _ = env.step(action)
        nexts.append((see(env, state), reward, terminated, truncated))
        if terminated or truncated:
            state, _ = env.reset()
    env.close()
    return roots, nexts


def test_hide_velocities_keeps_position_and_angle():
    state = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    assert hide_velocities(state).tolist() == [[1.0, 3.0], [5.0, 7.0]]
    assert hide_velocities(state, (3, 1, 0)).tolist() == [[4.0, 2.0, 1.0], [8.0, 6.0, 5.0]]


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ({"visible": (3, 1), "loc": (0.0,), "scale": (2.0,)}, [3, 1]),
        ({"observation": "whole", "loc": (0.0,), "scale": (2.0,) * 4}, [0, 1, 2, 3]),
    ],
)
def test_what_is_seen_can_be_chosen(make, values, kept):
    (row,) = rollout(make(**{"observation": "masked", **values}), 60)
    roots, _ = replay(row, SEED, lambda _env, state: 2.0 * state[kept])
    np.testing.assert_allclose(row["observation"], roots, atol=1e-5)


def test_cartpole_keeps_its_own_time_limit(make):
    """``max_steps`` is for environments without one."""
    row = rollout(make(max_steps=3), 60)[0]
    assert row["next", "step_count"].max() > 3 and not row["next", "truncated"].any()
    assert "TimeLimit<TimeLimit" not in str(make(max_steps=3).base_env.gym)


@pytest.mark.parametrize("num_envs", [1, 3])
def test_masked_is_gymnasium_without_velocities(make, num_envs):
    """Row i is the environment of seed + i; observations, rewards and ends are Gymnasium's own."""
    loc, scale = (0.5, -1.0), (3.0, -4.0)
    data = rollout(make(num_envs=num_envs, loc=loc, scale=scale, reward_scale=0.1), 120)
    assert data.shape == (num_envs, 120)

    def see(_env, state):
        return [3.0 * state[0] + 0.5, -4.0 * state[2] - 1.0]

    for i, row in enumerate(data):
        roots, nexts = replay(row, SEED + i, see)
        assert row["next", "done"].sum() >= 2, "the rollout must go over ends of episodes"
        np.testing.assert_allclose(row["observation"], roots, atol=1e-5)
        np.testing.assert_allclose(row["next", "observation"], [n[0] for n in nexts], atol=1e-5)
        np.testing.assert_allclose(row["next", "reward"][:, 0], [0.1 * n[1] for n in nexts])
        assert row["next", "terminated"][:, 0].tolist() == [n[2] for n in nexts]
        assert row["next", "truncated"][:, 0].tolist() == [n[3] for n in nexts]


def by_transforms(cfg):
    """``make_env`` from TorchRL's own parts."""
    key = ["observation"]
    transforms = [RewardScaling(0.0, cfg.reward_scale), StepCounter(), InitTracker()]
    if cfg.observation != "pixels":
        transforms.insert(0, ObservationNorm(torch.tensor(cfg.loc), torch.tensor(cfg.scale), in_keys=key))
    if cfg.observation == "masked":
        hide = partial(hide_velocities, visible=cfg.visible)
        transforms.insert(0, UnaryTransform(in_keys=key, out_keys=key, fn=hide))
    return TransformedEnv(GymWrapper(make_env(cfg).base_env.gym), Compose(*transforms))


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize(
    ("observation", "steps", "values"),
    [
        ("masked", 150, {"loc": (0.5, -1.0), "scale": (3.0, -4.0), "visible": (3, 0)}),
        ("whole", 450, {"id": "MountainCar-v0", "loc": (0.1,), "scale": (0.3,)}),
        ("pixels", 60, {"image_size": 36}),
    ],
)
def test_every_entry_is_that_of_the_transforms(make, observation, steps, values, num_envs):
    """Bit for bit, over ends of episodes, also with a primer."""
    ours = make(observation, num_envs, **values)
    theirs = by_transforms(config(observation, num_envs, **values))
    for kind in ("observation", "reward", "done", "action", "state"):
        specs = [
            {name: (spec.shape, spec.dtype) for name, spec in getattr(env, f"full_{kind}_spec").items()}
            for env in (ours, theirs)
        ]
        assert specs[0] == specs[1]
    for primed in (False, True):
        if primed:
            for env in (ours, theirs):
                env.append_transform(TensorDictPrimer(h=Unbounded(4), random=True, expand_specs=True))
        data, expected = (rollout(env, steps) for env in (ours, theirs))
        assert set(data.keys(True, True)) == set(expected.keys(True, True))
        assert_close(data, expected, rtol=0, atol=0)
    end = "truncated" if observation == "whole" else "terminated"
    assert data["next", end].any(1).all(), "episodes of every environment must end"
    theirs.close()


@pytest.mark.parametrize(("num_envs", "size"), [(1, 84), (3, 60)])
def test_pixels_are_the_frame_made_grey_and_small(make, num_envs, size):
    env = make("pixels", num_envs, image_size=size)
    data = rollout(env, 25)
    assert data["pixels"].shape == (num_envs, 25, 1, size, size)

    def see(env, _state):
        return small_grey(env.render(), size).astype(float)

    for i, row in enumerate(data):
        roots, nexts = replay(row, SEED + i, see, "rgb_array")
        for fast, slow in ((row["pixels"], roots), (row["next", "pixels"], [n[0] for n in nexts])):
            assert np.abs(fast.numpy() - np.stack(slow)).max() <= 1  # level of 255
        assert row["next", "done"][:, 0].tolist() == [n[2] or n[3] for n in nexts]
    assert data["pixels"].dtype == torch.uint8
    assert (data["pixels"] == 255).float().mean() > 0.9, "the background is white"


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize(
    ("observation", "key", "shape", "dtype"),
    [("masked", "observation", (2,), torch.float32), ("pixels", "pixels", (1, 84, 84), torch.uint8)],
)
def test_specs(make, observation, key, shape, dtype, num_envs):
    env = make(observation, num_envs)
    batch = () if num_envs == 1 else (num_envs,)
    specs = dict(env.observation_spec.items())
    assert env.batch_size == batch
    assert {k: (tuple(v.shape), v.dtype) for k, v in specs.items()} == {
        key: ((*batch, *shape), dtype),
        "step_count": ((*batch, 1), torch.int64),
        "is_init": ((*batch, 1), torch.bool),
    }
    assert env.action_spec.shape == (*batch, 2) and env.reward_spec.shape == (*batch, 1)
    check_env_specs(env)


@pytest.mark.parametrize("scale", [0.01, 1.0])
def test_every_reward_is_the_scale(make, scale):
    reward = rollout(make(num_envs=3, reward_scale=scale), 50)["next", "reward"]
    assert torch.equal(reward, torch.full((3, 50, 1), scale))


@pytest.mark.parametrize(("observation", "num_envs"), [("masked", 1), ("masked", 3), ("pixels", 1)])
def test_marks_follow_the_ends_of_episodes(make, observation, num_envs):
    """``"is_init"`` and ``"step_count"`` counted again, from ``done`` alone."""
    data = rollout(make(observation, num_envs), 60)
    assert not data["next", "is_init"].any()
    for row in data:
        count, first = 0, True
        for step in row:
            assert (step["step_count"].item(), step["is_init"].item()) == (count, first)
            assert step["next", "step_count"].item() == count + 1
            first = step["next", "done"].item()
            count = 0 if first else count + 1
        assert row["is_init"].sum() >= 2


def balance(seen, is_init, state):
    """Push to where the pole falls, with velocities from the difference of two observations."""
    last = seen if not state else torch.where(is_init, seen, state["seen"])
    state["seen"] = seen
    position, angle = ((seen - last) / 0.02).unbind(-1)  # per second: a step takes 0.02 s
    return one_hot((0.5 * position + seen[..., 1] + 0.5 * angle > 0).long(), 2)


@pytest.mark.parametrize("num_envs", [1, 3])
def test_a_standing_pole_is_truncated_after_500_steps(make, num_envs):
    env, memory = make(num_envs=num_envs, loc=(0.0,), scale=(1.0,)), {}
    policy = TensorDictModule(lambda s, i: balance(s, i, memory), ["observation", "is_init"], ["action"])
    env.set_seed(0)
    data = env.rollout(500, policy, break_when_any_done=False).reshape(num_envs, 500)
    last = data[:, -1]["next"]
    assert not data[:, :-1]["next", "done"].any()
    assert last["truncated"].all() and last["done"].all() and not last["terminated"].any()
    assert (last["step_count"] == 500).all()


def test_a_fallen_pole_is_terminated(make):
    env = make(loc=(0.0,), scale=(1.0,))
    push = TensorDictModule(lambda s: one_hot(torch.tensor(1), 2), ["observation"], ["action"])
    env.set_seed(0)
    last = env.rollout(500, push)[-1]["next"]
    assert last["terminated"] and last["done"] and not last["truncated"]
    assert 8 <= last["step_count"].item() <= 12
    assert last["observation"][1].abs() > 12 * torch.pi / 180


@pytest.mark.parametrize(
    ("observation", "num_envs", "steps"),
    [("masked", 1, 80), ("masked", 3, 80), ("pixels", 1, 15), ("pixels", 3, 5)],
)
def test_seeds_repeat(make, observation, num_envs, steps):
    """A second environment, and the same one again, give what the first gave; another seed does not."""
    env = make(observation, num_envs)
    first = rollout(env, steps)
    assert_close(rollout(env, steps), first)
    assert_close(rollout(make(observation, num_envs), steps), first)
    key = {"masked": "observation", "pixels": "pixels"}[observation]
    assert not torch.equal(rollout(env, steps, seed=SEED + 10)[key], first[key])


@pytest.mark.parametrize(
    ("values", "named"), [({"loc": (0.0, 0.0, 0.0)}, "loc"), ({"scale": (1.0,) * 4}, "scale")]
)
def test_norm_of_the_wrong_length_is_one_clear_line(values, named):
    with pytest.raises(ConfigError, match=rf"^env.{named}=.*expected 1 or 2 numbers$"):
        make_env(config("masked", 1, **values))


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems always have a display")


@linux
@pytest.mark.parametrize(
    ("given", "driver"),
    [({}, "dummy"), ({"SDL_VIDEODRIVER": "offscreen"}, "offscreen"), ({"DISPLAY": ":0"}, None)],
)
def test_prepare_display_fills_only_a_gap(monkeypatch, given, driver):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    before = os.environ.get("SDL_VIDEODRIVER")
    prepare_display()
    after = os.environ.pop("SDL_VIDEODRIVER", None)
    if before is not None:
        os.environ["SDL_VIDEODRIVER"] = before
    assert after == driver


@linux
def test_pictures_need_no_display():
    code = (
        "from recdqn import Config, make_env\n"
        "env = make_env(Config.preset('pixel-cartpole').replace(env={'num_envs': 1}).env)\n"
        "print(tuple(env.rollout(2)['pixels'].shape), (env.reset()['pixels'] < 128).any().item())\n"
        "env.close()\n"
    )
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(2, 1, 84, 84) True"


@pytest.mark.skipif(os.name != "posix", reason="there is no SIGTERM elsewhere")
def test_a_process_that_has_drawn_still_ends_when_told_to():
    code = (
        "import time\n"
        "from recdqn import Config, make_env\n"
        "env = make_env(Config.preset('pixel-cartpole').replace(env={'num_envs': 1}).env)\n"
        "env.rollout(2)\n"
        "print('drawn', flush=True)\n"
        "time.sleep(1000)\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "SDL_NO_SIGNAL_HANDLERS"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        while "drawn" not in (line := process.stdout.readline()):
            assert line, "it ended early"
        process.terminate()
        assert process.wait(timeout=600) == -signal.SIGTERM
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
