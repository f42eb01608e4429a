"""The directive ``episode-player``: a recorded episode of the pixel agent with its memory at every step.

It shows ``results/episode.json`` and the frames in ``book/_static/episode.png``, both written by
``python -m recdqn.book.player``. Without JavaScript the page shows the animation of ``recdqn watch``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from widgets import Widget, render

FOLDER = Path(__file__).parent
RECORD = FOLDER.parents[2] / "results" / "episode.json"

# Entries of the recorded file that the script reads.
SENT = "steps size columns values actions units hidden position angle truth readout single wiped".split()


def markup(record: dict[str, Any], root: str) -> str:
    """Return the player's HTML.

    Args:
        record: contents of ``results/episode.json``.
        root: path from the page to the site's top folder, empty or ending in a slash.
    """
    return render(FOLDER, record=record, root=root, sent={key: record[key] for key in SENT})


class EpisodePlayer(Widget):
    """``{episode-player}``, without options."""

    folder = FOLDER
    script = "values.js"
    record = RECORD

    def html(self, record: dict[str, Any]) -> str:
        """Return the player with paths relative to the page."""
        return markup(record, "../" * self.env.docname.count("/"))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.setup_extension("widgets")
    app.add_directive("episode-player", EpisodePlayer)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
