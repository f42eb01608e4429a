"""The bugs that :func:`recdqn.doctor.diagnose` can find."""

from __future__ import annotations

from recdqn.doctor.report import Bug

BUGS: dict[str, Bug] = {
    "does-not-run": Bug(
        "error",
        "the environment or the loss raises an error",
        "call env.rollout(100) and loss(buffer.sample()) alone, and correct what the traceback shows",
    ),
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
        ("states-differ",),
    ),
    "primer-mismatch": Bug(
        "error",
        "the primer does not match the module",
        "make the primer from the module itself: env.append_transform(module.make_tensordict_primer())",
        ("state-over-episode", "states-differ"),
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
        ("state-over-episode", "states-differ"),
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
    "norm-uninitialised": Bug(
        "error",
        "the observation statistics were never initialised",
        "call the transform's init_stats(...), or give it loc and scale",
    ),
    "norm-per-column": Bug(
        "error",
        "each row or column of the image is normalised separately",
        "use one loc and scale for the whole image or for each channel: reduce over height and width too",
        ("norm-off",),
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
        ("reward-differs", "target-reads-now", "slice-over-episodes", "unrelated-transitions"),
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
        ("memory-not-trained",),
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
    "norm-off": Bug(
        "error",
        "normalised observations are far from mean 0 and deviation 1",
        "compute the statistics from at least a thousand steps, and give standard_normal=True with a "
        "mean and a deviation",
        ("memory-not-trained",),
    ),
    "workers-alike": Bug(
        "error",
        "the environments of a batch are the same",
        "let each worker make an environment of its own, and seed the whole batch once: env.set_seed(0)",
    ),
    "workers-differ": Bug(
        "error",
        "the environments of a batch show the same state with different numbers",
        "compute the statistics once, and give them to every worker; or normalise outside of the batch",
    ),
    "autoreset-step": Bug(
        "error",
        "a step between two episodes is stored",
        "let the environment reset in the same step (in Gymnasium, AutoresetMode.SAME_STEP or DISABLED)",
    ),
    "reset-remembers": Bug(
        "error",
        "an episode begins with something of the one before",
        "clear what the transform keeps in its _reset, or use CatFrames",
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
        "write to another key, or to a copy: x = x - mean, not x -= mean",
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
    "entry-shifted": Bug(
        "error",
        "an entry of a stored step belongs to another step",
        "store a step as the environment returned it: observation, action, and under 'next' their results",
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
        "store the action that the environment executed",
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
        "collect with the policy's current weights, in sequential mode, and store what it writes",
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
    "priorities-stuck": Bug(
        "error",
        "the priorities do not follow the errors",
        "call buffer.update_tensordict_priority(batch) after each update",
    ),
    "padding-counted": Bug(
        "error",
        "the loss counts padded steps",
        "keep ('collector', 'mask') in the batch, and average over the steps where it is true",
        ("is-init-lost", "slice-over-episodes", "state-lost"),
    ),
    "reward-ignored": Bug(
        "error",
        "the loss does not read the rewards",
        "give the loss the environment's key: loss.set_keys(reward=...)",
    ),
    "action-ignored": Bug(
        "error",
        "the loss does not read the actions",
        "give the loss the action space of the environment: action_space=env.action_spec",
    ),
    "terminated-ignored": Bug(
        "error",
        "the target continues after the end of an episode",
        "multiply the bootstrap by ~batch['next', 'terminated']",
    ),
    "bootstrap-stops": Bug(
        "error",
        "the target stops where a slice or a time limit ends",
        "multiply the bootstrap by ~batch['next', 'terminated'], not by ~batch['next', 'done']",
        ("target-reads-now",),
    ),
    "target-reads-now": Bug(
        "error",
        "the target reads the observation before the action",
        "compute the target from batch['next']",
    ),
    "n-step-discount": Bug(
        "error",
        "the bootstrap has another discount than the rewards",
        "multiply the bootstrap by gamma to the number of summed rewards",
    ),
    "weights-wrong": Bug(
        "error",
        "the importance weights are not applied once",
        "multiply the error of each step once by batch['priority_weight']",
    ),
    "memory-not-trained": Bug(
        "error",
        "the recurrent layer gets no gradient",
        "let the loss and the optimiser have the parameters of the recurrent layer, and let gradients "
        "flow through time",
    ),
    "trains-a-copy": Bug(
        "error",
        "the loss trains a copy of the policy",
        "build the loss from the policy that acts: loss = DQNLoss(policy[:-1], ...)",
        ("memory-not-trained",),
    ),
    "target-gradient": Bug(
        "error",
        "the gradient flows through the target",
        "compute the target under torch.no_grad()",
    ),
    "target-at-once": Bug(
        "error",
        "the target network follows at once",
        "SoftUpdate(loss, tau=0.01): tau is the share that moves, eps the share that stays",
    ),
}
