"""What recurrent Q-learning must satisfy, and how TorchRL 0.14.1's DQNLoss fails it."""

from dataclasses import replace

import pytest
import torch
from slicewise import (
    GAMMA,
    as_batch,
    by_hand,
    close,
    four_slices,
    make_loss,
    make_network,
    padding,
    random_slice,
    step_by_step,
)
from torch import Tensor
from torchrl.objectives import DQNLoss

from recdqn import RecurrentDQNLoss

BURN_IN = 2
BURNLESS = {RecurrentDQNLoss: {"burn_in": 0}, DQNLoss: {}}  # so that every slice has something to change


def two_networks(loss, **kwargs):
    """Online network and loss; ours also gets n-step targets and burn-in."""
    network, target = make_network(), make_network(seed=1)
    if loss is RecurrentDQNLoss:
        kwargs = {"n_steps": 3, "burn_in": BURN_IN} | kwargs
    return network, make_loss(network, target, loss=loss, **kwargs)


def counted_batch(slices):
    return as_batch(slices, step_count=True)


def errors_of(loss_fn, slices) -> list[Tensor]:
    batch = counted_batch(slices)
    loss_fn(batch)
    return list(batch["td_error"].squeeze(-1).split([len(s) for s in slices]))


def gradients_of(network, loss_fn, slices, k) -> list[Tensor]:
    """Gradient of the loss of slice ``k``."""
    low = sum(len(s) for s in slices[:k])
    losses = loss_fn(counted_batch(slices))["loss"].reshape(-1)[low : low + len(slices[k])]
    return list(torch.autograd.grad(losses.sum(), list(network.parameters())))


def check_order(loss):
    """Permuting the slices changes nothing."""
    _, loss_fn = two_networks(loss)
    slices = four_slices()
    before, whole = errors_of(loss_fn, slices), loss_fn(counted_batch(slices))["loss"]
    for order in ([3, 2, 1, 0], [2, 0, 3, 1], [1, 0, 2, 3]):
        shuffled = [slices[k] for k in order]
        for k, errors in zip(order, errors_of(loss_fn, shuffled), strict=True):
            close(errors, before[k], 1e-12)
        close(loss_fn(counted_batch(shuffled))["loss"], whole, 1e-12)


def check_extra(loss, extra):
    """A slice outside the loss changes nothing, at any position."""
    network, loss_fn = two_networks(loss)
    slices = four_slices()
    before = loss_fn(counted_batch(slices))["loss"]
    gradients = torch.autograd.grad(before, list(network.parameters()))
    for place in range(len(slices) + 1):
        more = [*slices[:place], extra, *slices[place:]]
        after = loss_fn(counted_batch(more))["loss"]
        close(after, before, 1e-12)
        for a, b in zip(torch.autograd.grad(after, list(network.parameters())), gradients, strict=True):
            close(a, b, 1e-12)


def check_padding(loss):
    """Adding padding changes nothing, not even if it is NaN."""
    check_extra(loss, padding(3, torch.Generator().manual_seed(9)))


def check_short_slice(loss):
    """Adding a slice that is all burn-in changes nothing."""
    for length in (1, BURN_IN):
        check_extra(loss, random_slice(length, torch.Generator().manual_seed(9)))


def check_independence(loss):
    """Changing one slice changes its own errors and gradient, and those of no other slice."""
    network, loss_fn = two_networks(loss, reduction="none", **BURNLESS[loss])
    slices = four_slices()
    for changed in range(4):
        others = list(slices)
        others[changed] = four_slices(seed=9)[changed]
        before, after = errors_of(loss_fn, slices), errors_of(loss_fn, others)
        for k in range(4):
            gradients = [gradients_of(network, loss_fn, s, k) for s in (slices, others)]
            far = max((a - b).abs().max() for a, b in zip(*gradients, strict=True))
            if k == changed:
                assert (before[k] - after[k]).abs().max() > 1e-2 and far > 1e-2
            else:
                close(before[k], after[k], 1e-12)
                assert far < 1e-12


def check_second_implementation(loss):
    """One-step targets without burn-in or rescaling: both losses are meant to compute these."""
    network, target, slices = make_network(), make_network(seed=1), four_slices()
    expected, errors = by_hand(network, target, slices, double_dqn=False)
    batch = counted_batch(slices)
    close(make_loss(network, target, loss=loss, double_dqn=False)(batch)["loss"], expected)
    close(batch["td_error"].squeeze(-1), errors)


CHECKS = [check_second_implementation, check_order, check_padding, check_short_slice, check_independence]
each_check = pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)


@each_check
def test_recurrent_loss_passes(check):
    check(RecurrentDQNLoss)


@each_check
def test_torchrls_own_loss_fails(check):
    with pytest.raises(AssertionError):
        check(DQNLoss)


def own_loss(network, target, slices, **kwargs):
    batch = as_batch(slices)
    make_loss(network, target, loss=DQNLoss, **kwargs)(batch)
    return list(batch["td_error"].squeeze(-1).split([len(s) for s in slices]))


def test_torchrl_leaks_over_resets_inside_rows():
    """Rows ``[B, T]`` with an episode's end inside: the errors after it depend on the steps before it."""
    generator = torch.Generator().manual_seed(5)
    first, second, other = (random_slice(n, generator, end="terminated") for n in (3, 4, 3))
    network = make_network()
    differences = []
    for loss in (DQNLoss, RecurrentDQNLoss):
        loss_fn, after = make_loss(network, loss=loss), []
        for before in (first, other):
            rows = as_batch([before, second, before, second]).reshape(2, 7)
            loss_fn(rows)
            after.append(rows["td_error"][:, 3:])
        differences.append((after[0] - after[1]).abs().max().item())
    assert differences[0] > 1e-2 and differences[1] < 1e-12


@pytest.mark.parametrize(("cell", "double_dqn"), [("lstm", False), ("lstm", True), ("gru", False)])
def test_torchrl_leaks_from_slice_to_slice(cell, double_dqn):
    """Its target pass: a change in one slice changes the errors of the next one."""
    slices = [replace(item, begins=False) for item in four_slices(cell)]
    network, target = make_network(cell=cell), make_network(cell=cell, seed=1)
    generator = torch.Generator().manual_seed(9)
    others = [*slices[:2], random_slice(len(slices[2]), generator, cell=cell), slices[3]]
    before = own_loss(network, target, slices, double_dqn=double_dqn)
    after = own_loss(network, target, others, double_dqn=double_dqn)
    close(before[0], after[0], 1e-12)
    assert (before[3] - after[3]).abs().max() > 1e-2

    _, errors = by_hand(network, target, slices, double_dqn=double_dqn)
    differences = [
        (mine - own).abs().max().item()
        for mine, own in zip(errors.split([len(s) for s in slices]), before, strict=True)
    ]
    assert min(differences[1:]) > 1e-2


def test_torchrl_agrees_on_a_single_step():
    """One slice of one step: its target reads o_1 from the state that the online network made of o_0."""
    generator = torch.Generator().manual_seed(5)
    item = random_slice(1, generator)
    network = make_network()
    _, errors = by_hand(network, network, [item])
    close(own_loss(network, None, [item])[0], errors, 1e-6)


@pytest.mark.parametrize("double_dqn", [False, True])
def test_torchrl_agrees_on_a_network_without_memory(double_dqn):
    """Without a state its target pass cannot leak: on single steps both are the loss of a DQN."""
    generator = torch.Generator().manual_seed(5)
    ends = ["cut", "terminated", "truncated"] * 2
    slices = [random_slice(1, generator, cell="none", end=end) for end in ends]
    network, target = make_network(cell="none"), make_network(cell="none", seed=1)
    _, errors = by_hand(network, target, slices, double_dqn=double_dqn)
    close(torch.cat(own_loss(network, target, slices, double_dqn=double_dqn)), errors)


def test_torchrl_starts_the_target_at_the_second_observation_with_an_empty_memory():
    """Even alone, a longer slice loses the stored state and o_0 in its target pass."""
    generator = torch.Generator().manual_seed(5)
    item = random_slice(5, generator)
    network, target = make_network(), make_network(seed=1)
    _, errors = by_hand(network, target, [item], double_dqn=False)
    own = own_loss(network, target, [item])[0]
    assert (own - errors).abs().max() > 1e-2

    late = replace(
        item, observation=item.observation[1:], state=tuple(torch.zeros_like(s) for s in item.state)
    )
    value = torch.stack(step_by_step(network, item))[:-1]
    target_value = torch.stack(step_by_step(target, late))
    y = item.reward + GAMMA * target_value.max(-1).values
    close(own, (value[range(5), item.action] - y).square().detach())
