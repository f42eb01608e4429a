"""Checks of what one update trains: a backward pass on copies of the loss and the policy."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase, unravel_key
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import set_recurrent_mode

from recdqn.doctor.checks.common import Found, name_of
from recdqn.doctor.copies import copy_part, reachable_modules
from recdqn.doctor.probe import Skip
from recdqn.doctor.slices import perturb
from recdqn.doctor.subject import Subject

RECURRENT = (nn.RNNBase, nn.RNNCellBase)


def trained_parameters(subject: Subject) -> Found:
    """Compute the gradient of the loss, and see which parameters of the policy have one."""
    given = subject.given["policy"]
    gradients = _gradients(subject)
    mine = {name: p for name, p in given.named_parameters() if not isinstance(p, UninitializedParameter)}
    names = {p.data_ptr(): name for name, p in mine.items() if p.numel()}
    reached = {names[address] for address in gradients if address in names}
    memory = _memory_parameters(given)
    frozen = [n for n, p in memory.items() if not p.requires_grad]
    if memory and len(frozen) == len(memory):
        yield (
            "memory-not-trained",
            f"{len(frozen)} parameters of the policy's recurrent layers, such as {frozen[0]!r}, have "
            "requires_grad=False: no update changes the memory",
            None,
            "call requires_grad_(True) on the recurrent layer before you build the loss and the optimiser",
        )
        return
    if mine and gradients and not reached:
        yield (
            "trains-a-copy",
            f"none of the policy's {len(mine)} parameters is among the {len(gradients)} that "
            f"{name_of(subject.loss)} trains: an update does not change how the agent acts",
        )
        return
    missing = [n for n, p in memory.items() if p.data_ptr() not in gradients]
    if memory and reached and len(missing) == len(memory):
        yield (
            "memory-not-trained",
            f"{name_of(subject.loss)} trains {len(reached)} parameters of the policy, but no optimiser "
            "that is given "
            f"loss.parameters() reaches its recurrent layers, such as {missing[0]!r}",
        )
        return
    still = [n for n, p in memory.items() if gradients.get(p.data_ptr()) is False and "bias" not in n]
    if still and len(still) == len([n for n in memory if "bias" not in n]):
        yield (
            "memory-not-trained",
            f"the gradient of {name_of(subject.loss)} is 0 for {still[0]!r} and all of its layer",
        )


def _memory_parameters(policy: nn.Module) -> dict[str, Tensor]:
    """Return the parameters of recurrent layers, by name; also of layers that are not registered."""
    found: dict[str, Tensor] = {}
    for name, module in policy.named_modules():
        if isinstance(module, RECURRENT):
            found |= {f"{name}.{n}": p for n, p in module.named_parameters()}
        for part, value in vars(module).items():
            inside = value if isinstance(value, list | tuple) else [value]
            for layer in inside:
                if isinstance(layer, RECURRENT):
                    found |= {f"{name}.{part}.{n}": p for n, p in layer.named_parameters()}
    return found


def _gradients(subject: Subject) -> dict[int, bool]:
    """Return whether each parameter of the given loss gets a gradient, by its address."""
    given = subject.given["loss"]
    loss = copy_part(given)
    originals = [p for m in reachable_modules(given) for p in m.parameters()]
    copies = [p for m in reachable_modules(loss) for p in m.parameters()]
    if not originals or len(originals) != len(copies):
        raise Skip("the loss has no parameters")
    probe = subject.probe
    batch = probe.batch.clone()
    reward = batch.get(probe.reward, None)
    if reward is not None and reward.is_floating_point():
        batch.set(probe.reward, reward + 0.1 * torch.rand_like(reward))
    with torch.enable_grad():
        torch.manual_seed(0)
        total = probe.total(batch) if probe.loss is loss else _total(loss, batch, probe)
        if not total.requires_grad:
            raise Skip("the loss has no gradient")
        wanted = [p for p in copies if p.requires_grad]
        found = dict(zip(map(id, wanted), torch.autograd.grad(total, wanted, allow_unused=True), strict=True))
    result: dict[int, bool] = {}
    for original, twin in zip(originals, copies, strict=True):
        if original.requires_grad and original.numel():
            gradient = found.get(id(twin))
            result[original.data_ptr()] = gradient is not None and bool(gradient.any())
    return result


def _total(loss: object, batch: object, probe: object) -> Tensor:
    from recdqn.doctor.probe import loss_terms

    return torch.stack([v.mean().reshape(()) for v in loss_terms(loss(batch))]).sum()  # type: ignore[operator]


def target_gradient(subject: Subject) -> Found:
    """See whether next observations change the gradient of a step's value."""
    probe, keys = subject.probe, subject.batch_observations
    batch = probe.batch
    following = [unravel_key(("next", k)) for k in keys]
    following = [k for k in following if isinstance(batch.get(k, None), Tensor)]
    if following and batch.get(probe.reward, None) is not None:
        everywhere = torch.ones(batch.numel(), dtype=torch.bool)
        other = perturb(batch, everywhere, keys).select(*following)
        first, second = (_value_gradient(subject, b) for b in (batch, batch.clone().update(other)))
        size = first.norm()
        if size > 0 and (first - second).norm() > 0.01 * size:
            yield (
                "target-gradient",
                f"{name_of(subject.loss)}: other values of {following[0]!r} change the gradient of the "
                "steps' values by "
                f"{(first - second).norm() / size:.0%}: it flows through the target",
                None,
                "compute the target under torch.no_grad(), or detach() it",
            )


def _value_gradient(subject: Subject, batch: TensorDictBase) -> Tensor:
    """Return the change of the gradient with the rewards, ``[parameters]``.

    The gradient of a squared error is the error times the gradient of the step's value. The rewards change
    only the error; so does the target, unless the gradient flows through it.
    """
    probe = subject.probe
    parameters = [p for m in reachable_modules(subject.loss) for p in m.parameters() if p.requires_grad]
    reward = batch.get(probe.reward)
    found = []
    for shift in (0.0, 0.1):
        with torch.enable_grad():
            total = probe.total(batch.clone().set(probe.reward, reward + shift))
            if not total.requires_grad or not parameters:
                raise Skip("the loss has no gradient")
            gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        found.append(torch.cat([g.reshape(-1).double() for g in gradients if g is not None]))
    return found[1] - found[0]


def gradient_through_time(subject: Subject) -> Found:
    """Compare the gradient through time in recurrent mode with the effect of a change."""
    indices = max(subject.slices, key=len)
    if not subject.has("policy") or not subject.state_keys or len(indices) < 3:
        raise Skip("a recurrent policy and a slice of three steps are needed")
    keys = [
        k
        for k in subject.policy.in_keys
        if k != subject.action_key and subject.batch.get(k, None) is not None
    ]
    reads = [k for k in subject.policy_observations if k in keys and subject.batch[k].is_floating_point()]
    if not reads:
        raise Skip("the observations have no gradient")
    steps = subject.batch.reshape(-1)[indices].select(*keys).clone()
    number = torch.arange(len(steps))
    steps["is_init"] = (number == 0).unsqueeze(-1)
    with set_recurrent_mode(True), set_exploration_type(ExplorationType.DETERMINISTIC):
        moved = subject.policy_outputs(perturb(steps, number == 0, reads)) - subject.policy_outputs(steps)
        if not moved[-1].any():
            raise Skip("the first observation of a slice does not change the last output")
        with torch.enable_grad():
            leaves = [steps[k].detach().clone().requires_grad_() for k in reads]
            for key, leaf in zip(reads, leaves, strict=True):
                steps[key] = leaf
            out = subject.policy_outputs(steps)[-1].sum()
            if not out.requires_grad:
                raise Skip("the policy's outputs have no gradient")
            gradients = torch.autograd.grad(out, leaves, allow_unused=True)
    if all(g is None or not g[0].any() for g in gradients):
        yield (
            "memory-not-trained",
            f"the first of {len(steps)} steps changes the last output, but no gradient flows back to it: "
            "the state is "
            "detached between steps",
            None,
            "carry the state through the slice without detach() or no_grad(); detach it only where a "
            "slice begins",
        )
