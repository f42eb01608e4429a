"""Networks of other modules than the package's, and everything that may happen to their weights."""

import copy
import io
from dataclasses import replace

import pytest
import torch
from slicewise import ACTIONS, FEATURES, GAMMA, as_batch, by_hand, close, four_slices, make_loss, make_network
from tensordict import TensorDict, TensorDictParams
from tensordict.nn import TensorDictModule, TensorDictModuleBase, TensorDictSequential
from torch import nn
from torchrl.modules import LSTMModule, QValueModule
from torchrl.objectives import HardUpdate, SoftUpdate

OPTIONS = {"n_steps": 3, "burn_in": 2}


@pytest.fixture
def slices():
    return [replace(item, begins=False) for item in four_slices()]


class Negative(TensorDictModule):
    """Negates its output: what a subclass does must not be left out."""

    def forward(self, tensordict):
        tensordict = super().forward(tensordict)
        return tensordict.set(self.out_keys[0], -tensordict[self.out_keys[0]])


class Wrapped(TensorDictModuleBase):
    """A recurrent layer that is no LSTMModule."""

    def __init__(self, module):
        super().__init__()
        self.wrapped, self.in_keys, self.out_keys = module, module.in_keys, module.out_keys

    def forward(self, tensordict):
        return self.wrapped(tensordict)


class Named(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.inner = module

    def forward(self, *, seen):
        return self.inner(seen)

    def both(self, seen):
        return self.inner(seen), seen

    def dictionary(self, seen):
        return {"unused": seen, "embed": self.inner(seen)}


def variant(network, kind):
    """The same function, of the same weights, from other modules."""
    embed, memory, head, choose = network
    function, keys, out = embed.module, ["observation"], ["embed"]
    if kind == "nested sequence":
        return TensorDictSequential(TensorDictSequential(embed, memory), TensorDictSequential(head, choose))
    if kind == "own recurrent layer":
        memory = Wrapped(memory)
    if kind == "subclass":
        embed = TensorDictSequential(
            Negative(function, keys, ["negative"]), TensorDictModule(torch.neg, ["negative"], out)
        )
    if kind == "argument by name":
        embed = TensorDictModule(Named(function), {"seen": "observation"}, out)
    if kind == "two outputs":
        embed = TensorDictModule(Named(function), keys, [*out, "copy"], method="both")
    if kind == "dictionary":
        embed = TensorDictModule(Named(function), keys, out, method="dictionary")
    if kind == "hook":
        head = TensorDictModule(head.module, head.in_keys, head.out_keys)
        head.register_forward_hook(lambda module, args, output: output)
    if kind == "function":
        embed = TensorDictSequential(
            TensorDictModule(lambda x: (x.neg(), x), keys, ["negative", "_"]),
            TensorDictModule(torch.neg, ["negative"], ["positive"]),
            TensorDictModule(function, ["positive"], out),
        )
    if kind == "nested keys":
        embed = TensorDictModule(function, keys, [("features", "embed")])
        states = [("state", "h"), ("state", "c")]
        cell = LSTMModule(
            lstm=memory.lstm,
            in_keys=[("features", "embed"), *states],
            out_keys=["memory", *[("next", *key) for key in states]],
        )
        memory = cell
    return TensorDictSequential(embed, memory, head, choose)


KINDS = [
    "nested sequence",
    "own recurrent layer",
    "subclass",
    "argument by name",
    "two outputs",
    "dictionary",
    "hook",
    "function",
    "nested keys",
]


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_other_modules_of_the_same_function(slices, kind, layers):
    slices = [replace(s, state=tuple(x.expand(layers, -1) for x in s.state)) for s in slices]
    network, target = make_network(layers=layers), make_network(layers=layers, seed=1)
    expected, errors = by_hand(network, target, slices, **OPTIONS)
    gradients = torch.autograd.grad(expected, list(network.parameters()))
    loss_fn = make_loss(variant(network, kind), variant(target, kind), **OPTIONS)
    for shape in [(14,), (1, 14)]:
        batch = as_batch(slices)
        if kind == "nested keys":
            for part in "hc":
                batch.rename_key_(f"recurrent_state_{part}", ("state", part))
        batch = batch.reshape(shape)
        loss = loss_fn(batch)["loss"]
        close(loss, expected)
        close(batch["td_error"].reshape(-1), errors)
        for a, b in zip(torch.autograd.grad(loss, list(network.parameters())), gradients, strict=True):
            close(a, b)


def expected_of(loss_fn, slices):
    """The loss of slices by hand, from the tensors that the parameters of ``loss_fn`` hold now."""
    online, target = make_network().to(loss_fn.gamma.dtype), make_network().to(loss_fn.gamma.dtype)
    loss_fn.value_network_params.data.to_module(online)
    loss_fn.target_value_network_params.data.to_module(target)
    slices = [
        replace(
            s,
            observation=s.observation.to(loss_fn.gamma.dtype),
            state=tuple(x.to(loss_fn.gamma.dtype) for x in s.state),
        )
        for s in slices
    ]
    return by_hand(online, target, slices, **OPTIONS)[0]


def moved(params):
    return params.data.apply(lambda x: x * 1.5)


def by_state_dict(loss_fn):
    loss_fn.load_state_dict({key: value * 1.5 for key, value in loss_fn.state_dict().items()})
    loss_fn.gamma.fill_(GAMMA)


def assigned(loss_fn):
    loss_fn.load_state_dict({key: value * 1.5 for key, value in loss_fn.state_dict().items()}, assign=True)
    loss_fn.gamma.fill_(GAMMA)


def replaced_tensor(loss_fn):
    key = ("module", "0", "module", "0", "bias")
    loss_fn.target_value_network_params.set(key, torch.ones(4, dtype=torch.float64))


def replaced_target(loss_fn):
    others = moved(loss_fn.target_value_network_params)
    loss_fn.target_value_network_params = TensorDictParams(others, no_convert=True)


def other_type(loss_fn):
    loss_fn.float()


def by_soft_update(loss_fn):
    SoftUpdate(loss_fn, tau=0.3).step()


def by_hard_update(loss_fn):
    HardUpdate(loss_fn, value_network_update_interval=1).step()


CHANGES = [
    by_state_dict,
    assigned,
    replaced_tensor,
    replaced_target,
    other_type,
    by_soft_update,
    by_hard_update,
]


@pytest.mark.filterwarnings("ignore:.*non-contiguous")
@pytest.mark.parametrize("change", CHANGES)
def test_weights_that_change_between_calls(slices, change):
    loss_fn = make_loss(make_network(), make_network(seed=1), **OPTIONS)
    before = loss_fn(as_batch(slices))["loss"]
    change(loss_fn)
    batch = as_batch(slices).apply(lambda x: x.to(loss_fn.gamma.dtype) if x.is_floating_point() else x)
    after = loss_fn(batch)["loss"]
    close(after, expected_of(loss_fn, slices), 1e-4 if change is other_type else 1e-6)
    assert change is other_type or abs(before - after) > 1e-3


def test_weights_of_a_functional_call(slices):
    loss_fn = make_loss(make_network(), make_network(seed=1), **OPTIONS)
    before = loss_fn(as_batch(slices))["loss"]
    others = moved(TensorDict.from_module(loss_fn))
    others["gamma"] = loss_fn.gamma.clone()
    with others.to_module(loss_fn):
        inside, expected = loss_fn(as_batch(slices))["loss"], expected_of(loss_fn, slices)
    close(inside, expected)
    assert abs(inside - before) > 1e-3
    close(loss_fn(as_batch(slices))["loss"], before, 0.0)


def saved(loss_fn):
    file = io.BytesIO()
    torch.save(loss_fn, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, saved])
def test_a_copy_has_weights_of_its_own(slices, copied):
    loss_fn = make_loss(make_network(), make_network(seed=1), **OPTIONS)
    before = loss_fn(as_batch(slices))["loss"]
    other = copied(loss_fn)
    close(other(as_batch(slices))["loss"], before, 0.0)
    for params in (other.value_network_params, other.target_value_network_params):
        params.data.mul_(1.5)
    close(other(as_batch(slices))["loss"], expected_of(other, slices))
    close(loss_fn(as_batch(slices))["loss"], before, 0.0)
    other(as_batch(slices))["loss"].backward()
    assert all(p.grad is not None for p in other.parameters())
    assert all(p.grad is None for p in loss_fn.parameters())


def test_the_network_keeps_its_own_weights_also_after_an_error(slices):
    network = make_network()
    own = dict(network.named_parameters())
    loss_fn = make_loss(network, make_network(seed=1))
    batch = as_batch(slices)
    value = network(batch.clone())["action_value"]

    def stop_in_the_target(module, *_):
        if not module.weight.requires_grad:
            raise RuntimeError("in the target network")

    for wrong in (False, True):
        if wrong:
            hook = network[2].module.register_forward_hook(stop_in_the_target)
            with pytest.raises(RuntimeError, match="target"):
                loss_fn(batch)
            hook.remove()
        else:
            loss_fn(batch)
        now = dict(network.named_parameters())
        assert now.keys() == own.keys() and all(now[name] is own[name] for name in own)
        close(network(as_batch(slices))["action_value"], value, 0.0)


def test_a_mode_set_later_counts(slices):
    """Dropout on the features, first on and then off."""
    torch.manual_seed(0)
    embed = nn.Sequential(nn.Linear(FEATURES, 4), nn.Dropout(0.5))
    network = TensorDictSequential(
        TensorDictModule(embed, ["observation"], ["embed"]),
        LSTMModule(input_size=4, hidden_size=5, in_key="embed", out_key="memory"),
        TensorDictModule(nn.Linear(5, ACTIONS), ["memory"], ["action_value"]),
        QValueModule(action_space="one-hot"),
    ).double()
    loss_fn = make_loss(network)
    assert loss_fn(as_batch(slices))["loss"] != loss_fn(as_batch(slices))["loss"]
    network.eval()
    assert loss_fn(as_batch(slices))["loss"] == loss_fn(as_batch(slices))["loss"]
