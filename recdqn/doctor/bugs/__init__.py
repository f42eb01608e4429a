"""The bugs that :func:`recdqn.doctor.diagnose` can find, by the part that they are in."""

from __future__ import annotations

from recdqn.doctor.bugs.buffer import BUFFER
from recdqn.doctor.bugs.environment import ENVIRONMENT
from recdqn.doctor.bugs.loss import LOSS
from recdqn.doctor.bugs.policy import POLICY
from recdqn.doctor.report import Bug

BUGS: dict[str, Bug] = ENVIRONMENT | POLICY | BUFFER | LOSS
