"""The previous action and its reward as inputs of the policy."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch.testing import assert_close
from torchrl.collectors import Collector
from torchrl.envs import ExplorationType, set_exploration_type

from recdqn import (
    Config,
    Learner,
    add_primers,
    diagnose,
    evaluate,
    load_agent,
    make_collector,
    make_env,
    make_policy,
    make_replay_buffer,
    resume,
    save_checkpoint,
    train,
)
from recdqn.agent import Agent
from recdqn.errors import UserError
from recdqn.run.folder import Run


class Paid(gym.Env):
    """Three actions, of which each pays its number plus the step; an episode takes 3 to 6 steps."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(3, start=5)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.left, self.step_count = int(self.np_random.integers(3, 7)), 0
        return self.seen(), {}

    def step(self, action):
        assert 5 <= action < 8
        self.left, self.step_count = self.left - 1, self.step_count + 1
        return self.seen(), float(action) + 0.1 * self.step_count, self.left == 0, False, {}

    def seen(self):
        return np.array([self.step_count / 10, 0.5], np.float32)


class Drawn(Paid):
    observation_space = gym.spaces.Box(0, 255, (40, 40), np.uint8)

    def seen(self):
        return np.full((40, 40), 20 * self.step_count, np.uint8)


def settings(env=Paid, envs=4, cell="lstm", **parts):
    return Config(
        env={
            "id": env, "observation": "whole", "num_envs": envs, "image_size": 40, "previous": True,
            "reward_scale": 0.1, "loc": (0.0,), "scale": (1.0,),
            "arrays": ("picture",) if env is Drawn else ("ask",),
        },
        policy={"cell": cell, "hidden_size": 8, "features": 6, "head": 8, "bfloat16": False, "eps_end": 0.5},
        replay={"slice_len": 4, "slices": 6, "capacity": 400},
        train={
            "total_frames": 480, "frames_per_batch": 40, "warmup_frames": 80, "updates": 2, "eval_every": 4,
            "eval_episodes": 3, "solved_return": 1e6, "save_seconds": 0.0,
        },
    ).replace(**parts)  # fmt: skip


def stirred(cfg, factor=2.0):
    torch.manual_seed(1)
    policy = make_policy(cfg.policy, make_env(cfg.env))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(factor)
    return policy


def check_steps(steps):
    """Each step sees what the step before did, and zeros at the start of an episode."""
    steps = steps.reshape(-1, steps.shape[-1])
    done = torch.cat([steps["action"], 0.1 * (steps["action"].argmax(-1, True) + 5)], -1)
    done[..., -1:] += 0.01 * (steps["step_count"] + 1)  # Paid's rewards, times reward_scale
    assert_close(steps["next", "previous"], done)
    starts = steps["step_count"][:, 1:, 0] == 0
    before = done[:, :-1].masked_fill(starts[..., None], 0.0)
    assert_close(steps["previous"][:, 1:], before)
    assert not steps["previous"][:, 0].any() and starts.any() and not starts.all()


@pytest.mark.parametrize("env", [Paid, Drawn])
@pytest.mark.parametrize("envs", [1, 4])
def test_a_rollout_has_the_action_and_the_reward_of_the_step_before(env, envs):
    cfg = settings(env, envs)
    policy = stirred(cfg)
    seen = add_primers(make_env(cfg.env), policy)
    check_steps(seen.rollout(20, policy, break_when_any_done=False))


@pytest.mark.parametrize("cell", ["lstm", "gru", "none"])
@pytest.mark.parametrize("env, envs", [(Paid, 4), (Paid, 1), (Drawn, 4)])
def test_the_fast_collector_collects_what_torchrl_does(env, envs, cell):
    cfg = settings(env, envs, cell)
    policy, found = stirred(cfg), []
    for make in (make_collector, plain_torchrl):
        made = add_primers(make_env(cfg.env), policy)
        made.set_seed(3)
        torch.manual_seed(4)
        collector = make(cfg, made, policy, None)
        batches = iter(collector)
        found.append(torch.cat([next(batches).clone() for _ in range(2)], -1))
        collector.shutdown()
    ours, theirs = found
    check_steps(ours)
    assert (ours == theirs.select(*ours.keys(True, True))).all()


def plain_torchrl(cfg, env, policy, buffer):
    frames = cfg.train.frames_per_batch
    return Collector(env, policy, frames_per_batch=frames, total_frames=10 * frames)


@pytest.mark.parametrize("env", [Paid, Drawn])
def test_the_recurrent_layer_reads_features_action_and_reward(env):
    """The values of a rollout, computed by hand from its entries."""
    cfg = settings(env)
    policy = stirred(cfg)
    made = add_primers(make_env(cfg.env), policy)
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        steps = made.rollout(12, policy, break_when_any_done=False)
        network, cell = policy[0].module.features, policy[1].lstm
        state = None
        for t in range(12):
            fresh = steps["is_init"][:, t]
            features = network(steps["pixels" if env is Drawn else "observation"][:, t])
            inputs = torch.cat([features, steps["previous"][:, t]], -1)
            if state is not None:
                state = tuple(part.masked_fill(fresh[None], 0.0) for part in state)
            output, state = cell(inputs[:, None], state)
            assert_close(policy[2].module(output[:, 0]), steps["action_value"][:, t])


def test_slices_of_the_buffer_and_the_loss(tmp_path):
    """A slice begins with the action before it, and the loss equals one computed slice by slice."""
    cfg = settings(loss={"n_steps": 1, "double_dqn": False, "gamma": 0.9})
    env = make_env(cfg.env)
    learner = Learner(cfg, env)
    add_primers(env, learner.policy)
    buffer = make_replay_buffer(cfg, tmp_path)
    batches = iter(make_collector(cfg, env, learner.policy, buffer))
    for _ in range(4):
        next(batches)
    batch = buffer.sample()
    inside = batch["step_count"][:, 0] > 0
    assert (batch["previous"][inside, :3].sum(-1) == 1).all() and not batch["previous"][~inside].any()
    assert batch["is_init"][inside].any()

    with torch.no_grad():
        loss = learner.loss(batch)["loss"]
        features, cell, head = policy_parts(learner.policy)
        errors = []
        ends = batch["next", "done"][:, 0].nonzero()[:, 0] + 1
        for rows in torch.arange(len(batch)).tensor_split(ends[:-1]):
            part = batch[rows]
            last = part[-1:]["next"]
            inputs = torch.cat([features(x["observation"], x["previous"]) for x in (part, last)])
            start = tuple(part[key][0] for key in ("recurrent_state_h", "recurrent_state_c"))
            values = head(cell(inputs, start)[0])
            chosen = (values[:-1] * part["action"]).sum(-1)
            after = values[1:].amax(-1) * ~part["next", "terminated"][:, 0]
            errors.append(part["next", "reward"][:, 0] + 0.9 * after - chosen)
    assert_close(loss, torch.cat(errors).square().mean())


def policy_parts(policy: TensorDictSequential):
    return policy[0].module, policy[1].lstm, policy[2].module


@pytest.mark.parametrize("env", [Paid, Drawn])
def test_an_agent_acts_as_in_the_environment(env, tmp_path):
    """A loaded one, in a loop of its own, over several episodes; rewards matter."""
    cfg = settings(env, envs=1)
    policy = stirred(cfg, 3.0)
    save_checkpoint(tmp_path, Run(cfg, policy))
    made = add_primers(make_env(cfg.env), policy)
    made.set_seed(5)
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        steps = made.rollout(15, policy, break_when_any_done=False)
    agent, game = load_agent(tmp_path), env()
    game.reset(seed=5)
    seen, _ = game.reset()
    state, reward, without = agent.initial_state(), 99.0, []  # a reward before the first action is ignored
    assert [part.shape for part in state] == [(1, 8), (1, 8), (3,)]
    for t in range(15):
        values, _ = agent.values(seen, state, reward)
        assert_close(torch.from_numpy(values), steps["action_value"][t], atol=1e-5, rtol=1e-5)
        without.append(np.abs(agent.values(seen, state)[0] - values).max())
        action, state = agent.act(seen, state, reward)
        assert action == steps["action"][t].argmax() + 5
        seen, reward, done, _, _ = game.step(action)
        if done:
            seen, _ = game.reset()
            state = agent.initial_state()
    assert max(without) > 1e-3


def test_an_evaluation_is_that_of_torchrls_environment():
    """A policy that the fast path does not know is stepped in TorchRL's environment."""
    cfg = settings()
    policy = stirred(cfg, 3.0)
    extra = TensorDictModule(lambda observation: observation, ["observation"], ["unused"])
    foreign = TensorDictSequential(*policy[:-1], extra, policy[-1])
    with pytest.raises(UserError):
        Agent(foreign, cfg.env)
    assert evaluate(foreign, cfg.env, 6) == evaluate(policy, cfg.env, 6)


@pytest.mark.parametrize("env", [Paid, Drawn])
def test_a_run_resumes_exactly(env, tmp_path):
    """Stopped in the middle of episodes, after 280 frames."""
    cfg = settings(env, train={"learning_rate": 1e-3, "final_learning_rate": 1e-3})
    whole = train(cfg, progress=False)
    train(cfg.replace(train={"total_frames": 280}), out=tmp_path / "run", progress=False)
    again = resume(tmp_path / "run", frames=480, progress=False)
    for ours, resumed in zip(whole.policy.parameters(), again.policy.parameters(), strict=True):
        assert torch.equal(ours, resumed)


def test_the_doctor_finds_nothing():
    cfg = settings()
    env = make_env(cfg.env)
    learner = Learner(cfg, env)
    add_primers(env, learner.policy)
    assert not diagnose(env=env, policy=learner.policy, loss=learner.loss).findings


def test_a_random_action_is_the_previous_one_of_the_next_step():
    cfg = Config.preset("masked-cartpole").replace(env={"previous": True})
    torch.manual_seed(0)
    agent = Agent(make_policy(cfg.policy, make_env(cfg.env)), cfg.env)
    seen = np.zeros((50, 4), np.float32)
    actions, state = agent.act(seen, agent.initial_state(50), epsilon=1.0)
    assert set(actions) == {0, 1} and state[-1].argmax(-1).tolist() == actions.tolist()
