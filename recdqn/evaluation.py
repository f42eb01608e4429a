"""Greedy episodes in an environment of their own, and what can be said from them (chapter 5)."""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from tensordict.nn import TensorDictModule
from torchrl.envs import TransformedEnv
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules.utils import get_primers_from_module

from recdqn.config import EnvConfig
from recdqn.envs import make_env
from recdqn.errors import ConfigError

EVAL_SEED = 1_000_000  # far from the seeds of training environments


@dataclass(frozen=True)
class Evaluation:
    """Returns and lengths of greedy episodes, one entry each (chapter 5).

    Attributes:
        returns: undiscounted sums of the unscaled rewards.
        lengths: environment steps.
    """

    returns: tuple[float, ...]
    lengths: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def iqm(self) -> float:
        """Interquartile mean, the mean of the middle half of the returns (:cite:t:`agarwal2021deep`)."""
        return float(stats.trim_mean(self.returns, 0.25))

    @property
    def interval(self) -> tuple[float, float]:
        """A 95 % bootstrap interval of the mean return, over episodes of this one policy."""
        if len(set(self.returns)) == 1:
            return self.returns[0], self.returns[0]
        result = stats.bootstrap(
            (np.array(self.returns),),
            np.mean,
            n_resamples=2_000,
            method="percentile",
            rng=np.random.default_rng(0),
        )
        return float(result.confidence_interval.low), float(result.confidence_interval.high)

    def __str__(self) -> str:
        """Summarise in one line."""
        low, high = self.interval
        return (
            f"mean {self.mean:.1f} (95 % interval {low:.1f} to {high:.1f}), IQM {self.iqm:.1f}, "
            f"{len(self.returns)} episodes of {min(self.lengths)} to {max(self.lengths)} steps"
        )


@torch.no_grad()
def evaluate(policy: TensorDictModule, cfg: EnvConfig, episodes: int = 100, seed: int = 0) -> Evaluation:
    """Run greedy episodes in a fresh environment, all at once, and return what they reached.

    Args:
        policy: any policy that acts in ``make_env(cfg)``; its recurrent modules' primers are added here.
        cfg: the environment it was trained in.
        episodes: how many; they run side by side, one environment each.
        seed: of the environments; the training environments' seeds are never used.

    Raises:
        ConfigError: if ``episodes`` is not a positive number.
        UserError: if an environment fails.
    """
    if episodes < 1:
        raise ConfigError(f"episodes={episodes!r}: expected a number of at least 1")
    env = make_env(dataclasses.replace(cfg, num_envs=max(episodes, 2)))  # two keep the batch dimension
    device = next((p.device for p in policy.parameters()), torch.device("cpu"))
    total = torch.zeros(env.batch_size, dtype=torch.double)  # float32 drifts over 500 small rewards
    length = torch.zeros(env.batch_size, dtype=torch.long)
    running = torch.ones(env.batch_size, dtype=torch.bool)
    with contextlib.closing(env), set_exploration_type(ExplorationType.DETERMINISTIC):
        _add_primers(env, policy)
        env.set_seed(EVAL_SEED + seed)
        td = env.reset()
        while running[:episodes].any():
            step, td = env.step_and_maybe_reset(policy(td.to(device)).to("cpu"))
            total += step["next", "reward"].squeeze(-1) * running
            length += running
            running &= ~step["next", "done"].squeeze(-1)
    returns = (total[:episodes] / cfg.reward_scale).round(decimals=3)
    return Evaluation(tuple(returns.tolist()), tuple(length[:episodes].tolist()))


def _add_primers(env: TransformedEnv, policy: TensorDictModule) -> None:
    """Let ``env`` carry the states of the policy's recurrent modules; a policy without any needs nothing."""
    primers = get_primers_from_module(policy, warn=False)
    if primers is not None:
        env.append_transform(primers)
