"""The time limit of a check: what counts is work and waiting, not what else the machine does."""

import pytest

from recdqn.doctor import limits
from recdqn.doctor.limits import Clock, Times, times


@pytest.mark.parametrize(
    ("queued", "expected"),
    [
        ((0.0, 96.0), (4.0, 0.0)),  # 100 seconds, 4 of them of work: another process had the processor
        ((0.0, 0.0), (4.0, 96.0)),  # nobody had it: the process waited for something
        ((5.0, 55.0), (4.0, 46.0)),
        ((None, None), (4.0, -100.0)),  # not known: 4 of 100 may be the share on a busy machine
    ],
)
def test_a_busy_machine_is_not_waiting(monkeypatch, queued, expected):
    readings = iter([Times(1_000.0, 10.0, queued[0]), Times(1_100.0, 14.0, queued[1])])
    monkeypatch.setattr(limits, "times", lambda: next(readings))
    assert Clock().read() == expected


def test_the_clocks_of_this_process_go_on():
    before = times()
    while (now := times()).worked == before.worked:
        pass
    assert now.passed > before.passed
    assert now.queued is None or now.queued >= before.queued
