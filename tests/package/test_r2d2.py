"""Mistakes of other recurrent Q-learners, made by hand, and what is computed here instead."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from slicewise import GAMMA, as_batch, by_hand, close, four_slices, make_loss, make_network, step_by_step
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from recdqn import Learner, add_primers, make_collector, make_env
from recdqn.replay import PrioritySliceSampler, StepUniformSliceSampler

BURN_IN = 2


@pytest.fixture
def item():
    """A slice of six steps from the middle of an episode that a time limit ends."""
    return four_slices()[2]


@pytest.fixture
def networks():
    return make_network(), make_network(seed=1)


def state_after(network, item, steps):
    """The recurrent state after some steps of a slice."""
    state = item.state
    with torch.no_grad():
        for observation in item.observation[:steps]:
            _, state = network[1].lstm(network[0].module(observation)[None], state)
    return state


def errors_of(network, target, item, start, target_start, burn_in=BURN_IN):
    """Squared one-step errors behind the burn-in, if the networks read it from these states."""
    rest = replace(item, observation=item.observation[burn_in:])
    with torch.no_grad():
        value = torch.stack(step_by_step(network, replace(rest, state=start)))
        target_value = torch.stack(step_by_step(target, replace(rest, state=target_start)))
    best = target_value[1:].gather(-1, value[1:].argmax(-1, True))[:, 0]
    chosen = value[:-1].gather(-1, item.action[burn_in:, None])[:, 0]
    return (item.reward[burn_in:] + GAMMA * best - chosen).square()


def test_each_network_reads_the_burn_in_with_its_own_weights_from_the_stored_state(networks, item):
    """The wrong starts are those of Acme's learner in TensorFlow and of rlpyt."""
    network, target = networks
    batch = as_batch([item])
    make_loss(network, target, burn_in=BURN_IN)(batch)
    online_state = state_after(network, item, BURN_IN)
    twice = state_after(target, replace(item, state=online_state), BURN_IN)
    right = errors_of(network, target, item, online_state, state_after(target, item, BURN_IN))
    close(batch["td_error"][BURN_IN:, 0], right)
    for wrong in (online_state, twice):
        assert (errors_of(network, target, item, online_state, wrong) - right).abs().max() > 1e-2
    assert not batch["td_error"][:BURN_IN].any()


def test_a_slice_starts_from_its_stored_state_and_not_from_zeros(networks, item):
    network, target = networks
    batch = as_batch([item])
    make_loss(network, target)(batch)
    zeros = tuple(torch.zeros_like(part) for part in item.state)
    close(batch["td_error"][:, 0], errors_of(network, target, item, item.state, item.state, 0))
    wrong = errors_of(network, target, item, zeros, zeros, 0)
    assert (batch["td_error"][:, 0] - wrong).abs().max() > 1e-2


def test_burn_in_has_no_gradient(networks, item):
    """That of the loss is the gradient from a constant state behind the burn-in; Acme's in JAX is not."""
    network, target = networks
    for flows in (False, True):
        state = item.state
        with torch.set_grad_enabled(flows):
            for observation in item.observation[:BURN_IN]:
                _, state = network[1].lstm(network[0].module(observation)[None], state)
        rest = replace(
            item,
            observation=item.observation[BURN_IN:],
            action=item.action[BURN_IN:],
            reward=item.reward[BURN_IN:],
            state=state,
        )
        value = torch.stack(step_by_step(network, rest))
        with torch.no_grad():
            start = state_after(target, item, BURN_IN)
            target_value = torch.stack(step_by_step(target, replace(rest, state=start)))
            y = rest.reward + GAMMA * target_value[1:].gather(-1, value[1:].argmax(-1, True))[:, 0]
        chosen = value[:-1].gather(-1, rest.action[:, None])[:, 0]
        expected = torch.autograd.grad((chosen - y).square().mean(), list(network.parameters()))
        loss = make_loss(network, target, burn_in=BURN_IN)(as_batch([item]))["loss"]
        found = torch.autograd.grad(loss, list(network.parameters()))
        distance = max((a - b).abs().max() for a, b in zip(found, expected, strict=True))
        assert distance > 1e-2 if flows else distance < 1e-8


@pytest.mark.parametrize("end", ["truncated", "terminated"])
def test_only_a_terminated_episode_stops_the_bootstrap(networks, item, end):
    network, target = networks
    item = replace(item, truncated=end == "truncated", terminated=end == "terminated")
    batch = as_batch([item])
    make_loss(network, target)(batch)
    with torch.no_grad():
        value, after = step_by_step(network, item), step_by_step(target, item)[-1]
    bootstrap = GAMMA * after[value[-1].argmax()] * (end == "truncated")
    close(batch["td_error"][-1, 0], (item.reward[-1] + bootstrap - value[-2][item.action[-1]]).square())


def test_targets_of_several_steps(networks, item):
    """Three rewards and the value three steps later; near the end of the slice as many as are left."""
    network, target = networks
    batch = as_batch([item])
    make_loss(network, target, n_steps=3)(batch)
    with torch.no_grad():
        value, after = step_by_step(network, item), step_by_step(target, item)
    for t, count in enumerate([3, 3, 3, 3, 2, 1]):
        y = sum(GAMMA**k * item.reward[t + k] for k in range(count))
        y += GAMMA**count * after[t + count][value[t + count].argmax()]
        close(batch["td_error"][t, 0], (y - value[t][item.action[t]]).square())


def test_padding_is_in_no_loss_mean_or_target(networks, item):
    """A short slice, filled with zeros to the length of the other one, as Acme's learner in JAX gets it."""
    network, target = networks
    short = replace(item, observation=item.observation[:4], action=item.action[:3], reward=item.reward[:3])
    batch = torch.stack(
        [as_batch([item]), torch.cat([as_batch([short]), torch.zeros_like(as_batch([short]))])]
    )
    batch["collector", "mask"] = torch.arange(12).reshape(2, 6) < 9
    expected, errors = by_hand(network, target, [item, short])
    close(make_loss(network, target)(batch)["loss"], expected)
    close(batch["td_error"].reshape(-1)[:9], errors)
    assert not batch["td_error"].reshape(-1)[9:].any()


LENGTHS = [2, 4, 9, 23]  # shorter than a slice, and longer


@pytest.mark.parametrize("kind", [StepUniformSliceSampler, PrioritySliceSampler])
@pytest.mark.parametrize("period", [0, 3])
def test_short_episodes_are_kept_and_the_ends_of_long_ones_repeat_no_step(kind, period):
    """Deep RL Zoo drops the first kind, and fills the last sequence with steps of the one before it."""
    episode = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    time = torch.cat([torch.arange(n) for n in LENGTHS])
    flags = {"is_init": time[:, None] == 0, ("next", "done"): (time == 0).roll(-1)[:, None]}
    flags["next", "truncated"] = torch.zeros(len(time), 1, dtype=torch.bool)
    sampler = kind(slice_len=6, traj_key="episode", period=period)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(len(time)), sampler=sampler, batch_size=600)
    buffer.extend(TensorDict({"episode": episode, "time": time} | flags, [len(time)]))
    seen = set()
    for _ in range(5):
        batch = buffer.sample()
        ends = (batch["next", "truncated"][:, 0].nonzero()[:, 0] + 1).tolist()
        for first, stop in zip([0, *ends[:-1]], ends, strict=True):
            number, steps = batch["episode"][first:stop], batch["time"][first:stop].tolist()
            assert (number == number[0]).all() and steps == list(range(steps[0], steps[0] + len(steps)))
            seen.add((int(number[0]), steps[0], steps[-1]))
    for number, length in enumerate(LENGTHS):
        starts = range(0, length, period) if period else range(1 - min(6, length), length)
        places = {(number, max(0, at), min(at + min(6, length), length) - 1) for at in starts}
        assert {place for place in seen if place[0] == number} == places


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_state_advances_on_random_actions(tiny, cell):
    """With only random actions the stored states are those of a cell that reads every observation."""
    cfg = tiny.replace(policy={"cell": cell, "eps_start": 1.0, "eps_end": 1.0})
    env = make_env(cfg.env)
    learner = Learner(cfg, env)
    add_primers(env, learner.policy)
    steps = next(iter(make_collector(cfg, env, learner.policy, None)))
    policy, state = learner.policy, None
    layer = policy[1].lstm if cell == "lstm" else policy[1].gru
    key = "recurrent_state_h" if cell == "lstm" else "recurrent_state"
    greedy = steps["action"] == torch.nn.functional.one_hot(steps["action_value"].argmax(-1), 2)
    assert 0.3 < greedy.float().mean() < 0.7
    with torch.no_grad():
        for t in range(steps.shape[1]):
            features = policy[0].module(steps["observation"][:, t])[:, None]
            if state is not None:
                fresh = steps["is_init"][:, t][None]
                parts = state if cell == "lstm" else (state,)
                parts = tuple(part.masked_fill(fresh, 0.0) for part in parts)
                state = parts if cell == "lstm" else parts[0]
                close(steps[key][:, t], parts[0].transpose(0, 1))
            _, state = layer(features, state)


def test_importance_weights_reach_the_loss_once(networks):
    """The weighted mean of the squared errors, by hand, with a weight for each slice."""
    network, target = networks
    slices = four_slices()
    _, errors = by_hand(network, target, slices)
    batch = as_batch(slices)
    each = torch.tensor([1.0, 0.5, 0.25, 0.8], dtype=torch.float64)
    weights = each.repeat_interleave(torch.tensor([len(one) for one in slices]))
    batch["priority_weight"] = weights
    loss = make_loss(network, target)(batch)["loss"]
    close(loss, (weights * errors).sum() / weights.sum())
    assert abs(loss - (weights**2 * errors).sum() / (weights**2).sum()) > 1e-3
    assert np.isclose(batch["td_error"].sum().item(), errors.sum().item())  # priorities have no weights
