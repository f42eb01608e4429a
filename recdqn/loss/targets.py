"""The n-step target of Q-learning, with value rescaling."""

from __future__ import annotations

import torch
from torch import Tensor
from torchrl.modules.functional import signed_hyperbolic, signed_parabolic


def n_step_target(
    reward: Tensor,
    terminated: Tensor,
    last: Tensor,
    bootstrap: Tensor,
    *,
    gamma: float,
    n_steps: int,
    value_rescale: bool = False,
) -> Tensor:
    r"""Return the discounted sum of up to ``n_steps`` rewards and the value after them: ``[N]``.

    Slices lie end to end. Where a slice ends sooner, so does the sum. The value after a terminated step is 0.

    Args:
        reward: reward of each step, ``[N]``.
        terminated: whether the step ends its episode, other than by a time limit, ``[N]``.
        last: whether the step is the last one of its slice, ``[N]``.
        bootstrap: value of the observation after each step, ``[N]``.
        gamma: discount per step.
        n_steps: most rewards in a sum, at least 1.
        value_rescale: whether ``bootstrap`` and the result are rescaled by
            :math:`h(x) = \operatorname{sign}(x) (\sqrt{|x| + 1} - 1) + 10^{-3} x`
            (:cite:t:`pohlen2018observe`). Rewards are added unscaled.
    """
    if value_rescale:
        bootstrap = signed_parabolic(bootstrap)  # the inverse of h
    step = torch.arange(len(reward), device=reward.device)  # the newest step in each sum
    target, discount = reward.clone(), torch.full_like(reward, gamma)
    for _ in range(n_steps - 1):
        more = ~last[step]
        step = step + more
        target = torch.where(more, target + discount * reward[step], target)
        discount = torch.where(more, discount * gamma, discount)
    target = target + discount * torch.where(terminated[step], 0.0, bootstrap[step])
    return signed_hyperbolic(target) if value_rescale else target
