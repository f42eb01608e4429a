"""A small recurrent policy on CartPole, made of TorchRL's parts."""

import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torchrl.envs import Compose, GymEnv, TransformedEnv
from torchrl.modules import EGreedyModule, LSTMModule, QValueModule


def lstm(**options):
    return LSTMModule(4, 3, **({"in_key": "embed", "out_key": "memory"} | options))


def cartpole(*transforms):
    env = TransformedEnv(GymEnv("CartPole-v1"), Compose(*transforms))
    env.set_seed(0)
    return env


def policy_of(memory, eps=1.0):
    features = TensorDictModule(torch.nn.Linear(4, 4), ["observation"], ["embed"])
    head = TensorDictModule(torch.nn.Linear(3, 2), ["memory"], ["action_value"])
    spec = GymEnv("CartPole-v1").action_spec
    return TensorDictSequential(features, memory, head, QValueModule(spec=spec), EGreedyModule(spec, eps))
