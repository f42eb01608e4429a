"""Run profiles: how much of the book runs."""

from __future__ import annotations

import os
from dataclasses import dataclass

from recdqn.config import Config
from recdqn.errors import ConfigError


@dataclass(frozen=True)
class Profile:
    """How much the book runs: set by the variable ``RECDQN_PROFILE`` (all chapters).

    Attributes:
        name: ``"smoke"``, ``"book"`` or ``"full"``.
        masked_frames, pixel_frames: the most environment steps that a chapter trains on each preset.
        eval_episodes: greedy episodes per evaluation.
        updates: gradient steps in a cell that only shows an update.
        samples: random steps in a cell that measures something about the environment.
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
        """Return the profile that ``RECDQN_PROFILE`` names; ``book`` where it is not set."""
        name = os.environ.get("RECDQN_PROFILE", "book")
        if name not in PROFILES:
            raise ConfigError(f"RECDQN_PROFILE={name!r}: choose one of {', '.join(PROFILES)}")
        return PROFILES[name]

    def cut(self, cfg: Config) -> Config:
        """Return ``cfg`` shortened to what this profile runs."""
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
