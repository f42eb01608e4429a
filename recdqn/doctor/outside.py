"""Find silent bugs of an agent outside of TorchRL: an exported file, a step function, or a server.

The codes are those of :func:`recdqn.doctor.diagnose`, found by other experiments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from recdqn.doctor.bugs import BUGS
from recdqn.doctor.choices import chosen_codes
from recdqn.doctor.examine import in_order
from recdqn.doctor.report import Finding, Report
from recdqn.errors import first_line
from recdqn.export import description_of, opened
from recdqn.export.inputs import random_inputs

STEPS = 8
BATCH = 3
TOLERANCE = 1e-4  # relative to 1 + |answer|

Arrays = dict[str, np.ndarray]
Call = Callable[[Arrays], Sequence[np.ndarray]]
Act = Callable[[int, Any, bool], Any]
Found = Iterator[tuple[str, str, str]]  # code, message, fix
Check = tuple[tuple[str, ...], Callable[[], Found]]  # codes


def diagnose_file(path: str | Path, only: Sequence[str] = (), ignore: Sequence[str] = ()) -> Report:
    """Examine a file of :func:`recdqn.export_agent`; see :func:`diagnose_step`.

    Args:
        path: the file.
        only: codes to look for; all by default.
        ignore: codes to leave out.

    Raises:
        UserError: if the file cannot be read, or there is no such code.
    """
    wanted = chosen_codes(only, ignore)
    described = description_of(path)
    report = diagnose_step(opened(path), described["inputs"], described["outputs"])
    return Report(
        tuple(finding for finding in report.findings if finding.code in wanted),
        tuple(code for code in report.checked if code in wanted),
        {code: why for code, why in report.skipped.items() if code in wanted},
    )


def diagnose_step(
    call: Call, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
) -> Report:
    """Examine a function that makes one step of a batch, with the state as inputs and outputs.

    Args:
        call: from named inputs to the outputs in their order, such as :func:`recdqn.export.opened` returns.
        inputs: name, type and shape of each, as in the description of an exported file; ``is_init`` is one of
            them.
        outputs: name of each: Q-values, action, and a ``NAME_next`` for each input that is a state.

    Returns:
        The findings. An agent without a state is not checked for the bugs of one.
    """
    step = _Step(call, inputs, outputs)
    bare: list[Check] = [
        (("does-not-run",), partial(_runs, step)),
        (("batch-statistics",), partial(_rows, step)),
    ]
    stateful: list[Check] = [
        (("state-not-carried", "memory-ignored"), partial(_state, step)),
        (("state-over-episode",), partial(_starts, step)),
        (("memory-outside-data",), partial(_turns, step)),
    ]
    if step.states:
        return _report(bare + stateful)
    return _report(bare, {code: "the agent has no state" for codes, _ in stateful for code in codes})


def diagnose_server(make: Callable[[], Act], observations: np.ndarray) -> Report:
    """Examine a server that keeps the states: two clients that take turns, and an episode after another.

    Args:
        make: makes the server anew, and returns its function: from the client's number, an observation, and
            whether an episode begins, to an answer. Answers are compared: actions, or better Q-values.
        observations: ``[2, steps, ...]``, of two clients.

    Returns:
        The findings. They show in the answers only if the observations are like those of training.
    """

    def check() -> Found:
        alone = [_played(make(), k, observations[k]) for k in range(2)]
        if (step := _apart(_played(make(), 0, observations[0]), alone[0])) is not None:
            yield (
                "explores-in-evaluation",
                f"the same episode gets other answers in a new server, from step {step} on",
                "act greedily, without exploration, and keep nothing outside of the server",
            )
            return
        act = make()
        together: tuple[list[Any], list[Any]] = ([], [])
        for step, seen in enumerate(zip(*observations, strict=True)):
            for k in range(2):
                together[k].append(act(k, seen[k], step == 0))
        for k in range(2):
            if (step := _apart(together[k], alone[k])) is not None:
                yield (
                    "memory-outside-data",
                    f"a client gets other answers when another one takes turns with it, from step {step} on",
                    "keep a state for each client, and find it by the client's name",
                )
                break
        act = make()
        _played(act, 0, observations[0])
        if (step := _apart(_played(act, 0, observations[1]), alone[1])) is not None:
            yield (
                "state-over-episode",
                f"a second episode gets other answers than in a new server, from step {step} on",
                "set the client's state to that of Agent.initial_state() where an episode begins",
            )

    return _report([(("explores-in-evaluation", "memory-outside-data", "state-over-episode"), check)])


class _Step:
    """A step function with its inputs and outputs by name."""

    def __init__(
        self, call: Call, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        self.call, self.outputs = call, [one["name"] for one in outputs]
        self.inputs = [one for one in inputs if f"{one['name']}_next" not in self.outputs]
        self.states = [one for one in inputs if f"{one['name']}_next" in self.outputs]

    def given(self, batch: int, seed: int) -> Arrays:
        """Return random inputs without a state; no episode begins."""
        drawn = random_inputs(self.inputs, batch, np.random.default_rng(seed))
        return drawn | {"is_init": np.zeros((batch, 1), bool)}

    def zeros(self, batch: int) -> Arrays:
        return {one["name"]: np.zeros((batch, *one["shape"]), np.float32) for one in self.states}

    def __call__(self, given: Arrays, state: Arrays) -> tuple[np.ndarray, Arrays]:
        """Return the Q-values and the next state."""
        found = dict(zip(self.outputs, self.call(given | state), strict=True))
        return found[self.outputs[0]], {name: found[f"{name}_next"] for name in state}

    def after(self, batch: int, seed: int = 0) -> Arrays:
        """Return the state after some steps."""
        state = self.zeros(batch)
        for k in range(STEPS):
            _, state = self(self.given(batch, seed + k), state)
        return state


def _runs(step: _Step) -> Found:
    for batch in (1, BATCH):
        try:
            values, state = step(step.given(batch, 0), step.zeros(batch))
        except Exception as error:
            problem = f"fails with {first_line(error)}"
        else:
            good = np.isfinite(values).all() and len(values) == batch
            good &= all(state[name].shape == part.shape for name, part in step.zeros(batch).items())
            problem = "" if good else "gives other shapes than described, or numbers that are not finite"
        if problem:
            yield (
                "does-not-run",
                f"a step of a batch of {batch} {problem}",
                "export it again by recdqn export, which compares the file with the agent",
            )
            return


def _state(step: _Step) -> Found:
    before, given = step.after(BATCH), step.given(BATCH, STEPS)
    values, after = step(given, before)
    if all(np.array_equal(after[name], before[name]) for name in before):
        yield (
            "state-not-carried",
            "the state that a step returns is the state that it was given",
            "return the state after the step",
        )
    elif np.array_equal(values, step(given, step.zeros(BATCH))[0]):
        yield (
            "memory-ignored",
            f"the state after {STEPS} steps gives the same values as zeros",
            "let the step read the state that it is given",
        )


def _starts(step: _Step) -> Found:
    given = step.given(BATCH, STEPS) | {"is_init": np.ones((BATCH, 1), bool)}
    (values, state), (fresh, empty) = step(given, step.after(BATCH)), step(given, step.zeros(BATCH))
    off = max(_off(values, fresh), *(_off(state[name], empty[name]) for name in state))
    if off > TOLERANCE:
        yield (
            "state-over-episode",
            f"where is_init is true, the state of the episode before still changes the outputs, by {off:.1e}",
            "multiply the states by 1 - is_init before the step",
        )


def _turns(step: _Step) -> Found:
    """Two clients that take turns, each with its own state, get what each gets alone."""

    def play(clients: Sequence[int]) -> list[list[np.ndarray]]:
        states = {k: step.zeros(1) for k in clients}
        values: dict[int, list[np.ndarray]] = {k: [] for k in clients}
        for t in range(STEPS):
            for k in clients:
                found, states[k] = step(step.given(1, STEPS * k + t), states[k])
                values[k].append(found)
        return list(values.values())

    together = play((1, 2))
    off = max(_off(np.stack(a), np.stack(play((k,))[0])) for k, a in zip((1, 2), together, strict=True))
    if off > TOLERANCE:
        yield (
            "memory-outside-data",
            f"a client's values differ by {off:.1e} when another client takes turns with it",
            "let the step keep nothing: all that it remembers is in the state that it returns",
        )


def _rows(step: _Step) -> Found:
    given, state = step.given(BATCH, 0), step.after(BATCH, seed=1)
    values, _ = step(given, state)
    rows = [
        step(*({name: part[k : k + 1] for name, part in each.items()} for each in (given, state)))[0]
        for k in range(BATCH)
    ]
    if (off := _off(values, np.concatenate(rows))) > TOLERANCE:
        yield (
            "batch-statistics",
            f"a row's values differ by {off:.1e} when other rows are beside it",
            "export the policy in evaluation mode, with LayerNorm in place of batch statistics",
        )


def _off(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / (1 + np.abs(b).max()))


def _played(act: Act, client: int, observations: np.ndarray) -> list[Any]:
    return [act(client, seen, k == 0) for k, seen in enumerate(observations)]


def _apart(found: Sequence[Any], expected: Sequence[Any]) -> int | None:
    """Return the first step at which answers differ."""
    pairs = zip(found, expected, strict=True)
    return next((k for k, (a, b) in enumerate(pairs) if _off(np.asarray(a), np.asarray(b)) > TOLERANCE), None)


def _report(checks: Sequence[Check], left_out: Mapping[str, str] = MappingProxyType({})) -> Report:
    findings: list[Finding] = []
    checked: list[str] = []
    skipped = dict(left_out)
    for codes, run in checks:
        try:
            found = [Finding(code, BUGS[code].severity, text, fix) for code, text, fix in run()]
        except Exception as error:  # a check that fails must not hide what the others find
            skipped |= dict.fromkeys(codes, f"running it failed with {first_line(error)}")
        else:
            findings += found
            checked += codes
    return Report(in_order(findings), tuple(checked), skipped)
