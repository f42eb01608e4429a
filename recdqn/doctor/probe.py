"""How the errors of a loss respond to changes of its batch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from torch import Tensor

REWARD = ("next", "reward")
ROUNDING = 1e-7  # of errors, relative to their mean
CALM = 0.05  # size of the rewards that keep errors small, where smooth-L1 and Huber losses are curved


class Skip(Exception):
    """Raised by a check that does not apply; the message gives the reason."""


class LossProbe:
    """The errors of a loss for each step of a batch.

    They are what the loss writes for priorities, or a value for each step that it returns, or the derivative
    of a loss that is a single number with respect to each step's reward, which moves whenever that step's
    error does.

    Args:
        loss: a copy, in evaluation mode.
        batch: its input.

    Attributes:
        batch: the input; with small rewards if errors are derivatives, which a smooth-L1 loss would cut off.
        kind: where the errors come from: ``"written"``, ``"gradient"`` or ``"none"``.
    """

    def __init__(self, loss: Any, batch: TensorDictBase) -> None:
        keys = getattr(loss, "tensor_keys", None)
        self.loss = loss
        self.priority = getattr(keys, "priority", "td_error")
        self.reward = unravel_key(("next", getattr(keys, "reward", "reward")))
        self.kind = self._kind(batch)
        self.batch = self._calm(batch) if self.kind == "gradient" else batch

    @classmethod
    def errors_of(cls, loss: Any, batch: TensorDictBase) -> Tensor | None:
        """Return the error of each step, ``[N]``, without changing the rewards first."""
        probe = cls(loss, batch)
        return probe.errors(batch)

    def total(self, batch: TensorDictBase) -> Tensor:
        """Return the loss of a copy of ``batch``, summed over its terms."""
        return self._run(batch)[1]

    def errors(self, batch: TensorDictBase) -> Tensor | None:
        """Return the error of each step of a copy of ``batch``, ``[N]``; ``None`` if it cannot be known."""
        if self.kind == "none":
            return None
        if self.kind == "gradient":
            return self._reward_gradient(batch)
        return self._run(batch)[0]

    def _kind(self, batch: TensorDictBase) -> str:
        if self._run(batch)[0] is not None:
            return "written"
        return "none" if self._reward_gradient(batch) is None else "gradient"

    @cached_property
    def baseline(self) -> Tensor | None:
        """:meth:`errors` of the unchanged batch."""
        return self.errors(self.batch)

    @cached_property
    def scale(self) -> Tensor:
        """Mean size of the baseline's errors."""
        assert self.baseline is not None
        if not self.baseline.isfinite().all():
            raise Skip("the errors of the batch are not finite")
        if not self.baseline.any():
            raise Skip("no step of the batch has an error")
        return self.baseline.abs().mean()

    def moved(self, changed: TensorDictBase) -> Tensor:
        """Return how far the errors ``[N]`` of ``changed`` are from the baseline, relative to its mean.

        Raises:
            Skip: if errors of single steps cannot be known.
        """
        if self.baseline is None:
            raise Skip("the loss gives one number, and does not read the reward")
        errors = self.errors(changed)
        assert errors is not None  # as for the unchanged batch
        return (errors - self.baseline).abs() / self.scale

    def influence(self, changed: TensorDictBase, effect: Tensor) -> tuple[float, float]:
        """Return how far the errors of the steps ``effect`` ``[N]`` move, and how much of it may be rounding.

        If the errors of single steps are unknown, the changed batch and changed rewards at ``effect`` must
        together have the sum of their two effects on the loss; the first result is then the distance from
        that sum.
        """
        if self.baseline is not None:
            return float(self.moved(changed)[effect].max()), ROUNDING
        found = [self._interaction(self.batch, changed, effect)]
        found.append(self._interaction(self._calm(self.batch), self._calm(changed), effect))
        if all(moved is None for moved in found):
            raise Skip("the loss gives one number, and does not read the reward")
        return max(moved for moved in found if moved is not None), 1e-5

    def _interaction(self, batch: TensorDictBase, changed: TensorDictBase, effect: Tensor) -> float | None:
        """Distance from the sum of two effects, relative to the loss; ``None`` if rewards have none."""
        torch.manual_seed(0)
        shift = torch.where(effect, 0.2 + 0.2 * torch.rand(len(effect)), 0.0)
        totals = [float(self.total(td)) for td in (self._shifted(changed, shift), changed)]
        totals += [float(self.total(td)) for td in (self._shifted(batch, shift), batch)]
        if totals[2] == totals[3]:
            return None
        return abs(totals[0] - totals[1] - totals[2] + totals[3]) / max(max(map(abs, totals)), 1e-12)

    def _shifted(self, batch: TensorDictBase, shift: Tensor) -> TensorDictBase:
        reward = batch.get(self.reward)
        return batch.clone(recurse=False).set(self.reward, reward + shift.reshape(reward.shape).to(reward))

    def _calm(self, batch: TensorDictBase) -> TensorDictBase:
        reward = batch.get(self.reward)
        generator = torch.Generator().manual_seed(0)
        calm = CALM * torch.randn(reward.shape, generator=generator).to(reward)
        return batch.clone(recurse=False).set(self.reward, calm)

    def _reward_gradient(self, batch: TensorDictBase) -> Tensor | None:
        reward = batch.get(self.reward, None)
        if (
            not isinstance(reward, Tensor)
            or not reward.is_floating_point()
            or reward.numel() != batch.numel()
        ):
            return None
        leaf = reward.detach().clone().requires_grad_()
        with torch.enable_grad():
            total = self.total(batch.clone(recurse=False).set(self.reward, leaf))
            if not total.requires_grad:
                return None
            (gradient,) = torch.autograd.grad(total, leaf, allow_unused=True)
        return None if gradient is None or not gradient.any() else gradient.reshape(-1) * batch.numel()

    def _run(self, batch: TensorDictBase) -> tuple[Tensor | None, Tensor]:
        """Return the errors of the steps, if the loss gives any, and its sum."""
        torch.manual_seed(0)
        batch = batch.exclude(self.priority).clone()
        out = self.loss(batch)
        written = batch.get(self.priority, None)
        terms = loss_terms(out)
        each = [v for v in terms if v.numel() == batch.numel() > 1]
        if not isinstance(written, Tensor) or written.numel() != batch.numel():
            written = each[0] if each else None
        total = torch.stack([(v.mean() if v.numel() > 1 else v.reshape(())) for v in terms]).sum()
        return None if written is None else written.detach().reshape(-1), total


def loss_terms(out: Any) -> list[Tensor]:
    """Return the tensors that make up the loss, in what a loss returns.

    These are the entries of a ``TensorDict`` or a dictionary whose names begin with "loss", or the first
    tensor of a tuple.

    Raises:
        Skip: if there are none.
    """
    if isinstance(out, TensorDictBase | Mapping):
        items = [(str(k), v) for k, v in out.items() if isinstance(v, Tensor) and v.is_floating_point()]
        found = [v for k, v in items if k.startswith("loss")] or [v for k, v in items if "loss" in k]
    elif isinstance(out, tuple | list):
        found = [v for v in out if isinstance(v, Tensor)][:1]
    else:
        found = [out] if isinstance(out, Tensor) else []
    if not found:
        raise Skip(f"the loss returns no tensor that is a loss, but a {type(out).__name__}")
    return found


def same_values(a: TensorDictBase, b: TensorDictBase, keys: list[NestedKey]) -> bool:
    """Return whether entries are the same in two batches."""
    return all(torch.equal(a.get(key), b.get(key)) for key in keys if isinstance(a.get(key, None), Tensor))
