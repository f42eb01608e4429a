"""A collector that is restored in the middle of its episodes collects what the first one does."""

import copy
import io

import pytest
import torch
from tensordict import assert_close
from torchrl.checkpoint import GlobalRNGState

from recdqn import add_primers, make_collector, make_env, make_policy, make_replay_buffer
from recdqn.collect import CollectorState


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
        return CollectorState(collector, env, replay_seconds=60.0), iter(collector), buffer

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
