"""GitHub's workflows may do no more than they must, and run what was looked at, not what a tag says today."""

import re
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parents[1] / ".github" / "workflows"
PINNED = re.compile(r"[\w.-]+(/[\w.-]+)+@[0-9a-f]{40}  # v\d+\.\d+\.\d+")
# What a job may have beyond reading the repository.
RAISED = {("publish", "deploy"): {"pages": "write", "id-token": "write"}}

each_workflow = pytest.mark.parametrize("path", sorted(FOLDER.glob("*.y*ml")), ids=lambda path: path.stem)


def load(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps(path):
    return [step for job in load(path)["jobs"].values() for step in job["steps"]]


def test_there_are_workflows():
    assert {path.stem for path in FOLDER.glob("*.y*ml")} >= {"test", "publish", "weekly"}


@each_workflow
def test_actions_are_pinned(path):
    lines = re.findall(r"^[\s-]*uses:\s*(.*?)\s*$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(lines) == sum("uses" in step for step in steps(path)) > 0
    for line in lines:
        assert PINNED.fullmatch(line), f"{line}: not a full commit with its version in a comment"


def test_one_action_has_one_pin():
    used = {step["uses"] for path in FOLDER.glob("*.y*ml") for step in steps(path) if "uses" in step}
    assert len(used) == len({action.partition("@")[0] for action in used}), used


@each_workflow
def test_permissions(path):
    workflow = load(path)
    assert workflow["permissions"] in ({}, {"contents": "read"})
    for name, job in workflow["jobs"].items():
        assert job.get("permissions", {}) == RAISED.get((path.stem, name), {}), name


@each_workflow
def test_checkout_leaves_no_credentials(path):
    for step in steps(path):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


@each_workflow
def test_triggers(path):
    # These run with write permissions and the repository's secrets on a stranger's pull request.
    triggers = set(load(path)[True])  # YAML reads the key "on" as true
    assert not triggers & {"pull_request_target", "workflow_run", "issue_comment"}


@each_workflow
def test_no_secrets_and_no_injection(path):
    assert not re.search(r"\bsecrets\b|github\.token|GITHUB_TOKEN", path.read_text(encoding="utf-8"))
    for step in steps(path):
        assert "${{" not in step.get("run", ""), "a title of an issue or branch would be run as a command"


def test_weekly_job():
    path = FOLDER / "weekly.yml"
    assert "schedule" in load(path)[True]
    commands = " ".join(step.get("run", "") for step in steps(path))
    for command in ("pip-audit --strict", "make long", "make links"):
        assert command in commands
    makefile = (FOLDER.parents[1] / "Makefile").read_text(encoding="utf-8")
    assert "pytest -m long\n" in makefile and "--builder linkcheck" in makefile
