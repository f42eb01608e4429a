"""The collector against TorchRL's, and restored in the middle of its episodes."""

import copy
import io
from unittest import mock

import pytest
import torch
from tensordict import assert_close
from tensordict.nn import TensorDictModule, TensorDictSequential
from torchrl.checkpoint import GlobalRNGState
from torchrl.collectors import Collector

from recdqn import add_primers, make_collector, make_env, make_policy, make_replay_buffer
from recdqn.collect import CollectorState
from recdqn.envs import GymnasiumEnv


@pytest.mark.parametrize("num_envs", [1, 4])
def test_a_restored_collector_collects_the_same(tiny, num_envs):
    """Down to the recurrent states and the numbers of the episodes; this fails if TorchRL renames a part."""
    cfg = tiny.replace(env={"num_envs": num_envs}, train={"frames_per_batch": 60})
    policy = make_policy(cfg.policy, make_env(cfg.env))

    def make(seed):
        env = add_primers(make_env(cfg.env), policy)
        env.set_seed(seed)
        buffer = make_replay_buffer(cfg)
        collector = make_collector(cfg, env, copy.deepcopy(policy), buffer)
        return CollectorState(collector, env, replay_seconds=600.0), iter(collector), buffer

    state, collections, buffer = make(seed=0)
    other, other_collections, other_buffer = make(seed=1)
    next(collections)
    file = io.BytesIO()
    torch.save(state.state_dict(), file)
    numbers = GlobalRNGState().state_dict()
    next(collections)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    GlobalRNGState().load_state_dict(numbers)
    assert other.replay() is None
    next(other_collections)
    expected = buffer[:][..., -60 // num_envs :]  # the second collection; [steps] or [num_envs, steps]
    assert expected.numel() == 60 and expected["is_init"].any()
    assert_close(other_buffer[:].exclude("index"), expected.exclude("index"), rtol=0, atol=0)


def collect(cfg, kind, change=lambda policy: policy):
    """Four collections from fresh parts, and the random numbers after them."""
    torch.manual_seed(0)
    env = make_env(cfg.env)
    policy = change(make_policy(cfg.policy, env))
    add_primers(env, policy)
    env.set_seed(0)
    if kind is Collector:
        frames = cfg.train.frames_per_batch
        collector = Collector(env, policy, frames_per_batch=frames, total_frames=4 * frames)
    else:
        collector = make_collector(
            cfg.replace(train={"total_frames": 4 * cfg.train.frames_per_batch}), env, policy, None
        )
    data = torch.cat(list(collector), -1)
    collector.shutdown()
    return data, torch.rand(1)


@pytest.mark.parametrize("num_envs", [1, 4])
@pytest.mark.parametrize("seen", ["masked", "pixels"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "none"])
def test_steps_are_those_of_torchrl(tiny, cell, seen, num_envs):
    """Every entry, over ends of episodes, and the same random numbers."""
    cfg = tiny.replace(
        env={"num_envs": num_envs, "observation": seen, "image_size": 36},
        policy={"cell": cell, "eps_start": 0.5},
        train={"frames_per_batch": 60},
    )
    expected, number = collect(cfg, Collector)
    with mock.patch.object(GymnasiumEnv, "_step", side_effect=AssertionError("a TensorDict for each step")):
        data, same = collect(cfg, None)
    assert expected["is_init"].sum() > num_envs and (expected["action"].argmax(-1) == 0).any()
    assert set(data.keys(True, True)) == set(expected.keys(True, True))
    assert_close(data, expected, rtol=0, atol=0)
    assert torch.equal(same, number)


def test_another_policy_is_stepped_by_torchrl(tiny):
    """One with a module between features and memory that reads two entries."""

    def change(policy):
        twice = TensorDictModule(
            lambda embed, seen: embed + seen.mean(-1, True), ["embed", "observation"], ["embed"]
        )
        return TensorDictSequential(policy[0], twice, *policy[1:])

    cfg = tiny.replace(train={"frames_per_batch": 64})
    (expected, number), (data, same) = (collect(cfg, kind, change) for kind in (Collector, None))
    assert_close(data, expected, rtol=0, atol=0)
    assert torch.equal(same, number)
