"""Run profiles of the book: short for tests, longer for readers."""

from __future__ import annotations

import os
from dataclasses import dataclass

from recdqn.config import Config
from recdqn.errors import ConfigError


@dataclass(frozen=True)
class Profile:
    """How much of the book runs, set by the environment variable ``RECDQN_PROFILE``.

    Attributes:
        name: ``"smoke"``, ``"book"`` or ``"full"``.
        masked_frames, pixel_frames: maximum number of environment steps to train on each preset.
        eval_episodes: maximum number of greedy episodes in an evaluation.
        updates: gradient steps in a cell that only shows an update.
        samples: random steps in a cell that measures a property of an environment.
        repeats: repetitions in a cell that measures time.
    """

    name: str
    masked_frames: int
    pixel_frames: int
    eval_episodes: int
    updates: int
    samples: int
    repeats: int

    @staticmethod
    def current() -> Profile:
        """Return the profile named by ``RECDQN_PROFILE``; ``"book"`` if the variable is not set.

        Raises:
            ConfigError: if there is no such profile.
        """
        name = os.environ.get("RECDQN_PROFILE", "book")
        if name not in PROFILES:
            raise ConfigError(f"RECDQN_PROFILE={name!r}: choose one of {', '.join(PROFILES)}")
        return PROFILES[name]

    def cut(self, cfg: Config) -> Config:
        """Return ``cfg`` with frames and evaluation episodes limited to those of this profile."""
        frames = self.pixel_frames if cfg.env.observation == "pixels" else self.masked_frames
        return cfg.replace(
            train={
                "total_frames": min(frames, cfg.train.total_frames),
                "eval_episodes": min(self.eval_episodes, cfg.train.eval_episodes),
            }
        )


PROFILES: dict[str, Profile] = {
    "smoke": Profile("smoke", 1_280, 1_152, eval_episodes=2, updates=2, samples=500, repeats=2),
    "book": Profile("book", 100_000, 2_048, eval_episodes=20, updates=100, samples=2_000, repeats=10),
    "full": Profile("full", 100_000, 60_000, eval_episodes=20, updates=100, samples=2_000, repeats=20),
}
