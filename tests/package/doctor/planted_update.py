"""Planted bugs of losses, and of what an update trains."""

import copy
from functools import partial

import pytest
import torch
from pipelines import STATES, loss_parts, pipeline, played, stored
from torch import nn
from torchrl.modules import set_recurrent_mode
from torchrl.objectives import SoftUpdate

from recdqn import RecurrentDQNLoss


class Own(nn.Module):
    """One-step Q-learning on slices, with a target network, and one place to plant a bug in.

    Args:
        network: without exploration.
        bug: name of what is wrong, if anything is.
    """

    def __init__(self, network, bug=""):
        super().__init__()
        self.network, self.bug = network, bug
        self.target = copy.deepcopy(network).requires_grad_(False)

    def values(self, network, steps, starts):
        if self.bug == "detached":
            return self.one_by_one(network, steps, starts)
        steps = steps.select(*network.in_keys, strict=False).set("is_init", starts)
        with set_recurrent_mode(True):
            return network(steps)["action_value"]

    def one_by_one(self, network, steps, starts):
        values, following = [], {}
        for k in range(len(steps)):
            step = (
                steps[k]
                .select(*network.in_keys, strict=False)
                .set("is_init", torch.zeros(1, dtype=torch.bool))
            )
            for key in STATES:
                step[key] = step[key] if starts[k] else following[key].detach()
            step = network(step)
            following = {key: step["next", key] for key in STATES}
            values.append(step["action_value"])
        return torch.stack(values)

    def forward(self, batch):
        starts = batch["is_init"].clone()
        starts[0] = True
        value = self.values(self.network, batch, starts)
        chosen = value.amax(-1) if self.bug == "action" else (value * batch["action"]).sum(-1)
        steps = batch if self.bug == "now" else batch["next"]
        if self.bug == "gradient":
            best = self.values(self.network, steps, starts).amax(-1)
        else:
            with torch.no_grad():
                best = self.values(self.target, steps, starts).amax(-1)
        if self.bug == "slice end":
            best = best * ~starts.squeeze(-1).roll(-1)
        end = batch["next", "done" if self.bug == "done" else "terminated"].squeeze(-1)
        goal = batch["next", "reward"].squeeze(-1) * (self.bug != "reward")
        gamma = batch.get("gamma", torch.tensor(0.99)).reshape(-1) if self.bug == "" else 0.99
        error = chosen - goal - gamma * best * ~(end & (self.bug != "end"))
        if (weight := batch.get("priority_weight", None)) is not None and self.bug != "weight":
            error = error * (weight if self.bug == "twice" else weight.sqrt())
        batch["td_error"] = error.detach().square().unsqueeze(-1)
        return error.square().mean()


def own(bug, change=lambda batch: batch):
    policy, data = played()
    batch = change(stored(data).sample())
    return {"policy": policy, "batch": batch, "loss": Own(policy[:-1], bug)}


def first_slices(batch):
    """Fewer steps, since a loss that goes step by step is slow."""
    return batch[:24]


def weighted(batch):
    batch["priority_weight"] = torch.linspace(0.2, 1.0, len(batch))
    return batch


def with_mask(batch):
    batch["next", "action_mask"] = batch["action"].bool()
    return batch


def sums(batch):
    """Sums of three rewards, with the entries that MultiStepTransform writes."""
    batch["next", "original_reward"] = batch["next", "reward"].clone()
    batch["next", "reward"] = batch["next", "reward"] * (1 + 0.9 + 0.81)
    batch["steps_to_next_obs"] = torch.full((len(batch), 1), 3)
    batch["gamma"] = torch.full((len(batch), 1), 0.9**3)
    return batch


def frozen():
    parts = pipeline()
    parts["policy"][1].requires_grad_(False)
    loss = RecurrentDQNLoss(parts["policy"][:-1], action_space="one-hot")
    return parts | {"loss": loss, "updater": SoftUpdate(loss, tau=0.1)}


def of_a_copy():
    parts = pipeline()
    loss = RecurrentDQNLoss(copy.deepcopy(parts["policy"][:-1]), action_space="one-hot")
    return parts | {"loss": loss, "updater": SoftUpdate(loss, tau=0.1)}


def eps_for_tau():
    with pytest.warns(UserWarning, match="eps value < 0.5"):  # TorchRL itself only warns
        return loss_parts(updater=partial(SoftUpdate, eps=0.01))


PLANTED = [  # code, part of the message, function that returns the parts
    ("reward-ignored", "'reward'", lambda: own("reward")),
    ("action-ignored", "'action'", lambda: own("action")),
    ("terminated-ignored", "'terminated'", lambda: own("end")),
    ("bootstrap-stops", "slice ends", lambda: own("done")),
    ("bootstrap-stops", "the reward alone", lambda: own("slice end")),
    ("memory-not-trained", "detached between steps", lambda: own("detached", first_slices)),
    ("action-mask-ignored", "the target takes values", lambda: own("", with_mask)),
    ("target-reads-now", "'observation'", lambda: own("now")),
    ("target-gradient", "'observation'", lambda: own("gradient")),
    ("n-step-discount", "0.729", lambda: own("discount", sums)),
    ("weights-wrong", "does not read", lambda: own("weight", weighted)),
    ("weights-wrong", "twice", lambda: own("twice", weighted)),
    ("memory-not-trained", "requires_grad=False", frozen),
    ("trains-a-copy", "RecurrentDQNLoss", of_a_copy),
    ("target-at-once", "99%", eps_for_tau),
]
