"""Every version that `make test` installs is pinned, and can be installed with every Python promised."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LINES = [
    line.partition("#")[0] for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
]
PINS = [Requirement(line) for line in LINES if line.strip()]
PLATFORM = re.compile(r"nvidia-|cuda-|triton$")  # of one platform only, left to pip


def installed():
    """Yield each pin with its distribution, where that is installed: other extras may be missing."""
    for pin in PINS:
        try:
            found = distribution(pin.name)
        except PackageNotFoundError:
            continue
        if found.version in pin.specifier:
            yield pin, found


def test_every_line_is_one_exact_version():
    for pin in PINS:
        assert re.fullmatch(r"==[\w.]+", str(pin.specifier)), pin
    assert len({canonicalize_name(pin.name) for pin in PINS}) == len(PINS)


def test_every_requirement_is_named_once():
    for extra, lines in {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}.items():
        names = [canonicalize_name(Requirement(line).name) for line in lines]
        assert len(set(names)) == len(names), extra


def test_every_requirement_is_pinned():
    """Those of every extra, and those that what is installed has in its turn."""
    pinned = {canonicalize_name(pin.name) for pin in PINS}
    lines = [*PROJECT["dependencies"], *sum(PROJECT["optional-dependencies"].values(), [])]
    lines += [line for _, found in installed() for line in found.requires or []]
    needed = {
        canonicalize_name(requirement.name)
        for requirement in map(Requirement, lines)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    }
    missing = {name for name in needed - pinned if not PLATFORM.match(name)}
    assert not missing, f"add a line to constraints.txt for {', '.join(sorted(missing))}"


def test_pins_admit_every_python():
    """Its first release, too: Debian's 3.11.2 was once too old for a pin, and old pips do not say why."""
    looked_at = list(installed())
    assert len(looked_at) > 50, "run this in an environment made with constraints.txt"
    for python in re.findall(r"Python :: (3\.\d+)", str(PROJECT["classifiers"])):
        for pin, found in looked_at:
            needed = found.metadata["Requires-Python"] or ""
            assert SpecifierSet(needed).contains(f"{python}.0"), f"{pin} needs Python {needed}"
