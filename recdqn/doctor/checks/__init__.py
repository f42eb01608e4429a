"""The checks: experiments on copies of the parts.

A check yields a code of ``BUGS`` and a message for each bug that it finds, and raises ``Skip`` if it does not
apply.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from recdqn.doctor.checks import data, env, loss, policy, state
from recdqn.doctor.checks.common import Found
from recdqn.doctor.subject import Subject


class Check(NamedTuple):
    """A check, the parts that it needs, and the codes that it can find.

    Attributes:
        run: the check.
        needs: names of parts, or alternatives such as ``"env or batch"``.
        codes: keys of ``BUGS``.
    """

    run: Callable[[Subject], Found]
    needs: tuple[str, ...]
    codes: tuple[str, ...]


CHECKS = (
    Check(env.statistics, ("env",), ("norm-uninitialised",)),
    Check(env.image_statistics, ("env",), ("norm-per-column",)),
    Check(env.learning_wrappers, ("env",), ("norm-learns",)),
    Check(env.episode_starts, ("env",), ("no-init-tracker", "init-never-true", "init-false-start")),
    Check(env.hidden_values, ("env",), ("masked-leak",)),
    Check(state.state_flow, ("env", "policy"), state.STATE_CODES),
    Check(state.sequential_mode, ("policy", "env or batch"), ("recurrent-mode-on",)),
    Check(policy.deterministic_evaluation, ("policy", "env or batch"), ("explores-in-evaluation",)),
    Check(policy.annealing, ("policy",), ("exploration-frozen",)),
    Check(policy.finite_parameters, ("policy or loss",), ("not-finite",)),
    Check(data.continuity, ("batch",), ("unrelated-transitions", "slice-over-episodes", "slice-over-cursor")),
    Check(data.stored_states, ("batch",), ("is-init-lost", "state-lost")),
    Check(data.observation_jumps, ("env", "batch"), ("impossible-steps",)),
    Check(data.image_storage, ("batch",), ("pixels-float32", "pixels-twice")),
    Check(loss.slice_independence, ("loss", "batch"), ("target-leak",)),
    Check(loss.temporal_dependence, ("loss", "batch"), ("recurrent-mode-off",)),
    Check(policy.causality, ("policy", "batch"), ("sees-future",)),
    Check(loss.separate_target, ("loss",), ("target-is-online",)),
    Check(loss.target_updates, ("loss",), ("target-frozen",)),
)
