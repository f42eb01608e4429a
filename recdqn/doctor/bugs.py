"""The bugs that :func:`recdqn.doctor.diagnose` can find."""

from __future__ import annotations

from recdqn.doctor.report import Bug

BUGS: dict[str, Bug] = {
    "no-init-tracker": Bug(
        "error",
        "the environment has no InitTracker",
        "append InitTracker() to the environment that the collector steps",
    ),
    "init-never-true": Bug(
        "error",
        "is_init is false where episodes begin",
        "let InitTracker write is_init, and let no later transform change it",
    ),
    "init-false-start": Bug(
        "error",
        "is_init is true where no episode begins",
        "let InitTracker write is_init; the environment must mark only the first step of an episode",
    ),
    "no-primer": Bug(
        "error",
        "no primer: the recurrent state is dropped between steps",
        "append module.make_tensordict_primer() to the environment that the collector steps",
    ),
    "primer-mismatch": Bug(
        "error",
        "the primer does not match the module",
        "make the primer from the module itself: env.append_transform(module.make_tensordict_primer())",
    ),
    "out-key-without-next": Bug(
        "error",
        "the new state is not written under 'next', so step_mdp does not carry it",
        'write the state to ("next", its input key), or give only in_key and out_key',
    ),
    "state-overwritten": Bug(
        "error",
        "the new state overwrites the state it was computed from",
        'write the state to ("next", its input key): the buffer must store the state before the step',
    ),
    "state-not-carried": Bug(
        "error",
        "the next step does not receive the state that was written",
        "find the transform or the batched environment's worker that writes the state's entry at every step",
    ),
    "state-over-episode": Bug(
        "error",
        "an episode starts with the state of the previous one",
        "put the primer and InitTracker on the outermost environment, so that they see every reset",
    ),
    "recurrent-mode-on": Bug(
        "error",
        "recurrent mode is on outside the loss",
        "use set_recurrent_mode only as a context manager around code that reads whole slices",
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
    ),
    "norm-uninitialised": Bug(
        "error",
        "the observation statistics were never initialised",
        "call the transform's init_stats(...), or give it loc and scale",
    ),
    "norm-per-column": Bug(
        "error",
        "each row or column of the image is normalised separately",
        "use one loc and scale for the whole image or for each channel: reduce over height and width too",
    ),
    "norm-learns": Bug(
        "warning",
        "a wrapper of the environment learns statistics while it runs",
        "evaluate with the statistics of training, evaluate(..., statistics=run.statistics), or scale by "
        "fixed numbers",
    ),
    "masked-leak": Bug(
        "warning",
        "hidden information can be read from another entry",
        "remove the entry from the policy's input, or do not call the task masked",
    ),
    "sees-future": Bug(
        "error",
        "the value of a step depends on later observations",
        "use a unidirectional layer: when it acts, the agent has no later observations",
    ),
    "unrelated-transitions": Bug(
        "error",
        "the sampler returns unrelated transitions",
        "sample slices of trajectories: SliceSampler(slice_len=..., traj_key=('collector', 'traj_ids'))",
    ),
    "slice-over-episodes": Bug(
        "error",
        "slices cross from one trajectory into another",
        "give the sampler traj_key=('collector', 'traj_ids') in place of end_key; the numbers of "
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
    ),
    "is-init-lost": Bug(
        "error",
        "is_init does not mark the slices of the batch",
        "store is_init, and let the sampler mark slices in it (init_key='is_init')",
    ),
    "state-lost": Bug(
        "error",
        "the recurrent states in the batch are missing or zero",
        "store the states: do not select or exclude them on the way into the buffer or out of it",
    ),
    "pixels-float32": Bug(
        "warning",
        "images are stored as floating-point numbers",
        "store uint8 images, and convert them to floating point when they are sampled",
    ),
    "pixels-twice": Bug(
        "warning",
        "images are stored twice",
        "store each image once: a step's next image is the image of the following step",
    ),
    "not-finite": Bug(
        "error",
        "a parameter is not finite",
        "restore earlier weights, lower the learning rate, and clip the gradient norm",
    ),
    "target-leak": Bug(
        "error",
        "the loss of one slice depends on another slice",
        "use RecurrentDQNLoss; in your own loss, restart every pass from the stored state at each slice",
    ),
    "recurrent-mode-off": Bug(
        "error",
        "the loss treats every step independently",
        "run the network under set_recurrent_mode(True) in the loss, so that gradients flow through time",
    ),
    "target-frozen": Bug(
        "error",
        "the target network never moves",
        "create SoftUpdate(loss, tau=...) or HardUpdate(loss, ...) and call its step() after the optimiser's",
    ),
    "target-is-online": Bug(
        "error",
        "the target network is the online network",
        "build the loss with delay_value=True",
    ),
}
