"""Planted bugs of what is stored: values of other steps, other scales, copies, and what is never sampled."""

import torch
from pipelines import STATES, H, network, played, primed, slices, stored
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.data import LazyTensorStorage, PrioritizedSampler, TensorDictReplayBuffer
from torchrl.envs import RewardScaling, StepCounter, Transform
from torchrl.modules import QValueModule
from torchrl.objectives import SoftUpdate

from recdqn import RecurrentDQNLoss

REWARD = ("next", "reward")


def replaced(change, *transforms, **options):
    """The parts of ``played``, with stored data that ``change`` has changed."""
    policy, data = played()
    return {
        "env": primed(policy, *transforms),
        "policy": policy,
        "buffer": stored(change(data.clone()), **options),
    }


def earlier(*keys):
    def change(data):
        for key in keys:
            data[key] = data[key].roll(1, 0)
        return data

    return change


def other_actions(data):
    torch.manual_seed(1)
    data["action"] = nn.functional.one_hot(torch.randint(2, (len(data),)), 2)
    return data


def no_reward(data):
    data[REWARD] = torch.zeros_like(data[REWARD])
    return data


class Angle(Transform):
    """Pay for the angle, so that every reward is another."""

    def _step(self, tensordict, next_tensordict):
        return next_tensordict.set("reward", angle(next_tensordict))

    def _reset(self, tensordict, tensordict_reset):
        return tensordict_reset


def angle(td):
    return 1 - 10 * td["observation"][..., 1:].abs()


def paid(change):
    """The parts of ``replaced``, with rewards for the angle."""
    return replaced(lambda data: change(data.set(REWARD, angle(data["next"]))), Angle())


def sums_of_three(data):
    reward = data[REWARD].clone()
    for k in (1, 2):
        data[REWARD][:-k] += 0.99**k * reward[k:]
    return data


def marked_where_done(data):
    return data.set("is_init", data["next", "done"].clone())


def without_states_at_first(data):
    """The first steps were made by a random policy, and nothing counts the steps."""
    for key in STATES:
        data[key][:200] = data["next", key][:200] = 0
    return data.exclude("step_count", ("next", "step_count"))


def scaled_twice():
    scaling = RewardScaling(0.0, 0.1, in_keys=[REWARD])
    parts = replaced(lambda data: data.set(REWARD, 0.1 * data[REWARD]), RewardScaling(0.0, 0.1))
    parts["buffer"].append_transform(scaling)
    return parts


def truncated_stored_as_terminated():
    policy, data = played()
    env = primed(policy, StepCounter(max_steps=8, step_count_key="count"))
    steps = env.rollout(200, policy, break_when_any_done=False)
    steps["next", "terminated"] = steps["next", "done"].clone()
    steps["collector", "traj_ids"] = steps["is_init"].reshape(-1).cumsum(0)
    return {"env": env, "policy": policy, "buffer": stored(steps)}


def old_states():
    torch.manual_seed(7)
    policy = network()
    return {"policy": policy, "buffer": stored(played()[1])}


def one_step_slices(data):
    data["is_init"] = torch.ones_like(data["is_init"])
    return data


def equal_priorities():
    """A policy without memory, and a prioritised sampler that nothing updates."""
    head = TensorDictModule(nn.Linear(2, 2), ["observation"], ["action_value"])
    policy = TensorDictSequential(head, QValueModule(action_space="one-hot"))
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(1_000), sampler=PrioritizedSampler(1_000, 0.7, 0.9), batch_size=32
    )
    buffer.extend(played()[1].exclude(H))
    return {"policy": policy, "buffer": buffer}


def padded():
    rows = played()[1][:120].reshape(6, 20).clone()
    rows["is_init"][:, 0] = True
    for row, length in enumerate((20, 12, 9, 20, 15, 7)):
        rows[row, length:] = rows[row, length:].apply(torch.zeros_like)
    loss = RecurrentDQNLoss(network(exploration=False), action_space="one-hot")
    return {"batch": rows, "loss": loss, "updater": SoftUpdate(loss, tau=0.1)}


PLANTED = [  # code, part of the message, function that returns the parts
    ("not-finite", repr(REWARD), lambda: replaced(lambda data: data.set(REWARD, data[REWARD] / 0))),
    ("entry-shifted", "'action'", lambda: replaced(earlier("action"))),
    ("entry-shifted", "'observation'", lambda: replaced(earlier("observation"))),
    ("action-not-executed", "'action'", lambda: replaced(other_actions)),
    ("reward-differs", "are 0", lambda: replaced(no_reward)),
    ("reward-differs", "sums of 3", lambda: replaced(sums_of_three)),
    ("scale-differs", "0.1", scaled_twice),
    ("entry-shifted", "one step late", lambda: paid(earlier(REWARD))),
    ("reward-differs", "sums of 3", lambda: paid(sums_of_three)),
    (
        "scale-differs",
        "times the environment's",
        lambda: paid(lambda data: data.set(REWARD, 0.1 * data[REWARD])),
    ),
    ("init-false-start", "stored 'is_init'", lambda: replaced(marked_where_done)),
    ("state-lost", "inside episodes", lambda: replaced(without_states_at_first)),
    (
        "end-not-stored",
        "no stored step is done",
        lambda: replaced(lambda d: d[~d["next", "done"].reshape(-1)]),
    ),
    ("end-mislabelled", "8 steps", truncated_stored_as_terminated),
    ("stored-twice", "copies", lambda: replaced(lambda data: torch.cat([data, data]))),
    ("states-differ", repr(("next", H)), old_states),
    (
        "never-sampled",
        "strict_length",
        lambda: replaced(lambda data: data, sampler=slices(slice_len=32, strict_length=True)),
    ),
    ("slices-of-one-step", "'is_init'", lambda: replaced(one_step_slices)),
    ("priorities-stuck", "PrioritizedSampler", equal_priorities),
    ("padding-counted", "no mask", padded),
]
