"""A lighter theme: one style sheet of rules that are used, icons without a script, no blocking script.

The theme sends ten style sheets, two icon fonts of 270 kB and scripts that hold up the page. Here every
rule stays that could match something: what is left out names a class or an identifier that no page and no
script of the site contains.
"""

from __future__ import annotations

import base64
import io
import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tinycss2
from fontTools import subset
from fontTools.ttLib import TTFont
from sphinx.application import Sphinx

SHEET = "_static/site.css"
# What the theme's template names itself.
FIRST = ["_static/basic.css", "_static/styles/pydata-sphinx-theme.css"]
UNUSED = ["scripts/fontawesome.js*", "vendor/fontawesome/webfonts/*"]
ICONS = re.compile(r"src:url\(\.\./(vendor/fontawesome/webfonts/[\w-]+)\.woff2\)[^;}]*")


def names_in_page(html: str) -> set[str]:
    """Every class and identifier of a page."""
    found = re.findall(r"""\b(?:class|id)=(?:"([^"]*)"|'([^']*)')""", html)
    return {name for pair in found for name in " ".join(pair).split()}


def names_in_script(script: str) -> set[str]:
    """Every word of a script: any of them may become a class."""
    return set(re.findall(r"[A-Za-z_][\w-]*", script))


def _selectors(prelude: list) -> Iterator[list]:
    """The selectors of a rule, which commas part."""
    selector: list = []
    for token in prelude:
        if token.type == "literal" and token.value == ",":
            yield selector
            selector = []
        else:
            selector.append(token)
    yield selector


def _named(selector: list) -> Iterator[str]:
    """The classes and identifiers that a match must have; those inside :not() and its like need not be."""
    for before, token in zip([None, *selector], selector, strict=False):
        if token.type == "hash":
            yield token.value
        elif (
            token.type == "ident" and before is not None and before.type == "literal" and before.value == "."
        ):
            yield token.value


def _used_rules(rules: Iterable, used: set[str]) -> Iterator[str]:
    for rule in rules:
        if rule.type == "qualified-rule":
            kept = [s for s in _selectors(rule.prelude) if used.issuperset(_named(s))]
            if kept:
                selectors = ",".join(tinycss2.serialize(s).strip() for s in kept)
                yield f"{selectors}{{{_body(rule.content)}}}"
        elif rule.type == "at-rule" and rule.lower_at_keyword in ("media", "supports"):
            inside = "".join(_used_rules(tinycss2.parse_rule_list(rule.content, True, True), used))
            if inside:
                yield f"@{rule.lower_at_keyword} {tinycss2.serialize(rule.prelude).strip()}{{{inside}}}"
        elif rule.type == "at-rule" and rule.content is not None:
            yield f"@{rule.at_keyword} {tinycss2.serialize(rule.prelude).strip()}{{{_body(rule.content)}}}"


def _body(content: list) -> str:
    text = tinycss2.serialize([token for token in content if token.type != "comment"])
    return re.sub(r"\s+", " ", text).strip()


def purge(css: str, used: set[str]) -> str:
    """Leave out of a style sheet the rules that no element of the site can match.

    Args:
        css: a style sheet without imports.
        used: every class and identifier of the site's pages and scripts.
    """
    kept = "\n".join(_used_rules(tinycss2.parse_stylesheet(css, True, True), used))

    def still_named(match: re.Match) -> str:
        return match[0] if re.search(rf"animation[\w-]*:[^;}}]*\b{re.escape(match[1])}\b", kept) else ""

    return re.sub(r"@keyframes ([\w-]+)\{(?:[^{}]|\{[^{}]*\})*\}\n?", still_named, kept)


def icons(font: Path, css: str) -> str:
    """Return a font with only the icons that a style sheet shows, as a data address."""
    shown = [int(code, 16) for code in re.findall(r'"\\([0-9a-fA-F]{2,5})"', css)]
    shown += [ord(sign) for sign in re.findall(r'"([\ue000-\uf8ff])"', css)]
    subsetter = subset.Subsetter(subset.Options(layout_features=[]))
    subsetter.populate(unicodes=shown)
    with TTFont(font) as whole:
        subsetter.subset(whole)
        whole.flavor = "woff"
        whole.save(buffer := io.BytesIO())
    return "data:font/woff;base64," + base64.b64encode(buffer.getvalue()).decode()


def note_assets(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Collect a page's style sheets for the one that replaces them, and let no script hold up the page."""
    for sheet in context["css_files"]:
        name = str(sheet.filename).partition("?")[0]
        if name.endswith(".css") and name not in app.light_sheets:
            app.light_sheets.append(name)
    for script in context["script_files"]:
        if script.filename and "documentation_options" not in str(script.filename):
            script.attributes.setdefault("defer", "defer")


def write_sheet(app: Sphinx, failed: Exception | None) -> None:
    """Write the one style sheet, and remove what no page loads any more."""
    if failed or app.builder.name != "html":
        return
    out = Path(app.outdir)
    static = out / "_static"
    fonts = {path.stem: path for path in static.glob("vendor/fontawesome/webfonts/*.ttf")}
    unused = [path for pattern in UNUSED for path in static.glob(pattern)]
    used: set[str] = set()
    for page in out.rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        used |= names_in_page(html).union(
            *map(names_in_script, re.findall(r"(?s)<script\b.*?</script>", html))
        )
    for script in set(static.rglob("*.js")) - set(unused):
        used |= names_in_script(script.read_text(encoding="utf-8"))
    sheets = [(out / name).read_text(encoding="utf-8") for name in FIRST + app.light_sheets]
    css = "\n".join(purge(sheet, used) for sheet in sheets)

    def embedded(match: re.Match) -> str:
        return f'src:url({icons(fonts[Path(match[1]).stem], css)}) format("woff")'

    (out / SHEET).write_text(ICONS.sub(embedded, css), encoding="utf-8")
    for path in unused:
        path.unlink()


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    logging.getLogger("fontTools").setLevel(logging.WARNING)
    app.light_sheets = []
    app.connect("html-page-context", note_assets, priority=950)
    app.connect("build-finished", write_sheet, priority=950)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
