"""Compare ``book/_inventories`` with what the libraries publish: ``python publish/inventories.py [--write]``.

The book is built without the network, from its own list of the names it links to. This reads each library's
inventory from the address in ``_config.yml``, prints a line for each name that has moved or is gone, and
fails if there is one. ``--write`` updates moved names; a removed name has to be replaced by hand.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from urllib.request import urlopen

import yaml
from sphinx.util.inventory import InventoryFile

ROOT = Path(__file__).parents[1]


def published(address: str) -> dict[str, str]:
    """Return the page of each name that a library documents, relative to ``address`` and without anchors."""
    with urlopen(f"{address}objects.inv", timeout=60) as answer:
        inventory = InventoryFile.load(io.BytesIO(answer.read()), "", lambda _, page: page)
    pages = {}
    for kind, entries in inventory.items():
        if kind.startswith("py:"):
            pages |= {name: entry[2].partition("#")[0] for name, entry in entries.items()}
    return pages


def compare(lines: list[str], pages: dict[str, str]) -> tuple[list[str], list[str]]:
    """Return the corrected lines of one of our inventories, and a line for each difference."""
    right, wrong = [], []
    for line in lines:
        if line.startswith("#"):
            right.append(line)
            continue
        name, kind, page = line.split()
        now = pages.get(name)
        if now is None:
            wrong.append(f"{name} is no longer documented")
        elif now != page:
            wrong.append(f"{name} has moved from {page} to {now}")
        right.append(f"{name} {kind} {now or page}")
    return right, wrong


def main(arguments: list[str]) -> int:
    """Compare every inventory and return the exit status."""
    if arguments not in ([], ["--write"]):
        print("usage: inventories.py [--write]", file=sys.stderr)
        return 2
    settings = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["sphinx"]["config"]
    found = []
    for address, stored in settings["intersphinx_mapping"].values():
        file = ROOT / "book" / stored
        right, wrong = compare(file.read_text(encoding="utf-8").splitlines(), published(address))
        found += [f"{file.name}: {line}" for line in wrong]
        if arguments:
            file.write_text("\n".join(right) + "\n", encoding="utf-8")
    print("\n".join(found or ["every inventory is up to date"]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
