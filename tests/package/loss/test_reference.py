"""Loss, errors and gradients against the second implementation, on random and on collected batches."""

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slicewise import (
    Slice,
    as_batch,
    by_hand,
    close,
    make_loss,
    make_network,
    padding,
    random_slice,
)
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, SliceSampler, TensorDictReplayBuffer
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


@st.composite
def problems(draw):
    """Slices in ``rows`` of ``steps``, cut anywhere, with padding."""
    rows, steps = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    cell, layers = draw(st.sampled_from(["lstm", "gru", "none"])), draw(st.integers(1, 2))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    step_count, padded = draw(st.booleans()), draw(st.booleans())
    slices = []
    for _ in range(rows):
        cuts = [k for k in range(1, steps) if draw(st.integers(0, 2)) == 0]
        for low, high in zip([0, *cuts], [*cuts, steps], strict=True):
            if padded and draw(st.integers(0, 3)) == 0:
                slices.append(padding(high - low, generator, cell=cell, layers=layers))
                continue
            end = draw(st.sampled_from(["cut", "terminated", "truncated"]))
            item = random_slice(high - low, generator, cell=cell, layers=layers, end=end)
            begins = draw(st.booleans()) and (
                step_count or cell != "none"
            )  # only a state or a count shows it
            if draw(st.booleans()) if step_count else begins:  # with a count, the state does not matter
                item = replace(item, state=tuple(torch.zeros_like(x) for x in item.state))
            slices.append(replace(item, begins=begins))
    return {
        "slices": slices,
        "shape": (rows, steps) if draw(st.booleans()) else (rows * steps,),
        "network": {"cell": cell, "layers": layers, "categorical": draw(st.booleans())},
        "loss": {
            "n_steps": draw(st.integers(1, 5)),
            "double_dqn": draw(st.booleans()),
            "burn_in": draw(st.integers(0, 4)),
            "value_rescale": draw(st.booleans()),
            "state_source": draw(st.sampled_from(["stored", "zero"])),
        },
        "step_count": step_count,
        "sampler_marks_ends": draw(st.booleans()),
        "rows_start_unmarked": draw(st.booleans()),
    }


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(problems())
def test_loss_errors_and_gradients(problem):
    """Loss, errors and gradients are those of the second implementation."""
    slices, options = problem["slices"], problem["network"]
    network, target = make_network(**options, seed=1), make_network(**options, seed=2)
    reference = copy.deepcopy(network)
    expected, errors = by_hand(reference, target, slices, **problem["loss"])
    expected.backward()

    batch = as_batch(slices, categorical=options["categorical"], step_count=problem["step_count"])
    batch = batch.reshape(problem["shape"])
    if problem["sampler_marks_ends"]:  # SliceSampler calls the last step of every slice truncated
        ends = torch.tensor([len(s) for s in slices]).cumsum(0) - 1
        for key in ("truncated", "done"):
            marked = batch["next", key].reshape(-1)
            marked[ends] = True
            batch["next", key] = marked.reshape(*batch.shape, 1)
    if problem["rows_start_unmarked"]:
        batch["is_init"][..., 0, :] = False  # a row always starts a slice
        flat = batch["is_init"].reshape(-1)  # so does a step after padding
        starts = torch.tensor([0] + [len(s) for s in slices]).cumsum(0)
        flat[[int(starts[k + 1]) for k, s in enumerate(slices[:-1]) if s.padding]] = False
        batch["is_init"] = flat.reshape(*batch.shape, 1)
    loss_fn = make_loss(network, target, categorical=options["categorical"], **problem["loss"])
    result = loss_fn(batch)["loss"]
    result.backward()

    close(result, expected)
    assert batch["td_error"].shape == (*problem["shape"], 1)
    close(batch["td_error"].reshape(-1), errors)
    parameters = dict(network.named_parameters())
    for name, parameter in reference.named_parameters():
        if parameter.grad is None:  # no step is in the loss
            assert parameters[name].grad is None
        else:
            close(parameters[name].grad, parameter.grad, 1e-5)
    assert all(p.grad is None for p in loss_fn.target_value_network_params.parameters())


def collected(cell="lstm", num_envs=2, frames=256, sampler=None):
    """A policy, and a buffer that a collector filled with it."""
    cfg = Config.preset("masked-cartpole").replace(
        env={"num_envs": num_envs},
        policy={"cell": cell, "hidden_size": 16, "features": 8, "head": 8},
        replay={"slice_len": 6, "slices": 8, "capacity": 1_000},
        train={"total_frames": frames, "frames_per_batch": 64},
    )
    torch.manual_seed(0)
    env = make_env(cfg.env)
    env.set_seed(0)
    policy = make_policy(cfg.policy, env)
    add_primers(env, policy)
    if sampler is None:
        buffer = make_replay_buffer(cfg)
    else:
        storage = LazyTensorStorage(1_000, ndim=2)
        buffer = TensorDictReplayBuffer(storage=storage, sampler=sampler, batch_size=48, dim_extend=1)
    collector = make_collector(cfg, env, policy, buffer)
    for _ in collector:
        pass
    collector.shutdown()
    return policy, buffer, env


def cut_at_is_init(batch: TensorDict) -> list[Slice]:
    """Turn a flat batch back into slices, checking that each is one piece of one episode."""
    names = [k for k in ("recurrent_state_h", "recurrent_state_c", "recurrent_state") if k in batch.keys()]
    starts = [*batch["is_init"].squeeze(-1).nonzero().squeeze(-1).tolist(), len(batch)]
    slices = []
    for low, high in zip(starts, starts[1:], strict=False):
        part = batch[low:high]
        assert (part["step_count"].diff(dim=0) == 1).all()
        assert len(part["collector", "traj_ids"].unique()) == 1
        assert (part["next", "observation"][:-1] == part["observation"][1:]).all()
        slices.append(
            Slice(
                observation=torch.cat([part["observation"], part["next", "observation"][-1:]]),
                action=part["action"].long().argmax(-1),
                reward=part["next", "reward"].squeeze(-1),
                state=tuple(part[name][0] for name in names),
                terminated=bool(part["next", "terminated"][-1]),
                begins=bool(part["step_count"][0] == 0),
            )
        )
    return slices


@pytest.mark.parametrize(
    ("cell", "num_envs", "options"),
    [
        ("lstm", 1, {"n_steps": 1, "double_dqn": False}),
        ("gru", 2, {"n_steps": 3, "burn_in": 2}),
        ("lstm", 2, {"n_steps": 5, "burn_in": 3, "value_rescale": True, "double_dqn": False}),
        ("gru", 1, {"n_steps": 2, "burn_in": 1, "state_source": "zero"}),
    ],
)
def test_batches_of_the_buffer(cell, num_envs, options):
    """Batches from a collector and a buffer, over five updates of both networks."""
    policy, buffer, env = collected(cell, num_envs)
    network = policy[:-1].double()
    loss_fn = make_loss(network, **options)
    updater = SoftUpdate(loss_fn, tau=0.3)
    optim = torch.optim.SGD(loss_fn.parameters(), lr=1.0)
    for _ in range(5):
        batch = buffer.sample().apply(lambda x: x.double() if x.is_floating_point() else x)
        slices = cut_at_is_init(batch)
        assert len(slices) == 8 or len(batch) <= 48
        assert {len(s) for s in slices} - set(range(1, 7)) == set()
        online, target = copy.deepcopy(network), copy.deepcopy(network)
        loss_fn.target_value_network_params.data.to_module(target)
        expected, errors = by_hand(online, target, slices, **options)
        result = loss_fn(batch)["loss"]
        close(result, expected)
        close(batch["td_error"].squeeze(-1), errors)
        result.backward()
        expected.backward()
        for a, b in zip(network.parameters(), online.parameters(), strict=True):
            close(a.grad, b.grad, 1e-5)
        optim.step()
        optim.zero_grad()
        updater.step()
    env.close()


def test_padding_from_the_sampler_is_not_in_the_loss():
    """With ``pad_output`` the sampler repeats a short slice's last step and marks the copies as invalid."""
    sampler = SliceSampler(
        slice_len=24, strict_length=False, traj_key=("collector", "traj_ids"), pad_output=True
    )
    policy, buffer, env = collected(sampler=sampler)
    loss_fn = RecurrentDQNLoss(policy[:-1], action_space=env.action_spec_unbatched, n_steps=4)
    SoftUpdate(loss_fn, tau=0.3)
    padded = 0
    for _ in range(10):
        batch = buffer.sample()
        if ("collector", "mask") not in batch.keys(True):  # no short slice among these
            continue
        real = batch["collector", "mask"]
        padded += int((~real).sum())
        plain = batch[real].exclude(("collector", "mask"))
        loss, expected = loss_fn(batch)["loss"], loss_fn(plain)["loss"]
        close(loss, expected, 1e-6)
        close(batch["td_error"][real], plain["td_error"], 1e-6)
    assert padded > 0
    env.close()


def test_the_exploration_module_does_not_change_the_loss():
    policy, buffer, env = collected()
    batch = buffer.sample()
    losses = []
    for network in (policy, policy[:-1]):
        loss_fn = RecurrentDQNLoss(network, action_space=env.action_spec_unbatched)
        SoftUpdate(loss_fn, tau=0.3)
        losses.append(loss_fn(batch.clone())["loss"])
    assert losses[0] == losses[1]
    env.close()
