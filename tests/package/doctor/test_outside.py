"""Exported agents and servers under examination: sound ones, and each bug planted in one."""

import sys

import numpy as np
import pytest
from exported import stirred
from test_raw_entries import EVERYTHING

from recdqn import cli, export_agent
from recdqn.agent import Agent
from recdqn.doctor.outside import diagnose_file, diagnose_server, diagnose_step
from recdqn.errors import UserError
from recdqn.export import description_of, opened

CODES = {
    "does-not-run", "batch-statistics", "state-not-carried", "memory-ignored", "state-over-episode",
    "memory-outside-data",
}  # fmt: skip


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("agent") / "agent.pt2"
    export_agent(stirred(), path)
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"policy": {"cell": "none"}},
        {"env": EVERYTHING, "policy": {"cell": "gru"}},
        {"env": {"previous": True}},
    ],
    ids=["no memory", "everything", "previous"],
)
def test_sound_agents_have_no_findings(tmp_path, changes):
    export_agent(stirred(**changes), tmp_path / "agent.pt2")
    report = diagnose_file(tmp_path / "agent.pt2")
    assert report.findings == ()
    assert set(report.checked) | set(report.skipped) == CODES
    if changes == {"policy": {"cell": "none"}}:
        assert set(report.checked) == {"does-not-run", "batch-statistics"}
        assert set(report.skipped.values()) == {"the agent has no state"}
    else:
        assert set(report.checked) == CODES


def forgets(call):
    return lambda given: call(given | {name: np.zeros_like(given[name]) for name in "hc"})


def returns_old_state(call):
    return lambda given: [*call(given)[:2], given["h"], given["c"]]


def never_starts(call):
    return lambda given: call(given | {"is_init": np.zeros_like(given["is_init"])})


def mixes_rows(call):
    def mixed(given):
        values, *rest = call(given)
        return [values - values.mean(0), *rest]

    return mixed


def keeps_a_state(call):
    kept = {}

    def shared(given):
        if not given["is_init"].all() and len(given["is_init"]) == len(kept.get("h", ())):
            given = given | kept
        values, action, h, c = call(given)
        kept.update(h=h, c=c)
        return [values, action, h, c]

    return shared


def not_finite(call):
    return lambda given: [call(given)[0] * np.nan, *call(given)[1:]]


@pytest.mark.parametrize(
    ("code", "plant"),
    [
        ("memory-ignored", forgets),
        ("state-not-carried", returns_old_state),
        ("state-over-episode", never_starts),
        ("batch-statistics", mixes_rows),
        ("memory-outside-data", keeps_a_state),
        ("does-not-run", not_finite),
    ],
)
def test_a_planted_bug_is_found(exported, code, plant):
    described = description_of(exported)
    report = diagnose_step(plant(opened(exported)), described["inputs"], described["outputs"])
    assert code in [finding.code for finding in report.findings]
    assert code in CODES
    if code not in ("does-not-run", "memory-outside-data"):
        assert [finding.code for finding in report.findings] == [code]


class Sessions:
    """A server of Q-values with a state for each client, or with a bug."""

    def __init__(self, agent, shared=False, resets=True, random=False):
        self.agent, self.shared, self.resets, self.random, self.states = agent, shared, resets, random, {}

    def act(self, client, observation, starts):
        name = "everybody" if self.shared else client
        state = self.states.get(name, self.agent.initial_state())
        if starts and self.resets and not self.shared:
            state = self.agent.initial_state()
        values, self.states[name] = self.agent.values(observation, state)
        return values + self.random * np.random.default_rng().normal(size=2)


@pytest.mark.parametrize(
    ("bug", "codes"),
    [
        ({}, []),
        ({"shared": True}, ["memory-outside-data", "state-over-episode"]),
        ({"resets": False}, ["state-over-episode"]),
        ({"random": True}, ["explores-in-evaluation"]),
    ],
    ids=["sound", "shared", "never reset", "random"],
)
def test_a_server_that_mixes_states_is_found(bug, codes):
    run = stirred()
    agent = Agent(run.policy, run.cfg.env)
    seen = np.random.default_rng(0).normal(size=(2, 10, 4)).astype(np.float32)
    report = diagnose_server(lambda: Sessions(agent, **bug).act, seen)
    assert sorted(finding.code for finding in report.findings) == codes


def test_the_command_examines_a_file(exported, monkeypatch, capsys, tmp_path):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["recdqn", "doctor", *arguments])
        cli.main()
        return capsys.readouterr().out

    assert run(str(exported)) == "0 errors, 0 warnings; 6 of 6 checks ran\n"
    assert "1 of 1 checks ran" in run(str(exported), "--only", "memory-ignored")
    with pytest.raises(UserError, match="^there is no code 'memory'"):
        diagnose_file(exported, ignore=["memory"])
    for name in ("missing.pt2", "missing.onnx"):
        with pytest.raises(UserError, match=f"^cannot read .*{name}: .*; expected a file of recdqn export"):
            diagnose_file(tmp_path / name)
