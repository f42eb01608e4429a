"""Messages and corrections have the names of the reader's own entries, and the printed code runs."""

from functools import cache

import pytest
import torch
from pipelines import codes, collect, slices, soft_update, stored
from planted_policy import Zeros
from tensordict.nn import TensorDictModule, TensorDictSequential
from test_healthy import OwnMemory
from torch import nn
from torchrl.data import RandomSampler, Unbounded
from torchrl.envs import (
    Compose,
    GymEnv,
    InitTracker,
    RenameTransform,
    TensorDictPrimer,
    TransformedEnv,
    UnaryTransform,
)
from torchrl.modules import EGreedyModule, LSTMModule, QValueModule, set_recurrent_mode

from benchmarks.planted import Keep, changed
from recdqn import RecurrentDQNLoss, diagnose
from recdqn.envs import hide_velocities

SEEN, PUSH, VALUES, H, C = (("agent", name) for name in ("seen", "push", "values", "h", "c"))
USUAL = ("'observation'", "recurrent_state", "'action'", "traj_ids", "action_value", "priority_weight")


def named_env(*transforms):
    """CartPole without velocities; nothing but rewards and flags has TorchRL's name."""
    rename = RenameTransform(["observation"], [SEEN], in_keys_inv=["action"], out_keys_inv=[PUSH])
    hide = UnaryTransform([SEEN], [SEEN], fn=hide_velocities)
    env = TransformedEnv(GymEnv("CartPole-v1"), Compose(rename, hide, InitTracker(), *transforms))
    env.set_seed(0)
    return env


def named_policy(keys=(H, C), out=(("next", *H), ("next", *C)), see=None, seed=0):
    torch.manual_seed(seed)
    spec = GymEnv("CartPole-v1").action_spec
    memory = LSTMModule(input_size=8, hidden_size=8, in_keys=["embed", *keys], out_keys=["memory", *out])
    return TensorDictSequential(
        TensorDictModule(see or nn.Sequential(nn.Linear(2, 8), nn.Tanh()), [SEEN], ["embed"]),
        memory,
        TensorDictModule(nn.Linear(8, 2), ["memory"], [VALUES]),
        QValueModule(action_space="one-hot", action_value_key=VALUES, out_keys=[PUSH, VALUES, "chosen"]),
        EGreedyModule(spec, eps_init=1.0, annealing_num_steps=100_000, action_key=PUSH),
    )


@cache
def named():
    """A policy and 600 of its steps, with episodes numbered by "episode"."""
    policy = named_policy()
    env = named_env(policy[1].make_tensordict_primer())
    data = collect(env, policy)
    data["episode"] = data["collector", "traj_ids"]
    return policy, data.exclude("collector")


def acting(*transforms, primer=True, **options):
    policy = named_policy(**options)
    primers = [policy[1].make_tensordict_primer()] if primer else []
    return {"env": named_env(*primers, *transforms), "policy": policy}


def by_hand(**options):
    primer = TensorDictPrimer({H: Unbounded((1, 8)), C: Unbounded((1, 8))})
    return {"env": named_env(primer), "policy": named_policy(**options)}


def held(change=lambda data: data, sampler=None, env=False, **options):
    policy, data = named()
    sampler = sampler or slices(traj_key="episode")
    parts = {"policy": policy, "buffer": stored(change(data.clone()), sampler, **options)}
    return parts | ({"env": named_env(policy[1].make_tensordict_primer())} if env else {})


def learnt(change):
    """A loss that sees a changed batch."""
    parts = held()
    loss = RecurrentDQNLoss(parts["policy"][:-1], action_space="one-hot", n_steps=1)
    loss.set_keys(action=PUSH, action_value=VALUES)
    parts["updater"] = soft_update(loss)

    def own(batch):
        seen = change(batch.clone())
        total = loss(seen)["loss"]
        batch["td_error"] = seen["td_error"]
        return total

    return parts | {"loss": own}


def late(*keys):
    def change(data):
        for key in keys:
            data[key] = data[key].roll(1, 0)
        return data

    return change


def any_action(data):
    torch.manual_seed(1)
    data[PUSH] = nn.functional.one_hot(torch.randint(2, (len(data),)), 2)
    return data


def target_of_now():
    parts = held()
    network = parts["policy"][:-1]

    def own(batch):
        with set_recurrent_mode(True):
            values = network(batch.select(*network.in_keys))[VALUES]
        best = values.detach().amax(-1) * ~batch["next", "terminated"].squeeze(-1)
        error = (values * batch[PUSH]).sum(-1) - batch["next", "reward"].squeeze(-1) - 0.9 * best
        batch["td_error"] = error.detach().square()
        return error.square().mean()

    return parts | {"loss": own}


def without_reward(batch):
    batch["next", "reward"] = torch.zeros_like(batch["next", "reward"])
    return batch


def with_images(data):
    data["agent", "image"] = torch.zeros(len(data), 1, 28, 28)
    data["next", "agent", "image"] = torch.zeros(len(data), 1, 28, 28)
    return data


class OverwritesItsInput(nn.Sequential):
    def forward(self, value):
        return super().forward(value.mul_(0.5))


PRIMED = "env.append_transform(policy[1].make_tensordict_primer())"
CASES = [  # code, part of the correction, function that returns the parts
    ("no-primer", PRIMED, lambda: acting(primer=False)),
    ("primer-mismatch", PRIMED, lambda: acting(TensorDictPrimer({H: Unbounded((1, 5))}))),
    ("out-key-without-next", "('next', 'agent', 'h')", lambda: by_hand(out=["h_new", "c_new"])),
    ("state-overwritten", "('next', 'agent', 'h')", lambda: by_hand(out=[H, C])),
    ("state-not-carried", "('agent', 'h')", lambda: acting(Zeros(in_keys=[H]))),
    ("state-over-episode", "('agent', 'h')", lambda: acting(Keep(in_keys=[H]))),
    (
        "input-overwritten",
        "td[('agent', 'seen')]",
        lambda: acting(see=OverwritesItsInput(nn.Linear(2, 8), nn.Tanh())),
    ),
    ("unrelated-transitions", "traj_key='episode'", lambda: held(sampler=RandomSampler())),
    (
        "state-lost",
        "('agent', 'h')",
        lambda: held(lambda data: data.exclude(H, C, ("next", *H), ("next", *C))),
    ),
    ("state-not-carried", "('agent', 'h')", lambda: held(transform=changed(lambda h: 0.5 * h, H))),
    ("states-differ", "('next', 'agent', 'h')", lambda: held() | {"policy": named_policy(seed=7)}),
    ("entry-shifted", "('agent', 'push')", lambda: held(late(PUSH), env=True)),
    ("entry-shifted", "('agent', 'seen')", lambda: held(late(SEEN), env=True)),
    ("action-not-executed", "('agent', 'push')", lambda: held(any_action, env=True)),
    ("pixels-float32", "('agent', 'image')", lambda: held(with_images)),
    ("pixels-twice", "('next', 'agent', 'image')", lambda: held(with_images)),
    ("target-reads-now", "('next', 'agent', 'seen')", target_of_now),
    ("reward-ignored", "('next', 'reward')", lambda: learnt(without_reward)),
]


@pytest.mark.parametrize(("code", "named", "plant"), CASES, ids=[f"{c} {n}" for c, n, _ in CASES])
def test_a_correction_names_the_readers_entry(code, named, plant):
    report = diagnose(**plant(), only=[code])
    (finding,) = [f for f in report.findings if f.code == code]
    assert named in finding.fix
    assert not any(name in finding.message + finding.fix for name in USUAL), finding


def test_parts_with_other_names_are_healthy():
    parts = learnt(lambda batch: batch)
    assert codes(diagnose(**parts, env=acting()["env"])) == []


@pytest.mark.parametrize("own", [False, True])
def test_the_printed_primer_is_the_correction(own):
    """Of a layer that makes its primer, and of one that does not."""
    if own:
        head = QValueModule(action_space="one-hot", out_keys=[PUSH, "action_value", "chosen"])
        policy = TensorDictSequential(
            TensorDictModule(nn.Identity(), [SEEN], ["observation"]), OwnMemory(), head
        )
        parts = {"env": named_env(), "policy": policy}
    else:
        parts = acting(primer=False)
    states = ["no-primer", "primer-mismatch", "state-not-carried"]
    (finding,) = diagnose(**parts, only=states).findings
    code = finding.fix.partition(", for")[0]
    tools = {name: globals()[name] for name in ("TensorDictPrimer", "Unbounded")}
    exec(code, parts | tools)  # noqa: S102
    assert finding.code == "no-primer" and codes(diagnose(**parts, only=states)) == []
