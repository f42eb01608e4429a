"""Linear read-outs against closed forms, and the timing of calls."""

import pytest
import torch

from recdqn.book.measure import median_seconds, milliseconds
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


def test_calls_alternate_and_the_median_counts():
    calls, now = [], [0.0]  # each call advances the clock by the seconds it takes

    def side(name, seconds):
        def call():
            calls.append(name)
            now[0] += seconds[min(calls.count(name), len(seconds)) - 1]

        return call

    sides = {"a": side("a", [100, 1, 50, 3]), "b": side("b", [7])}
    seconds = median_seconds(sides, repeats=3, clock=lambda: now[0])
    assert seconds == {"a": 3, "b": 7}  # the first call is not measured
    assert calls == ["a", "b"] * 4
    assert milliseconds(lambda: calls.append("c"), repeats=3) >= 0 and calls.count("c") == 4
