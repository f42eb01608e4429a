"""Bugs of the environment."""

from __future__ import annotations

from recdqn.doctor.report import Bug

ENVIRONMENT: dict[str, Bug] = {
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
    "does-not-run": Bug(
        "error",
        "the environment, the policy or the loss raises an error",
        "call env.rollout(100) and loss(buffer.sample()) alone, and correct what the traceback shows",
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
        ("masked-leak",),
    ),
    "masked-leak": Bug(
        "warning",
        "hidden information can be read from another entry",
        "hide it in {key!r} too, or do not call the task masked",
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
}
