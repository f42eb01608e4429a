"""What agents see of observations of any space, and what they do with several choices and masks."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from hypothesis import given, settings
from hypothesis import strategies as st

from recdqn import Config, evaluate, make_collector, make_env, make_policy, make_replay_buffer, train
from recdqn.agent import ILLEGAL, Agent
from recdqn.config import EnvConfig
from recdqn.envs import add_primers
from recdqn.envs.actions import decode, sizes
from recdqn.envs.entries import Reader
from recdqn.envs.shrink import small_grey
from recdqn.errors import ConfigError
from recdqn.learner import Learner

SIDE = 40


def read(space, observation, info=None, actions=3, **values):
    """What an agent sees."""
    return Reader(space, EnvConfig(id="Task-v0", image_size=SIDE, **values), actions)(observation, info or {})


NUMBERS = st.one_of(
    st.builds(lambda n, start: Discrete(n, start=start), st.integers(1, 6), st.integers(-3, 3)),
    st.builds(MultiDiscrete, st.lists(st.integers(1, 4), min_size=1, max_size=3)),
    st.builds(MultiBinary, st.integers(1, 3)),
    st.builds(
        lambda shape, dtype: Box(-5, 5, shape, dtype),
        st.sampled_from([(), (1,), (3,)]),
        st.sampled_from([np.float32, np.float64, np.int8, np.int64]),
    ),
)
NESTED = st.recursive(
    NUMBERS,
    lambda inside: (
        st.lists(inside, min_size=1, max_size=3).map(Tuple)
        | st.dictionaries(st.sampled_from("abcd"), inside, min_size=1, max_size=3).map(Dict)
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=100)
@given(NESTED, st.integers(0, 1000))
def test_numbers_and_choices_are_those_that_gymnasium_flattens(space, seed):
    space.seed(seed)
    observation = space.sample()
    np.testing.assert_array_equal(
        read(space, observation), gym.spaces.flatten(space, observation).astype(np.float32)
    )


def test_chosen_entries_keep_their_order():
    space = Dict(a=Box(-1, 1, (1,)), b=Dict(c=Discrete(2), d=Box(-1, 1, (2,))), e=Discrete(3))
    observation = {"a": np.float32([0.5]), "b": {"c": 1, "d": np.float32([0.25, -1])}, "e": 2}
    assert read(space, observation).tolist() == [0.5, 0, 1, 0.25, -1, 0, 0, 1]
    assert read(space, observation, entries=("e", "b")).tolist() == [0, 1, 0.25, -1, 0, 0, 1]
    assert read(space, observation, entries=("b.d",)).tolist() == [0.25, -1]
    with pytest.raises(ConfigError, match=r"^env.entries=\('f',\): there is no 'f' in Task-v0, .*'b.c'"):
        read(space, observation, entries=("f",))


def colours(seed, shape=(30, 50, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("scale", [None, (0, 1), (-1, 1), (0, 255)])
@pytest.mark.parametrize("colour", [True, False])
def test_a_picture_in_any_order_and_range(axes, scale, colour):
    picture = colours(0)[..., : 3 if colour else 1]
    expected = small_grey(picture, SIDE)
    turned = picture.transpose(axes)
    space = Box(0, 255, turned.shape, np.uint8)
    if scale is not None:
        low, high = scale
        turned = (turned / 255 * (high - low) + low).astype(np.float32)
        space = Box(low, high, turned.shape, np.float32)
    seen = read(space, turned, arrays=("picture",))["pixels"]
    assert seen.shape == (1, SIDE, SIDE) and seen.dtype == np.uint8
    assert np.abs(seen.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("shape", "axis", "inside"),
    [((4, 40, 50), 0, (40, 50)), ((40, 50, 4), -1, (40, 50)), ((2, 40, 50, 3), 0, (40, 50, 3))],
)
def test_each_of_several_frames_is_kept(shape, axis, inside):
    frames = colours(1, shape)
    seen = read(Box(0, 255, shape, np.uint8), frames, arrays=("frames",))["pixels"]
    expected = np.concatenate([small_grey(frame, SIDE) for frame in np.moveaxis(frames, axis, 0)])
    np.testing.assert_array_equal(seen, expected)


def test_several_pictures_lie_side_by_side():
    space = Dict(left=Box(0, 255, (40, 50), np.uint8), right=Box(0, 1, (3, 20, 20)))
    observation = {"left": colours(2, (40, 50)), "right": np.zeros((3, 20, 20), np.float32)}
    seen = read(space, observation, arrays=("picture",))["pixels"]
    assert seen.shape == (2, SIDE, SIDE) and (seen[1] == 0).all()
    np.testing.assert_array_equal(seen[:1], small_grey(observation["left"], SIDE))


def test_codes_are_counted_for_each_channel_and_each_array():
    space = Dict(board=Box(-1, 1, (2, 2), np.int8), image=Box(0, 9, (1, 2, 3), np.uint8))
    observation = {"board": np.int8([[-1, 0], [1, 1]]), "image": np.uint8([[[0, 1, 2], [9, 9, 9]]])}
    seen = read(space, observation, arrays=("grid",))
    assert list(seen) == ["codes"]
    image = 3 + np.array([0, 10 + 1, 20 + 2, 9, 10 + 9, 20 + 9])  # behind the three codes of the board
    assert seen["codes"].tolist() == [0, 1, 2, 2, *image]


@pytest.mark.parametrize(
    ("space", "values", "message"),
    [
        (
            Box(0, 255, (9, 9), np.uint8),
            {},
            "a picture or codes: expected env.arrays, one of",
        ),
        (Dict(a=Box(0, 1, (2, 2))), {}, "shows in 'a' an array .* for example a=picture"),
        (
            Box(0, 255, (9, 9), np.uint8),
            {"arrays": ("paper",)},
            "expected one of numbers, picture, frames",
        ),
        (
            Box(0, 255, (4, 9, 9), np.uint8),
            {"arrays": ("picture",)},
            "expected 1 or 3 colours .*'frames'",
        ),
        (Box(-np.inf, np.inf, (9, 9)), {"arrays": ("picture",)}, "expected two axes or more, and bounds"),
        (Box(0, 1, (9, 9)), {"arrays": ("grid",)}, "expected whole numbers of at most 100,000 values"),
        (Dict(action_mask=MultiBinary(3), a=Box(0, 1, (2,))), {}, "expected env.mask='action_mask'"),
        (Discrete(10**7), {}, "wrap it so that it returns a Box"),
    ],
)
def test_what_may_mean_several_things_is_refused(space, values, message):
    with pytest.raises(ConfigError, match=message) as caught:
        Reader(space, EnvConfig(id="Task-v0", **values), 3)
    assert "\n" not in str(caught.value)


# Actions


def test_several_choices_are_counted_like_the_indices_of_an_array():
    space = Dict(a=MultiDiscrete([3, 2], start=[5, 0]), b=Tuple((Discrete(2, start=-1), MultiBinary(1))))
    assert sizes(space) == [3, 2, 2, 2] and sizes(Box(0, 1, (2,))) is None
    for number, index in enumerate(np.ndindex(3, 2, 2, 2)):
        action = decode(space, number)
        assert space.contains(action)
        a, (b, c) = action["a"], action["b"]
        assert (a[0] - 5, a[1], b + 1, c[0]) == index


class Picky(gym.Env):
    """Ends if an action is illegal; some are, others each time. The observation shows nothing of it."""

    observation_space, action_space, shown = Box(-1, 1, (2,)), Discrete(3), "info"

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.look()

    def look(self):
        self.legal = self.np_random.permutation([1, 1, 0]).astype(np.int8)
        seen = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return (seen, {"action_mask": self.legal}) if self.shown == "info" else (self.both(seen), {})

    def both(self, seen):
        return {"action_mask": self.legal, "vector": seen}

    def step(self, action):
        assert self.legal[action], "illegal move"
        self.time += 1
        return (*self.look()[:1], float(action), self.time == 10, False, self.look_again())

    def look_again(self):
        return {"action_mask": self.legal} if self.shown == "info" else {}


class PickyDict(Picky):
    observation_space, shown = Dict(action_mask=MultiBinary(3), vector=Box(-1, 1, (2,))), "observation"


@pytest.mark.parametrize("kind", [Picky, PickyDict])
@pytest.mark.parametrize("num_envs", [1, 4])
def test_only_legal_actions_are_taken(kind, num_envs, tiny):
    single = num_envs == 1
    cfg = tiny.replace(
        env={"id": kind, "mask": "action_mask", "num_envs": num_envs, "previous": single},
        train={"total_frames": 256, "frames_per_batch": 64, "eval_every": 4},
    )
    make_env(cfg.env).rollout(20, break_when_any_done=False)  # by random actions
    run = train(cfg, progress=False)  # with epsilon from 1 to 0.05
    assert set(run.policy[0].in_keys) == {"observation", *(["previous"] if single else [])}
    assert evaluate(run.policy, cfg.env, 3).lengths == (10, 10, 10)
    agent, env = Agent(run.policy, cfg.env), kind()
    seen, info = env.reset(seed=3)
    state, done = agent.initial_state(), False
    while not done:
        legal = env.legal.astype(bool)
        mask = info["action_mask"] if kind is Picky else None
        values, _ = agent.values(seen, state, mask=mask)
        assert ((values == ILLEGAL) == ~legal).all()
        action, state = agent.act(seen, state, epsilon=0.5, mask=mask)
        seen, _, done, _, info = env.step(action)


@pytest.mark.parametrize("kind", [Picky, PickyDict])
def test_a_mask_that_is_not_used_is_refused(kind, tiny):
    with pytest.raises(Exception, match="its? legal actions in .*expected env.mask='action_mask'"):
        train(tiny.replace(env={"id": kind}), progress=False)


@pytest.mark.parametrize("double", [True, False])
def test_targets_are_values_of_legal_actions(double, tiny):
    cfg = tiny.replace(
        env={"id": Picky, "mask": "action_mask"},
        policy={"cell": "none"},
        loss={"n_steps": 1, "double_dqn": double, "gamma": 0.9},
    )
    torch.manual_seed(0)
    env = make_env(cfg.env)
    learner = Learner(cfg, env)
    with torch.no_grad():  # two different networks
        for weight in learner.loss.target_value_network_params.values(True, True):
            weight.add_(torch.randn_like(weight) * 0.3)
    buffer = make_replay_buffer(cfg)
    collector = make_collector(cfg, add_primers(env, learner.policy), learner.policy, buffer)
    next(iter(collector))
    collector.shutdown()
    batch = buffer.sample()
    learner.loss(batch)

    def values(parameters, seen):
        with parameters.to_module(learner.loss.value_network), torch.no_grad():
            network = learner.loss.value_network
            return network[1].module(network[0].module(seen))

    online, target = learner.loss.value_network_params, learner.loss.target_value_network_params
    after, legal = batch["next", "observation"], batch["next", "action_mask"]
    chooser = values(online if double else target, after)
    best = torch.where(legal, chooser, -torch.inf).argmax(-1, keepdim=True)
    paid = values(target, after).gather(-1, best) * ~batch["next", "terminated"]
    chosen = (values(online, batch["observation"]) * batch["action"]).sum(-1, keepdim=True)
    expected = (chosen - batch["next", "reward"] - 0.9 * paid).square()
    torch.testing.assert_close(batch["td_error"], expected)
    unmasked = chooser.argmax(-1, keepdim=True)
    assert (unmasked != best).any()  # or nothing would be tested


class Turns(gym.Env):
    """Pays for a combination of choices."""

    observation_space, action_space = Box(-1, 1, (1,)), MultiDiscrete([3, 2])

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.time += 1
        return np.zeros(1, np.float32), float(action[0] == 2 and action[1] == 1), self.time == 5, False, {}


def test_an_agent_takes_the_combination_that_pays(tiny):
    cfg = tiny.replace(
        env={"id": Turns},
        train={"total_frames": 3_000, "learning_rate": 3e-3, "updates": 4, "solved_return": 5.0},
        policy={"eps_frames": 1_500},
    )
    run = train(cfg, progress=False)
    agent = Agent(run.policy, cfg.env)
    action, _ = agent.act(np.zeros(1, np.float32), agent.initial_state())
    assert action.tolist() == [2, 1]


def test_a_policy_reads_numbers_pictures_and_codes():
    shown = Dict(a=Box(0, 255, (40, 40, 3), np.uint8), b=Box(0, 4, (3, 3), np.int64), c=Discrete(2))
    Everything.observation_space = shown
    cfg = Config(env={"id": Everything, "num_envs": 2, "arrays": ("a=picture", "b=grid"), "image_size": SIDE})
    policy = make_policy(cfg.policy, make_env(cfg.env))
    agent = Agent(policy, cfg.env)
    shown.seed(0)
    seen = shown.sample()
    before, _ = agent.values(seen, agent.initial_state())
    for change in ({"a": 255 - seen["a"]}, {"b": 4 - seen["b"]}, {"c": 1 - seen["c"]}):
        after, _ = agent.values(seen | change, agent.initial_state())
        assert np.abs(after - before).max() > 1e-5
    pair = {key: np.stack([seen[key], seen[key]]) for key in seen}
    np.testing.assert_allclose(agent.values(pair, agent.initial_state(2))[0][1], before, rtol=1e-3, atol=1e-4)


class Everything(Turns):
    pass
