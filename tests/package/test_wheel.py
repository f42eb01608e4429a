"""The built wheel works with nothing but its declared dependencies, outside of the repository."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
WHEEL = os.environ.get("RECDQN_WHEEL")  # a wheel to test in place of a new one

# The modules of the package that import without an extra.
IMPORT_ALL = """
import importlib, pkgutil, recdqn
names = [module.name for module in pkgutil.walk_packages(recdqn.__path__, "recdqn.")]
plain = [name for name in names if not name.startswith("recdqn.book")]
assert len(plain) > 20, plain
for name in plain:
    importlib.import_module(name)
print(recdqn.__file__)
"""

# The commands on a run, in one process, since each start takes seconds.
USE = """
import sys
from recdqn import cli
for line in ("evaluate run --episodes 2", "watch run --out film.mp4", "doctor run"):
    sys.argv = ["recdqn", *line.split()]
    try:
        cli.main()
    except SystemExit as end:
        assert not end.code, end
"""


def closure(requirements):
    """Return the installed distributions that the requirements ask for, and those that they ask for."""
    found, pending = {}, [(Requirement(line), "") for line in requirements]
    while pending:
        requirement, extra = pending.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        installed = distribution(requirement.name)
        known = found.setdefault(canonicalize_name(requirement.name), (installed, set()))[1]
        for wanted in {"", *requirement.extras} - known:
            known.add(wanted)
            pending += [(Requirement(line), wanted) for line in installed.requires or []]
    return {name: installed for name, (installed, _) in found.items()}


def link(distributions, folder):
    """Link the files of the distributions into a folder of packages, and no other file."""
    owners = packages_distributions()  # top-level names, some of which several distributions share
    for installed in distributions.values():
        files = [file for file in installed.files if file.parts[0] not in ("..", "__pycache__")]
        for top in {file.parts[0] for file in files}:
            names = {canonicalize_name(name) for name in owners.get(Path(top).stem, [])}
            alone = names <= distributions.keys() and len(names) < 2
            for name in [Path(top)] if alone else [file for file in files if file.parts[0] == top]:
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(installed.locate_file(name))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    if WHEEL:
        return Path(WHEEL).absolute()
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "recdqn", tree / "recdqn", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", out]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, tree], check=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def recdqn(wheel, tmp_path_factory):
    """A function that runs a script of an environment with the wheel, and returns what it prints."""
    home, away = tmp_path_factory.mktemp("venv"), tmp_path_factory.mktemp("away")
    venv.EnvBuilder(symlinks=os.name != "nt").create(home)
    paths = sysconfig.get_paths("venv", {"base": str(home), "platbase": str(home)})
    scripts = Path(paths["scripts"])
    hidden = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "MPLBACKEND", "RECDQN_PROFILE"}
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    environment |= {"PATH": os.pathsep.join([str(scripts), os.environ["PATH"]]), "HOME": str(away)}

    def run(*command):
        done = subprocess.run(
            list(map(str, command)), cwd=away, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
        return done.stdout

    pip = [sys.executable, "-m", "pip", "--python", home]
    run(*pip, "install", "--no-deps", "--no-index", wheel)
    needed = run(
        scripts / "python",
        "-c",
        "from importlib.metadata import requires; print(*requires('recdqn'), sep='\\n')",
    )
    link(closure(needed.splitlines()), Path(paths["purelib"]))
    run(*pip, "check")
    return lambda script, *arguments: run(scripts / script, *arguments)


def test_every_module_imports(recdqn):
    file = Path(recdqn("python", "-c", IMPORT_ALL).strip())
    assert ROOT not in file.parents and (file.parent / "py.typed").exists()


def test_it_trains_evaluates_films_and_examines(recdqn):
    options = ["--train.total_frames", 1_088, "--out", "run"]
    assert recdqn("recdqn", "train", "masked-cartpole", *options) == "run\n"
    printed = recdqn("python", "-c", USE).splitlines()
    checked = any("checks ran" in line for line in printed)
    assert printed[0].startswith("mean ") and "film.mp4" in printed and checked, printed
