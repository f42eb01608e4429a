"""One property of the loss at a time: arguments, gradients, reductions, wrong input."""

import copy
from dataclasses import replace

import numpy as np
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
from torch.utils._python_dispatch import TorchDispatchMode
from torchrl.envs.utils import ExplorationType, exploration_type
from torchrl.modules import recurrent_mode

from recdqn import RecurrentDQNLoss
from recdqn.errors import UserError
from recdqn.loss.targets import n_step_target, sum_rewards


@pytest.fixture
def slices():
    return [replace(item, begins=False) for item in four_slices()]


@pytest.fixture
def loss_fn():
    return make_loss(make_network(), make_network(seed=1), gamma=GAMMA, n_steps=3)


def test_the_recurrent_layer_may_write_the_key_that_it_reads(slices):
    losses = [
        make_loss(make_network(memory_key=key), gamma=GAMMA, n_steps=3)(as_batch(slices))
        for key in ("memory", "embed")
    ]
    close(*losses, 1e-15)


def test_slices_of_an_episode_that_ends_in_a_row_need_no_mark(loss_fn, slices):
    """A step after a done one starts a slice, even where is_init was lost."""
    ended = [replace(s, truncated=True) for s in slices]
    batch = as_batch(ended)
    batch["is_init"] = torch.zeros_like(batch["is_init"])
    close(loss_fn(batch), loss_fn(as_batch(ended)), 1e-15)


def test_input_gets_td_error_and_stays_otherwise(loss_fn, slices):
    batch, before = as_batch(slices), as_batch(slices)
    loss_fn(batch)
    assert set(batch.keys(True)) - set(before.keys(True)) == {"td_error"}
    assert not batch["td_error"].requires_grad
    assert (batch.exclude("td_error") == before).all()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_gamma(gamma, slices):
    network, target = make_network(), make_network(seed=1)
    loss_fn = make_loss(network, target, gamma=gamma, n_steps=2)
    expected, _ = by_hand(network, target, slices, gamma=gamma, n_steps=2)
    close(loss_fn(as_batch(slices))["loss"], expected)
    close(loss_fn.state_dict()["gamma"], torch.tensor(gamma))


def test_double_dqn_is_the_default_and_changes_the_target(slices):
    network, target = make_network(), make_network(seed=1)
    default, double, single = (
        make_loss(network, target, **kwargs)(as_batch(slices))["loss"]
        for kwargs in ({}, {"double_dqn": True}, {"double_dqn": False})
    )
    assert default == double and abs(double - single) > 1e-3


def test_the_target_network_is_not_trained(loss_fn, slices):
    target = loss_fn.target_value_network_params
    before = target.data.clone()
    optim = torch.optim.SGD(loss_fn.parameters(), lr=0.1)
    trained = {id(p) for group in optim.param_groups for p in group["params"]}
    assert trained == {id(p) for p in loss_fn.value_network_params.parameters()}
    loss_fn(as_batch(slices))["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in loss_fn.parameters())
    optim.step()
    assert all(not x.requires_grad and x.grad is None for x in target.values(True, True))
    assert (target.data == before).all()


def test_without_delay_the_target_is_the_online_network(slices):
    network = make_network()
    loss_fn = make_loss(network, delay_value=False, double_dqn=False, gamma=GAMMA)
    for _ in range(2):
        expected, _ = by_hand(network, copy.deepcopy(network), slices, double_dqn=False)
        loss = loss_fn(as_batch(slices))["loss"]
        close(loss, expected)
        loss.backward()
        torch.optim.SGD(network.parameters(), lr=0.1).step()


@pytest.mark.parametrize("shape", [(14,), (2, 7)])
def test_priority_weights(slices, shape):
    network, target = make_network(), make_network(seed=1)
    slices = [replace(s, truncated=True) for s in slices]
    _, errors = by_hand(network, target, slices)
    batch = as_batch(slices)
    weights = torch.rand(14, dtype=torch.float64)
    batch["priority_weight"] = weights
    if len(shape) == 2:  # a slice of six steps now lies over the edge of the rows: cut it there
        batch = torch.cat([batch, batch]).reshape(2, 14)
        errors, weights = torch.cat([errors, errors]), torch.cat([weights, weights])
    close(make_loss(network, target, gamma=GAMMA)(batch)["loss"], (errors * weights).sum() / weights.sum())
    ignoring = make_loss(network, target, gamma=GAMMA, use_prioritized_weights=False)
    close(ignoring(batch)["loss"], errors.mean())


@pytest.mark.parametrize("shape", [(14,), (1, 14)])
def test_reduction_none_keeps_the_shape_and_is_zero_outside_the_loss(shape, slices):
    network, target = make_network(), make_network(seed=1)
    _, errors = by_hand(network, target, slices, burn_in=2)
    loss_fn = make_loss(network, target, reduction="none", burn_in=2)
    close(loss_fn(as_batch(slices).reshape(shape))["loss"], errors.reshape(shape))
    assert (errors == 0).sum() == 2 + 1 + 2 + 2


def test_a_batch_without_a_step_in_the_loss(slices):
    network = make_network()
    for reduction in ("mean", "sum"):
        batch = as_batch(slices)
        batch["priority_weight"] = torch.ones(14, dtype=torch.float64)
        loss = make_loss(network, burn_in=6, reduction=reduction)(batch)["loss"]
        loss.backward()
        assert loss == 0 and not batch["td_error"].any()
    assert all(p.grad is None for p in network.parameters())
    nothing_real = as_batch([padding(4, torch.Generator().manual_seed(0))])
    assert make_loss(network)(nothing_real)["loss"] == 0


@pytest.mark.parametrize("name", ["mask", ("collector", "mask"), "shifted_valid", "mine"])
def test_masks_by_name(name, slices):
    loss_fn = make_loss(make_network(), n_steps=2)
    padded = [slices[0], padding(2, torch.Generator().manual_seed(0)), *slices[1:]]
    batch = as_batch(padded).rename_key_(("collector", "mask"), name)
    if name == "mine":
        loss_fn.loss_mask_key = name
    close(loss_fn(batch)["loss"], loss_fn(as_batch(slices))["loss"], 1e-12)


def test_a_zero_start_needs_no_stored_state(slices):
    network, target = make_network(), make_network(seed=1)
    loss_fn = make_loss(network, target, state_source="zero", burn_in=2, n_steps=2)
    batch = as_batch(slices)
    stateless = batch.exclude(*[key for key in batch.keys() if key.startswith("recurrent")])
    expected, _ = by_hand(network, target, slices, state_source="zero", burn_in=2, n_steps=2)
    close(loss_fn(stateless)["loss"], expected)


def test_burn_in_sends_no_gradient_into_the_burn_in_steps(slices):
    """The gradient with respect to the observations: zero in the burn-in steps."""
    batch = as_batch(slices[2:3])
    batch["observation"].requires_grad_()
    make_loss(make_network(), burn_in=2)(batch)["loss"].backward()
    length = batch["observation"].grad.norm(dim=-1)
    assert (length[:2] == 0).all() and (length[2:] > 1e-6).all()


def test_step_count_may_have_another_name():
    loss_fn = make_loss(make_network(), burn_in=3)
    slices = four_slices()
    expected = loss_fn(as_batch(slices, step_count=True))["loss"]
    loss_fn.set_keys(step_count="time")
    batch = as_batch(slices, step_count=True).rename_key_("step_count", "time")
    close(loss_fn(batch)["loss"], expected, 1e-12)


class HostReads(TorchDispatchMode):
    """Count the operations whose result decides on the CPU what happens next."""

    READS = (
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "equal",
        "bincount",
        "repeat_interleave",
        "unique",
    )

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
        masks = [x for x in indices if x is not None and x.dtype in (torch.bool, torch.uint8)]
        if name in self.READS or masks:
            self.found.append(name)
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("burn_in", [0, 2])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_flags_of_a_batch_are_the_only_thing_that_the_cpu_reads(
    cell, padded, burn_in, reduction, monkeypatch
):
    """On a GPU each read waits for all that was started: one copy of the flags, and no other read."""
    slices = four_slices(cell)
    if padded:
        slices.insert(1, padding(3, torch.Generator().manual_seed(0), cell=cell))
    batch, copies = as_batch(slices, step_count=True), []
    loss_fn = make_loss(make_network(cell=cell), burn_in=burn_in, n_steps=3, reduction=reduction)
    loss_fn(batch.clone())
    for name in ("cpu", "numpy", "tolist", "item"):
        method = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda self, n=name, m=method: copies.append((n, self.dtype)) or m(self)
        )
    with HostReads() as reads:
        loss = loss_fn(batch)["loss"].sum()
    with HostReads() as backward_reads:
        loss.backward()
    assert reads.found == backward_reads.found == []
    assert copies == [("cpu", torch.bool), ("numpy", torch.bool)]


def test_a_bootstrap_behind_the_end_of_an_episode_is_not_read():
    nan = torch.tensor(torch.nan)
    target = n_step_target(
        torch.tensor([1.0, 2.0, 3.0]),
        torch.tensor([True, True, False]),
        torch.stack([nan, torch.tensor(torch.inf), torch.tensor(4.0)]),
        torch.tensor(0.5),
    )
    assert target.tolist() == [1, 2, 5]


def test_a_sum_of_rewards_ends_with_its_slice():
    """Rows of three steps and of one; the second row's padding is zero."""
    reward = torch.tensor([[1.0, 2.0, 4.0], [3.0, 0.0, 0.0]])
    half = torch.tensor(0.5)
    assert sum_rewards(reward, half, 1).tolist() == reward.tolist()
    assert sum_rewards(reward, half, 2).tolist() == [[2, 4, 4], [3, 0, 0]]
    assert sum_rewards(reward, half, 10**9).tolist() == [[3, 4, 4], [3, 0, 0]]


@pytest.mark.parametrize("burn_in", [0, 2])
def test_every_frame_is_encoded_once_per_network(burn_in):
    """Count the frames that reach the encoder: o_0 .. o_T of each slice, twice."""
    frames, network = [], make_network()
    network[0].module.register_forward_hook(lambda module, args, out: frames.append(args[0][..., 0].numel()))
    slices = [replace(four_slices()[0], begins=False)] * 3
    make_loss(network, burn_in=burn_in)(as_batch(slices, step_count=True))
    assert sum(frames) == 2 * 3 * (len(slices[0]) + 1)


def test_the_rescaled_target_of_one_step():
    """One step, gamma 0: the target is h(r), here in closed form."""
    item = replace(random_slice(1, torch.Generator().manual_seed(0)), reward=torch.tensor([3.0]).double())
    network = make_network()
    value = step_by_step(network, item)[0][item.action[0]].item()
    loss_fn = make_loss(network, gamma=0.0, value_rescale=True)
    close(loss_fn(as_batch([item]))["loss"].item(), (value - (2 - 1 + 0.003)) ** 2)


def test_distances_and_the_sum(slices):
    network, target = make_network(), make_network(seed=1)
    _, errors = by_hand(network, target, slices)
    huber = torch.where(errors < 1, errors / 2, errors.sqrt() - 0.5)
    for options, expected in (
        ({"reduction": "sum"}, errors.sum()),
        ({"loss_function": "l1"}, errors.sqrt().mean()),
        ({"loss_function": "smooth_l1"}, huber.mean()),
    ):
        close(make_loss(network, target, gamma=GAMMA, **options)(as_batch(slices))["loss"], expected)


def test_float32_parameters_and_rewards(slices):
    loss_fn = make_loss(make_network(), make_network(seed=1), gamma=GAMMA, n_steps=3)
    expected = loss_fn(as_batch(slices))["loss"]
    single = as_batch(slices).apply(lambda x: x.float() if x.is_floating_point() else x)
    loss = loss_fn.float()(single)["loss"]
    assert loss.dtype == torch.float32
    close(loss, expected, 1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same(slices):
    loss_fn = make_loss(make_network(), make_network(seed=1), gamma=GAMMA, n_steps=3)
    expected = loss_fn(as_batch(slices))["loss"]
    close(loss_fn.to("cuda")(as_batch(slices).to("cuda"))["loss"].cpu(), expected)


def test_the_loss_sets_its_modes_and_restores_them(slices):
    modes, network = [], make_network()
    network[0].module.register_forward_hook(lambda *_: modes.append((recurrent_mode(), exploration_type())))
    make_loss(network)(as_batch(slices))
    assert modes == [(True, ExplorationType.DETERMINISTIC)] * 2  # online and target: each runs once
    assert recurrent_mode() is None


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"n_steps": 0}, "n_steps=0: expected a whole number of at least 1"),
        ({"gamma": 1.5}, "gamma=1.5: expected a number from 0 to 1"),
        ({"gamma": float("nan")}, "gamma=nan: expected a number from 0 to 1"),
        ({"gamma": "x"}, "gamma='x': expected a number from 0 to 1"),
        ({"n_steps": 1.5}, "n_steps=1.5"),
        ({"burn_in": -1}, "burn_in=-1: expected a whole number of at least 0"),
        ({"burn_in": True}, "burn_in=True"),
        ({"state_source": "last"}, "state_source='last': choose one of 'stored', 'zero'"),
        ({"loss_function": "l3"}, "loss_function='l3'.*'smooth_l1'"),
        ({"reduction": "median"}, "reduction='median'.*'none'"),
    ],
)
def test_wrong_settings(setting, message):
    with pytest.raises(UserError, match=message):
        RecurrentDQNLoss(make_network(), action_space="one-hot", **setting)


def test_a_discount_of_any_real_type_is_taken():
    for gamma in (1, np.float32(0.5), np.float64(0.5), np.int64(1)):
        assert make_loss(make_network(), gamma=gamma).gamma == gamma


def test_several_actions_at_once_are_rejected():
    with pytest.raises(UserError, match="mult_one_hot"):
        RecurrentDQNLoss(make_network(), action_space="mult-one-hot")


def test_a_value_estimator_would_be_ignored_and_is_rejected():
    with pytest.raises(UserError, match="gamma=0.5"):
        RecurrentDQNLoss(make_network(), action_space="one-hot").make_value_estimator(gamma=0.5)


@pytest.mark.parametrize("missing", [("next", "observation"), ("next", "reward"), "recurrent_state_h"])
def test_a_batch_without_an_entry_is_rejected(slices, loss_fn, missing):
    batch = as_batch(slices)
    del batch[missing]
    with pytest.raises(KeyError, match=missing if isinstance(missing, str) else missing[1]):
        loss_fn(batch)
