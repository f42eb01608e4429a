"""Run the checks on a subject, and collect their findings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from recdqn.doctor.bugs import BUGS
from recdqn.doctor.checks import CHECKS, Check
from recdqn.doctor.checks.common import Evidence
from recdqn.doctor.limits import TimeUp, limited
from recdqn.doctor.probe import Skip
from recdqn.doctor.report import Finding, Report
from recdqn.doctor.subject import Subject
from recdqn.errors import first_line

SECONDS = 3.0  # a limit for a check, see limited(); most take less than one on a free core
ORDER = ("error", "warning", "note")


def examine(subject: Subject, codes: Sequence[str]) -> Report:
    """Run each check that can find one of ``codes``.

    A check that fails or takes too long is skipped. The part that takes too long is not used by later checks.
    """
    found: dict[str, Finding] = {}
    checked: dict[str, None] = {}
    skipped: dict[str, str] = {}
    for check in CHECKS:
        wanted = [code for code in check.codes if code in codes]
        if not wanted:
            continue
        reason = _unavailable(subject, check)
        if reason is None:
            reason = _run(subject, check, found)
        if reason is None:
            checked |= dict.fromkeys(wanted)
        else:
            skipped |= dict.fromkeys(wanted, reason)
    explained = {code for finding in found for code in BUGS[finding].explains}
    found = {code: finding for code, finding in found.items() if code in codes and code not in explained}
    checked |= dict.fromkeys(found)
    return Report(
        in_order(found.values()), tuple(checked), {c: why for c, why in skipped.items() if c not in checked}
    )


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return findings, the most severe first."""
    return tuple(sorted(findings, key=lambda f: (ORDER.index(f.severity), list(BUGS).index(f.code))))


def _unavailable(subject: Subject, check: Check) -> str | None:
    missing = [names for names in check.needs if not subject.has(names)]
    if missing:
        return f"no {' and no '.join(missing)} given"
    needed = [name for names in check.needs for name in names.split(" or ")]
    if "batch" in needed and "batch" not in subject.given:
        needed.append("buffer")  # from which it is sampled
    slow = [why for name, why in subject.slow.items() if name in needed]
    return slow[0] if slow else None


def _run(subject: Subject, check: Check, found: dict[str, Finding]) -> str | None:
    """Add the findings of a check; return why it did not run to its end, if so."""
    try:
        with limited(SECONDS):
            for item in check.run(subject):
                finding = Evidence(*item).finding(subject)
                found.setdefault(finding.code, finding)
    except Skip as skip:
        return str(skip)
    except TimeUp:
        why = f"the {subject.running} took longer than {SECONDS:g} seconds"
        subject.slow[subject.running] = why
        return why
    except (Exception, SystemExit) as error:  # a part that does not run must not hide the bugs of others
        return f"running it failed with {first_line(error)}"
    return None
