"""On Colab a notebook fetches the release it belongs to; anywhere else its install cell does nothing."""

import subprocess
import sys
import tomllib
import types
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(
    path for path in (ROOT / "book").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts
)


def install_cell(path):
    cells = nbformat.read(path, as_version=nbformat.NO_CONVERT).cells
    return next(cell for cell in cells if cell.cell_type == "code")


@pytest.fixture
def commands(monkeypatch):
    """The commands that the cell runs; a clone makes the folders of the repository, without the network."""
    ran = []

    def run(command, check):
        ran.append([str(part) for part in command])
        if ran[-1][:2] == ["git", "clone"]:
            for name in ("recdqn", "results", "book"):
                (Path(ran[-1][-1]) / name).mkdir(parents=True)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return ran


def test_every_notebook_begins_with_it_and_the_page_leaves_it_out():
    for path in NOTEBOOKS:
        cell = install_cell(path)
        assert (cell.id, cell.metadata.tags) == ("install", ["remove-cell"]), path
        assert cell.source == install_cell(NOTEBOOKS[0]).source, path


def test_on_colab(commands, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    source = install_cell(NOTEBOOKS[0]).source
    assert source.count('"/content/') == 1  # where Colab keeps a notebook's files
    source = source.replace('"/content/', f'"{tmp_path}/')
    exec(source, {})
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    clone, install = commands
    folder = clone[-1]
    assert f"--branch=v{project['version']}" in clone and clone[-2] == project["urls"]["Repository"]
    assert install[:4] == [sys.executable, "-m", "pip", "install"] and install[-2:] == ["--editable", folder]
    assert sys.path[0] == folder
    exec(source, {})  # a second run finds the folder and fetches nothing
    assert len(commands) == 2


def test_elsewhere(commands):
    before = list(sys.path)
    exec(install_cell(NOTEBOOKS[0]).source, {})
    assert commands == [] and sys.path == before
