"""The row that every benchmark returns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: what was measured.
        ours: the package's figure.
        other: the other side's figure, measured in the same run; ``None`` where there is no other side.
        against: what the other side is.
        unit: of both figures.
        ratio: how the two compare, in the direction in which more is better or less is, as ``must`` says.
        must: what the ratio, or our figure, must reach.
        met: whether it does.
    """

    what: str
    ours: float
    other: float | None
    against: str
    unit: str
    ratio: float | None
    must: str
    met: bool
