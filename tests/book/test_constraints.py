"""The pinned versions can be installed with every Python that pyproject.toml promises."""

import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]
PINS = [
    Requirement(line.partition("#")[0])
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line.partition("#")[0].strip()
]


def test_every_line_is_one_exact_version():
    for pin in PINS:
        assert re.fullmatch(r"==[\w.]+", str(pin.specifier)), pin
    assert len({pin.name.lower().replace("_", "-") for pin in PINS}) == len(PINS)


# The first release of each: Debian's 3.11.2 was once too old for a pin, and old pips do not say why.
@pytest.mark.parametrize("python", ["3.11.0", "3.12.0", "3.13.0"])
def test_pins_admit_python(python):
    looked_at = 0
    for pin in PINS:
        try:
            installed = distribution(pin.name)
        except PackageNotFoundError:  # of another extra
            continue
        if installed.version in pin.specifier:
            needed = installed.metadata["Requires-Python"] or ""
            assert SpecifierSet(needed).contains(python), f"{pin} needs Python {needed}"
            looked_at += 1
    assert looked_at > 50, "run this in an environment made with constraints.txt"
