"""Bugs of the policy, and of the policy in its environment."""

from __future__ import annotations

from recdqn.doctor.report import Bug

POLICY: dict[str, Bug] = {
    "no-primer": Bug(
        "error",
        "no primer: the recurrent state is dropped between steps",
        "env.append_transform({primer}), for the environment that the collector steps",
        ("states-differ",),
    ),
    "primer-mismatch": Bug(
        "error",
        "the primer does not match the module",
        "make the primer from the policy itself: env.append_transform({primer})",
        ("state-over-episode", "states-differ", "does-not-run"),
    ),
    "out-key-without-next": Bug(
        "error",
        "the new state is not written under 'next', so step_mdp does not carry it",
        "write the state to {next_key!r}, from where step_mdp moves it to {key!r}",
    ),
    "state-overwritten": Bug(
        "error",
        "the new state overwrites the state it was computed from",
        "write the state to {next_key!r}: the buffer must store {key!r} as it was before the step",
    ),
    "state-not-carried": Bug(
        "error",
        "the next step does not receive the state that was written",
        "find the transform or the batched environment's worker that writes {root!r} at every step",
        ("state-over-episode", "states-differ"),
    ),
    "state-over-episode": Bug(
        "error",
        "an episode starts with the state of the previous one",
        "put InitTracker and the primer of {root!r} on the outermost environment, where they see each reset",
    ),
    "recurrent-mode-on": Bug(
        "error",
        "recurrent mode is on outside the loss",
        "use set_recurrent_mode only as a context manager around code that reads whole slices",
        ("explores-in-evaluation", "state-lost", "states-differ", "state-not-carried"),
    ),
    "batch-statistics": Bug(
        "error",
        "batch statistics while acting: the environments change each other's values",
        "act with policy.eval(), and call policy.train() around the loss; or use LayerNorm",
        ("states-differ", "target-leak", "sees-future"),
    ),
    "exploration-frozen": Bug(
        "error",
        "exploration is not annealed",
        "call the exploration module's step(frames) after every collection",
    ),
    "explores-in-evaluation": Bug(
        "error",
        "the policy explores during evaluation",
        "make the exploration module respect exploration_type(), or evaluate the policy without it",
        ("states-differ",),
    ),
    "sees-future": Bug(
        "error",
        "the value of a step depends on later observations",
        "use a unidirectional layer: when it acts, the agent has no later observations",
    ),
    "memory-outside-data": Bug(
        "error",
        "the policy remembers outside of the data",
        "keep the state in the TensorDict, as LSTMModule does: the buffer must store it",
        ("recurrent-mode-on", "batch-statistics", "states-differ"),
    ),
    "input-overwritten": Bug(
        "error",
        "the policy overwrites what it reads",
        "write to another key, or to a copy: x = td[{key!r}]; x = x - mean, not x -= mean",
    ),
    "memory-ignored": Bug(
        "error",
        "the recurrent layer's output is not used",
        "let the head read the output of the recurrent layer",
        ("recurrent-mode-off", "memory-not-trained"),
    ),
    "constant-input": Bug(
        "error",
        "what the policy reads never changes",
        "let the policy read the key that the environment writes",
        ("target-reads-now", "bootstrap-stops"),
    ),
    "action-mask-ignored": Bug(
        "error",
        "the policy chooses actions that the mask forbids",
        "give the mask's key to QValueModule and EGreedyModule",
    ),
    "exploration-over": Bug(
        "error",
        "exploration ends at once",
        "give annealing_num_steps in environment steps, as step(frames) counts them",
    ),
    "never-explores": Bug(
        "error",
        "the collected actions are never random",
        "put the exploration module last, and collect with ExplorationType.RANDOM",
    ),
}
