"""What GitHub's workflows run and may do, as far as zizmor (`make lint`) does not check it."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in ROOT.glob(".github/workflows/*.yml")}
JOBS = {
    (workflow, name): job for workflow, content in WORKFLOWS.items() for name, job in content["jobs"].items()
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def steps(workflow, job):
    """The step of a job: its command, or the action that it uses."""
    return [step.get("run") or step["uses"].partition("@")[0] for step in JOBS[workflow, job]["steps"]]


def in_order(commands, *parts):
    """Whether the commands hold these parts, one after the other."""
    return re.search(".*".join(map(re.escape, parts)), "\n".join(commands), re.DOTALL) is not None


def test_what_may_write():
    raised = {key: job["permissions"] for key, job in JOBS.items() if "write" in str(job.get("permissions"))}
    assert raised == {
        ("publish", "deploy"): {"pages": "write", "id-token": "write"},
        ("release", "publish"): {"id-token": "write"},
        ("weekly", "report"): {"issues": "write"},
    }
    assert all(workflow["permissions"] in ({}, {"contents": "read"}) for workflow in WORKFLOWS.values())
    for key in raised:  # what may write runs nothing that was downloaded
        assert not any("checkout" in step or "pip install" in step for step in steps(*key))
    assert "secrets." not in str(WORKFLOWS)


def test_ci_runs_what_the_readme_promises():
    run = (ROOT / ".ci/run").read_text().splitlines()
    assert in_order(run, "make book", "make test", "wait $!", "publish/check_site.py", ".ci/browser")
    assert any("make book" in line and '"--all -W -n' in line for line in run)
    assert re.search("^make (lint|style)", "\n".join(run), re.MULTILINE)
    assert "make browser" in (ROOT / ".ci/browser").read_text().splitlines()
    assert ".ci/run" in steps("test", "all")


def test_the_package_is_tested_on_every_system_with_the_oldest_and_the_newest_python():
    matrix = JOBS["test", "package"]["strategy"]["matrix"]
    assert {system.partition("-")[0] for system in matrix["os"]} == {"ubuntu", "macos", "windows"}
    versions = re.findall(r"Python :: (3\.\d+)", str(PROJECT["classifiers"]))
    assert matrix["python"] == [versions[0], versions[-1]]
    assert PROJECT["requires-python"] == f">={versions[0]}"


def test_the_site_is_published_from_main_after_every_check():
    build, deploy = JOBS["publish", "build"], JOBS["publish", "deploy"]
    assert WORKFLOWS["publish"][True]["push"] is None  # every branch; YAML reads the key "on" as true
    assert deploy["needs"] == "build" and deploy["if"] == "github.ref == 'refs/heads/main'"
    preview, pages = "actions/upload-artifact", "actions/upload-pages-artifact"
    # The preview comes before the browser's tests: a page that fails them can be looked at.
    order = "make book", "publish/check_site.py", preview, ".ci/browser", "make lighthouse", "make pdf", pages
    assert in_order(steps("publish", "build"), *order)
    only = {step.get("uses", "").partition("@")[0]: step.get("if") for step in build["steps"]}
    assert only[pages] == deploy["if"] and only[preview] == "github.ref != 'refs/heads/main'"


def test_a_release_is_checked_before_it_is_published():
    assert WORKFLOWS["release"][True] == {"push": {"tags": ["v*"]}}
    order = "GITHUB_REF_NAME", "python -m build", "twine check", "test_wheel.py", "actions/upload-artifact"
    assert in_order(steps("release", "build"), *order)
    publish = JOBS["release", "publish"]
    assert publish["needs"] == "build" and publish["environment"] == "pypi"


def test_the_weekly_jobs():
    long = steps("weekly", "long")
    assert in_order(long, "make long", "make links", "publish/inventories.py")
    assert any("pip-audit --strict" in step for step in steps("weekly", "audit"))


def test_the_newest_releases_are_tried_without_pins_and_upper_bounds():
    commands = steps("weekly", "newest")
    lift = next(command for command in commands if command.startswith("sed -i"))
    assert in_order(commands, lift, "pip install") and "constraints.txt" not in str(commands)
    lifted = subprocess.run(
        ["bash", "-c", lift.replace("sed -i", "sed").replace("pyproject.toml", "-")],
        input=(ROOT / "pyproject.toml").read_bytes(), capture_output=True, check=True,
    ).stdout  # fmt: skip
    after = tomllib.loads(lifted.decode())["project"]["dependencies"]
    assert not any("<" in requirement for requirement in after)
    assert set(after) - set(PROJECT["dependencies"]) == {"torchrl", "tensordict"}


@pytest.mark.parametrize("open_issue", ["", "7"])
def test_a_broken_week_is_reported_once(tmp_path, open_issue):
    fake = tmp_path / "gh"
    fake.write_text(
        f'#!/bin/sh\nprintf "%s|" "$@" >> {tmp_path}/calls\necho >> {tmp_path}/calls\n'
        f'[ "$2" = list ] && echo {open_issue}\nexit 0\n'
    )
    fake.chmod(0o755)
    (script,) = steps("weekly", "report")
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "RUN": "https://example.org/runs/1"}
    subprocess.run(["bash", "-e", "-c", script], env=environment, check=True, timeout=600)
    looked, told = (tmp_path / "calls").read_text().splitlines()
    title = "The book breaks with the newest releases"
    assert looked.startswith("issue|list|--state|open|") and title in looked
    assert told.startswith(f"issue|comment|{open_issue}|" if open_issue else f"issue|create|--title|{title}|")
    assert told.endswith("https://example.org/runs/1|")
