"""Environments with random spaces are trained, evaluated and resumed, or refused with a cure that works."""

import ast
import re
import tempfile

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from recdqn import evaluate, resume, train
from recdqn.agent import Agent
from recdqn.errors import ConfigError, UserError

LENGTH = 6  # environment steps of an episode
CURES = 12  # refusals of one environment, each followed by its cure


class Task(gym.Env):
    """Shows samples of its spaces; the reward is random, and some actions may be illegal."""

    observations = actions = legal_in = wrapped = None
    metadata = {"render_modes": []}

    def __init__(self):
        self.observation_space, self.action_space = Task.observations, Task.actions

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.look()

    def look(self):
        """Sample with the environment's own generator, so that an episode can be replayed."""
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        seen, info = self.observation_space.sample(), {}
        if Task.legal_in:
            self.legal = self.np_random.integers(0, 2, int(self.action_space.n)).astype(np.int8)
            self.legal[self.np_random.integers(len(self.legal))] = 1
            (info if Task.legal_in == "info" else seen)["action_mask"] = self.legal
        return seen, info

    def step(self, action):
        assert self.action_space.contains(action), action
        assert not Task.legal_in or self.legal[action - self.action_space.start], "illegal"
        self.time += 1
        seen, info = self.look()
        return seen, float(self.np_random.normal()), self.time == LENGTH, False, info


def make():
    return Task() if Task.wrapped is None else eval(Task.wrapped, {"gymnasium": gym, "env": Task()})


def boxes(shapes):
    """Arrays of every type and range: bytes, whole numbers, and numbers with bounds and without."""
    kinds = [(0, 255, np.uint8), (0, 9, np.uint8), (0, 1, np.float32), (-1, 1, np.float64), (-2, 5, np.int64)]
    kinds += [(-np.inf, np.inf, np.float32)]
    return st.builds(lambda shape, kind: Box(*kind[:2], shape, kind[2]), shapes, st.sampled_from(kinds))


LEAVES = st.one_of(
    boxes(st.sampled_from([(), (1,), (3,)])),
    boxes(st.sampled_from([(3, 3), (7, 7, 3), (40, 48, 3), (3, 36, 40), (1, 40, 40), (40, 40), (4, 36, 36)])),
    boxes(st.sampled_from([(36, 40, 2), (2, 36, 36, 3), (2, 2, 2, 2, 2)])),
    st.builds(lambda n, start: Discrete(n, start=start), st.integers(1, 9), st.integers(-2, 2)),
    st.lists(st.integers(1, 4), min_size=1, max_size=3).map(MultiDiscrete),
    st.integers(1, 3).map(MultiBinary),
    st.just(Text(5)),
)


def nested(depth, leaves):
    if depth == 0:
        return leaves
    inside = nested(depth - 1, leaves)
    names = st.sampled_from(["a", "b", "c", "action"])
    return st.one_of(
        leaves,
        st.dictionaries(names, inside, min_size=1, max_size=3).map(Dict),
        st.lists(inside, min_size=1, max_size=3).map(Tuple),
    )


CHOICES = st.one_of(
    st.builds(lambda n, start: Discrete(n, start=start), st.integers(1, 4), st.integers(-1, 2)),
    st.lists(st.integers(1, 3), min_size=1, max_size=2).map(MultiDiscrete),
    st.integers(1, 2).map(MultiBinary),
    st.builds(lambda shape, low: Box(low, 1, shape), st.sampled_from([(1,), (2,)]), st.sampled_from([-1, 0])),
)
MASKS = st.sampled_from([None, None, "info", "observation"])


def cured(message, env, draw):
    """Return settings that a refusal asks for, or change the environment; ``None`` if it names no cure."""
    if entries := re.search(r"leave it out by env.entries=(\(.*\))$", message):
        return {"entries": ast.literal_eval(entries[1])}
    if "expected env.mask='action_mask'" in message:
        return {"mask": "action_mask"}
    if wrapper := re.search(r"wrap it: (gymnasium\.[\w.]+\(env, bins=5\))", message):
        Task.wrapped = wrapper[1]
        return {}
    named = re.search(r"shows (?:in '([^']+)' )?an array", message)
    if named and "expected env.arrays, one of" in message:
        how = draw(st.sampled_from(re.findall(r"'(picture|frames|grid|numbers)'", message)))
    elif named and "'numbers' reads any array" in message:
        how = "numbers"
    elif "wrap it so that it returns a Box" in message:
        Task.observations, Task.legal_in = Box(-1, 1, (2,)), None
        return {"entries": ("all",), "arrays": ("ask",), "mask": "none"}
    else:
        return None
    name = named[1] or ""
    others = [one for one in env.get("arrays", ()) if name and not one.startswith(f"{name}=")]
    return {"arrays": (*others, f"{name}={how}" if name else how)}


@pytest.fixture
def small(tiny):
    return tiny.replace(
        env={"id": make, "image_size": 36},
        policy={"channels": (2,), "kernels": (2,), "strides": (2,), "hidden_size": 4, "features": 4},
        replay={"capacity": 100, "slices": 2, "slice_len": 4},
        train={
            "warmup_frames": 16,
            "frames_per_batch": 16,
            "updates": 1,
            "eval_every": 1,
            "eval_episodes": 2,
        },
    )


def check(small, data):
    """Train, evaluate and resume, after at most :data:`CURES` refusals."""
    Task.wrapped, Task.actions = None, data.draw(CHOICES, "actions")
    observations = data.draw(nested(3, LEAVES), "observations")
    Task.legal_in = data.draw(MASKS, "mask") if isinstance(Task.actions, Discrete) else None
    if Task.legal_in == "observation":
        mask = MultiBinary(int(Task.actions.n))
        inside = observations.spaces if isinstance(observations, Dict) else {"vector": observations}
        observations = Dict({**inside, "action_mask": mask})
    Task.observations = observations
    env = {"num_envs": data.draw(st.sampled_from([1, 2])), "previous": data.draw(st.booleans())}
    for _ in range(CURES):
        cfg = small.replace(env=env, train={"total_frames": 32})
        with tempfile.TemporaryDirectory() as folder:
            try:
                train(cfg, out=f"{folder}/run", progress=False)
            except UserError as error:
                message = str(error)
                assert "\n" not in message and isinstance(error, ConfigError), message
                change = cured(message, env, data.draw)
                assert change is not None, message
                env |= change
                continue
            run = resume(f"{folder}/run", frames=64, progress=False)
        break
    else:
        raise AssertionError(f"no cure for {Task.observations}, {Task.actions}: {message}")
    assert run.metrics[-1]["updates"] == 4 and np.isfinite(run.metrics[-1]["loss"])
    assert evaluate(run.policy, run.cfg.env, 2).lengths == (LENGTH, LENGTH)
    game, agent = make(), Agent(run.policy, run.cfg.env)
    seen, info = game.reset(seed=1)
    mask = info.get("action_mask")
    action, state = agent.act(seen, agent.initial_state(), epsilon=0.5, mask=mask)
    game.step(action)


SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.mark.parametrize("part", range(10))
def test_any_of_500_environments_trains_or_is_refused_with_a_cure(small, part):
    """Fifty of them in each part, so that several processes can share the work."""

    @seed(part)
    @settings(max_examples=50, deadline=None, database=None, suppress_health_check=SLOW)
    @given(st.data())
    def draws(data):
        check(small, data)

    draws()


@pytest.mark.long
@settings(max_examples=500, deadline=None, suppress_health_check=SLOW)
@given(st.data())
def test_500_other_environments_train_or_are_refused_with_a_cure(small, data):
    """Other ones in each run."""
    check(small, data)
