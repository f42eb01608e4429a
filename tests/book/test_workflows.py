"""GitHub's workflows may do no more than they must, and run what was looked at, not what a tag says today."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / ".github" / "workflows"
PINNED = re.compile(r"[\w.-]+(/[\w.-]+)+@[0-9a-f]{40}  # v\d+\.\d+\.\d+")
# What a job may have beyond reading the repository.
RAISED = {
    ("publish", "deploy"): {"pages": "write", "id-token": "write"},
    ("weekly", "report"): {"issues": "write"},
}

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
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\bsecrets\b|GITHUB_TOKEN", text)
    # The job that reports gets the token of its run: it may write issues, and runs nothing downloaded.
    assert text.count("github.token") == (path.stem == "weekly")
    for step in steps(path):
        assert "${{" not in step.get("run", ""), "a title of an issue or branch would be run as a command"


def test_publishing():
    path = FOLDER / "publish.yml"
    workflow = load(path)
    assert {"push", "pull_request"} <= set(workflow[True])
    assert workflow[True]["push"] is None  # every branch
    build, deploy = workflow["jobs"]["build"], workflow["jobs"]["deploy"]
    only_main = "github.ref == 'refs/heads/main'"
    assert deploy["needs"] == "build" and deploy["if"] == only_main
    commands = [step.get("run", "") for step in build["steps"]]
    built, checked, browsed, printed = (
        next(i for i, command in enumerate(commands) if part in command)
        for part in ("make book", "publish/check_site.py", ".ci/browser", "make pdf")
    )
    uploads = {
        step["uses"].partition("@")[0]: (i, step["if"])
        for i, step in enumerate(build["steps"])
        if "upload" in step.get("uses", "")
    }
    pages, preview = uploads["actions/upload-pages-artifact"], uploads["actions/upload-artifact"]
    assert built < checked < browsed < printed < pages[0], "published before it was checked"
    assert pages[1] == only_main
    assert built < preview[0] < browsed, (
        "a page that fails the browser's tests must still be there to look at"
    )
    assert preview[1] == "github.ref != 'refs/heads/main'"


def test_ci_run_uses_the_browser():
    run = (FOLDER.parents[1] / ".ci" / "run").read_text(encoding="utf-8")
    browser = (FOLDER.parents[1] / ".ci" / "browser").read_text(encoding="utf-8")
    assert run.index("make book") < run.index(".ci/browser")
    assert "make browser" in browser and "make lighthouse" in browser


@pytest.mark.parametrize("open_issue", ["", "7"])
def test_a_broken_week_is_reported_once(tmp_path, open_issue):
    job = load(FOLDER / "weekly.yml")["jobs"]["report"]
    assert job["needs"] == "newest" and "always()" in job["if"] and "'failure'" in job["if"]
    assert not any("uses" in step for step in job["steps"])
    fake = tmp_path / "gh"
    fake.write_text(
        f'#!/bin/sh\nprintf "%s|" "$@" >> {tmp_path}/calls\necho >> {tmp_path}/calls\n'
        f'[ "$2" = list ] && echo {open_issue}\nexit 0\n'
    )
    fake.chmod(0o755)
    (step,) = job["steps"]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "RUN": "https://example.org/runs/1"}
    subprocess.run(["bash", "-e", "-c", step["run"]], env=environment, check=True, timeout=30)
    looked, told = (tmp_path / "calls").read_text(encoding="utf-8").splitlines()
    assert looked.startswith("issue|list|--state|open|")
    title = "The book breaks with the newest releases"
    assert title in looked
    expected = f"issue|comment|{open_issue}|" if open_issue else f"issue|create|--title|{title}|"
    assert told.startswith(expected) and told.endswith("https://example.org/runs/1|")


def test_newest_releases():
    """The step that lifts our upper bounds finds them, and leaves the other requirements as they are."""
    job = load(FOLDER / "weekly.yml")["jobs"]["newest"]
    commands = [step.get("run", "") for step in job["steps"]]
    (lift,) = (command for command in commands if command.startswith("sed -i"))
    lifted = subprocess.run(
        ["bash", "-c", lift.replace("sed -i", "sed").replace("pyproject.toml", "-")],
        input=(FOLDER.parents[1] / "pyproject.toml").read_bytes(),
        capture_output=True,
        check=True,
    ).stdout
    before, after = (
        tomllib.loads(text.decode())["project"]["dependencies"]
        for text in ((FOLDER.parents[1] / "pyproject.toml").read_bytes(), lifted)
    )
    changed = {old: new for old, new in zip(before, after, strict=True) if old != new}
    assert set(changed.values()) == {"torchrl", "tensordict"}
    assert not any("<" in requirement for requirement in after)
    install = next(command for command in commands if "pip install" in command)
    assert "constraints" not in install
    assert commands.index(lift) < commands.index(install)


def test_weekly_job():
    path = FOLDER / "weekly.yml"
    assert "schedule" in load(path)[True]
    commands = " ".join(step.get("run", "") for step in steps(path))
    for command in ("pip-audit --strict", "make long", "make links", "publish/inventories.py"):
        assert command in commands
    makefile = (FOLDER.parents[1] / "Makefile").read_text(encoding="utf-8")
    assert "pytest -m long\n" in makefile and "--builder linkcheck" in makefile
