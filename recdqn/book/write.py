"""Write the tables and the learning curves that the README shows.

Run it as ``python -m recdqn.book.write``.
"""

from __future__ import annotations

from pathlib import Path

from recdqn.book.plots import seed_curves
from recdqn.book.plots.style import save_svg
from recdqn.book.recorded import RESULTS, fingerprint, recorded_presets
from recdqn.book.tables import results_table, summary_table
from recdqn.errors import UserError

README = RESULTS.parent / "README.md"
CURVES = RESULTS.parent / "book" / "_static" / "learning-curves.svg"


def write_tables(readme: Path = README, folder: Path = RESULTS) -> None:
    """Replace the tables of the recorded runs in ``readme``.

    :func:`recdqn.book.tables.results_table` goes between ``<!-- results -->`` and ``<!-- /results -->``, and
    :func:`recdqn.book.tables.summary_table` between ``<!-- summary -->`` and ``<!-- /summary -->``.

    Raises:
        UserError: if one of these lines is missing.
    """
    text = readme.read_text(encoding="utf-8")
    for name, table in {"results": results_table(folder), "summary": summary_table(folder)}.items():
        opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, found, rest = text.partition(opening)
        _, closed, after = rest.partition(closing)
        if not (found and closed):
            raise UserError(f"{readme} needs the lines {opening} and {closing}: the table goes between them")
        text = f"{before}{opening}\n{table}\n{closing}{after}"
    readme.write_text(text, encoding="utf-8")


def write_curves(path: Path = CURVES, folder: Path = RESULTS) -> None:
    """Draw the learning curves of all presets into an SVG file that names the fingerprint of the runs."""
    presets = recorded_presets(folder)
    save_svg(seed_curves(presets), path, description=f"recorded runs {fingerprint(presets)}")


if __name__ == "__main__":
    write_tables()
    write_curves()
