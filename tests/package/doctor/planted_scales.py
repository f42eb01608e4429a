"""Planted bugs of scale: rewards that are scaled twice, and inputs of the network that are."""

import torch
from pipelines import lstm, network, pipeline, played, primed, soft_update, stored, vector_env
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.data import Unbounded
from torchrl.envs import RewardScaling, SerialEnv, Transform

from recdqn import RecurrentDQNLoss

SCALING = (0.0, 0.1)


def in_the_workers_too():
    policy = network()
    worker = lambda: vector_env(RewardScaling(*SCALING))  # noqa: E731
    env = SerialEnv(2, worker)
    env = env.append_transform(RewardScaling(*SCALING))
    env.set_seed(0)
    return {"env": env.append_transform(policy[1].make_tensordict_primer())}


def in_the_loss_too(outside=0.1, inside=0.1, halved=False):
    policy, data = played()
    data = data.clone()
    data["next", "reward"] = outside * data["next", "reward"]
    inner = RecurrentDQNLoss(policy[:-1], action_space="one-hot", n_steps=1)
    updater = soft_update(inner)

    def loss(batch):
        seen = batch.clone()
        seen["next", "reward"] = inside * batch["next", "reward"]
        total = inner(seen)["loss"]
        batch["td_error"] = seen["td_error"] / (2 if halved else 1)
        return total

    loss.updater = updater
    scaling = [RewardScaling(0.0, outside)] if outside != 1 else []
    return {"env": primed(policy, *scaling), "buffer": stored(data), "loss": loss}


def seen_smaller_in_the_loss():
    parts = pipeline()
    inner = parts["loss"]

    def loss(batch):
        seen = batch.clone()
        for key in ("observation", ("next", "observation")):
            seen[key] = batch[key] / 255
        return inner(seen)["loss"]

    return {"policy": parts["policy"], "buffer": parts["buffer"], "loss": loss}


class Picture(Transform):
    """Show the position in a picture of numbers up to 1."""

    def _call(self, next_tensordict):
        value = next_tensordict["observation"]
        picture = torch.zeros(1, 28, 28)
        picture[0] = value.mean().sigmoid()
        picture[0, 0, 0] = 1.0
        return next_tensordict.set("picture", picture)

    def _reset(self, tensordict, tensordict_reset):
        return self._call(tensordict_reset)

    def transform_observation_spec(self, observation_spec):
        observation_spec["picture"] = Unbounded((1, 28, 28))
        return observation_spec


class Divided(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.by, self.layer = by, nn.Linear(784, 8)

    def forward(self, picture):
        return self.layer(picture.flatten(-3) / self.by)


def pictures(by=255.0):
    rest = network(lstm(in_key="embed", out_key="memory"))
    features = TensorDictModule(Divided(by), ["picture"], ["embed"])
    return {"env": primed(rest, Picture()), "policy": TensorDictSequential(features, *rest[1:])}


PLANTED = [  # code, part of the message, function that returns the parts
    ("scale-differs", "0.1 and by 0.1 in the environment", in_the_workers_too),
    ("scale-differs", "0.1 in the environment and by 0.1 in loss", in_the_loss_too),
    ("scale-differs", "reads values up to", seen_smaller_in_the_loss),
    ("scale-differs", "divides it by 255 again", pictures),
]
