"""Checks of what one update trains: a backward pass on copies of the loss and the policy."""

from __future__ import annotations

import math

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
TURNED = 0.02  # part of a gradient that is not along another; less is rounding


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
    """See whether next observations turn the gradient of a step's error.

    The gradient of a step's error is a number times the gradient of its value. Next observations change only
    the number, unless the gradient flows through the target.
    """
    probe, keys = subject.probe, subject.batch_observations
    batch = probe.batch
    following = [unravel_key(("next", k)) for k in keys]
    following = [k for k in following if isinstance(batch.get(k, None), Tensor)]
    if not following or batch.get(probe.reward, None) is None:
        raise Skip("the batch has no next observations and rewards")
    everywhere = torch.ones(batch.numel(), dtype=torch.bool)
    other = batch.clone().update(perturb(batch, everywhere, keys).select(*following))
    turned = []
    for indices in sorted(subject.slices, key=len)[-3:]:
        first, second = (_error_gradient(subject, b, indices) for b in (batch, other))
        if first is not None and second is not None:
            along = first * (first @ second) / (first @ first)
            turned.append(float((second - along).norm() / second.norm()))
    if turned and min(turned) > TURNED:
        yield (
            "target-gradient",
            f"{name_of(subject.loss)}: other values of {following[0]!r} turn the gradient of a step's error "
            f"by {max(turned):.0%} of its size: it flows through the target",
            None,
            "compute the target under torch.no_grad(), or detach() it",
        )


def _error_gradient(subject: Subject, batch: TensorDictBase, indices: Tensor) -> Tensor | None:
    """Return the gradient ``[parameters]`` of the error of the first step of a slice that the loss counts.

    Another reward of this step changes no other error. ``None`` if the loss counts no step of the slice.
    """
    probe = subject.probe
    reward = batch.get(probe.reward)
    usual = float(probe.total(batch))
    for step in indices:
        shift = _at(step, reward)
        if float(probe.total(batch.clone().set(probe.reward, reward + shift))) == usual:
            continue
        for sign in (1, -1):  # a smooth-L1 loss is linear on one side
            changed = batch.clone().set(probe.reward, reward + sign * shift)
            difference = _gradient(subject, changed) - _gradient(subject, batch)
            if difference.any():
                return difference
        return None
    return None


def _at(step: Tensor, reward: Tensor) -> Tensor:
    """Return a change of the reward of one step, larger than every reward."""
    change = torch.zeros(reward.numel(), dtype=reward.dtype)
    change[step] = 1 + reward.abs().max()
    return change.reshape(reward.shape)


def _gradient(subject: Subject, batch: TensorDictBase) -> Tensor:
    """Return the gradient ``[parameters]`` of the loss."""
    parameters = [p for m in reachable_modules(subject.loss) for p in m.parameters() if p.requires_grad]
    with torch.enable_grad():
        total = subject.probe.total(batch)
        if not total.requires_grad or not parameters:
            raise Skip("the loss has no gradient")
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    return torch.cat([g.reshape(-1).double() for g in gradients if g is not None])


def gradient_in_loss(subject: Subject) -> Found:
    """Compare how an observation changes the next step's error with the gradient of that change."""
    probe = subject.probe
    batch, reward = probe.batch, probe.batch.get(probe.reward, None)
    keys = [k for k in subject.batch_observations if batch[k].is_floating_point()]
    states = not keys  # the stored state where a slice begins, if observations have no gradient
    keys = keys or [k for k in subject.state_inputs if batch.get(k, None) is not None]
    if reward is None or not keys or not subject.state_keys:
        raise Skip("a recurrent network, and observations or states with a gradient, are needed")
    moved, usual = 0, float(probe.total(batch))
    for indices in sorted((s for s in subject.slices if len(s) > 3), key=len)[-3:]:
        now, later = indices[0 if states else len(indices) // 2 - 1 :][:2]
        if states and float(probe.total(batch.clone().set(probe.reward, reward + _at(now, reward)))) == usual:
            continue  # in a burn-in, which has no gradient
        shift = _at(later, reward)
        only = torch.zeros(batch.numel(), dtype=torch.bool).index_fill(0, now, True)
        totals, gradients = [], []
        for td in (batch, perturb(batch, only, keys)):
            for change in (0, shift):
                changed = td.clone().set(probe.reward, reward + change)
                leaves = [changed[k].detach().clone().requires_grad_() for k in keys]
                for key, leaf in zip(keys, leaves, strict=True):
                    changed[key] = leaf
                with torch.enable_grad():
                    total = probe.total(changed)
                    found = torch.autograd.grad(total, leaves, allow_unused=True)
                totals.append(float(total))
                parts = [g.reshape(batch.numel(), -1)[now].double() for g in found if g is not None]
                gradients.append(torch.cat(parts or [torch.zeros(1, dtype=torch.double)]))
        if not all(map(math.isfinite, totals)):
            raise Skip("the loss is not finite")
        if abs(totals[0] - totals[1] - totals[2] + totals[3]) <= 1e-5 * max(map(abs, totals)):
            continue
        moved += 1
        if (gradients[1] - gradients[0]).norm() > 1e-6 * gradients[0].norm():
            return
    if not moved:
        raise Skip("an observation does not change the error of the next step")
    yield (
        "memory-not-trained",
        f"{name_of(subject.loss)}: another {keys[0]!r} changes the error of the next step, but no gradient "
        f"flows back to it, in {moved} slices: the state is detached between steps",
        None,
        "carry the state through the slice without detach() or no_grad(); detach it only where a slice "
        "begins",
    )


def gradient_through_time(subject: Subject) -> Found:
    """Compare the gradient through time in recurrent mode with the effect of a change."""
    indices = max(subject.slices, key=len)
    if not subject.has("policy") or not subject.state_keys or len(indices) < 3:
        raise Skip("a recurrent policy and a slice of three steps are needed")
    if missing := [key for key in subject.state_inputs if subject.batch.get(key, None) is None]:
        raise Skip(f"the batch has no {missing[0]!r}")
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
