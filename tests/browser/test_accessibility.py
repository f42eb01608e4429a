"""axe-core finds no violation of WCAG 2.2 AA on any page, in both themes, on a desktop and on a phone."""

from importlib.resources import files

import pytest
from reader import DESKTOP, PHONE

AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]

# Everything that folds is unfolded, so that what lies within is looked at as well.
UNFOLD = """() => {
  document.querySelectorAll('details').forEach(details => { details.open = true; });
  document.querySelectorAll('.toggle-hidden').forEach(box => { box.classList.remove('toggle-hidden'); });
}"""
RUN = """async tags => {
  const found = await axe.run(document, {
    runOnly: {type: 'tag', values: tags}, resultTypes: ['violations'],
    rules: {'target-size': {enabled: true}},
  });
  return found.violations.map(v =>
    `${v.id}: ${v.help}: ${v.nodes.length}: ` + v.nodes.slice(0, 4).map(
      n => `${n.target.join(' ')} ${(n.any[0]?.message ?? '').slice(0, 120)}`).join(' | '));
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_axe(visit, name, width, theme):
    page = visit(name, width, theme)
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    page.evaluate(AXE)
    assert page.evaluate(RUN, TAGS) == []  # as the reader finds it
    page.evaluate(UNFOLD)
    assert page.evaluate(RUN, TAGS) == []
