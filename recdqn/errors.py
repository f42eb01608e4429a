"""Errors that are one line for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tensordict import TensorDictBase


class UserError(Exception):
    """Input that cannot be used; the message is one line for a person, and the command line exits with 2."""


class ConfigError(UserError, ValueError):
    """A setting that cannot be used: the message names it, what was expected, and what to try."""


class NotFinite(UserError, FloatingPointError):
    """A number that is not finite: ``batch`` holds it, or leads to it."""

    def __init__(self, message: str, batch: TensorDictBase) -> None:
        super().__init__(message)
        self.batch = batch
