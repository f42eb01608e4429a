"""Helpers of several checks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torchrl.envs import Compose, Transform, TransformedEnv
from torchrl.envs.common import EnvBase

from recdqn.doctor.bugs import BUGS
from recdqn.doctor.names import Names
from recdqn.doctor.report import Finding, Severity
from recdqn.doctor.subject import Subject


class Evidence(NamedTuple):
    """What a check found.

    Attributes:
        code: key of ``BUGS``.
        message: the object, key, step and numbers.
        severity: if the parts show that it is another than that of the code.
        fix: the correction with the names of these parts; that of the code by default.
        key: the entry that it is about, for the correction of the code.
    """

    code: str
    message: str
    severity: Severity | None = None
    fix: str | None = None
    key: NestedKey | None = None

    def finding(self, subject: Subject | None = None) -> Finding:
        """Return it with the code's own severity and correction where it has none.

        Args:
            subject: the parts, whose names the correction has; TorchRL's names without it.
        """
        bug = BUGS[self.code]
        fix = self.fix or bug.fix.format_map(Names(subject, self.key))
        return Finding(self.code, self.severity or bug.severity, self.message, fix)


Found = Iterator[tuple[str, str] | tuple[str, str, Severity | None, str | None] | Evidence]
TOLERANCE = 1e-5  # smaller changes, relative to the value that changes, are rounding
IMAGE_SIZE = 784  # smallest number of elements that an image has


def transforms_of(env: EnvBase) -> list[Transform]:
    """Return the transforms of the outermost environment, in order."""
    if not isinstance(env, TransformedEnv):
        return []
    return list(env.transform) if isinstance(env.transform, Compose) else [env.transform]


def is_image(value: Tensor, batch_dims: int) -> bool:
    """Return whether ``value`` ``[*batch, ...]`` holds images, by its size."""
    return value.ndim - batch_dims >= 2 and value.shape[batch_dims:].numel() >= IMAGE_SIZE


def leaves(td: TensorDictBase) -> list[Tensor]:
    """Return the tensors of ``td``, ordered by key."""
    return [value for _, value in sorted(td.items(True, True), key=lambda item: str(item[0]))]


def name_of(value: Any) -> str:
    """Return a function's name, or the class of another object."""
    return getattr(value, "__name__", type(value).__name__)
