"""The directive ``loop-map`` draws the training loop; ``you-are-here`` is a strip of its parts.

Both are drawn from :data:`PARTS`; every part is a link to the chapter that builds it. The drawing has one
layout for wide pages and one for narrow pages.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from widgets import add_static_files, render

FOLDER = Path(__file__).parent
WIDTH, HEIGHT = 128, 46  # of a box
CAPTION = (
    "The training loop. The collector plays and stores; the learner draws slices, and moves the weights that "
    "the policy plays with. Each box leads to its chapter."
)


@dataclass(frozen=True)
class Part:
    """A part of the loop.

    Attributes:
        title: in the box.
        page: of the chapter that builds it.
        number: of that chapter.
        wide, narrow: left upper corner of its box in the two layouts.
    """

    title: str
    page: str
    number: int
    wide: tuple[int, int]
    narrow: tuple[int, int]


PARTS = {
    "environment": Part("environment", "chapters/01-transforms", 1, (24, 44), (20, 36)),
    "policy": Part("policy", "chapters/02-policy", 2, (24, 154), (20, 146)),
    "state": Part("recurrent state", "chapters/03-hidden-state", 3, (24, 264), (20, 256)),
    "buffer": Part("replay buffer", "chapters/05-training-loop", 5, (232, 44), (192, 36)),
    "sampler": Part("slice sampler", "chapters/05-training-loop", 5, (232, 154), (192, 146)),
    "loss": Part("loss", "chapters/04-loss", 4, (420, 154), (192, 256)),
    "target": Part("target network", "chapters/04-loss", 4, (420, 44), (192, 476)),
    "optimiser": Part("optimiser", "chapters/05-training-loop", 5, (608, 154), (192, 366)),
    "evaluation": Part("evaluation", "chapters/05-training-loop", 5, (608, 264), (20, 476)),
}
STRIP = {  # by chapter: what the strip calls its part of the loop
    1: "environment",
    2: "policy",
    3: "recurrent state",
    4: "loss",
    5: "whole loop",
    6: "speed",
    7: "long memory",
    8: "every piece",
    9: "many collectors",
    10: "in use",
}
PART_I = 6  # its last chapter; the numbers of later ones are not settled, and the strip leaves them out
BEYOND = {  # no box leads to these
    6: "chapters/06-making-it-fast",
    7: "chapters/07-does-memory-matter",
    8: "chapters/08-r2d2",
    9: "chapters/09-more-than-one-machine",
    10: "chapters/10-out-of-the-notebook",
}


def point(part: str, side: str, layout: str, shift: int = 0) -> tuple[int, int]:
    """Return the middle of a side of a box (``"n"``, ``"e"``, ``"s"`` or ``"w"``), moved along the side."""
    x, y = getattr(PARTS[part], layout)
    return {
        "n": (x + WIDTH // 2 + shift, y),
        "s": (x + WIDTH // 2 + shift, y + HEIGHT),
        "w": (x, y + HEIGHT // 2 + shift),
        "e": (x + WIDTH, y + HEIGHT // 2 + shift),
    }[side]


# start, side, shift; end, side, shift; text; its offset from the middle of the line; its anchor
Arrow = tuple[str, str, int, str, str, int, str, tuple[int, int], str]
ARROWS: dict[str, list[Arrow]] = {
    "wide": [
        ("environment", "s", -50, "policy", "n", -50, "observation", (6, -8), "start"),
        ("policy", "n", 50, "environment", "s", 50, "action", (-6, 16), "end"),
        ("policy", "s", -50, "state", "n", -50, "new state", (6, -8), "start"),
        ("state", "n", 50, "policy", "s", 50, "old state", (-6, 16), "end"),
        ("environment", "e", 0, "buffer", "w", 0, "transitions", (4, -8), "middle"),
        ("buffer", "s", 0, "sampler", "n", 0, "episodes", (8, 4), "start"),
        ("sampler", "e", 0, "loss", "w", 0, "slices", (0, -8), "middle"),
        ("target", "s", 0, "loss", "n", 0, "target values", (8, 4), "start"),
        ("loss", "e", 0, "optimiser", "w", 0, "gradient", (0, -8), "middle"),
        ("optimiser", "s", 0, "evaluation", "n", 0, "averaged weights", (-8, 4), "end"),
    ],
    "narrow": [
        ("environment", "s", -50, "policy", "n", -50, "observation", (6, -8), "start"),
        ("policy", "n", 50, "environment", "s", 50, "action", (-6, 16), "end"),
        ("policy", "s", -50, "state", "n", -50, "new state", (6, -8), "start"),
        ("state", "n", 50, "policy", "s", 50, "old state", (-6, 16), "end"),
        ("environment", "e", 0, "buffer", "w", 0, "", (0, -8), "middle"),
        ("buffer", "s", 0, "sampler", "n", 0, "episodes", (8, 4), "start"),
        ("sampler", "s", 0, "loss", "n", 0, "slices", (8, 4), "start"),
        ("loss", "s", 0, "optimiser", "n", 0, "gradient", (8, 4), "start"),
        ("optimiser", "s", 0, "target", "n", 0, "a share", (8, 4), "start"),
    ],
}
# Lines that turn: points, text, where the text stands, its anchor
BENDS = {
    "wide": [
        ([(672, 154), (672, 67), (548, 67)], "a share of the weights", (676, 60), "middle"),
        (
            [(736, 177), (752, 177), (752, 336), (8, 336), (8, 177), (24, 177)],
            "weights",
            (380, 328),
            "middle",
        ),
    ],
    "narrow": [
        ([(192, 389), (8, 389), (8, 169), (20, 169)], "weights", (100, 382), "middle"),
        ([(320, 499), (334, 499), (334, 279), (320, 279)], "", (0, 0), "start"),
        ([(206, 412), (206, 440), (84, 440), (84, 476)], "average", (144, 434), "middle"),
    ],
}
SIZES = {"wide": (768, 348), "narrow": (344, 536)}
FRAMES = {"wide": (12, 14, 168, 308), "narrow": (14, 6, 140, 308)}  # what the collector holds


def drawing(link: str) -> str:
    """Return the drawing's HTML; ``link`` is the way from the page to the top of the site."""
    return render(
        FOLDER,
        parts=PARTS,
        arrows=ARROWS,
        bends=BENDS,
        sizes=SIZES,
        frames=FRAMES,
        point=point,
        box=(WIDTH, HEIGHT),
        link=link,
        strip=None,
        here=None,
    )


def strip(link: str, here: int) -> str:
    """Return the strip's HTML, with the part of chapter ``here`` marked."""
    pages = {part.number: part.page for part in PARTS.values()} | BEYOND
    labels = {number: f"{number} {title}" if number <= PART_I else title for number, title in STRIP.items()}
    return render(FOLDER, strip=labels, pages=pages, here=here, link=link)


def way_up(docname: str) -> str:
    """Return the way from a page to the top of the site."""
    return "../" * docname.count("/")


class LoopMap(SphinxDirective):
    """``{loop-map}``, without options: a figure that a page refers to by ``{numref}`loop-map```."""

    def run(self) -> list[nodes.Node]:
        """Insert the drawing, for HTML only, with its caption."""
        image = nodes.raw("", drawing(way_up(self.env.docname)), format="html")
        figure = nodes.figure("", image, nodes.caption("", CAPTION), names=["loop-map"])
        self.state.document.note_explicit_target(figure)
        return [figure]


class YouAreHere(SphinxDirective):
    """``{you-are-here} NUMBER``: the strip at the top of chapter NUMBER."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Insert the strip, for HTML only."""
        try:
            number = int(self.arguments[0])
        except ValueError:
            number = 0
        if number not in STRIP:
            raise self.error(
                f"you-are-here {self.arguments[0]}: expected one of {', '.join(map(str, STRIP))}"
            )
        return [nodes.raw("", strip(way_up(self.env.docname), number), format="html")]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives and the style."""
    add_static_files(app, FOLDER)
    app.add_directive("loop-map", LoopMap)
    app.add_directive("you-are-here", YouAreHere)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
