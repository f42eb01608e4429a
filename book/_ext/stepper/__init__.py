"""The directive ``step-mdp-stepper``: the entries of a TensorDict at each stage of a step.

It shows ``results/step-mdp.json``, written by ``python -m recdqn.book.player``. Every stage is a table in the
page, so that a page without JavaScript is complete; the script shows one table at a time.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml
from sphinx.application import Sphinx
from widgets import Widget, decimal, render

FOLDER = Path(__file__).parent
RECORD = FOLDER.parents[2] / "results" / "step-mdp.json"
# Explanations by stage, and by wiring or by step (inside an episode, or its end) or both.
TEXTS: dict[str, str] = yaml.safe_load((FOLDER / "texts.yml").read_text(encoding="utf-8"))

ORDER = (
    "observation is_init recurrent_state_h recurrent_state_c h_new c_new embed memory action_value "
    "chosen_action_value action reward done terminated truncated step_count"
).split()
STATES = ("recurrent_state_h", "recurrent_state_c", "h_new", "c_new")
WIRINGS = {
    "right": ("off", '("next", "recurrent_state_h")'),
    "same": ("on, same name", '"recurrent_state_h"'),
    "new": ("on, new name", '"h_new"'),
}
STEPS = {"inside": "inside an episode", "end": "last of an episode"}
MARKS = {
    ("root", "moved"): "← from next",
    ("next", "moved"): "moved",
    ("next", "copied"): "← from root",
    **{(place, mark): mark for place in ("root", "next") for mark in ("new", "changed", "dropped")},
}


def explanation(stage: int, wiring: str, step: str) -> str:
    """Return the text for a stage."""
    for key in (f"{stage} {wiring}", f"{stage} {step}", f"{stage} {wiring} {step}"):
        if key in TEXTS:
            return TEXTS[key]
    raise KeyError(f"texts.yml explains no stage {stage} of {wiring}, {step}")


def shown(value: list[Any] | None) -> str:
    """Return an entry as a short text; floating-point numbers have three decimals."""
    if value is None:
        return "–"
    return " ".join(decimal(x, 3) if isinstance(x, float) else str(x) for x in value)


def keys(stages: list[dict[str, Any]]) -> list[str]:
    """Return the keys that occur at any stage of a step, in the order of the table's rows."""
    used = {key for stage in stages for place in ("root", "next") for key in stage[place]}
    return [key for key in ORDER if key in used]


def largest(record: dict[str, Any]) -> float:
    """Return the largest size of a number in any state, the full height of a bar."""
    steps = [step for rollout in record["rollouts"].values() for step in rollout.values()]
    entries = [entry for step in steps for stage in step["stages"] for entry in stage["root"].items()]
    states = [value for key, (value, _) in entries if value and key in STATES]
    return max(abs(x) for value in states for x in value)


def markup(record: dict[str, Any]) -> str:
    """Return the stepper's HTML for the contents of ``results/step-mdp.json``."""
    return render(
        FOLDER,
        rollouts=record["rollouts"],
        wirings=WIRINGS,
        steps=STEPS,
        marks=MARKS,
        keys=keys,
        shown=shown,
        explanation=explanation,
        length=lambda state: math.hypot(*state),
        largest=largest(record),
        states=STATES,
    )


class StepMdpStepper(Widget):
    """``{step-mdp-stepper}``, without options."""

    folder = FOLDER
    record = RECORD

    def html(self, record: dict[str, Any]) -> str:
        """Return the stepper."""
        return markup(record)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.setup_extension("widgets")
    app.add_directive("step-mdp-stepper", StepMdpStepper)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
