"""The row that every benchmark returns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: what was measured.
        ours: figure of the package.
        other: figure of the baseline, measured in the same run; ``None`` if there is no baseline.
        against: name of the baseline.
        unit: of both figures.
        ratio: of the two figures; ``must`` says whether more or less is better.
        must: target of the ratio, or of our figure.
        met: whether the target is met.
    """

    what: str
    ours: float
    other: float | None
    against: str
    unit: str
    ratio: float | None
    must: str
    met: bool
