"""The directive ``live-agent``: trained agents that balance a pole in the reader's browser.

The networks, the physics and the weights are files of ``book/_extra/live``; the page loads them when the
reader scrolls to the agent. Jupyter Book would add every script of ``_static`` to all pages. Without
JavaScript the page shows the animation of ``recdqn watch``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from widgets import Widget, render

FOLDER = Path(__file__).parent
RESULTS = FOLDER.parents[2] / "results"
#: Agents by name: the file of their weights, what the list calls them, and their run.
AGENTS = {
    "masked": ("masked", "LSTM, sees position and angle", "masked-cartpole/seed-0"),
    "pixel": ("pixel", "LSTM, sees the picture", "pixel-cartpole/seed-0"),
    "none": ("masked", "No memory", "memory/masked-cartpole/none/seed-0"),
    "leak": ("bugs", "Silent bug: leaking target", "bugs/masked-cartpole/target-leak/seed-0"),
    "primer": ("bugs", "Silent bug: no primer", "bugs/masked-cartpole/no-primer/seed-0"),
}


def standing(run: str) -> float:
    """Return the mean return of a run's last greedy episodes, in steps."""
    saved = json.loads((RESULTS / run / "metrics.json").read_text(encoding="utf-8"))
    returns = (saved["final"] or saved["evaluations"][-1])["returns"]
    return sum(returns) / len(returns)


def markup(root: str) -> str:
    """Return the HTML; ``root`` is the path from the page to the site's top folder, empty or with a slash."""
    stood = {name: round(standing(run)) for name, (_, _, run) in AGENTS.items()}
    return render(FOLDER, root=root, agents=AGENTS, stood=stood)


class LiveAgent(Widget):
    """``{live-agent}``, without options."""

    folder = FOLDER
    script = "values.js"
    record = RESULTS / "masked-cartpole" / "seed-0" / "metrics.json"

    def html(self, record: dict[str, Any]) -> str:
        """Return the agent with paths relative to the page."""
        return markup("../" * self.env.docname.count("/"))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.setup_extension("widgets")
    app.add_directive("live-agent", LiveAgent)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
