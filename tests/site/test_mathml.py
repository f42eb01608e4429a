"""Formulas become MathML without leftover LaTeX, and the font has every sign."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import nbformat
from fontTools.ttLib import TTFont
from mathml import mathml

ROOT = Path(__file__).parents[2]
FONT = ROOT / "book" / "_ext" / "mathml" / "stix-two-math.woff2"
SPACE = "{http://www.w3.org/1998/Math/MathML}"


def formulas():
    """Every formula of the book's notebooks and of the package's docstrings."""
    texts = [p.read_text(encoding="utf-8") for p in [*(ROOT / "book").glob("*.md")]]
    for path in (ROOT / "book").rglob("*.ipynb"):
        book = nbformat.read(path, as_version=4)
        texts += [cell.source for cell in book.cells if cell.cell_type == "markdown"]
    for text in texts:
        text = re.sub(r"(?s)```.*?```|`[^`]*`", "", text)
        yield from re.findall(r"(?s)\$\$(.+?)\$\$", text)
        yield from re.findall(r"\$([^$]+)\$", re.sub(r"(?s)\$\$.+?\$\$", "", text))
    for path in (ROOT / "recdqn").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        yield from re.findall(r":math:`([^`]+)`", text)
        yield from re.findall(r"\.\. math::\n\n((?: {8}.*\n)+)", text)


def test_every_formula_of_the_book_is_converted_and_the_font_has_its_signs():
    have = set(map(chr, TTFont(FONT).getBestCmap()))
    faults, found = [], set(formulas())
    for latex in found:
        tree = ET.fromstring(mathml(latex, "block"))
        signs = set("".join(tree.itertext()))
        whole = tree.tag == f"{SPACE}math" and tree.get("alttext") == latex.replace("\n", " ")
        left = signs & set("\\&{}")
        missing = {sign for sign in signs if not sign.isspace()} - have
        if not whole or left or missing:
            faults.append(f"{latex}: whole {whole}, LaTeX left {left}, not in the font {missing}")
    assert faults == []
    assert len(found) > 80


def test_structure():
    def tags(latex):
        return [node.tag.removeprefix(SPACE) for node in ET.fromstring(mathml(latex)).iter()][1:]

    assert tags(r"\frac{a}{b}") == ["mrow", "mfrac", "mrow", "mi", "mrow", "mi"]
    assert tags(r"o_t") == ["mrow", "msub", "mi", "mi"]


def test_a_dot_is_an_accent():
    for latex in (r"\dot x", r"\ddot x_t", r"\dot\theta"):
        over = next(ET.fromstring(mathml(latex)).iter(f"{SPACE}mover"))
        assert over.get("accent") == "true", latex


def test_a_sum_is_not_an_accent():
    assert 'accent="true"' not in mathml(r"\sum_{k=0}^{n} \overset{a}{b}")


def test_markup_in_a_formula_is_escaped():
    ET.fromstring(mathml(r'a < b \text{"c"}'))
