"""Which step's priority draws a slice, found by experiment, and left as it was."""

import pytest
import torch
from pipelines import TRAJECTORY, codes, played, stored
from planted_data import by_first_steps, prioritized
from torchrl.data import PrioritizedSampler

from recdqn import diagnose
from recdqn.replay import PrioritySliceSampler

CODE = "priorities-of-steps"


def test_a_slice_of_a_loss_without_burn_in_is_a_choice():
    parts = by_first_steps()
    before = parts["buffer"].sampler._sum_tree[torch.arange(600)].clone()
    (finding,) = diagnose(**parts, only=[CODE]).findings
    assert finding.severity == "note" and f"traj_key={TRAJECTORY!r}" in finding.fix
    assert torch.equal(parts["buffer"].sampler._sum_tree[torch.arange(600)], before)


@pytest.mark.parametrize("alpha", [0.7, 0.0])
def test_it_is_found_by_drawing(alpha):
    """With alpha 0 the same sampler draws all starts alike."""
    sampler = prioritized(2_000)
    sampler.alpha = alpha
    assert codes(diagnose(buffer=stored(played()[1], sampler), only=[CODE])) == [CODE] * (alpha > 0)


def test_samplers_of_slices_and_of_single_steps():
    policy, data = played()
    ours = PrioritySliceSampler(slice_len=8, traj_key=TRAJECTORY)
    assert codes(diagnose(policy=policy, buffer=stored(data, ours))) == []
    single = PrioritizedSampler(2_000, 0.7, 0.9)
    (finding,) = diagnose(policy=policy, buffer=stored(data, single)).errors
    assert finding.code == "unrelated-transitions" and "PrioritySliceSampler(" in finding.fix
