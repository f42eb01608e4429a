"""Types: a bug, a finding, and the report of an examination."""

from __future__ import annotations

import html
import json
import textwrap
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]

CELL_STYLES = (";white-space:nowrap",) * 2 + ("",) * 2  # severity and code do not wrap in a notebook
WIDTH, INDENT = 78, 33  # characters of a line and of the text's indent in a terminal
LISTED = 3  # codes for each reason why they were not checked
GUIDE = "https://recdqn.github.io/recdqn/field-guide.html"


@dataclass(frozen=True)
class Bug:
    """A bug and its fix.

    Attributes:
        severity: ``"error"`` if it spoils learning, ``"warning"`` if it may be intended, ``"note"`` for a
            choice that papers make.
        summary: short description.
        fix: how to correct it, with the fields of :mod:`recdqn.doctor.names`.
        explains: codes that this bug causes as well; they are not reported beside it.
    """

    severity: Severity
    summary: str
    fix: str
    explains: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """A bug that :func:`recdqn.doctor.diagnose` found.

    Attributes:
        code: key of ``recdqn.doctor.BUGS``, and heading of the book's field guide.
        severity: ``"error"``, ``"warning"`` or ``"note"``. What the parts show can lower the severity of the
            bug.
        message: description of the bug, with the affected object and the measured size.
        fix: description of the correction.
    """

    code: str
    severity: Severity
    message: str
    fix: str

    @property
    def link(self) -> str:
        """Address of the code's entry in the field guide."""
        return f"{GUIDE}#{self.code}"


@dataclass(frozen=True)
class Report:
    """The result of :func:`recdqn.doctor.diagnose`; prints as a table in a terminal and in a notebook.

    Attributes:
        findings: errors first, notes last.
        checked: codes that were checked.
        skipped: codes that were not checked, each with the reason.
    """

    findings: tuple[Finding, ...] = ()
    checked: tuple[str, ...] = ()
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that are errors."""
        return self._with("error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings that are warnings."""
        return self._with("warning")

    @property
    def notes(self) -> tuple[Finding, ...]:
        """The findings that are choices, not bugs."""
        return self._with("note")

    def _with(self, severity: str) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.severity == severity)

    @property
    def headline(self) -> str:
        """One line with the number of errors, warnings, notes and checks."""
        counts = {"error": len(self.errors), "warning": len(self.warnings)}
        if self.notes:
            counts["note"] = len(self.notes)
        words = [f"{n} {word}{'s' * (n != 1)}" for word, n in counts.items()]
        total = len(self.checked) + len(self.skipped)
        return f"{', '.join(words)}; {len(self.checked)} of {total} checks ran"

    @property
    def unchecked(self) -> list[str]:
        """One line for each reason why codes were not checked, with the first of them."""
        lines = []
        for reason in dict.fromkeys(self.skipped.values()):
            codes = [code for code, why in self.skipped.items() if why == reason]
            more = f" and {len(codes) - LISTED} more" if len(codes) > LISTED else ""
            lines.append(f"not checked, {reason}: {', '.join(codes[:LISTED])}{more}")
        return lines

    def to_json(self) -> str:
        """Return the report as JSON: findings with links, checked codes, and skipped codes with reasons."""
        values: dict[str, Any] = asdict(self)
        for value, finding in zip(values["findings"], self.findings, strict=True):
            value["link"] = finding.link
        return json.dumps({"headline": self.headline, **values}, indent=2)

    def __str__(self) -> str:
        lines = [self.headline]
        for f in (*self.errors, *self.warnings):
            lines += _wrap(f.message, f"{f.severity:<9}{f.code:<24}") + _wrap(f"Fix: {f.fix}.")
        for f in self.notes:
            lines += _wrap(f"{f.code}: {f.message}", f"{f.severity:<9}", indent=9)
        for line in self.unchecked:
            lines += _wrap(line, indent=0)
        if self.findings:
            lines.append(f"Every code: {GUIDE}#CODE")
        return "\n".join(lines)

    def _repr_html_(self) -> str | None:
        if not self.findings:
            return None  # a notebook then shows the text
        rows = "".join(_row(f) for f in self.findings)
        head = "".join(_cells("th", "severity", "code", "message", "fix"))
        table = f'<table class="dataframe table"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
        notes = "<br>".join(map(html.escape, self.unchecked))
        return f"<p>{html.escape(self.headline)}</p>{table}<p><small>{notes}</small></p>"


class JsonReport(Report):
    """A report that prints as JSON."""

    def __str__(self) -> str:
        return self.to_json()


def _wrap(text: str, head: str = "", indent: int = INDENT) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=f"{head:{indent}}",
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _row(finding: Finding) -> str:
    link = f'<a href="{finding.link}">{html.escape(finding.code)}</a>'
    texts = (finding.severity, finding.message, finding.fix)
    severity, message, fix = map(html.escape, texts)
    return f"<tr>{''.join(_cells('td', severity, link, message, fix))}</tr>"


def _cells(tag: str, *cells: str) -> list[str]:
    styles = zip(cells, CELL_STYLES, strict=True)
    return [f'<{tag} style="text-align:left{style}">{cell}</{tag}>' for cell, style in styles]
