"""The bugs that the doctor knows, and the report it writes (the field guide)."""

from __future__ import annotations

import html
import textwrap
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Bug:
    """What a code stands for.

    Attributes:
        severity: ``"error"`` for what spoils learning, ``"warning"`` for what may be meant.
        summary: what it is, in a few words.
        fix: the cure.
    """

    severity: Literal["error", "warning"]
    summary: str
    fix: str


BUGS: dict[str, Bug] = {
    "no-init-tracker": Bug(
        "error",
        "no InitTracker",
        "append InitTracker() to the transforms of the environment that the collector steps",
    ),
    "init-never-true": Bug(
        "error",
        "is_init is there, but not true where episodes begin",
        "let InitTracker write is_init, and let no transform after it touch the entry",
    ),
    "init-false-start": Bug(
        "error",
        "is_init is true where no episode began",
        "let InitTracker write is_init; in the environment, only an episode's first step is marked",
    ),
    "no-primer": Bug(
        "error",
        "no primer: the recurrent state is dropped between steps",
        "append module.make_tensordict_primer() to the environment that the collector steps",
    ),
    "primer-mismatch": Bug(
        "error",
        "the primer does not fit the module",
        "make the primer from the module itself: env.append_transform(module.make_tensordict_primer())",
    ),
    "out-key-without-next": Bug(
        "error",
        "the new state is not written under 'next', so step_mdp moves nothing",
        'name the state\'s output ("next", its input key), or give in_key and out_key only',
    ),
    "state-overwritten": Bug(
        "error",
        "the new state overwrites the one it was made from",
        'name the state\'s output ("next", its input key): what is stored must be the state before the step',
    ),
    "state-not-carried": Bug(
        "error",
        "the state that arrives at the next step is not the one that was written",
        "find what writes the state's entry at every step, in a transform or a batched environment's worker",
    ),
    "state-over-episode": Bug(
        "error",
        "an episode starts with the state of the one before",
        "let the primer and InitTracker see every reset: put both on the outermost environment",
    ),
    "recurrent-mode-on": Bug(
        "error",
        "recurrent mode is on outside of the loss",
        "use set_recurrent_mode as a context around code that reads whole slices, and nowhere else",
    ),
    "exploration-frozen": Bug(
        "error",
        "exploration does not anneal",
        "call step(frames) of the exploration module after every collection",
    ),
    "explores-in-evaluation": Bug(
        "error",
        "the policy explores when it should not",
        "let the exploration module obey exploration_type(), or evaluate the policy without it",
    ),
    "norm-uninitialised": Bug(
        "error",
        "the statistics of the observations were never set",
        "call init_stats(...) of the transform, or give it loc and scale",
    ),
    "norm-per-column": Bug(
        "error",
        "every row or column of the picture is normalised on its own",
        "use one pair for the whole picture, or one for each channel: reduce over height and width as well",
    ),
    "masked-leak": Bug(
        "warning",
        "what is hidden in one entry can be read in another",
        "take the entry away from what the policy reads, or do not call the task masked",
    ),
    "sees-future": Bug(
        "error",
        "the value of a step depends on later observations",
        "use a layer that reads in one direction: the agent has no later observations when it acts",
    ),
    "unrelated-transitions": Bug(
        "error",
        "the sampler returns unrelated transitions",
        "sample slices of trajectories: SliceSampler(slice_len=..., traj_key=('collector', 'traj_ids'))",
    ),
    "slice-over-episodes": Bug(
        "error",
        "slices run from one trajectory into another",
        "give the sampler traj_key=('collector', 'traj_ids') in place of end_key",
    ),
    "slice-over-cursor": Bug(
        "error",
        "slices run over the place where the buffer is being overwritten",
        "use a sampler that ends trajectories at the write cursor, such as SliceSampler with traj_key",
    ),
    "impossible-steps": Bug(
        "warning",
        "observations jump as they never do in the environment",
        "evaluate in an environment of its own: a rollout in the collector's moves it behind its back",
    ),
    "is-init-lost": Bug(
        "error",
        "slices in the batch are not marked in is_init",
        "store is_init, and let the sampler mark the slices in it (init_key='is_init')",
    ),
    "state-lost": Bug(
        "error",
        "the recurrent states in the batch are missing or empty",
        "store the states: nothing may select or exclude them on the way into the buffer or out of it",
    ),
    "pixels-float32": Bug(
        "warning",
        "pictures are stored as floating-point numbers",
        "store uint8 pictures, and turn them into floats when they are sampled",
    ),
    "pixels-twice": Bug(
        "warning",
        "pictures are stored twice",
        "store them once: the next picture of a step is the picture of the next step",
    ),
    "not-finite": Bug(
        "error",
        "a number that training depends on is not finite",
        "go back to weights from before, lower the learning rate, and clip the gradient's norm",
    ),
    "target-leak": Bug(
        "error",
        "the loss of one slice depends on another slice",
        "use RecurrentDQNLoss; in your own loss, restart every pass from the stored state at each slice",
    ),
    "recurrent-mode-off": Bug(
        "error",
        "the loss reads every step by itself",
        "run the network under set_recurrent_mode(True) in the loss, so that gradients flow through time",
    ),
    "target-frozen": Bug(
        "error",
        "the target network never moves",
        "make SoftUpdate(loss, tau=...) or HardUpdate(loss, ...) and call its step() after the optimiser's",
    ),
    "target-is-online": Bug(
        "error",
        "target and online network are the same",
        "build the loss with delay_value=True",
    ),
}


@dataclass(frozen=True)
class Finding:
    """One bug that :func:`recdqn.doctor.diagnose` proved (the field guide).

    Attributes:
        code: a key of ``BUGS``, and a heading of the book's field guide.
        severity: ``"error"`` or ``"warning"``.
        message: what is wrong, where, and by how much.
        fix: the cure.
    """

    code: str
    severity: Literal["error", "warning"]
    message: str
    fix: str


NARROW = (";white-space:nowrap",) * 2 + ("",) * 2  # the first two columns of the table in a notebook
WIDTH, INDENT = 78, 33  # characters of the table in a terminal; a page of the book is as wide


@dataclass(frozen=True)
class Report:
    """What :func:`recdqn.doctor.diagnose` returns: a table in a terminal and in a notebook (the field guide).

    Attributes:
        findings: errors first.
        checked: the codes whose check ran.
        skipped: the other codes, each with the reason why it could not be checked.
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
        """How many errors and warnings, and how many checks ran."""
        counts = {"error": len(self.errors), "warning": len(self.findings) - len(self.errors)}
        words = [f"{n} {word}{'s' * (n != 1)}" for word, n in counts.items()]
        return f"{', '.join(words)}; {len(self.checked)} of {len(BUGS)} checks ran"

    @property
    def unchecked(self) -> list[str]:
        """One line for every reason why something was not checked."""
        lines = []
        for reason in dict.fromkeys(self.skipped.values()):
            codes = [code for code, why in self.skipped.items() if why == reason]
            lines.append(f"not checked, {reason}: {', '.join(codes)}")
        return lines

    def __str__(self) -> str:
        def wrap(text: str, head: str = "", indent: int = INDENT) -> list[str]:
            first, rest = f"{head:{indent}}", " " * indent
            return textwrap.wrap(
                text, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
            )

        lines = [self.headline]
        for f in self.findings:
            lines += wrap(f.message, f"{f.severity:<9}{f.code:<24}") + wrap(f"Fix: {f.fix}.")
        for line in self.unchecked:
            lines += wrap(line, indent=0)
        return "\n".join(lines)

    def _repr_html_(self) -> str | None:
        if not self.findings:
            return None  # a notebook then shows the text

        def row(tag: str, *cells: str) -> str:
            inside = "".join(
                f'<{tag} style="text-align:left{narrow}">{html.escape(c)}</{tag}>'
                for c, narrow in zip(cells, NARROW, strict=True)
            )
            return f"<tr>{inside}</tr>"

        rows = "".join(row("td", f.severity, f.code, f.message, f.fix) for f in self.findings)
        head = row("th", "severity", "code", "what", "fix")
        table = f'<table class="dataframe table"><thead>{head}</thead><tbody>{rows}</tbody></table>'
        notes = "".join(f"<br>{html.escape(line)}" for line in self.unchecked)
        return f"<p>{html.escape(self.headline)}</p>{table}<p><small>{notes.removeprefix('<br>')}</small></p>"
