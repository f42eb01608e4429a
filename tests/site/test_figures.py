"""The site shows each figure in two versions, and leaves every other image alone."""

import re
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import pytest
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

from recdqn.book.plots import style

PAGE = """
Page
====

.. image:: logo.svg
   :alt: a logo

.. image:: one.svg
   :alt: "one" & more

Text, |inline|.

.. |inline| image:: two.svg
   :alt: two
"""


class Tags(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.img, self.link = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag in ("img", "link"):
            getattr(self, tag).append(dict(attrs))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    source = tmp_path_factory.mktemp("book")
    for name, size in (("one", (7.5, 3)), ("two", (3, 1.5))):
        with style.style():
            figure, ax = plt.subplots(figsize=size)
            ax.plot([0, 1], color=style.BLUE)
        style.save_svg(figure, source / f"{name}.svg", name)
        plt.close(figure)
    (source / "logo.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>', encoding="utf-8")
    (source / "index.rst").write_text(PAGE, encoding="utf-8")
    out = source / "_build"
    options = {"extensions": ["figures"], "html_theme": "basic"}
    with patch_docutils(), docutils_namespace():
        app = Sphinx(source, None, out, out / "tree", "html", options, warningiserror=True, status=None)
        app.build()
    assert app.statuscode == 0
    return out


@pytest.fixture(scope="module")
def tags(site):
    return Tags((site / "index.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def shown(tags):
    return tags.img


def test_a_figure_is_there_twice_and_another_image_once(shown):
    assert [image["src"] for image in shown] == [
        "_images/logo.svg",
        *("_images/one.svg", "_images/one-dark.svg", "_images/two.svg", "_images/two-dark.svg"),
    ]
    assert [image.get("class") for image in shown[1:]] == ["only-light", "only-dark"] * 2
    assert [image["alt"] for image in shown] == ["a logo", *['"one" & more'] * 2, "two", "two"]


def test_both_files_are_there_and_the_dark_one_is_dark(site):
    for name in ("one", "two"):
        light, night = ((site / f"_images/{name}{end}.svg").read_text("utf-8") for end in ("", "-dark"))
        assert style.BLUE.lower() in light and style.DARK[style.BLUE] not in light
        assert style.BLUE.lower() not in night and style.DARK[style.BLUE] in night


def test_figures_take_their_place_before_they_come(shown):
    """Inches are 96 pixels on a page."""
    assert [(i["width"], i["height"]) for i in shown[1:]] == [("720", "288")] * 2 + [("288", "144")] * 2
    least = [int(re.fullmatch(r"min-width: (\d+)px", i["style"])[1]) for i in shown[1:]]
    assert least == [562, 562, 225, 225]


def test_what_is_hidden_is_not_fetched_and_the_first_figure_comes_early(tags):
    """Browsers skip a lazy image that is not displayed; a preload goes by the reader's system."""
    assert {image["loading"] for image in tags.img[1:]} == {"lazy"}
    early = {link["href"]: link["media"] for link in tags.link if link["rel"] == "preload"}
    assert early == {
        "_images/one.svg": "not (prefers-color-scheme: dark)",
        "_images/one-dark.svg": "(prefers-color-scheme: dark)",
    }
