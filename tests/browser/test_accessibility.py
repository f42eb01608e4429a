"""axe-core finds no violation of WCAG 2.2 AA on any page, in both themes, on a desktop and on a phone."""

from importlib.resources import files

from reader import DESKTOP, PHONE, set_theme, unfold, wait_for_boxes

AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]

# A page of code holds thousands of coloured words in some thirty colours. axe needs seconds for so many:
# it gets one word of each style, and the others as plain text.
THIN_OUT = """() => {
  const seen = new Set();
  for (const word of document.querySelectorAll('.highlight pre span')) {
    const style = getComputedStyle(word), line = getComputedStyle(word.parentElement);
    const key = [word.className, style.color, style.backgroundColor, line.backgroundColor].join();
    if (seen.has(key)) word.replaceWith(...word.childNodes);
    seen.add(key);
  }
  document.querySelectorAll('.highlight pre').forEach(pre => pre.normalize());
}"""
RUN = """async tags => {
  const found = await axe.run(document, {runOnly: tags, resultTypes: ['violations']});
  return found.violations.map(rule => `${rule.id}: ${rule.help}, ${rule.nodes.length} times: ` + rule.nodes
    .slice(0, 3).map(node => `${node.target.join(' ')} ${node.any[0]?.message ?? ''}`).join('; '));
}"""


def test_axe(visit, looked_at):
    page = visit(looked_at)
    unfold(page)
    page.evaluate(THIN_OUT)
    page.evaluate(AXE)
    found = []
    for width in (DESKTOP, PHONE):
        page.set_viewport_size({"width": width, "height": 900})
        wait_for_boxes(page)
        for theme in ("light", "dark"):
            set_theme(page, theme)
            found += [f"{width} pixels, {theme}: {violation}" for violation in page.evaluate(RUN, TAGS)]
    assert found == [], "\n".join(found)
