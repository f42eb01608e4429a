"""Write the recorded tables and learning curves into the README and the log of benchmarks.

Run it as ``python -m recdqn.book.write``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from recdqn.book.plots import seed_curves
from recdqn.book.plots.style import save_svg
from recdqn.book.recorded import RESULTS, fingerprint, recorded_presets
from recdqn.book.tables import bench_table, results_table, summary_table
from recdqn.errors import UserError

README = RESULTS.parent / "README.md"
NOTES = RESULTS.parent / "benchmarks" / "NOTES.md"
CURVES = RESULTS.parent / "book" / "_static" / "learning-curves.svg"


def write_tables(path: Path, tables: Mapping[str, str]) -> None:
    """Replace the tables in a Markdown file: ``name`` goes between ``<!-- name -->`` and ``<!-- /name -->``.

    Raises:
        UserError: if one of these lines is missing.
    """
    text = path.read_text(encoding="utf-8")
    for name, table in tables.items():
        opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, found, rest = text.partition(opening)
        _, closed, after = rest.partition(closing)
        if not (found and closed):
            raise UserError(f"{path} needs the lines {opening} and {closing}: the table goes between them")
        text = f"{before}{opening}\n{table}\n{closing}{after}"
    path.write_text(text, encoding="utf-8")


def write_curves(path: Path = CURVES, folder: Path = RESULTS) -> None:
    """Draw the learning curves of all presets into an SVG file that names the fingerprint of the runs."""
    presets = recorded_presets(folder)
    save_svg(seed_curves(presets), path, description=f"recorded runs {fingerprint(presets)}")


if __name__ == "__main__":
    write_tables(README, {"results": results_table(), "summary": summary_table()})
    write_tables(NOTES, {"bench": bench_table()})
    write_curves()
