"""Single precision, whatever the program's default is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def float32() -> Iterator[None]:
    """Make weights and specs inside, or in the decorated function, with float32.

    ``torch.set_default_dtype`` may say otherwise, for the program's own tensors and its environments'.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
