"""Greedy episodes in an environment of their own, with interval estimates."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule
from torchrl.envs import TransformedEnv
from torchrl.envs.utils import ExplorationType, set_exploration_type

from recdqn.config import EnvConfig
from recdqn.envs import add_primers, make_env
from recdqn.errors import ConfigError
from recdqn.flow import STEP, walk

EVAL_SEED = 1_000_000  # far from the seeds of training environments
RESAMPLES = 2_000  # bootstrap resamples of an interval


@dataclass(frozen=True)
class Evaluation:
    """Returns and lengths of greedy episodes, one entry each.

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
    def interval(self) -> tuple[float, float] | None:
        """A 95 % interval of the mean return, over episodes of this one policy.

        Where returns have two values, such as 1 for a success and 0 for a failure, it is Wilson's interval of
        their shares, which is not empty even if all episodes succeed. Otherwise it is a bootstrap interval.
        ``None`` if all returns equal another number than 0 or 1: nothing then shows what else a return can
        be.
        """
        values = {0.0, 1.0} if {0.0, 1.0}.issuperset(self.returns) else set(self.returns)
        if len(values) == 1:
            return None
        if len(values) == 2:
            low, high = sorted(values)
            count = self.returns.count(high)
            share = stats.binomtest(count, len(self.returns)).proportion_ci(0.95, method="wilson")
            return low + float(share.low) * (high - low), low + float(share.high) * (high - low)
        result = stats.bootstrap(
            (np.array(self.returns),),
            np.mean,
            n_resamples=RESAMPLES,
            method="percentile",
            rng=np.random.default_rng(0),
        )
        return float(result.confidence_interval.low), float(result.confidence_interval.high)

    def __str__(self) -> str:
        """Summarise in one line."""
        digits = 1 if max(map(abs, self.returns)) > 10 else 2
        spread = "all returns are equal"
        if self.interval is not None:
            low, high = self.interval
            spread = f"95 % interval {low:.{digits}f} to {high:.{digits}f}"
        shortest, longest = min(self.lengths), max(self.lengths)
        steps = f"{shortest}" if shortest == longest else f"{shortest} to {longest}"
        return (
            f"mean {self.mean:.{digits}f} ({spread}), IQM {self.iqm:.{digits}f}, "
            f"{len(self.returns)} episodes of {steps} steps"
        )


def evaluate(policy: TensorDictModule, cfg: EnvConfig, episodes: int = 100, seed: int = 0) -> Evaluation:
    """Run greedy episodes in a fresh environment, side by side.

    Args:
        policy: any policy that acts in ``make_env(cfg)``; the primers of its recurrent modules are added.
        cfg: the environment it was trained in.
        episodes: number of episodes, one environment each.
        seed: of the environments; the seeds of training environments are never used.

    Raises:
        ConfigError: if ``episodes`` is not a positive number.
        UserError: if an environment fails.
    """
    if episodes < 1:
        raise ConfigError(f"episodes={episodes!r}: expected a number of at least 1")
    cfg = dataclasses.replace(cfg, num_envs=max(episodes, 2))  # two keep the batch dimension
    total = torch.zeros(cfg.num_envs, dtype=torch.double)  # float32 drifts over 500 small rewards
    length = torch.zeros(cfg.num_envs, dtype=torch.long)
    running = torch.ones(cfg.num_envs, dtype=torch.bool)
    with evaluation_env(policy, cfg, seed) as env:
        for stage, td in walk(env, greedy(policy)):
            if stage == STEP:
                total += td["next", "reward"].squeeze(-1) * running
                length += running
                running &= ~td["next", "done"].squeeze(-1)
                if not running[:episodes].any():
                    break
    returns = (total[:episodes] / cfg.reward_scale).round(decimals=3)
    return Evaluation(tuple(returns.tolist()), tuple(length[:episodes].tolist()))


@contextlib.contextmanager
def evaluation_env(policy: TensorDictModule, cfg: EnvConfig, seed: int) -> Iterator[TransformedEnv]:
    """Make an environment for greedy episodes of ``policy``, seed it, and close it at the end."""
    with contextlib.closing(make_env(cfg)) as env:
        add_primers(env, policy)
        env.set_seed(EVAL_SEED + seed)
        yield env


def greedy(policy: TensorDictModule) -> Callable[[TensorDictBase], TensorDictBase]:
    """Return ``policy`` without exploration, for TensorDicts on the CPU."""
    device = next((p.device for p in policy.parameters()), torch.device("cpu"))

    def act(td: TensorDictBase) -> TensorDictBase:
        with set_exploration_type(ExplorationType.DETERMINISTIC):
            return policy(td.to(device)).to("cpu")

    return act
