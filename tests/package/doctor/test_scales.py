"""A scale that is applied once is right, wherever it is applied."""

import pytest
from pipelines import codes
from planted_scales import in_the_loss_too, pictures

from recdqn import diagnose

ONLY = {"only": ["scale-differs"]}


@pytest.mark.parametrize(
    "options",
    [
        {"inside": 1.0},
        {"inside": 1.0, "halved": True},  # the written error is half of a square
        {"outside": 1.0},
    ],
)
def test_rewards_scaled_once(options):
    assert codes(diagnose(**in_the_loss_too(**options), **ONLY)) == []


def test_images_divided_once():
    assert codes(diagnose(**pictures(by=1.0), **ONLY)) == []
