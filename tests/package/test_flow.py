"""The path of the hidden state through a rollout, against loops written here."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict.nn import TensorDictSequential
from torchrl.envs import ParallelEnv, SerialEnv, TransformedEnv
from torchrl.envs.utils import step_mdp
from torchrl.modules import LSTMModule

from recdqn import Config, add_primers, make_env, make_policy
from recdqn.errors import ConfigError, UserError
from recdqn.flow import STAGES, norms, recurrent_keys, table, trace

H, C = "recurrent_state_h", "recurrent_state_c"
STEPS = 40  # at least one of CartPole's episodes ends within them, mostly two or three


def build(num_envs=1, cell="lstm", seed=0):
    """A small policy and its environment; ``seed`` seeds all random numbers."""
    torch.manual_seed(seed)
    cfg = Config.preset("masked-cartpole").replace(
        env={"num_envs": num_envs}, policy={"cell": cell, "features": 16, "hidden_size": 12}
    )
    env = make_env(cfg.env)
    policy = make_policy(cfg.policy, env)
    add_primers(env, policy)
    start(env, seed)
    return cfg, env, policy


def start(env, seed=0):
    env.set_seed(seed)
    torch.manual_seed(seed)


def rename(policy, *states):
    """The policy with the same weights, its LSTM writing to other keys."""
    memory = LSTMModule(lstm=policy[1].lstm, in_keys=["embed", H, C], out_keys=["memory", *states])
    return TensorDictSequential(policy[0], memory, *list(policy)[2:])


def assert_same(a, b):
    assert set(a.keys(True, True)) == set(b.keys(True, True))
    for key in a.keys(True, True):
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=0, msg=str(key))


@torch.no_grad()
def by_hand(env, policy, steps, move):
    """Reset, policy, step, ``move``, and a reset of the rows that are done."""
    stored, td = [], env.reset()
    for _ in range(steps):
        td = env.step(policy(td))
        stored.append(td.clone())
        td = move(td)
        if td["done"].any():
            td["_reset"] = td["done"].clone()
            td = env.reset(td)
    return torch.stack(stored, -1)


@torch.no_grad()
def rollout(env, policy, steps):
    return env.rollout(steps, policy, break_when_any_done=False)


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 1000), num_envs=st.sampled_from([1, 3]), cell=st.sampled_from(["lstm", "gru"]))
def test_loop_by_hand_rollout_and_trace_are_equal(seed, num_envs, cell):
    _, env, policy = build(num_envs, cell, seed)
    hand = by_hand(env, policy, STEPS, env.step_mdp)
    start(env, seed)
    assert_same(hand, rollout(env, policy, STEPS))
    start(env, seed)
    assert_same(hand, torch.stack([step.data for step in trace(env, policy, STEPS)], -1))
    start(env, seed)
    function = by_hand(env, policy, STEPS, step_mdp)  # with a primer, it moves the same
    assert_same(hand, function)
    if num_envs == 3:
        assert hand["next", "done"].any()


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 1000))
def test_states_equal_a_plain_lstm_that_starts_each_episode_from_zeros(seed):
    _, env, policy = build(seed=seed)
    data = rollout(env, policy, STEPS)
    plain = torch.nn.LSTM(16, 12, batch_first=True)
    plain.load_state_dict(policy[1].lstm.state_dict())
    done = True
    for step in data:
        assert step["is_init"].item() == done
        if done:
            h = c = torch.zeros(1, 1, 12)
        torch.testing.assert_close(step[H], h[0], rtol=0, atol=1e-6)
        torch.testing.assert_close(step[C], c[0], rtol=0, atol=1e-6)
        with torch.no_grad():
            output, (h, c) = plain(policy[0].module(step["observation"]).view(1, 1, -1), (h, c))
        torch.testing.assert_close(step["memory"], output[0, 0], rtol=0, atol=1e-6)
        torch.testing.assert_close(step["next", H], h[0], rtol=0, atol=1e-6)
        torch.testing.assert_close(step["next", C], c[0], rtol=0, atol=1e-6)
        done = step["next", "done"].item()


def test_trace_records_the_state_at_each_stage():
    _, env, policy = build(num_envs=3)
    data = rollout(env, policy, STEPS)
    start(env)
    steps = trace(env, policy, STEPS)
    assert data["next", "done"].sum() >= 2
    for t, step in enumerate(steps):
        before, after, stepped, moved, reset = (step.state[stage] for stage in STAGES)
        read, written, done = data[H][:, t], data["next", H][:, t], data["next", "done"][:, t]
        for entries in (before, after, stepped):
            assert torch.equal(entries.root, read)
        for value in (after.next, stepped.next, moved.root, step.written):
            assert torch.equal(value, written)
        assert before.next is moved.next is reset.next is None
        assert torch.equal(reset.root, torch.where(done[..., None], 0.0, written))
        assert torch.equal(step.done, done.squeeze(-1))
        assert torch.equal(step.is_init, data["is_init"][:, t].squeeze(-1))
        assert torch.equal((read == 0).flatten(1).all(-1), step.is_init)
        if t:
            assert torch.equal(read, steps[t - 1].state["after maybe_reset"].root)


def test_norms_and_table():
    _, env, policy = build(num_envs=2)
    steps = trace(env, policy, 3)
    expected = torch.stack([step.data["next", H].square().sum((-1, -2)).sqrt() for step in steps], -1)
    torch.testing.assert_close(norms(steps, "after the policy", "next"), expected)
    assert norms(steps, "before the policy", "next").isnan().all()
    lines = [line.strip("| ").split(" | ") for line in table(steps[1], row=1).splitlines()]
    before, after = f"{steps[1].data[H][1].norm():.4f}", f"{expected[1, 1]:.4f}"
    assert [line[-2:] for line in lines[2:]] == [
        [before, "–"], [before, after], [before, after], [after, "–"], [after, "–"]
    ]  # fmt: skip


def test_gru_has_one_state_and_lstm_two():
    assert recurrent_keys(build()[2]) == [(H, ("next", H)), (C, ("next", C))]
    assert recurrent_keys(build(cell="gru")[2]) == [("recurrent_state", ("next", "recurrent_state"))]


def test_trace_rejects_no_steps_and_no_memory():
    _, env, policy = build()
    with pytest.raises(ConfigError, match="steps=0"):
        trace(env, policy, 0)
    with pytest.raises(UserError, match="no memory"):
        trace(env, policy[0], 1)


@pytest.mark.parametrize("kind", ["serial", "vectorised"])
def test_rows_of_a_batched_env_equal_environments_that_run_alone(kind):
    cfg, together, policy = build(num_envs=3)
    single = cfg.replace(env={"num_envs": 1}).env
    if kind == "serial":
        together = TransformedEnv(SerialEnv(3, functools.partial(make_env, single)))
        together.append_transform(policy[1].make_tensordict_primer())
    start(together)
    data = rollout(together, policy[:-1], STEPS)
    assert data["next", "done"].any() and not data["next", "done"].all(0).any()
    env, seed = make_env(single).append_transform(policy[1].make_tensordict_primer()), 0
    for row in range(3):
        following = env.set_seed(seed)
        alone = rollout(env, policy[:-1], STEPS)
        for key in (H, C, ("next", H), ("next", C), "action_value", "observation", "is_init"):
            torch.testing.assert_close(data[row][key], alone[key], rtol=0, atol=1e-5, msg=str(key))
        seed = following if kind == "serial" else row + 1


def test_parallel_envs_and_primers_in_each_row_change_nothing():
    cfg, _, policy = build()
    primer, results = policy[1].make_tensordict_primer, []
    for kind, inside in ((SerialEnv, False), (SerialEnv, True), (ParallelEnv, False)):
        if inside:
            env = kind(2, lambda: make_env(cfg.env).append_transform(primer()))
        else:
            env = TransformedEnv(kind(2, functools.partial(make_env, cfg.env)), primer())
        try:
            env.reset()  # starts the workers, which then can be seeded
            env.set_seed(0)
            results.append(torch.stack([step.data for step in trace(env, policy[:-1], 25)], -1))
        finally:
            env.close()
    assert results[0]["next", "done"].any()
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])


def test_method_needs_the_primer_and_function_does_not():
    cfg, _, policy = build()
    bare = make_env(cfg.env)
    for move, remembers in ((bare.step_mdp, False), (step_mdp, True)):
        with torch.no_grad():
            td = move(bare.step(policy(bare.reset())))
        assert (H in td.keys()) == remembers


def test_new_name_without_next_leaves_zeros_at_the_root():
    _, env, policy = build(num_envs=3)
    steps = trace(env, rename(policy, "h_new", "c_new"), STEPS)
    for stage in STAGES:
        assert (norms(steps, stage, "root") == 0).all()
    assert all(step.written.flatten(1).any(-1).all() for step in steps)


def test_same_name_without_next_acts_alike_and_stores_the_wrong_state():
    _, env, policy = build(num_envs=3)
    good = rollout(env, policy, STEPS)
    start(env)
    bad = rollout(env, rename(policy, H, C), STEPS)
    assert_same(good.exclude(H, C), bad.exclude(H, C))
    assert torch.equal(bad[H], good["next", H]) and not torch.equal(bad[H], good[H])


def test_velocity_is_the_change_of_the_next_observation():
    """The velocity from two observations is the simulator's."""
    cfg, env, policy = build()
    with torch.no_grad():
        td = env.reset()
        for _ in range(5):
            hidden = torch.tensor(env.base_env.gym.unwrapped.state, dtype=torch.float)[[1, 3]]
            td = env.step(policy(td))
            change = td["next", "observation"] - td["observation"]
            torch.testing.assert_close(change / torch.tensor(cfg.env.scale) / 0.02, hidden, rtol=0, atol=1e-3)
            td = env.step_mdp(td)
