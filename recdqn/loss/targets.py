"""The n-step target of Q-learning, with value rescaling."""

from __future__ import annotations

import torch
from torch import Tensor
from torchrl.modules.functional import signed_hyperbolic, signed_parabolic


def sum_rewards(reward: Tensor, gamma: Tensor, n_steps: int) -> Tensor:
    """Return the discounted sum of up to ``n_steps`` rewards from each step on: ``[S, T]``.

    Args:
        reward: one slice in each row, with zeros after its end, ``[S, T]``.
        gamma: discount per step, a scalar.
        n_steps: most rewards in a sum, at least 1.
    """
    total, discount = reward.clone(), gamma
    for k in range(1, min(n_steps, reward.shape[1])):
        total[:, :-k].addcmul_(reward[:, k:], discount)
        discount = discount * gamma
    return total


def n_step_target(
    rewards: Tensor, terminated: Tensor, bootstrap: Tensor, discount: Tensor, *, value_rescale: bool = False
) -> Tensor:
    r"""Return the n-step target of each step: ``[N]``.

    Args:
        rewards: discounted sum of the rewards, ``[N]``.
        terminated: whether the last of these steps ends its episode, other than by a time limit, ``[N]``.
            The value after it is then 0.
        bootstrap: value of the observation after that step, ``[N]``.
        discount: discount of that value, ``[N]``.
        value_rescale: whether ``bootstrap`` and the result are rescaled by
            :math:`h(x) = \operatorname{sign}(x) (\sqrt{|x| + 1} - 1) + 10^{-3} x`
            (:cite:t:`pohlen2018observe`, with the factor of :cite:t:`kapturowski2019recurrent`). Rewards are
            added unscaled.
    """
    if value_rescale:
        bootstrap = signed_parabolic(bootstrap)  # the inverse of h
    target = rewards + torch.where(terminated, 0.0, discount * bootstrap)
    return signed_hyperbolic(target) if value_rescale else target
