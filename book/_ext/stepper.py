"""The directive ``step-mdp-stepper``: what every call of a step does to a TensorDict, one moment at a time.

It shows ``results/step-mdp.json``, which ``python -m recdqn.book.player`` recorded. Every moment is a table
in the page, so nothing is lost without JavaScript; the script shows one table at a time.

For tests and styles, in the page:

- ``.stepper`` has ``data-wiring`` (``right``, ``same`` or ``new``), ``data-step`` (``inside`` or ``end``) and
  ``data-moment`` (0 to 4): what is shown. ``data-live`` is there once the script runs.
- ``button[data-go]`` is ``previous`` or ``next``; ``input[data-choose]`` is ``wiring`` or ``step``.
- ``.stepper-panel`` has the same three, and is hidden unless it is shown. In it,
  ``td[data-place][data-key]`` has ``data-value`` (JSON, ``null`` where there is no entry) and ``data-mark``
  (see ``recdqn.book.stepper.marks``).
- ``[role=status]`` is what is said of the moment.
"""

from __future__ import annotations

import json
import math
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

RECORD = Path(__file__).parents[2] / "results" / "step-mdp.json"
SCRIPT = Path(__file__).with_suffix(".js")

ORDER = (
    "observation is_init recurrent_state_h recurrent_state_c h_new c_new embed memory action_value "
    "chosen_action_value action reward done terminated truncated step_count"
).split()
WIRINGS = {
    "right": ("off", '("next", "recurrent_state_h")'),
    "same": ("on, same name", '"recurrent_state_h"'),
    "new": ("on, new name", '"h_new"'),
}
STEPS = {"inside": "inside an episode", "end": "the last of an episode"}
MARKS = {
    ("root", "moved"): "← from next",
    ("next", "moved"): "moved",
    ("next", "copied"): "← from root",
    ("root", "copied"): "copied",
    **{(place, mark): mark for place in ("root", "next") for mark in ("new", "changed", "dropped")},
}
# What is said of a moment: of a wiring, of all wirings inside an episode or at its end, or of both together.
SAID = {
    "0 right": "The root holds what is known before the step, and the state that the layer is about "
    "to read. What the policy left there in the step before is still there.",
    "0 same": "Nothing looks wrong: there is a state to read.",
    "0 new": "The state that the layer is about to read is zero, in the middle of an episode. What "
    "it wrote in the step before stands under names that it does not read.",
    "1 right": "The layer has read the state at the root and written its new one under next. The "
    "root still holds what it read.",
    "1 same": "The layer has written its new state over the one it read. The state that the step "
    "began with is gone.",
    "1 new": "The layer has written its new state at the root, under other names. There is no next.",
    "2 right": "The environment has put its answer under next, beside the state. A buffer stores "
    "what you see now.",
    "2 same": "The environment has put its answer under next. It found no state there, and copied "
    "the root's. What a buffer stores now says that the step began with the state it "
    "ended with.",
    "2 new": "The environment has put its answer under next. It found no state there, and copied "
    "the root's zeros.",
    "3 right inside": "What stood under next has moved to the root. The reward belongs to the step that is "
    "over, and is dropped.",
    "3 same inside": "The copy has moved back to where it came from. So the next step has a state to read, "
    "and the agent remembers.",
    "3 new inside": "Zeros have moved to where zeros were. h_new and c_new stay behind, and the next call "
    "of the policy overwrites them.",
    "3 right end": "What stood under next has moved to the root. Done is true, and the old episode's "
    "state stands at the root of the new one.",
    "3 same end": "The copy has moved back to where it came from. Done is true, and the old episode's "
    "state stands at the root of the new one.",
    "3 new end": "Zeros have moved to where zeros were. Done is true.",
    "4 inside": "The episode goes on, so nothing changes. The next step begins with this.",
    "4 end": "The episode was done. A reset has put its first observation at the root, set "
    "is_init, and put zeros for the state. The next step begins with this.",
}


def said(moment: int, wiring: str, step: str) -> str:
    """What is said of a moment."""
    for key in (f"{moment} {wiring}", f"{moment} {step}", f"{moment} {wiring} {step}"):
        if key in SAID:
            return SAID[key]
    raise KeyError(f"nothing is said of moment {moment}, {wiring}, {step}")


def shown(value: list | None) -> str:
    """An entry as a short text: three decimals, and the length of a state."""
    if value is None:
        return "–"
    if isinstance(value[0], bool):
        return " ".join(str(x) for x in value)
    return " ".join(str(x) if isinstance(x, int) else f"{x:.3f}".replace("-", "−") for x in value)


def cell(place: str, key: str, entry: list | None) -> str:
    """One cell: the value, and what has become of it."""
    value, mark = entry or (None, "")
    text = f'<span class="stepper-value">{shown(value)}</span>'
    if key.startswith("recurrent_state") and value is not None:
        text += f' <span class="stepper-length">length {math.hypot(*value):.3f}</span>'
    if mark:
        text += f' <span class="stepper-mark">{MARKS[place, mark]}</span>'
    data = (
        f'data-place="{place}" data-key="{key}" data-value="{escape(json.dumps(value))}" data-mark="{mark}"'
    )
    return f"<td {data}>{text}</td>"


def panel(wiring: str, step: str, number: int, moment: dict, keys: list[str]) -> str:
    """The table of one moment."""
    rows = "".join(
        f'<tr><th scope="row"><code>{key.replace("_", "_<wbr>")}</code></th>'
        + "".join(cell(place, key, moment[place].get(key)) for place in ("root", "next"))
        + "</tr>"
        for key in keys
    )
    return (
        f'<section class="stepper-panel" data-wiring="{wiring}" data-step="{step}" data-moment="{number}">'
        f'<p class="stepper-moment"><strong>{number + 1} of 5: {moment["moment"]}.</strong> '
        f"{escape(said(number, wiring, step))}</p>"
        '<table><thead><tr><th scope="col">entry</th><th scope="col">root</th><th scope="col">next</th></tr>'
        f"</thead><tbody>{rows}</tbody></table></section>"
    )


def radios(what: str, legend: str, options: dict[str, str]) -> str:
    """A group of choices, the first one taken."""
    inputs = "".join(
        f'<label><input type="radio" name="stepper-{what}" data-choose="{what}" value="{value}"'
        f"{' checked' if k == 0 else ''}> {label}</label>"
        for k, (value, label) in enumerate(options.items())
    )
    return f"<fieldset><legend>{legend}</legend>{inputs}</fieldset>"


def markup(record: dict) -> str:
    """The whole stepper, from what was recorded."""
    script = SCRIPT.read_text(encoding="utf-8")
    parts = []
    for wiring, (state, key) in WIRINGS.items():
        for step, name in STEPS.items():
            recorded = record["rollouts"][wiring][step]
            moments = recorded["moments"]
            used = {key for moment in moments for place in ("root", "next") for key in moment[place]}
            keys = [key for key in ORDER if key in used]
            panels = "".join(panel(wiring, step, n, moment, keys) for n, moment in enumerate(moments))
            summary = f"Bug {state}, <code>{escape(key)}</code>. Step {recorded['step']}, {name}"
            is_open = " open" if (wiring, step) == ("right", "inside") else ""
            parts.append(f"<details{is_open}><summary>{summary}</summary>{panels}</details>")
    inside = record["rollouts"]["right"]  # the episode is the same with every wiring
    steps = {step: f"{inside[step]['step']}, {name}" for step, name in STEPS.items()}
    wirings = {name: f"{state}: <code>{escape(key)}</code>" for name, (state, key) in WIRINGS.items()}
    return (
        '<div class="stepper" role="group" aria-label="The entries of a TensorDict, moment by moment" '
        'data-wiring="right" data-step="inside" data-moment="0">'
        '<div class="stepper-controls" hidden>'
        + radios("wiring", 'Bug, <code>out_keys</code> without <code>"next"</code>', wirings)
        + radios("step", "Step", steps)
        + '<div class="stepper-buttons"><button type="button" data-go="previous">← Previous</button>'
        '<button type="button" data-go="next">Next →</button></div></div>'
        '<div class="stepper-said" role="status"></div>' + "".join(parts) + f"</div><script>{script}</script>"
    )


class StepMdpStepper(SphinxDirective):
    """``{step-mdp-stepper}``, without options."""

    def run(self) -> list[nodes.Node]:
        """Put the stepper into the page."""
        self.env.note_dependency(str(RECORD))
        self.env.note_dependency(str(SCRIPT))
        record = json.loads(RECORD.read_text(encoding="utf-8"))
        return [nodes.raw("", markup(record), format="html")]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("step-mdp-stepper", StepMdpStepper)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
