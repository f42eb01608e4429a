"""A scale that is applied once is right, wherever it is applied."""

import pytest
from pipelines import codes
from planted_scales import in_the_loss_too, pictures
from planted_update import first_slices, own

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


def test_a_loss_that_goes_step_by_step_reads_more_than_its_first_step():
    parts = own("detached", first_slices)
    parts["batch"]["observation"][0] *= 1e-4  # the pole stands still there
    assert codes(diagnose(**parts, **ONLY)) == []
