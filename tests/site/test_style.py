"""The style sheets: ours are valid, and the one that joins all finds its fonts and images."""

from pathlib import Path
from types import SimpleNamespace

import one_sheet
import pytest
import tinycss2

BOOK = Path(__file__).parents[2] / "book"
SHEETS = sorted([*BOOK.glob("_static/*.css"), *BOOK.glob("_ext/*/*.css")])


@pytest.mark.parametrize("sheet", SHEETS, ids=lambda sheet: sheet.name)
def test_our_rules_are_valid_and_none_is_empty(sheet):
    rules = tinycss2.parse_stylesheet(sheet.read_text(encoding="utf-8"), True, True)
    parts = [part for rule in rules for part in (rule, *(getattr(rule, "prelude", None) or []))]
    assert [f"line {part.source_line}: {part.message}" for part in parts if part.type == "error"] == []
    assert [rule.source_line for rule in rules if not tinycss2.serialize(rule.content).strip()] == []


def test_addresses_hold_in_another_folder():
    css = "a{src:url(../fonts/a.woff2) format('woff2'),url(\"b.svg\")} b{src:url(data:x),url('https://x/y')}"
    assert one_sheet.moved(css, "_static/styles", "_static") == (
        "a{src:url(fonts/a.woff2) format('woff2'),url(styles/b.svg)} b{src:url(data:x),url('https://x/y')}"
    )


def test_every_sheet_of_every_page_is_in_the_one_in_order(tmp_path):
    names = [*one_sheet.THEME, "_static/a.css", "_static/b.css"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f".{Path(name).stem} {{}}")
    app = SimpleNamespace(outdir=tmp_path, builder=SimpleNamespace(name="html"), sheets=[])
    script = SimpleNamespace(filename="_static/x.js?v=1", attributes={})
    for sheets in (["_static/a.css?v=1"], ["_static/a.css?v=1", "_static/b.css"]):
        context = {"css_files": [SimpleNamespace(filename=name) for name in sheets], "script_files": [script]}
        one_sheet.note_files(app, "page", "page.html", context, None)
    one_sheet.write_sheet(app, None)
    joined = (tmp_path / one_sheet.SHEET).read_text(encoding="utf-8")
    assert joined.splitlines() == [f".{Path(name).stem} {{}}" for name in names]
    assert script.attributes == {"defer": "defer"}
