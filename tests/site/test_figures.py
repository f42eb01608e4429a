"""The site shows each figure in two versions, and other images as they are."""

import re
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import pytest
from bs4 import BeautifulSoup
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

.. image:: three.svg
   :alt: three
"""


@style.two_widths
def panels():
    with style.style():
        fig, axes = style.panels(2, 3.0, 2.0)
        for ax in axes:
            ax.plot([0, 1], color=style.BLUE)
    return fig


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    source = tmp_path_factory.mktemp("book")
    for name, size in (("one", (7.5, 3)), ("two", (3, 1.5))):
        with style.style():
            figure, ax = plt.subplots(figsize=size)
            ax.plot([0, 1], color=style.BLUE)
        style.save_svg(figure, source / f"{name}.svg", name)
        plt.close(figure)
    (source / "three.svg").write_text(style.svg_of_both(panels()), encoding="utf-8")
    plt.close("all")
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
def page(site):
    return BeautifulSoup((site / "index.html").read_text(encoding="utf-8"), "html.parser")


@pytest.fixture(scope="module")
def shown(page):
    return page.find_all("img")


def test_a_figure_is_there_twice_and_another_image_once(shown):
    assert [image["src"] for image in shown] == [
        "_images/logo.svg",
        *("_images/one.svg", "_images/one-dark.svg", "_images/two.svg", "_images/two-dark.svg"),
        *("_images/three-wide.svg", "_images/three-wide-dark.svg"),
    ]
    assert [image.get("class") for image in shown[1:]] == [["only-light"], ["only-dark"]] * 3
    assert [image["alt"] for image in shown] == [
        "a logo",
        *['"one" & more'] * 2,
        *["two"] * 2,
        *["three"] * 2,
    ]


def test_both_files_are_there_and_the_dark_one_is_dark(site):
    for name in ("one", "two", "three-wide", "three-narrow"):
        light, night = ((site / f"_images/{name}{end}.svg").read_text("utf-8") for end in ("", "-dark"))
        assert style.BLUE.lower() in light and style.DARK[style.BLUE] not in light
        assert style.BLUE.lower() not in night and style.DARK[style.BLUE] in night


def test_figures_reserve_their_space(shown):
    """Inches are 96 pixels on a page."""
    assert [(i["width"], i["height"]) for i in shown[1:]] == [
        *[("720", "288")] * 2 + [("288", "144")] * 2 + [("720", "288")] * 2
    ]
    least = [int(re.fullmatch(r"--smallest: (\d+)px", i["style"])[1]) for i in shown[1:]]
    assert least == [562, 562, 225, 225, 562, 562]


def test_a_phone_gets_the_narrow_version(site, page):
    """Two panels side by side on a desktop are below each other on a phone."""
    sources = page.find_all("source")
    assert [source["srcset"] for source in sources] == [
        "_images/three-narrow.svg",
        "_images/three-narrow-dark.svg",
    ]
    assert {(source["media"], source["width"], source["height"]) for source in sources} == {
        ("(max-width: 640px)", "326", "384")
    }
    for source in sources:
        assert source.find_next_sibling("img")["src"] == source["srcset"].replace("-narrow", "-wide")
    wide, narrow = (ElementTree.parse(site / f"_images/three{end}.svg") for end in ("-wide", "-narrow"))
    for tree, width in ((wide, "540pt"), (narrow, "244.8pt")):
        assert tree.getroot().get("width") == width
        assert len(tree.findall(".//*[@id='axes_2']")) == 1  # not a second figure inside


def test_hidden_images_are_lazy_and_the_first_figure_is_preloaded(page):
    """Browsers skip a lazy image that is not displayed; a preload goes by the reader's system."""
    assert {image["loading"] for image in page.find_all("img")[1:]} == {"lazy"}
    early = {link["href"]: link["media"] for link in page.select("link[rel=preload]")}
    assert early == {
        "_images/one.svg": "(prefers-color-scheme: light)",
        "_images/one-dark.svg": "(prefers-color-scheme: dark)",
    }
