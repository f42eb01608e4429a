"""Planted bugs of the policy, and of the path of its state through the environment."""

import torch
from pipelines import C, H, lstm, network, pipeline, primed, primer, select, small, vector_env
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.envs import SerialEnv, Transform
from torchrl.modules import EGreedyModule

from benchmarks.planted import Keep, always_exploring


class Zeros(Transform):
    """Write zeros into an entry after every step."""

    def _step(self, tensordict, next_tensordict):
        for key in self.in_keys:
            next_tensordict.set(key, torch.zeros_like(next_tensordict.get(key)))
        return next_tensordict

    def _reset(self, tensordict, tensordict_reset):
        return tensordict_reset


def by_hand(*keys, out):
    """A policy whose state has these keys, with a matching primer."""
    policy = network(lstm(in_keys=["embed", *keys], out_keys=["memory", *out]))
    return {"env": vector_env(primer(*keys)), "policy": policy}


def with_primer(*keys, **settings):
    return {"env": vector_env(primer(*keys, **settings)), "policy": network()}


def transformed(make):
    policy = network()
    return {"env": primed(policy, make(in_keys=[H])), "policy": policy}


def refilled_in_the_workers():
    policy = network()
    return {"env": SerialEnv(2, lambda: primed(policy, Zeros(in_keys=[C]))), "policy": policy}


def recurrent_by_default():
    policy = network(lstm(in_key="embed", out_key="memory", default_recurrent_mode=True))
    return {"env": primed(policy), "policy": policy}


def exploring_in_evaluation():
    policy = always_exploring(network(), share=1.0)
    return {"env": primed(policy), "policy": policy}


def constant_exploration():
    policy = network()
    constant = EGreedyModule(policy[-1].spec["action"], eps_init=1.0, eps_end=1.0)
    return {"policy": TensorDictSequential(*policy[:-1], constant)}


def exploration_never_stepped():
    return select(pipeline(small(eps_frames=1_000), anneal=False), "policy", "buffer")


def two_directions():
    memory = lstm(in_key="embed", out_key="memory", bidirectional=True)
    batch = pipeline()["buffer"].sample()
    for name in (H, C):
        batch[name] = torch.randn(*batch.shape, 2, 8)
    policy = network(exploration=False)
    head = TensorDictModule(nn.Linear(16, 2), ["memory"], ["action_value"])
    return {"policy": TensorDictSequential(policy[0], memory, head, policy[3]), "batch": batch}


def normalised(norm):
    policy = network()
    features = TensorDictModule(nn.Sequential(nn.Linear(2, 8), norm(8)), ["observation"], ["embed"])
    policy = TensorDictSequential(features, *policy[1:])
    return {"env": SerialEnv(2, lambda: primed(network())), "policy": policy}


def not_a_number():
    policy = network()
    with torch.no_grad():
        policy[1].lstm.weight_ih_l0[0, 0] = torch.nan
    return {"policy": policy}


PLANTED = [  # code, part of the message, function that returns the parts
    ("no-primer", repr(H), lambda: {"env": vector_env(), "policy": network()}),
    ("no-primer", repr(H), lambda: {"env": SerialEnv(2, vector_env), "policy": network()}),
    ("primer-mismatch", repr(H), lambda: with_primer("h", "c")),
    ("primer-mismatch", repr(H), lambda: with_primer(H, C, size=5)),
    ("primer-mismatch", repr(H), lambda: with_primer(H, C, default_value=1.0)),
    ("out-key-without-next", "'h_new'", lambda: by_hand("h", "c", out=["h_new", "c_new"])),
    ("state-overwritten", "'h'", lambda: by_hand("h", "c", out=["h", "c"])),
    ("state-not-carried", repr(H), lambda: transformed(Zeros)),
    ("state-not-carried", repr(C), refilled_in_the_workers),
    ("state-over-episode", repr(H), lambda: transformed(Keep)),
    ("recurrent-mode-on", "the policy", recurrent_by_default),
    ("batch-statistics", "BatchNorm1d", lambda: normalised(nn.BatchNorm1d)),
    ("exploration-frozen", "EGreedyModule", constant_exploration),
    ("exploration-frozen", "EGreedyModule", exploration_never_stepped),
    ("explores-in-evaluation", "the policy", exploring_in_evaluation),
    ("sees-future", "last observation", two_directions),
    ("not-finite", "weight_ih_l0", not_a_number),
]
