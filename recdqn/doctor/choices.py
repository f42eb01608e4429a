"""Checks of what the doctor is called with: the parts, the codes, and the number of frames."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from tensordict import TensorDictBase

from recdqn.doctor.bugs import BUGS
from recdqn.doctor.report import GUIDE
from recdqn.errors import UserError


def chosen_codes(only: Iterable[str] = (), ignore: Iterable[str] = ()) -> list[str]:
    """Return the codes to look for: those of ``only``, or all, without those of ``ignore``.

    Raises:
        UserError: if there is no such code, or none is left.
    """
    wanted, left_out = (_listed(name, codes) for name, codes in (("only", only), ("ignore", ignore)))
    for code in (*wanted, *left_out):
        if code not in BUGS:
            close = difflib.get_close_matches(code, BUGS, n=1)
            raise UserError(
                f"there is no code {code!r}: " + (f"did you mean {close[0]}?" if close else f"see {GUIDE}")
            )
    if codes := [code for code in wanted or BUGS if code not in left_out]:
        return codes
    raise UserError("nothing to look for: every code is ignored")


def _listed(name: str, codes: Iterable[str]) -> list[str]:
    if isinstance(codes, str):
        return [codes]
    found = list(codes) if isinstance(codes, Iterable) else [codes]
    if not all(isinstance(code, str) for code in found):
        raise UserError(f"{name}={codes!r}: expected codes, such as ['target-leak']")
    return found


def require_types(parts: Mapping[str, Any], types: Mapping[str, Any]) -> None:
    """Raise a :class:`UserError` if a part has another type than expected."""
    for name, part in parts.items():
        if not isinstance(part, types[name]):
            raise UserError(f"{name} is a {type(part).__name__}: expected {types[name].__name__}")


def require_steps(batch: TensorDictBase | None, frames: int | None) -> None:
    """Raise a :class:`UserError` if there is a batch without steps, or a number of frames below 1."""
    if batch is not None and (batch.ndim == 0 or 0 in batch.shape):
        raise UserError(f"batch has shape {list(batch.shape)}: expected [N] or [B, T], with some steps")
    if frames is not None and not (isinstance(frames, int | float) and frames >= 1):
        raise UserError(f"frames={frames!r}: expected the number of environment steps, 1 or more")
