"""Look on at a training loop, and report what only time shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.data import ReplayBuffer
from torchrl.envs.common import EnvBase
from torchrl.objectives.utils import TargetNetUpdater

from recdqn.doctor.checks.common import Evidence, Found, name_of
from recdqn.doctor.checks.exploration import explorers
from recdqn.doctor.choices import require_types
from recdqn.doctor.examine import in_order
from recdqn.doctor.internals import priorities_of
from recdqn.doctor.report import Finding, Report
from recdqn.errors import UserError

PARTS: dict[str, Any] = {
    "env": EnvBase,
    "policy": nn.Module,
    "buffer": ReplayBuffer,
    "loss": nn.Module,
    "updater": TargetNetUpdater,
    "optim": torch.optim.Optimizer,
}
ENOUGH = 20  # updates after which something that never happened will not


class Monitor:
    """Counts what a loop does with its parts, inside a ``with`` block.

    Only a few methods of the parts are counted while the block runs; nothing is copied or computed in the
    loop.

    Args:
        env: environment that the collector steps.
        policy: policy that collects.
        buffer: replay buffer.
        loss: loss module.
        updater: target updater of the loss.
        optim: optimiser.
        collections: number of ``buffer.extend`` calls after which it stops to look on, when the next one
            begins; by default the block's end.

    Attributes:
        report: what was found, after ``collections`` or when the block has ended without an error.

    Raises:
        UserError: if no part is given, one has the wrong type, or ``collections`` is not positive or has no
            buffer to count by.

    Example:
        >>> policy = make_policy(cfg.policy, env)
        >>> with monitor(env=env, policy=policy) as doctor:
        ...     pass  # a loop of your own
        >>> print(doctor.report.headline)
        0 errors, 0 warnings; 6 of 6 checks ran
    """

    def __init__(
        self,
        env: EnvBase | None = None,
        policy: TensorDictModule | None = None,
        buffer: ReplayBuffer | None = None,
        loss: nn.Module | None = None,
        updater: TargetNetUpdater | None = None,
        optim: torch.optim.Optimizer | None = None,
        *,
        collections: int | None = None,
    ) -> None:
        parts = (env, policy, buffer, loss, updater, optim)
        given = {name: part for name, part in zip(PARTS, parts, strict=True) if part is not None}
        if not given:
            raise UserError(f"nothing to watch: give some of {', '.join(PARTS)}")
        require_types(given, PARTS)
        if collections is not None and (
            not isinstance(collections, int) or collections < 1 or buffer is None
        ):
            raise UserError(
                f"collections={collections!r}: give a positive number, and the buffer whose extend() is "
                "counted"
            )
        self.collections = collections
        self.env, self.policy, self.buffer = env, policy, buffer
        self.loss, self.updater, self.optim = loss, updater, optim
        self.report = Report()
        self._calls: dict[str, int] = {}
        self._ended = False
        self._stack = ExitStack()

    def __enter__(self) -> Monitor:
        """Begin to count."""
        self._stored = 0 if self.buffer is None else self.buffer.write_count
        self._before = {id(p): _mean(p) for p in (*_parameters(self.policy), *_parameters(self.loss))}
        for part, method in (
            (self.env, "rollout"),
            (self.buffer if self.collections else None, "extend"),
            (self.buffer, "update_tensordict_priority"),
            (self.buffer, "update_priority"),
            (self.updater, "step"),
            (self.optim, "step"),
            *((module, "step") for module in self._explorers()),
        ):
            self._count(part, method)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop counting; compare, unless the loop raised an error."""
        self._stack.close()
        if kind is None and not self._ended:
            self.report = self._examine()

    def _count(self, part: Any, method: str) -> None:
        """Count the calls of a method, until the block ends."""
        original = getattr(part, method, None)
        if original is None:
            return
        name = f"{name_of(part)}.{method}"
        self._calls.setdefault(name, 0)
        hidden = vars(part).get(method)  # a scheduler also wraps step()

        def counted(*args: Any, **kwargs: Any) -> Any:
            if method == "extend" and self._calls[name] == self.collections:
                self._stack.close()
                self._ended, self.report = True, self._examine()
            self._calls[name] += 1
            return original(*args, **kwargs)

        setattr(part, method, counted)
        if hidden is None:
            self._stack.callback(delattr, part, method)
        else:
            self._stack.callback(setattr, part, method, hidden)

    def _explorers(self) -> list[Any]:
        return [] if self.policy is None else explorers(self.policy)

    def _number(self, part: Any, *methods: str) -> int:
        return sum(self._calls.get(f"{name_of(part)}.{method}", 0) for method in methods)

    def _examine(self) -> Report:
        findings: dict[str, Finding] = {}
        for item in self._evidence():
            finding = Evidence(*item).finding()
            findings.setdefault(finding.code, finding)
        return Report(in_order(findings.values()), CODES)

    def _evidence(self) -> Found:
        updates = self._number(self.optim, "step") if self.optim is not None else 0
        if updates >= ENOUGH:
            yield from self._after_updates(updates)
        if self.buffer is not None:
            yield from self._exploration(self.buffer.write_count - self._stored)
        if self.env is not None and (rollouts := self._number(self.env, "rollout")):
            yield Evidence(
                "impossible-steps",
                f"{name_of(self.env)}.rollout was called {rollouts} times on the environment that the "
                "collector steps",
                "error",
            )

    def _after_updates(self, updates: int) -> Found:
        if self.updater is not None and not self._number(self.updater, "step"):
            yield "target-frozen", f"{name_of(self.updater)}.step() was not called in {updates} updates"
        values = priorities_of(self.buffer) if self.buffer is not None else None
        called = self._number(self.buffer, "update_tensordict_priority", "update_priority")
        if values is not None and not called:
            yield (
                "priorities-stuck",
                f"buffer.update_tensordict_priority(batch) was not called in {updates} updates",
            )
        policy, loss = list(_parameters(self.policy)), list(_parameters(self.loss))
        moved = [any(_mean(p) != self._before[id(p)] for p in part) for part in (policy, loss)]
        if policy and loss and moved == [False, True]:
            yield (
                "trains-a-copy",
                f"{updates} updates changed the parameters of {name_of(self.loss)}, and none of the policy's",
                None,
                "collector.update_policy_weights_() after each update, or build both from the same modules",
            )
        assert self.optim is not None  # it was stepped
        given = {p.data_ptr() for group in self.optim.param_groups for p in group["params"]}
        missing = [
            n for n, p in _named(self.loss) if p.requires_grad and p.numel() and p.data_ptr() not in given
        ]
        if missing:
            yield (
                "memory-not-trained",
                f"{name_of(self.optim)} has {len(given)} parameters, but not {missing[0]!r} and "
                f"{len(missing) - 1} others of {name_of(self.loss)}",
                None,
                f"{name_of(self.optim)}(loss.parameters(), ...), after the loss and all its layers are made",
            )

    def _exploration(self, stored: int) -> Found:
        assert self.buffer is not None
        stored *= self.buffer.storage.shape[1:].numel()
        for module in self._explorers():
            steps = int(module.annealing_num_steps)
            if stored >= steps / 10 and not self._number(module, "step") and float(module.eps) > 0.5:
                yield (
                    "exploration-frozen",
                    f"{name_of(module)}.step() was not called while {stored:,} steps were stored; eps is "
                    f"{float(module.eps):.3g}",
                )


CODES = (
    "target-frozen",
    "priorities-stuck",
    "trains-a-copy",
    "memory-not-trained",
    "exploration-frozen",
    "impossible-steps",
)


def _named(module: nn.Module | None) -> Iterator[tuple[str, Tensor]]:
    if isinstance(module, nn.Module):
        yield from module.named_parameters()


def _parameters(module: nn.Module | None) -> Iterator[Tensor]:
    for _, value in _named(module):
        if value.requires_grad and value.numel():
            yield value


def _mean(value: Tensor) -> float:
    return float(value.detach().double().mean())


monitor = Monitor
