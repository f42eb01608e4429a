"""Planted bugs of the loss and its target network."""

from functools import partial

import torch
from pipelines import loss_parts, pipeline, select, small
from torchrl.modules import set_recurrent_mode
from torchrl.objectives import DQNLoss, SoftUpdate

from benchmarks.planted import share_target


class OwnLoss:
    """One-step Q-learning in one pass over the batch, as a single number."""

    def __init__(self, network, recurrent=True, leaky=False):
        self.network, self.recurrent, self.leaky = network, recurrent, leaky

    def __call__(self, batch):
        data = batch.select(*self.network.in_keys)
        if self.leaky:
            data["is_init"] = torch.zeros_like(data["is_init"])
        with set_recurrent_mode(self.recurrent):
            value = self.network(data)["action_value"]
        chosen = (value * batch["action"]).sum(-1)
        following = value.detach().amax(-1).roll(-1)
        last = batch["next", "done"].reshape(-1)
        target = batch["next", "reward"].reshape(-1) + torch.where(last, 0.0, 0.99 * following)
        return (chosen - target).square().mean()


def stock_loss(cell="lstm", double=False):
    parts = pipeline(small(cell=cell), partial(DQNLoss, double_dqn=double))
    return select(parts, "buffer", "loss", "updater")


def own_loss(**options):
    parts = pipeline()
    return {"buffer": parts["buffer"], "loss": OwnLoss(parts["policy"][:-1], **options)}


def updater_of_another_loss():
    return {"loss": loss_parts()["loss"], "updater": loss_parts()["updater"]}


def no_target():
    return select(loss_parts(partial(DQNLoss, delay_value=False), updater=lambda loss: None), "loss")


def shared_target():
    parts = loss_parts()
    share_target(parts["loss"])
    return parts


TARGET = "target_value_network_params"
PLANTED = [  # code, part of the message, function that returns the parts
    ("target-leak", "DQNLoss", stock_loss),
    ("target-leak", "DQNLoss", lambda: stock_loss("gru")),
    ("target-leak", "DQNLoss", lambda: stock_loss(double=True)),
    ("target-leak", "OwnLoss", lambda: own_loss(leaky=True)),
    ("recurrent-mode-off", "OwnLoss", lambda: own_loss(recurrent=False)),
    ("target-frozen", TARGET, lambda: select(loss_parts(updater=lambda loss: None), "loss")),
    ("target-frozen", "another loss", updater_of_another_loss),
    ("target-frozen", "SoftUpdate", lambda: loss_parts(updater=partial(SoftUpdate, eps=1.0))),
    ("target-frozen", TARGET, lambda: loss_parts(DQNLoss, updater=partial(SoftUpdate, eps=1.0))),
    ("target-is-online", TARGET, no_target),
    ("target-is-online", TARGET, shared_target),
]
