"""Linear read-outs: how much of a quantity a linear map finds in a vector."""

from __future__ import annotations

import torch
from torch import Tensor


def fit_linear(inputs: Tensor, targets: Tensor, ridge: float = 0.0) -> Tensor:
    """Fit a linear map with an intercept by least squares.

    Args:
        inputs: ``[samples, inputs]``.
        targets: ``[samples, targets]``.
        ridge: penalty on the squared weights, relative to the mean squared norm of the centred inputs. With
            more inputs than samples it has to be positive.

    Returns:
        The weights in double precision, ``[inputs + 1, targets]``; the last row is the intercept.
    """
    x, y = inputs.double(), targets.double()
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    if ridge > 0:
        penalty = ridge * x.square().sum(1).mean() * torch.eye(x.shape[1], dtype=x.dtype)
        slope = torch.linalg.solve(x.mT @ x + penalty, x.mT @ y)
    else:
        slope = torch.linalg.lstsq(x, y).solution
    return torch.cat([slope, (y_mean - x_mean @ slope)[None]])


def apply_linear(weights: Tensor, inputs: Tensor) -> Tensor:
    """Apply the weights from :func:`fit_linear` to ``[..., inputs]``; the result is ``[..., targets]``."""
    return inputs.to(weights.dtype) @ weights[:-1] + weights[-1]


def r2(estimates: Tensor, targets: Tensor) -> Tensor:
    """Return the share of the targets' variance that the estimates explain, for each target.

    1 is a perfect estimate, 0 is as good as the mean of the targets, and below 0 is worse than that.

    Args:
        estimates: ``[samples, targets]`` or ``[samples]``.
        targets: of the same shape.
    """
    return 1 - (targets - estimates).square().sum(0) / (targets - targets.mean(0)).square().sum(0)
