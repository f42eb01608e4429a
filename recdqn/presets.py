"""Presets: what each changes of the default settings in :mod:`recdqn.config`."""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "masked-cartpole": {},  # the defaults
    "pixel-cartpole": {
        "env": {"observation": "pixels", "num_envs": 16},
        "policy": {"features": 128},
        "loss": {"tau": 0.01},
        # Drawing pictures is slow, so evaluations are fewer and shorter.
        "train": {"total_frames": 60_000, "learning_rate": 1e-3, "eval_every": 50, "eval_episodes": 10},
    },
}
