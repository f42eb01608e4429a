"""Each planted bug gives exactly one finding, whose message names the faulty entry or part."""

import planted_acting
import planted_data
import planted_env
import planted_loss
import planted_policy
import planted_scales
import planted_stored
import planted_update
import pytest
from pipelines import codes, network, primed
from torchrl.modules import set_recurrent_mode

from recdqn import diagnose
from recdqn.doctor import BUGS

MODULES = (
    planted_acting,
    planted_data,
    planted_env,
    planted_loss,
    planted_policy,
    planted_scales,
    planted_stored,
    planted_update,
)
PLANTED = [case for module in MODULES for case in module.PLANTED]
# What is planted is less than an error: little memory, and a target network that the reader may copy.
LOWERED = {
    "pixels-float32",
    "pixels-twice",
    "target-frozen",
    "norm-learns",
    "priorities-stuck",
    "states-differ",
    "scale-differs",
}
# Bugs of the planted parts beside the one that is meant.
ALSO = {
    "slice-over-cursor": ["never-sampled"],
    "is-init-lost": ["priorities-stuck", "priorities-of-steps"],
    "priorities-of-steps": ["is-init-lost"],
    "target-leak": ["bootstrap-stops"],
    "recurrent-mode-off": ["bootstrap-stops"],
}


def test_every_bug_is_planted():
    assert {code for code, _, _ in PLANTED} == BUGS.keys()


@pytest.mark.parametrize(("code", "named", "plant"), PLANTED, ids=[code for code, _, _ in PLANTED])
def test_planted(code, named, plant):
    report = diagnose(**plant(), ignore=ALSO.get(code, ()))
    assert codes(report) == [code]
    (finding,) = report.findings
    assert named in finding.message
    assert finding.severity == BUGS[code].severity or code in LOWERED
    assert code in report.checked and code not in report.skipped


def test_recurrent_mode_left_on_around_the_doctor():
    policy = network()
    env = primed(policy)
    with set_recurrent_mode(True):
        assert codes(diagnose(env=env, policy=policy)) == ["recurrent-mode-on"]
    assert codes(diagnose(env=env, policy=policy)) == []
