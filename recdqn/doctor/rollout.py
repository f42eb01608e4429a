"""A recorded rollout: every step as the policy and the environment saw it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.envs.common import EnvBase
from torchrl.modules import set_recurrent_mode

from recdqn.doctor.limits import Clock
from recdqn.errors import first_line

STEPS = 300  # at most, for each environment
SECONDS = 2.5  # at most, of work or of waiting
EPISODES = 20  # stop after this many have ended


@dataclass(frozen=True)
class StepRecord:
    """One step of a rollout.

    Attributes:
        before: input of the policy, ``[*batch]``.
        after: output of the policy, ``[*batch]``.
        taken: the step with its action and what the environment returned under ``"next"``, ``[*batch]``.
        done: whether the episode ended with this step, ``[*batch]``.
        following: input of the next step, ``[*batch]``.
    """

    before: TensorDictBase
    after: TensorDictBase
    taken: TensorDictBase
    done: Tensor
    following: TensorDictBase


@dataclass(frozen=True)
class Rollout:
    """Steps of an environment with random actions.

    Attributes:
        steps: in order; the policy writes its entries except ``"action"``.
        policy_error: the error that the policy raised, if any; it was not called again.
        env_error: the error that the environment raised, if any, which ended the rollout.
    """

    steps: list[StepRecord]
    policy_error: str | None
    env_error: str | None


def record_rollout(
    env: EnvBase, td: TensorDictBase, policy: Callable[[TensorDictBase], TensorDictBase] | None
) -> Rollout:
    """Step ``env`` until some episodes have ended, with ``policy`` in sequential mode.

    Args:
        env: environment, with any batch size.
        td: result of ``env.reset()``.
        policy: called at each step; its actions are replaced by random ones.
    """
    began = torch.ones(td.shape, dtype=torch.bool)
    steps: list[StepRecord] = []
    policy_error = env_error = None
    ends, clock, tracked = 0, Clock(), "is_init" in td.keys()
    with set_recurrent_mode(False):
        while len(steps) < STEPS:
            before = td.clone()
            if policy is not None:
                if not tracked:
                    td["is_init"] = began.unsqueeze(-1)  # its absence is a finding of its own
                torch.manual_seed(len(steps))
                try:
                    td = policy(td)
                except (Exception, SystemExit) as error:
                    policy_error, policy = first_line(error), None
            after = td.clone()
            try:
                td, following = env.step_and_maybe_reset(env.rand_action(td))
            except (Exception, SystemExit) as error:
                env_error = first_line(error)
                break
            done = td["next", "done"].reshape(td.shape).clone()
            steps.append(StepRecord(before, after, td.clone(), done, following.clone()))
            td, began = following, done
            ends += int(done.sum())
            if (ends >= EPISODES and len(steps) >= 2 * EPISODES) or max(clock.read()) > SECONDS:
                break
    return Rollout(steps, policy_error, env_error)
