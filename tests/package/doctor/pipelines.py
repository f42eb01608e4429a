"""Pipelines without bugs, from the package and from TorchRL's parts, for the tests of the doctor."""

from functools import cache, partial

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, SliceSampler, TensorDictReplayBuffer, Unbounded
from torchrl.envs import (
    Compose,
    GymEnv,
    InitTracker,
    StepCounter,
    TensorDictPrimer,
    TransformedEnv,
    UnaryTransform,
)
from torchrl.modules import EGreedyModule, LSTMModule, QValueModule
from torchrl.objectives import SoftUpdate

from recdqn import (
    Config,
    RecurrentDQNLoss,
    add_primers,
    make_collector,
    make_env,
    make_policy,
    make_replay_buffer,
)
from recdqn.envs import hide_velocities

H, C = STATES = ("recurrent_state_h", "recurrent_state_c")
TRAJECTORY = ("collector", "traj_ids")


def small(preset="masked-cartpole", cell="lstm", num_envs=4, **policy) -> Config:
    return Config.preset(preset).replace(
        env={"num_envs": num_envs},
        policy={"cell": cell, "hidden_size": 16, "features": 16, "head": 16, "channels": (4, 4, 4), **policy},
        replay={"capacity": 2_000, "slices": 8, "slice_len": 8},
        train={"total_frames": 512, "frames_per_batch": 64},
    )


def pipeline(cfg=None, loss=RecurrentDQNLoss, anneal=True) -> dict:
    """All parts except ``batch``, made with the package."""
    cfg = cfg or small()
    env = make_env(cfg.env)
    env.set_seed(0)
    policy = make_policy(cfg.policy, env)
    add_primers(env, policy)
    buffer = make_replay_buffer(cfg)
    collector = make_collector(cfg, env, policy, buffer)
    for _ in collector:
        if anneal:
            policy[-1].step(cfg.train.frames_per_batch)
    collector.shutdown()
    loss_fn = loss(policy[:-1], action_space=env.action_spec_unbatched)
    updater = SoftUpdate(loss_fn, tau=0.1)
    return {"env": env, "policy": policy, "buffer": buffer, "loss": loss_fn, "updater": updater}


def select(parts: dict, *names) -> dict:
    return {name: parts[name] for name in names}


def codes(report) -> list[str]:
    return [finding.code for finding in report.findings]


def vector_env(*transforms, tracker=True):
    """One CartPole without velocities."""
    hide = UnaryTransform(in_keys=["observation"], out_keys=["observation"], fn=hide_velocities)
    marks = [StepCounter(), *([InitTracker()] if tracker else [])]
    env = TransformedEnv(GymEnv("CartPole-v1"), Compose(hide, *marks, *transforms))
    env.set_seed(0)
    return env


def lstm(**keys):
    keys = keys or {"in_key": "embed", "out_key": "memory"}
    return LSTMModule(input_size=8, hidden_size=8, **keys)


def network(memory=None, eps=1.0, exploration=True):
    """An LSTM policy for ``vector_env``."""
    memory = memory or lstm()
    spec = GymEnv("CartPole-v1").action_spec
    modules = [
        TensorDictModule(nn.Sequential(nn.Linear(2, 8), nn.Tanh()), ["observation"], ["embed"]),
        memory,
        TensorDictModule(nn.Linear(8, 2), [memory.out_keys[0]], ["action_value"]),
        QValueModule(spec=spec),
    ]
    if exploration:
        modules.append(EGreedyModule(spec, eps_init=eps, annealing_num_steps=100_000))
    return TensorDictSequential(*modules)


def primed(policy, *transforms):
    return vector_env(policy[1].make_tensordict_primer(), *transforms)


def primer(*keys, size=8, **settings):
    return TensorDictPrimer({key: Unbounded((1, size)) for key in keys}, **settings)


def collect(env, policy, frames=600) -> TensorDictBase:
    collector = Collector(env, policy, frames_per_batch=100, total_frames=frames)
    data = torch.cat([data.reshape(-1).clone() for data in collector])
    collector.shutdown(close_env=False)
    return data


def slices(**options):
    return SliceSampler(**{"slice_len": 8, "traj_key": TRAJECTORY, "strict_length": False} | options)


def stored(data, sampler=None, exclude=(), kind=TensorDictReplayBuffer, **options):
    """A buffer of single steps that holds ``data``."""
    sampler = sampler or slices()
    buffer = kind(storage=LazyTensorStorage(2_000), sampler=sampler, batch_size=64, **options)
    buffer.extend(data.exclude(*exclude))
    return buffer


@cache
def played():
    """A policy and 600 steps of it, to be stored in different ways; the same whichever test comes first."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        policy = network()
        return policy, collect(primed(policy), policy)


soft_update = partial(SoftUpdate, tau=0.1)


def loss_parts(loss=RecurrentDQNLoss, updater=soft_update) -> dict:
    loss_fn = loss(network(exploration=False), action_space="one-hot")
    return {"loss": loss_fn, "updater": updater(loss_fn)}
