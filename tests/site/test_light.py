"""The one style sheet: what it leaves out matches nothing, and what it keeps looks the same."""

import base64
import io
from pathlib import Path

import pydata_sphinx_theme
import pytest
import tinycss2
from fontTools.ttLib import TTFont
from light import icons, names_in_page, names_in_script, purge

THEME = Path(pydata_sphinx_theme.__file__).parent / "theme" / "pydata_sphinx_theme" / "static"


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        (".here{a:b}", True),
        (".gone{a:b}", False),
        ("#here{a:b}", True),
        ("#gone{a:b}", False),
        ("p{a:b}", True),
        (".here .gone{a:b}", False),
        (".here.gone:hover{a:b}", False),
        (".here:not(.gone){a:b}", True),  # what must not be there may well be absent
        (":is(.gone,.here){a:b}", True),
        ("[class*=gone]{a:b}", True),  # part of a name is not looked up
        ("@media print{.here{a:b}}", True),
        ("@media print{.gone{a:b}}", False),
        ("@supports (a:b){.gone{a:b}.here{a:b}}", True),
        ('@font-face{font-family:"x"}', True),
    ],
)
def test_a_rule_stays_if_it_can_match(rule, kept):
    assert bool(purge(rule, {"here"}).strip()) is kept


def test_only_the_selectors_that_can_match_stay():
    assert purge("/* why */ .here, .gone, h1 { color: red; /* why */ }", {"here"}) == ".here,h1{color: red;}"


def test_an_animation_stays_with_its_user():
    css = "@keyframes turn{from{a:b}to{a:c}} .gone{animation:turn 1s} .here{animation:%s 1s}"
    assert "@keyframes turn" in purge(css % "turn", {"here"})
    assert "@keyframes" not in purge(css % "other", {"here"})


def test_our_own_rules_are_whole():
    sheet = Path(__file__).parents[2] / "book" / "_static" / "custom.css"
    rules = tinycss2.parse_stylesheet(sheet.read_text(encoding="utf-8"), True, True)
    parts = [part for rule in rules for part in (rule, *(getattr(rule, "prelude", None) or []))]
    assert [f"line {part.source_line}: {part.message}" for part in parts if part.type == "error"] == []
    assert [rule.source_line for rule in rules if not tinycss2.serialize(rule.content).strip()] == []


def test_names():
    assert names_in_page("""<a class="one two" id='three'><pre>class=four</pre>""") == {"one", "two", "three"}
    assert {"is-open", "add"} <= names_in_script("box.classList.add('is-open')")


def test_icons_are_cut_out_of_the_font():
    font = THEME / "vendor" / "fontawesome" / "webfonts" / "fa-solid-900.ttf"
    address = icons(font, '.fa-bars:before{content:"\\f0c9"} :root{--pst-icon-bell:"\uf0f3"}')
    kind, data = address.split(",")
    assert kind == "data:font/woff;base64"
    small = TTFont(io.BytesIO(base64.b64decode(data)))
    assert set(small.getBestCmap()) == {0xF0C9, 0xF0F3}
    glyph = small["glyf"][small.getBestCmap()[0xF0C9]]
    with TTFont(font) as whole:
        assert glyph == whole["glyf"][whole.getBestCmap()[0xF0C9]]
    assert len(data) < 3_000
