"""Bugs of the replay buffer and its batches."""

from __future__ import annotations

from recdqn.doctor.report import Bug

BUFFER: dict[str, Bug] = {
    "unrelated-transitions": Bug(
        "error",
        "the sampler returns unrelated transitions",
        "sample slices of trajectories: SliceSampler(slice_len=..., traj_key={trajectory!r})",
    ),
    "slice-over-episodes": Bug(
        "error",
        "slices cross from one trajectory into another",
        "give the sampler traj_key={trajectory!r} in place of end_key; the numbers of "
        "several collectors must differ",
    ),
    "slice-over-cursor": Bug(
        "error",
        "slices cross the buffer's write cursor",
        "use a sampler that ends trajectories at the write cursor, such as SliceSampler with traj_key",
    ),
    "impossible-steps": Bug(
        "warning",
        "observations jump further than they ever do in the environment",
        "evaluate in a separate environment: a rollout in the collector's environment changes its state",
        ("action-not-executed",),
    ),
    "is-init-lost": Bug(
        "error",
        "is_init does not mark the slices of the batch",
        "store is_init, and let the sampler mark slices in it (init_key='is_init')",
    ),
    "state-lost": Bug(
        "error",
        "the recurrent states in the batch are missing or zero",
        "store {key!r}: do not select or exclude it on the way into the buffer or out of it",
    ),
    "pixels-float32": Bug(
        "warning",
        "images are stored as floating-point numbers",
        "store {key!r} as uint8, and convert it to floating point when it is sampled",
    ),
    "pixels-twice": Bug(
        "warning",
        "images are stored twice",
        "leave {key!r} out of the buffer: it is the {root!r} of the following step",
    ),
    "entry-shifted": Bug(
        "error",
        "an entry of a stored step belongs to another step",
        "store {key!r} with its own step: the observation, the action, and under 'next' their results",
        (
            "slice-over-episodes",
            "unrelated-transitions",
            "action-not-executed",
            "state-not-carried",
            "impossible-steps",
            "is-init-lost",
        ),
    ),
    "action-not-executed": Bug(
        "error",
        "the stored actions are not those that were executed",
        "store the {action!r} that the environment executed",
        ("never-explores",),
    ),
    "reward-differs": Bug(
        "error",
        "the stored rewards are not the environment's",
        "store the reward as the environment returns it; for n-step returns use MultiStepTransform, or "
        "the loss's n_steps",
    ),
    "scale-differs": Bug(
        "error",
        "the loss reads numbers on another scale than the agent",
        "scale an entry once: in the environment, in the buffer or in the network",
        ("reward-differs",),
    ),
    "end-not-stored": Bug(
        "error",
        "the last steps of episodes are not stored",
        "store every step, also the one that is done",
    ),
    "end-mislabelled": Bug(
        "error",
        "terminated and truncated are confused",
        "store both flags as the environment returns them; only 'terminated' stops the bootstrap",
    ),
    "stored-twice": Bug(
        "error",
        "steps are stored more than once",
        "extend the buffer once for each collected batch, with data of its own",
        (
            "unrelated-transitions",
            "slice-over-episodes",
            "entry-shifted",
            "action-not-executed",
            "workers-alike",
        ),
    ),
    "states-differ": Bug(
        "error",
        "the stored states are not those that the policy computes",
        "collect with the policy's current weights, in sequential mode, and store the {key!r} that it writes",
        ("state-lost",),
    ),
    "never-sampled": Bug(
        "error",
        "a large part of the buffer is never sampled",
        "let the sampler draw short episodes too: strict_length=False",
    ),
    "slices-of-one-step": Bug(
        "error",
        "every slice is a single step",
        "store the steps of each environment in the order of time, and let only the sampler mark starts "
        "of slices",
        (
            "entry-shifted",
            "unrelated-transitions",
            "states-differ",
            "never-sampled",
            "init-false-start",
            "init-never-true",
        ),
    ),
    "priorities-of-steps": Bug(
        "warning",
        "a slice is drawn by the priority of its first step alone",
        "draw slices by the errors of all their steps, as PrioritySliceSampler of recdqn.replay does",
    ),
    "priorities-stuck": Bug(
        "error",
        "the priorities do not follow the errors",
        "call buffer.update_tensordict_priority(batch) after each update",
    ),
}
