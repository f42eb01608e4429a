"""Types: a bug, a finding, and the report of an examination."""

from __future__ import annotations

import html
import textwrap
from dataclasses import dataclass, field
from typing import Literal

CELL_STYLES = (";white-space:nowrap",) * 2 + ("",) * 2  # severity and code do not wrap in a notebook
WIDTH, INDENT = 78, 33  # characters of a line and of the text's indent in a terminal


@dataclass(frozen=True)
class Bug:
    """A bug and its fix.

    Attributes:
        severity: ``"error"`` if it spoils learning, ``"warning"`` if it may be intended.
        summary: short description.
        fix: how to correct it.
    """

    severity: Literal["error", "warning"]
    summary: str
    fix: str


@dataclass(frozen=True)
class Finding:
    """A bug that :func:`recdqn.doctor.diagnose` found.

    Attributes:
        code: key of ``recdqn.doctor.BUGS``, and heading of the book's field guide.
        severity: ``"error"`` or ``"warning"``.
        message: description of the bug, with the affected object and the measured size.
        fix: description of the correction.
    """

    code: str
    severity: Literal["error", "warning"]
    message: str
    fix: str


@dataclass(frozen=True)
class Report:
    """The result of :func:`recdqn.doctor.diagnose`; prints as a table in a terminal and in a notebook.

    Attributes:
        findings: errors first.
        checked: codes that were checked.
        skipped: codes that were not checked, each with the reason.
    """

    findings: tuple[Finding, ...] = ()
    checked: tuple[str, ...] = ()
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that are errors."""
        return tuple(f for f in self.findings if f.severity == "error")

    @property
    def headline(self) -> str:
        """One line with the number of errors, warnings and checks."""
        counts = {"error": len(self.errors), "warning": len(self.findings) - len(self.errors)}
        words = [f"{n} {word}{'s' * (n != 1)}" for word, n in counts.items()]
        total = len(self.checked) + len(self.skipped)
        return f"{', '.join(words)}; {len(self.checked)} of {total} checks ran"

    @property
    def unchecked(self) -> list[str]:
        """One line for each reason why codes were not checked."""
        lines = []
        for reason in dict.fromkeys(self.skipped.values()):
            codes = [code for code, why in self.skipped.items() if why == reason]
            lines.append(f"not checked, {reason}: {', '.join(codes)}")
        return lines

    def __str__(self) -> str:
        lines = [self.headline]
        for f in self.findings:
            lines += _wrap(f.message, f"{f.severity:<9}{f.code:<24}") + _wrap(f"Fix: {f.fix}.")
        for line in self.unchecked:
            lines += _wrap(line, indent=0)
        return "\n".join(lines)

    def _repr_html_(self) -> str | None:
        if not self.findings:
            return None  # a notebook then shows the text
        rows = "".join(_row("td", f.severity, f.code, f.message, f.fix) for f in self.findings)
        head = _row("th", "severity", "code", "message", "fix")
        table = f'<table class="dataframe table"><thead>{head}</thead><tbody>{rows}</tbody></table>'
        notes = "<br>".join(map(html.escape, self.unchecked))
        return f"<p>{html.escape(self.headline)}</p>{table}<p><small>{notes}</small></p>"


def _wrap(text: str, head: str = "", indent: int = INDENT) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=f"{head:{indent}}",
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
    )


def _row(tag: str, *cells: str) -> str:
    inside = "".join(
        f'<{tag} style="text-align:left{style}">{html.escape(cell)}</{tag}>'
        for cell, style in zip(cells, CELL_STYLES, strict=True)
    )
    return f"<tr>{inside}</tr>"
