"""The directive ``episode-player``: an episode of the pixel agent, with what it remembers at every step.

It shows ``results/episode.json`` and the pictures in ``book/_static/episode.png``, which
``python -m recdqn.book.player`` recorded. Without JavaScript the film of ``recdqn watch`` is shown.

For tests and styles, in the page:

- ``.player`` has, once the script runs, ``data-live``, ``data-playing`` (``true`` or ``false``),
  ``data-step`` (from 0), and of this step ``data-q-left``, ``data-q-right``, ``data-action`` (``left`` or
  ``right``), and, for ``cart`` and ``pole`` each, ``data-cart-truth``, ``data-cart-readout`` and
  ``data-cart-single``, as the file has them.
- ``.player-data`` holds the entries of the file that the page needs, as JSON.
- ``button[data-go]`` is ``play``, ``previous`` or ``next``; ``input[type=range]`` is the step, ``select`` the
  speed, ``input[type=checkbox]`` shows the read-out from the single picture.
- ``[data-show=NAME]`` is the text that shows a number; NAME is ``step``, one of those above, as in
  ``q-left``, or ``unit-0`` to ``unit-7``. ``[role=status]`` says the step, but not while it plays.
"""

from __future__ import annotations

import json
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

RECORD = Path(__file__).parents[2] / "results" / "episode.json"
SCRIPT = Path(__file__).with_suffix(".js")

SENT = "steps size columns values actions units hidden position angle truth readout single".split()
CHARTS = {"cart": ("Cart's velocity", "m/s"), "pole": ("Pole's velocity", "rad/s")}
SPEEDS = {5: "5 steps a second", 15: "15 steps a second", 50: "50, as it was"}
FILM = "A pole on a cart stays upright while the cart moves a little from side to side."


def number(value: float, digits: int = 2) -> str:
    """A number with a real minus sign."""
    return f"{value:.{digits}f}".replace("-", "−")


def bar(side: str) -> str:
    """The Q-value of one action."""
    return (
        f'<div class="player-q" data-side="{side}"><span>{side}</span><span class="player-bar"><i></i></span>'
        f'<span data-show="q-{side}"></span><span class="player-taken">taken</span></div>'
    )


def chart(name: str, record: dict) -> str:
    """One velocity: the truth, what is read from the memory, and what from the single picture."""
    title, unit = CHARTS[name]
    keys = [f'<span><span class="player-key truth">true</span> <b data-show="{name}-truth"></b></span>']
    for line, text, source in (("readout", "memory", "hidden"), ("single", "the picture", "features")):
        keys.append(
            f'<span class="player-of-{line}"><span class="player-key {line}">from {text}</span> '
            f'<b data-show="{name}-{line}"></b> (R² {number(record["r2"][source][name])})</span>'
        )
    lines = "".join(f'<polyline class="{line}"/>' for line in ("single", "truth", "readout"))
    return (
        f'<div data-chart="{name}"><p class="player-keys"><span><strong>{title}</strong>, {unit}</span> '
        f'{" ".join(keys)}</p><div class="player-plot"><span class="player-top"></span>'
        '<span class="player-low"></span><svg preserveAspectRatio="none" aria-hidden="true">'
        f'<line class="zero"/>{lines}<line class="cursor"/></svg></div></div>'
    )


def strips(record: dict) -> str:
    """The units: one line of cells each."""
    rows = "".join(
        f'<div class="player-unit"><span>{unit}</span><svg preserveAspectRatio="none" aria-hidden="true">'
        f'</svg><span data-show="unit-{k}"></span></div>'
        for k, unit in enumerate(record["units"])
    )
    return (
        f'<div class="player-units"><p><strong>Memory</strong>: {len(record["units"])} of its '
        f'{record["inputs"]["hidden"]} units, <span class="player-key plus">above</span> and '
        f'<span class="player-key minus">below</span> zero</p>{rows}'
        '<p class="player-window">steps <span class="player-from"></span> to <span class="player-to"></span>'
        "</p></div>"
    )


def caption(record: dict) -> str:
    """What is to be seen, with the numbers of the file."""
    hidden, single = record["r2"]["hidden"], record["r2"]["features"]
    fitted, held_out, inputs = record["fitted"], record["held_out"], record["inputs"]
    return (
        "<p><strong>Where is the velocity?</strong> The agent sees one small grey picture at a time. "
        "The first one tells it nothing about speed. Step on, and the dashed line begins to follow "
        f"the true velocity. That line is a linear read-out of the memory's {inputs['hidden']} "
        f"numbers, fitted by least squares on {fitted['episodes']} other episodes. On "
        f"{held_out['episodes']} episodes that it was not fitted on, this one among them, its R² is "
        f"{number(hidden['cart'])} for the cart and {number(hidden['pole'])} for the pole: 1 is "
        f"perfect, 0 is no better than the mean. Fitted in the same way on the {inputs['features']} "
        f"features of the single picture, a read-out reaches {number(single['cart'])} and "
        f"{number(single['pole'])}. The velocity is in the memory.</p>"
        f'<p class="player-made">Recorded by <code>{record["made"]["command"]}</code>: {record["picked"]} '
        f"(seed {record['seed']:,}). The units are those with the {record['measure']}.</p>"
    )


def markup(record: dict, root: str) -> str:
    """The whole player, from what was recorded; ``root`` leads from the page to the site's first folder."""
    script = SCRIPT.read_text(encoding="utf-8")
    last = record["steps"] - 1
    speeds = "".join(
        f'<option value="{n}"{" selected" * (n == 15)}>{name}</option>' for n, name in SPEEDS.items()
    )
    charts = "".join(chart(name, record) for name in CHARTS)
    sent = json.dumps({key: record[key] for key in SENT}, separators=(",", ":"))
    return (
        '<div class="player" role="group" aria-label="Episode player" '
        f'data-pictures="{root}_static/episode.png">'
        f'<noscript><img src="{root}_static/pixel-agent.gif" alt="{FILM}" width="300" height="200">'
        '</noscript><div class="player-live" hidden><div class="player-screen"><div class="player-see">'
        f'<div class="player-picture" role="img"></div><p><strong>Q-values</strong></p>'
        f"{bar('left')}{bar('right')}"
        f'</div><div class="player-lines">{charts}{strips(record)}</div></div>'
        '<div class="player-controls"><button type="button" data-go="play">Play</button>'
        '<button type="button" data-go="previous">← Previous</button>'
        '<button type="button" data-go="next">Next →</button>'
        f'<label class="player-slide">Step <b data-show="step"></b> of {last}'
        f'<input type="range" min="0" max="{last}" value="0" autocomplete="off"></label>'
        f'<label>Speed <select autocomplete="off">{speeds}</select></label>'
        '<label class="player-check"><input type="checkbox" autocomplete="off"> '
        '<span class="player-key single">read from the single picture</span></label></div>'
        '<div class="player-said" role="status"></div></div>'
        f'<div class="player-caption">{caption(record)}</div></div>'
        f'<script type="application/json" class="player-data">{sent}</script><script>{script}</script>'
    )


class EpisodePlayer(SphinxDirective):
    """``{episode-player}``, without options."""

    def run(self) -> list[nodes.Node]:
        """Put the player into the page."""
        self.env.note_dependency(str(RECORD))
        self.env.note_dependency(str(SCRIPT))
        record = json.loads(RECORD.read_text(encoding="utf-8"))
        return [nodes.raw("", markup(record, "../" * self.env.docname.count("/")), format="html")]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("episode-player", EpisodePlayer)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
