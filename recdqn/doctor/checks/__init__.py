"""The checks: experiments on copies of the parts.

A check yields a code of ``BUGS`` and a message for each bug that it finds, and raises ``Skip`` if it does not
apply.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from recdqn.doctor.checks import (
    alignment,
    batching,
    behaviour,
    data,
    discount,
    dynamics,
    ends,
    env,
    exploration,
    loss,
    policy,
    priorities,
    response,
    rewards,
    runs,
    scales,
    slicing,
    state,
    storage,
    target,
    training,
    workers,
)
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
    Check(runs.runs, ("env or loss",), ("does-not-run",)),
    Check(env.statistics, ("env",), ("norm-uninitialised",)),
    Check(env.image_statistics, ("env",), ("norm-per-column",)),
    Check(behaviour.normalisation, ("env",), ("norm-off",)),
    Check(workers.workers, ("env",), ("workers-alike", "workers-differ")),
    Check(env.learning_wrappers, ("env",), ("norm-learns",)),
    Check(env.episode_starts, ("env",), ("no-init-tracker", "init-never-true", "init-false-start")),
    Check(ends.resets, ("env",), ("autoreset-step", "reset-remembers", "norm-learns")),
    Check(env.hidden_values, ("env",), ("masked-leak",)),
    Check(state.state_flow, ("env", "policy"), state.STATE_CODES),
    Check(batching.sequential_mode, ("policy", "env or batch"), ("recurrent-mode-on", "batch-statistics")),
    Check(behaviour.repeated_calls, ("policy", "env or batch"), ("memory-outside-data", "input-overwritten")),
    Check(behaviour.memory_use, ("policy", "env or batch"), ("memory-ignored",)),
    Check(behaviour.constant_inputs, ("env", "policy"), ("constant-input",)),
    Check(exploration.masks, ("env", "policy"), ("action-mask-ignored",)),
    Check(policy.deterministic_evaluation, ("policy", "env or batch"), ("explores-in-evaluation",)),
    Check(exploration.annealing, ("policy",), ("exploration-frozen", "exploration-over")),
    Check(exploration.taken_actions, ("policy", "env or batch"), ("never-explores",)),
    Check(policy.finite_parameters, ("policy or loss",), ("not-finite",)),
    Check(storage.finite_data, ("batch",), ("not-finite",)),
    Check(runs.finite_values, ("env or loss",), ("not-finite",)),
    Check(alignment.observation_alignment, ("buffer",), ("entry-shifted",)),
    Check(alignment.action_alignment, ("env", "buffer"), ("entry-shifted", "action-not-executed")),
    Check(rewards.stored_rewards, ("env", "buffer"), ("reward-differs", "scale-differs", "entry-shifted")),
    Check(dynamics.stored_actions, ("env", "buffer"), ("entry-shifted", "action-not-executed")),
    Check(dynamics.stored_rewards, ("env", "buffer"), ("entry-shifted", "reward-differs", "scale-differs")),
    Check(ends.stored_ends, ("env", "buffer"), ("end-not-stored", "end-mislabelled")),
    Check(storage.stored_marks, ("buffer",), ("init-false-start", "init-never-true")),
    Check(storage.duplicates, ("buffer",), ("stored-twice",)),
    Check(scales.rewards_in_buffer, ("env", "buffer"), ("scale-differs",)),
    Check(scales.observations, ("env", "policy", "buffer"), ("scale-differs",)),
    Check(scales.rewards_in_environment, ("env",), ("scale-differs",)),
    Check(scales.rewards_in_loss, ("env", "loss", "batch"), ("scale-differs",)),
    Check(scales.first_layer, ("policy", "loss", "batch"), ("scale-differs",)),
    Check(scales.images_divided_again, ("env", "policy"), ("scale-differs",)),
    Check(storage.newest_states, ("policy", "buffer"), ("states-differ",)),
    Check(storage.never_sampled, ("buffer",), ("never-sampled",)),
    Check(slicing.slice_lengths, ("batch",), ("slices-of-one-step",)),
    Check(data.continuity, ("batch",), ("unrelated-transitions", "slice-over-episodes", "slice-over-cursor")),
    Check(
        data.stored_states,
        ("batch",),
        ("is-init-lost", "state-lost", "state-not-carried", "state-over-episode"),
    ),
    Check(data.observation_jumps, ("env", "batch"), ("impossible-steps",)),
    Check(storage.image_storage, ("batch",), ("pixels-float32", "pixels-twice")),
    Check(priorities.priorities, ("buffer",), ("priorities-stuck",)),
    Check(priorities.slice_priorities, ("buffer",), ("priorities-of-steps",)),
    Check(loss.slice_independence, ("loss", "batch"), ("target-leak",)),
    Check(loss.temporal_dependence, ("loss", "batch"), ("recurrent-mode-off",)),
    Check(policy.causality, ("policy", "batch"), ("sees-future",)),
    Check(slicing.padding, ("loss", "batch"), ("padding-counted",)),
    Check(
        response.responses,
        ("loss", "batch"),
        ("reward-ignored", "action-ignored", "terminated-ignored", "bootstrap-stops"),
    ),
    Check(response.masked_target, ("loss", "batch"), ("action-mask-ignored",)),
    Check(response.target_time, ("loss", "batch"), ("target-reads-now",)),
    Check(discount.bootstrap_discount, ("loss", "batch"), ("n-step-discount",)),
    Check(priorities.weights, ("loss", "batch"), ("weights-wrong",)),
    Check(training.trained_parameters, ("policy", "loss", "batch"), ("memory-not-trained", "trains-a-copy")),
    Check(training.target_gradient, ("loss", "batch"), ("target-gradient",)),
    Check(training.gradient_in_loss, ("loss", "batch"), ("memory-not-trained",)),
    Check(training.gradient_through_time, ("policy", "batch"), ("memory-not-trained",)),
    Check(target.separate_target, ("loss",), ("target-is-online",)),
    Check(target.target_updates, ("loss",), ("target-frozen",)),
    Check(target.target_speed, ("loss",), ("target-at-once",)),
)
