"""The drawing of the training loop and the strip of chapters."""

import re

import loop_map
import pytest
from bs4 import BeautifulSoup
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

BOOK = loop_map.FOLDER.parents[1]


def test_every_box_leads_to_the_chapter_that_it_names():
    found = re.findall(r'<a href="\.\./(\S+)\.html" class="part">.*?chapter (\d)</text>', page(), re.DOTALL)
    assert len(found) == 2 * len(loop_map.PARTS)  # two layouts
    for chapter, number in found:
        assert chapter.startswith(f"chapters/{int(number):02}-")
        assert (BOOK / f"{chapter}.ipynb").is_file()


def page():
    return loop_map.drawing("../")


@pytest.mark.parametrize("layout", loop_map.SIZES)
def test_boxes_lie_inside_and_apart(layout):
    width, height = loop_map.SIZES[layout]
    corners = [getattr(part, layout) for part in loop_map.PARTS.values()]
    for x, y in corners:
        assert 0 <= x <= width - loop_map.WIDTH and 0 <= y <= height - loop_map.HEIGHT
        apart = [(abs(x - a) >= loop_map.WIDTH or abs(y - b) >= loop_map.HEIGHT) for a, b in corners]
        assert sum(apart) == len(corners) - 1  # all but itself


def test_the_strip_marks_one_chapter_and_links_the_others():
    html = loop_map.strip("../", 3)
    assert re.findall(r'aria-current="page">(\d)', html) == ["3"]
    links = re.findall(r'href="\.\./(\S+)\.html"', html)
    assert len(links) == len(loop_map.STRIP) - 1
    assert all((BOOK / f"{link}.ipynb").is_file() for link in links)


def test_the_strip_numbers_the_chapters_of_part_one_only():
    labels = re.findall(r"<(?:a|strong) [^>]*>([^<]+)</", loop_map.strip("../", 9))
    assert [label[:2] for label in labels[:-4]] == [f"{n} " for n in range(1, 7)]
    assert labels[-4:] == ["long memory", "every piece", "many collectors", "in use"]


def test_the_drawing_has_a_number_and_a_caption(tmp_path):
    (tmp_path / "index.rst").write_text("See :numref:`loop-map`.\n\n.. loop-map::\n", encoding="utf-8")
    options = {"extensions": ["loop_map"], "html_theme": "basic", "numfig": True}
    out = tmp_path / "_build"
    with patch_docutils(), docutils_namespace():
        Sphinx(tmp_path, None, out, out / "tree", "html", options, warningiserror=True, status=None).build()
    page = BeautifulSoup((out / "index.html").read_text(encoding="utf-8"), "html.parser")
    figure = page.select_one("figure#loop-map")
    assert len(figure.select(".loop-map > svg")) == 2
    assert figure.figcaption.select_one(".caption-text").text == loop_map.CAPTION
    assert "See Fig. 1." in page.text and page.select_one('a[href="#loop-map"] .std-numref')
