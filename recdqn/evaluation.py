"""Greedy episodes in an environment of their own, with interval estimates."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from scipy import stats
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule
from torchrl.envs import TransformedEnv
from torchrl.envs.utils import ExplorationType, set_exploration_type

from recdqn.agent import Agent
from recdqn.config import EnvConfig
from recdqn.envs import add_primers, make_env, make_vector_env
from recdqn.envs.processes import Workers
from recdqn.envs.replayable import freeze_statistics
from recdqn.envs.statistics import Statistics
from recdqn.errors import ConfigError, NotFinite, UserError
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
        digits = decimals(self.returns)
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


def decimals(values: Iterable[float]) -> int:
    """Return how many decimals to print for numbers of this size: two digits of the largest, or more.

    Example:
        >>> [decimals([size]) for size in (1e6, 100.0, 1.0, 0.05, 1e-4)]
        [1, 1, 2, 3, 5]
    """
    largest = max(map(abs, values), default=0.0)
    if largest >= 10:
        return 1
    return 2 if largest >= 0.1 or not largest else 1 - math.floor(math.log10(largest))


def evaluate(
    policy: TensorDictModule,
    cfg: EnvConfig,
    episodes: int = 100,
    seed: int = 0,
    statistics: Statistics | None = None,
    within: gym.Env | None = None,
) -> Evaluation:
    """Run greedy episodes in fresh environments, side by side.

    If only one environment can be made at a time, a policy that :class:`recdqn.agent.Agent` can run plays the
    episodes one after the other.

    Args:
        policy: any policy that acts in ``make_env(cfg)`` and writes ``"action"`` and ``"action_value"``; the
            primers of its recurrent modules are added.
        cfg: the environment it was trained in.
        episodes: number of episodes, one environment each.
        seed: of the environments, counted from 1,000,000, far from the usual seeds of training.
        statistics: those that wrappers such as ``NormalizeObservation`` have learned in training, from
            :attr:`recdqn.run.folder.Run.statistics`. The wrappers use them and learn no longer; rewards are
            not normalised.
        within: an environment of ``make_env`` without a batch dimension (``env.base_env.gym``), to play in it
            one episode after the other. It is not closed.

    Raises:
        ConfigError: if ``episodes`` is not a whole number from 1 to 10,000.
        NotFinite: if an observation, a reward or a Q-value is not a finite number.
        UserError: if an environment fails, or needs statistics that are not given.
    """
    if episodes < 1:
        raise ConfigError(f"episodes={episodes!r}: expected a number of at least 1")
    try:
        cfg = dataclasses.replace(cfg, num_envs=max(episodes, 2))  # two keep the batch dimension
    except ConfigError as error:
        message = str(error).replace("env.num_envs", "episodes")
        raise ConfigError(message) from None
    try:
        agent = Agent(policy, cfg)
    except UserError:  # a policy of other modules, in TorchRL's environment
        count, opened = cfg.num_envs, _foreign_steps(policy, cfg, seed, statistics)
    else:
        envs = _open(cfg, within)
        count, opened = envs.num_envs, _steps(agent, envs, seed, statistics, close=within is None)
    rounds = 1 if count >= episodes else episodes  # the only environment plays all, one after the other
    total, length = np.zeros((count, rounds)), np.zeros((count, rounds), dtype=int)
    at = np.zeros(count, dtype=int)  # the episode of each environment
    with contextlib.closing(opened) as steps:
        while (at[:episodes] < rounds).any():
            reward, done = next(steps)
            live = (at < rounds).nonzero()[0]
            total[live, at[live]] += reward[live]
            length[live, at[live]] += 1
            at += done
    returns = _rounded(total[:episodes].ravel(), 12)  # of the 16 digits that a sum has
    return Evaluation(tuple(returns.tolist()), tuple(length[:episodes].ravel().tolist()))


def _open(cfg: EnvConfig, within: gym.Env | None) -> gym.vector.SyncVectorEnv | Workers:
    """Make environments, or put ``within`` into a vector of one; so also if no second one can be made."""
    if within is not None:
        return gym.vector.SyncVectorEnv([lambda: within], autoreset_mode=gym.vector.AutoresetMode.DISABLED)
    try:
        return make_vector_env(cfg)
    except ConfigError:
        with contextlib.suppress(ConfigError):
            return make_vector_env(dataclasses.replace(cfg, num_envs=1, workers=False))
        raise


Steps = Generator[tuple[np.ndarray, np.ndarray], None, None]  # rewards and ends [num_envs], without end


def _foreign_steps(
    policy: TensorDictModule, cfg: EnvConfig, seed: int, statistics: Statistics | None
) -> Steps:
    with evaluation_env(policy, cfg, seed, statistics) as env:
        for stage, td in walk(env, greedy(policy)):
            if stage == STEP:
                reward, done = (td["next", key].squeeze(-1).numpy() for key in ("reward", "done"))
                _check(reward=reward, value=td["action_value"].numpy())
                # the reward was scaled as float32, which has 7 digits
                yield _rounded(reward.astype(float) / cfg.reward_scale, 6), done


def _steps(
    agent: Agent,
    envs: gym.vector.SyncVectorEnv | Workers,
    seed: int,
    statistics: Statistics | None,
    close: bool,
) -> Steps:
    with contextlib.closing(envs) if close else contextlib.nullcontext():
        freeze_statistics(envs, statistics, str(agent.cfg.id))
        envs.reset(seed=EVAL_SEED + seed)
        seen, _ = envs.reset()  # the second one, as TorchRL's set_seed resets once
        state, reward = agent.initial_state(envs.num_envs), np.zeros(envs.num_envs)
        while True:
            values, state = agent.batch_values(seen, state, reward)
            _check(observation=seen.get("observation") if isinstance(seen, dict) else seen, value=values)
            seen, reward, terminated, truncated, _ = envs.step(values.argmax(-1))
            done = terminated | truncated
            _check(reward=reward)
            yield reward, done
            if done.any():
                seen, _ = envs.reset(options={"reset_mask": done})
                for part in state:
                    part[done] = 0.0


def _check(**values: Any) -> None:
    """Refuse numbers that are not finite: an evaluation must not hide them in a mean."""
    for name, value in values.items():
        if value is not None and not np.isfinite(value).all():
            batch = TensorDict({name: torch.from_numpy(np.array(value))}, [])
            advice = "check what the environment returns"
            raise NotFinite(f"{name!r} in an evaluation is not finite: {advice}", batch)


def _rounded(values: np.ndarray, digits: int) -> np.ndarray:
    """Round to significant digits."""
    return np.array([float(f"{value:.{digits}g}") for value in values])


@contextlib.contextmanager
def evaluation_env(
    policy: TensorDictModule, cfg: EnvConfig, seed: int, statistics: Statistics | None = None
) -> Iterator[TransformedEnv]:
    """Make an environment for greedy episodes of ``policy``, seed it, and close it at the end."""
    with contextlib.closing(make_env(cfg)) as env:
        freeze_statistics(env.base_env.gym, statistics, str(cfg.id))
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
