"""Every figure of the book has a number, a caption, and a reference by its number."""

import ast
import re
from collections import Counter

import pytest
import yaml
from test_book import TOC, cells, page, prose


def figures(document):
    """What each code cell of a page that draws says of its picture."""
    source = page(document)
    if source.suffix == ".ipynb":
        found = [cell.metadata.get("mystnb", {}) for cell in cells(document, "code")]
    else:
        text = source.read_text(encoding="utf-8")
        heads = re.findall(r"(?ms)^```\{code-cell\}[^\n]*\n---\n(.*?)^---$", text)
        found = [yaml.safe_load(head).get("mystnb", {}) for head in heads]
    return [said for said in found if "alt" in said.get("image", {}) or "figure" in said]


DRAWN = {document: found for document in TOC if (found := figures(document))}
NAMES = [said["figure"]["name"] for found in DRAWN.values() for said in found if "figure" in said]


def called(tree):
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {function.id for function in calls if isinstance(function, ast.Name)}


@pytest.mark.parametrize("document", [document for document in DRAWN if page(document).suffix == ".ipynb"])
def test_a_cell_with_a_figure_shows_nothing_else(document):
    """MyST-NB puts every output that a cell displays into the cell's figure; what it prints stays outside."""
    show = {"show_table", "display", "Markdown"}
    for cell in cells(document, "code"):
        tree = ast.parse(cell.source)
        functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
        show |= {function.name for function in functions if called(function) & show}
        if "figure" in cell.metadata.get("mystnb", {}):
            assert called(tree) & show == set(), cell.id
            last = tree.body[-1]
            if isinstance(last, ast.Expr) and not cell.source.endswith(";"):
                assert ast.unparse(last).startswith(("HTML(", "Image(", "print(")), cell.id


def test_names_of_figures_are_unique():
    assert [name for name, count in Counter(NAMES).items() if count > 1] == []


@pytest.mark.parametrize("document", DRAWN)
def test_figures_have_a_name_and_a_caption(document):
    """A caption is one short paragraph."""
    without = [said["image"]["alt"] for said in DRAWN[document] if "figure" not in said]
    assert without == []
    for figure in (said["figure"] for said in DRAWN[document]):
        assert set(figure) == {"name", "caption"}
        assert re.fullmatch(r"[a-z]+(-[a-z]+)+", figure["name"])
        caption = figure["caption"].strip()
        assert caption[-1] == "." and "\n\n" not in caption and len(caption.split()) <= 75, caption


@pytest.mark.parametrize("document", DRAWN)
def test_the_text_of_a_page_refers_to_its_figures_by_number(document):
    referred = re.findall(r"\{numref\}`([^`]+)`", prose(page(document)))
    assert {said["figure"]["name"] for said in DRAWN[document]} - set(referred) == set()


def test_the_text_does_not_point_at_figures_by_their_place():
    pointing = r"\b(?:figure|picture|plot|chart|diagram|drawing|curve)s? (?:above|below)\b"
    found = {document: re.findall(pointing, prose(page(document))) for document in TOC}
    assert {document: phrases for document, phrases in found.items() if phrases} == {}
