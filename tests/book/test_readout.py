"""Linear read-outs against closed forms, and the timing of a call."""

import pytest
import torch

from recdqn.book.measure import milliseconds
from recdqn.book.readout import apply_linear, fit_linear, r2


@pytest.fixture
def data():
    x = torch.randn(200, 5)
    return x, x @ torch.randn(5, 2) + 3 + torch.randn(200, 2)


def test_fit_is_the_solution_of_the_normal_equations(data):
    x, y = (part.double() for part in data)
    ones = torch.cat([x, torch.ones(200, 1)], 1)
    weights = fit_linear(*data)
    torch.testing.assert_close(weights, torch.linalg.solve(ones.mT @ ones, ones.mT @ y))
    torch.testing.assert_close(apply_linear(weights, data[0]), ones @ weights)


def test_ridge_is_the_kernel_form_and_takes_more_inputs_than_samples():
    x, y, new = torch.randn(20, 50).double(), torch.randn(20, 2).double(), torch.randn(7, 50).double()
    centred, mean = x - x.mean(0), y.mean(0)
    kernel = centred @ centred.mT
    dual = torch.linalg.solve(kernel + 0.1 * kernel.diagonal().mean() * torch.eye(20), y - mean)
    by_hand = (new - x.mean(0)) @ centred.mT @ dual + mean
    torch.testing.assert_close(apply_linear(fit_linear(x, y, ridge=0.1), new), by_hand)


def test_r2_by_hand(data):
    _, y = data
    assert r2(y, y).tolist() == [1, 1]
    torch.testing.assert_close(r2(y.mean(0).expand_as(y), y), torch.zeros(2), atol=1e-6, rtol=0)
    assert r2(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.0, 2.0, 4.0])).item() == pytest.approx(1 - 5 / 8)


def test_milliseconds_leaves_out_the_first_call():
    calls = []
    assert 0 <= milliseconds(lambda: calls.append(0), repeats=3) < 1_000
    assert len(calls) == 4
