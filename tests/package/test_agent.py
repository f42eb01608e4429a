"""An agent as a function, against its policy in TorchRL's environment."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torchrl.envs import ExplorationType, set_exploration_type
from torchrl.modules import GRUModule, LSTMModule, QValueModule

from recdqn import Config, add_primers, evaluate, load_agent, make_env, make_policy, save_checkpoint
from recdqn.agent import Agent
from recdqn.envs import RenderedPixels, make_vector_env
from recdqn.errors import UserError
from recdqn.run.folder import Run


def stirred(cfg):
    """A policy with large weights, so that memory shows in its Q-values."""
    torch.manual_seed(2)
    policy = make_policy(cfg.policy, make_env(cfg.env))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(2)
    return policy


class Picture(gym.Env):
    """A bar that moves over a coloured picture; its actions are 3 and 4."""

    observation_space = gym.spaces.Box(0, 255, (50, 60, 3), np.uint8)
    action_space = gym.spaces.Discrete(2, start=3)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.steps = int(self.np_random.integers(10, 50)), 0
        return self.picture(), {}

    def step(self, action):
        assert action in (3, 4)
        self.place, self.steps = self.place + 2 * (int(action) - 3) - 1, self.steps + 1
        return self.picture(), 1.0, self.steps == 8, False, {}

    def picture(self):
        picture = np.full((50, 60, 3), (200, 100, 50), np.uint8)
        picture[:, self.place % 60] = 10 * self.steps
        return picture


@pytest.mark.parametrize("cell, dueling", [("lstm", False), ("gru", True), ("none", False)])
def test_values_and_actions_are_those_of_a_rollout(cell, dueling):
    cfg = Config.preset("masked-cartpole").replace(
        env={"num_envs": 3}, policy={"cell": cell, "dueling": dueling}
    )
    policy = stirred(cfg)
    env = add_primers(make_env(cfg.env), policy)
    env.set_seed(5)
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        steps = env.rollout(30, policy)
    agent, games = Agent(policy, cfg.env), make_vector_env(cfg.env)
    games.reset(seed=5)
    whole, _ = games.reset()
    state = agent.initial_state(3)
    for t in range(steps.shape[1]):
        values, _ = agent.values(whole, state)
        actions, state = agent.act(whole, state)
        torch.testing.assert_close(torch.from_numpy(values), steps["action_value"][:, t])
        assert actions.tolist() == steps["action"][:, t].argmax(-1).tolist()
        whole = games.step(actions)[0]
    assert steps.shape[1] > 5


def test_one_observation_is_a_batch_of_one():
    cfg = Config.preset("masked-cartpole")
    agent = Agent(stirred(cfg), cfg.env)
    alone, together = agent.initial_state(), agent.initial_state(4)
    assert [part.shape for part in alone] == [(1, 64)] * 2 and [part.shape for part in together] == [
        (4, 1, 64)
    ] * 2
    observations = np.random.default_rng(0).normal(size=(6, 4, 4)).astype(np.float32)
    for seen in observations:
        action, alone = agent.act(seen[2].tolist(), alone)
        actions, together = agent.act(seen, together)
        assert type(action) is int and action == actions[2]
        for one, all_of_them in zip(alone, together, strict=True):
            np.testing.assert_allclose(one, all_of_them[2], atol=1e-6)


@pytest.mark.parametrize("kind", [torch.nn.LSTM, torch.nn.GRU])
@pytest.mark.parametrize("layers, bias", [(1, False), (3, True)])
def test_one_observation_through_other_recurrent_layers(kind, layers, bias):
    """Layers on top of each other and layers without biases, against PyTorch's own recurrent layer."""
    torch.manual_seed(0)
    cfg = Config.preset("masked-cartpole")
    cell = kind(2, 5, num_layers=layers, bias=bias, batch_first=True)
    name, module = ("lstm", LSTMModule) if kind is torch.nn.LSTM else ("gru", GRUModule)
    head = torch.nn.Linear(5, 2)
    policy = TensorDictSequential(
        module(**{name: cell}, in_key="observation", out_key="memory"),
        TensorDictModule(head, in_keys=["memory"], out_keys=["action_value"]),
        QValueModule(spec=make_env(cfg.env).action_spec_unbatched),
    )
    agent = Agent(policy, cfg.env)
    seen = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    with torch.no_grad():
        expected = head(cell(torch.from_numpy(seen[None, :, [0, 2]]) * torch.tensor([2.0, 20.0]))[0][0])
    state = agent.initial_state()
    assert [part.shape for part in state] == [(layers, 5)] * (2 if kind is torch.nn.LSTM else 1)
    for k, one in enumerate(seen):
        values, state = agent.values(one, state)
        np.testing.assert_allclose(values, expected[k].numpy(), atol=1e-6)


def test_epsilon_is_the_share_of_random_actions():
    whole = {"id": "Acrobot-v1", "observation": "whole", "loc": (0.0,), "scale": (1.0,)}
    cfg = Config.preset("masked-cartpole").replace(env=whole)
    agent = Agent(stirred(cfg), cfg.env)
    seen, state = np.zeros((3000, 6), np.float32), agent.initial_state(3000)
    best = agent.act(seen, state)[0]
    agent.rng = np.random.default_rng(0)
    mixed, after = agent.act(seen, state, epsilon=0.3)
    assert len(set(best)) == 1 and set(mixed) == {0, 1, 2}
    assert np.mean(mixed != best) == pytest.approx(0.3 * 2 / 3, abs=0.03)  # a random action may be the best
    np.testing.assert_array_equal(
        after[0], agent.act(seen, state)[1][0]
    )  # the state is that of acting greedily

    agent.rng = np.random.default_rng(0)
    alone = [agent.act(seen[0], agent.initial_state(), epsilon=1.0)[0] for _ in range(300)]
    assert {type(action) for action in alone} == {int}
    assert np.bincount(alone, minlength=3) / 300 == pytest.approx(1 / 3, abs=0.09)


def test_random_actions_begin_where_the_environment_counts_from():
    cfg = Config.preset("pixel-cartpole").replace(
        env={"id": Picture, "observation": "whole", "arrays": ("picture",), "num_envs": 1, "image_size": 36}
    )
    agent, picture = Agent(stirred(cfg), cfg.env), Picture().reset(seed=0)[0]
    drawn = {agent.act(picture, agent.initial_state(), epsilon=1.0)[0] for _ in range(40)}
    assert drawn == {3, 4}


def test_a_drawn_picture_is_the_observation():
    cfg = Config.preset("pixel-cartpole").replace(env={"num_envs": 1}, policy={"bfloat16": False})
    policy = stirred(cfg)
    env = add_primers(make_env(cfg.env), policy)
    env.set_seed(1)
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        steps = env.rollout(10, policy)
    game = RenderedPixels(gym.make("CartPole-v1", render_mode="rgb_array"), cfg.env.image_size)
    game.reset(seed=1)
    seen, _ = game.reset()
    agent = Agent(policy, cfg.env)
    state = agent.initial_state()
    for t in range(len(steps)):
        values, _ = agent.values(seen["pixels"], state)
        action, state = agent.act(seen["pixels"], state)
        torch.testing.assert_close(torch.from_numpy(values), steps["action_value"][t], atol=1e-5, rtol=1e-4)
        assert action == steps["action"][t].argmax()
        seen = game.step(action)[0]


def test_a_picture_as_it_is_and_actions_that_do_not_count_from_zero():
    cfg = Config.preset("pixel-cartpole").replace(
        env={"id": Picture, "observation": "whole", "arrays": ("picture",), "num_envs": 1, "image_size": 36}
    )
    agent, game = Agent(stirred(cfg), cfg.env), Picture()
    picture, _ = game.reset(seed=0)
    small = make_env(cfg.env).base_env.gym.reset(seed=0)[0]["pixels"]
    state = agent.initial_state()
    prepared, _ = agent.batch_values({"pixels": small[None]}, agent.initial_state(1))
    np.testing.assert_allclose(agent.values(picture, state)[0], prepared[0], rtol=1e-4, atol=1e-5)
    done = False
    while not done:
        action, state = agent.act(picture, state)
        picture, _, done, _, _ = game.step(action)
    batch = np.stack([picture, picture[::-1]])
    actions, _ = agent.act(batch, agent.initial_state(2))
    assert set(actions.tolist()) <= {3, 4}


def test_evaluation_of_other_modules_gives_the_same():
    """A policy that also reads the step count runs in TorchRL's environment."""
    cfg = Config.preset("masked-cartpole")
    policy = stirred(cfg)

    def features(observation, step_count):
        return policy[0].module(observation) + 0.0 * step_count

    first = TensorDictModule(features, in_keys=["observation", "step_count"], out_keys=["embed"])
    other = TensorDictSequential(first, *policy[1:])
    with pytest.raises(UserError, match=r"cannot run TensorDictModule, from \['observation', 'step_count'\]"):
        Agent(other, cfg.env)
    assert evaluate(other, cfg.env, episodes=5) == evaluate(policy, cfg.env, episodes=5)


def test_what_is_not_a_chain_is_refused():
    cfg = Config.preset("masked-cartpole")
    env = make_env(cfg.env)
    two_ways = LSTMModule(2, 4, in_key="observation", out_key="memory", bidirectional=True)
    head = TensorDictModule(torch.nn.Linear(8, 2), in_keys=["memory"], out_keys=["action_value"])
    beside = TensorDictModule(torch.nn.Linear(2, 2), in_keys=["observation"], out_keys=["other"])
    values = QValueModule(spec=env.action_spec_unbatched)
    for policy in (TensorDictSequential(two_ways, head, values), TensorDictSequential(beside, head, values)):
        with pytest.raises(UserError, match="expected a chain from 'observation', 'pixels'"):
            Agent(policy, cfg.env)


def test_a_saved_run_is_an_agent(tmp_path):
    cfg = Config.preset("masked-cartpole")
    policy = stirred(cfg)
    save_checkpoint(tmp_path, Run(cfg, policy))
    agent = load_agent(tmp_path)
    seen = np.array([0.1, 0.2, -0.05, 0.3], np.float32)
    values, _ = agent.values(seen, agent.initial_state())
    np.testing.assert_array_equal(values, Agent(policy, cfg.env).values(seen, agent.initial_state())[0])


def test_a_state_can_be_kept():
    """A call changes neither the observation nor the state that it is given."""
    cfg = Config.preset("masked-cartpole")
    agent = Agent(stirred(cfg), cfg.env)
    _, state = agent.act(np.ones(4, np.float32), agent.initial_state())
    kept = [part.copy() for part in state]
    first = agent.values(np.ones(4, np.float32), state)[0]
    second = agent.values(np.ones(4, np.float32), state)[0]
    np.testing.assert_array_equal(first, second)
    for part, before in zip(state, kept, strict=True):
        np.testing.assert_array_equal(part, before)


@pytest.mark.parametrize(
    "observation, batch, message",
    [
        (np.zeros(3), None, r"shape \(3,\): expected \(4,\) or \(batch, 4\), as CartPole-v1 returns it"),
        (np.zeros((2, 3, 4)), None, r"shape \(2, 3, 4\): expected \(4,\) or"),
        (
            np.zeros(4),
            1,
            r"state of shapes \[\(1, 1, 64\), .*\]: expected \[\(1, 64\), .*initial_state\(\) or",
        ),
        (np.zeros((3, 4)), 2, r"expected \[\(3, 1, 64\), .*initial_state\(3\) or the call before"),
    ],
)
def test_a_wrong_shape_is_refused_in_one_line(observation, batch, message):
    cfg = Config.preset("masked-cartpole")
    agent = Agent(stirred(cfg), cfg.env)
    with pytest.raises(UserError, match=message) as caught:
        agent.act(observation, agent.initial_state(batch))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "observation, message",
    [
        (
            [[0.0, 1.0], [1.0]],
            r"the observation \[\[0.0, 1.0\], \[1.0\]\]: expected numbers, as CartPole-v1 returns",
        ),
        ([0.0, 1.0, None, 2.0], r"the observation \[0.0, 1.0, None, 2.0\]: expected numbers"),
        (["a"] * 4, "the observation .*: expected numbers"),
        (None, "the observation None: expected numbers"),
    ],
)
def test_an_observation_without_numbers_is_refused_in_one_line(observation, message):
    cfg = Config.preset("masked-cartpole")
    agent = Agent(stirred(cfg), cfg.env)
    with pytest.raises(UserError, match=message):
        agent.act(observation, agent.initial_state())


@pytest.mark.parametrize(
    "convert, message",
    [
        (lambda state: None, "a state of type NoneType: expected a tuple, from initial_state"),
        (
            lambda state: [part.astype(float) for part in state],
            r"types \['float64', 'float64'\]: expected float32",
        ),
        (
            lambda state: [torch.tensor(part) for part in state],
            r"types \['torch.float32', .*: expected float32 of",
        ),
        (
            lambda state: [part.tolist() for part in state],
            r"types \['list', 'list'\]: expected float32 of NumPy",
        ),
    ],
)
def test_a_state_of_another_type_is_refused_in_one_line(convert, message):
    cfg = Config.preset("masked-cartpole")
    agent = Agent(stirred(cfg), cfg.env)
    with pytest.raises(UserError, match=message):
        agent.act(np.zeros(4), convert(agent.initial_state()))


def test_a_message_says_where_pictures_and_stacks_come_from():
    pixels = Config.preset("pixel-cartpole")
    stack = Config.preset("masked-cartpole").replace(env={"stack": 4})
    for cfg, message in (
        (pixels, r"expected \(1, 84, 84\) or .*, a picture of recdqn.envs.RenderedPixels"),
        (stack, r"expected \(4, 4\) or \(batch, 4, 4\), the last 4 observations of CartPole-v1"),
    ):
        agent = Agent(stirred(cfg), cfg.env)
        with pytest.raises(UserError, match=message):
            agent.act(np.zeros((3, 2)), agent.initial_state())


def test_a_picture_of_another_size_is_refused():
    cfg = Config.preset("pixel-cartpole")
    agent = Agent(stirred(cfg), cfg.env)
    with pytest.raises(UserError, match=r"\(84, 84, 1\): expected \(1, 84, 84\) or \(batch, 1, 84, 84\)"):
        agent.act(np.zeros((84, 84, 1), np.uint8), agent.initial_state())
