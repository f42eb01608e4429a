"""Each planted bug gives exactly one finding, whose message names the faulty entry or part."""

import planted_data
import planted_env
import planted_loss
import planted_policy
import pytest
from pipelines import codes, network, primed
from torchrl.modules import set_recurrent_mode

from recdqn import diagnose
from recdqn.doctor import BUGS

PLANTED = [*planted_env.PLANTED, *planted_policy.PLANTED, *planted_data.PLANTED, *planted_loss.PLANTED]


def test_every_bug_is_planted():
    assert {code for code, _, _ in PLANTED} == BUGS.keys()


@pytest.mark.parametrize(("code", "named", "plant"), PLANTED, ids=[code for code, _, _ in PLANTED])
def test_planted(code, named, plant):
    report = diagnose(**plant())
    assert codes(report) == [code]
    (finding,) = report.findings
    assert named in finding.message
    assert (finding.severity, finding.fix) == (BUGS[code].severity, BUGS[code].fix)
    assert code in report.checked and code not in report.skipped


def test_recurrent_mode_left_on_around_the_doctor():
    policy = network()
    env = primed(policy)
    with set_recurrent_mode(True):
        assert codes(diagnose(env=env, policy=policy)) == ["recurrent-mode-on"]
    assert codes(diagnose(env=env, policy=policy)) == []
