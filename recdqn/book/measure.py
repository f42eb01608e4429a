"""Timing of functions."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)


def median_seconds(
    calls: Mapping[Name, Callable[[], object]],
    repeats: int,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Name, float]:
    """Call several functions in turn, and return the median time of each, in seconds.

    The calls alternate, so a machine that slows down for a while slows down all of them.

    Args:
        calls: the functions, by name.
        repeats: measured calls of each.
        warmup: calls of each that are not measured, before those that are.
        clock: ``time.thread_time`` leaves out the time that other programs take.
    """
    times: dict[Name, list[float]] = {name: [] for name in calls}
    for turn in range(warmup + repeats):
        for name, call in calls.items():
            start = clock()
            call()
            if turn >= warmup:
                times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def milliseconds(call: Callable[[], object], repeats: int) -> float:
    """Return the median wall-clock time of ``call``, in milliseconds, after a call that is not measured."""
    return 1e3 * median_seconds({"call": call}, repeats)["call"]
