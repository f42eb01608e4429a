"""Predictions from known steps, and how good they are."""

from __future__ import annotations

import torch
from torch import Tensor

NEIGHBOURS = 3


def inverse_deviation(known: Tensor) -> Tensor:
    """Return what makes the standard deviation of each element 1; 0 for elements that do not change."""
    std = known.std(0)
    return torch.where(std > 1e-9, 1 / std.clamp_min(1e-9), 0.0)


def nearest(known: Tensor, values: Tensor, asked: Tensor, others: bool = False) -> Tensor:
    """Return the mean value of the nearest known steps, the step itself left out if ``others``."""
    distance = torch.cdist(asked, known)
    if others:
        distance.fill_diagonal_(torch.inf)
    near, where = distance.topk(min(NEIGHBOURS, len(known)), largest=False)
    weight = 1 / (near + 1e-3 * near.median().clamp_min(1e-9))
    weight = weight / weight.sum(-1, keepdim=True)
    found = values.reshape(len(values), -1)[where]
    return (weight.unsqueeze(-1) * found).sum(1).reshape(len(asked), *values.shape[1:])


def fitted(known: Tensor, values: Tensor, asked: Tensor) -> Tensor:
    """Return predictions ``[M]``: a quadratic function if there are few elements, mended by near steps."""
    scale = inverse_deviation(known.double())
    known, asked = known * scale, asked * scale
    first, second = (_squares(x) for x in (known, asked))
    penalty = 1e-3 * len(known) * torch.eye(first.shape[-1], dtype=first.dtype)
    weights = torch.linalg.solve(first.T @ first + penalty, first.T @ values)
    return second @ weights + nearest(known, values - first @ weights, asked)


def _squares(x: Tensor) -> Tensor:
    parts = [torch.ones(len(x), 1, dtype=x.dtype), x]
    if x.shape[-1] <= 12:
        i, j = torch.triu_indices(x.shape[-1], x.shape[-1])
        parts.append(x[:, i] * x[:, j])
    return torch.cat(parts, -1)


def squared_error(guess: Tensor, truth: Tensor) -> float:
    """Return the sum of squared differences."""
    return float((guess - truth).square().sum())


def slope_of(truth: Tensor, guess: Tensor) -> float:
    """Return the slope of the line through the guesses over the truth."""
    centred = truth - truth.mean()
    return float((centred @ guess) / (centred @ centred))


def affine_error(truth: Tensor, guess: Tensor) -> float:
    """Return the share of variance that a line through the guesses leaves (1 - R2)."""
    if guess.std() < 1e-9 or truth.std() < 1e-9:
        return 1.0
    return 1 - float(torch.corrcoef(torch.stack([truth, guess]))[0, 1]) ** 2
