"""Presets: what each changes of the default settings in :mod:`recdqn.config`."""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "masked-cartpole": {},  # the defaults
    "pixel-cartpole": {
        "env": {"observation": "pixels", "num_envs": 16, "reward_scale": 0.01},
        "policy": {"features": 128, "eps_frames": 10_000},
        "loss": {"gamma": 0.99, "tau": 0.01},
        # Reading pictures is slow, so evaluations are fewer and shorter.
        "train": {
            "total_frames": 60_000,
            "learning_rate": 1e-3,
            "average": 0.999,
            "eval_every": 50,
            "eval_episodes": 10,
        },
    },
}
