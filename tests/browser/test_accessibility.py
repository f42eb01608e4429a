"""axe-core finds no violation of WCAG 2.2 AA on any page, in both themes, on a desktop and on a phone."""

from importlib.resources import files

from reader import DESKTOP, PHONE, set_theme, unfold, wait_for_boxes

AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
COLOURS = ["color-contrast", "link-in-text-block"]  # rules that a theme can break

# axe needs milliseconds for the colours of one text, and a page has thousands of texts in a hundred looks:
# three texts of each look are enough, as axe cannot tell the ground of every one.
LOOKS = """() => {
  const grounds = new Map([[null, '']]);
  const ground = e => {  // all that lies behind a text
    if (!grounds.has(e)) {
      const {backgroundColor, backgroundImage, opacity} = getComputedStyle(e);
      grounds.set(e, [backgroundColor, backgroundImage, opacity, ground(e.parentElement)].join());
    }
    return grounds.get(e);
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), looks = new Map();
  while (texts.nextNode()) {
    const e = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !e.checkVisibility({visibilityProperty: true})) continue;
    const {color, fontSize, fontWeight, textDecoration, textShadow} = getComputedStyle(e);
    const link = e.closest('a') && textDecoration;
    const look = [color, fontSize, fontWeight, textShadow, link, ground(e)].join();
    looks.set(look, [...(looks.get(look) ?? []), e].slice(0, 3));
  }
  return [...looks.values()].flat();
}"""
RUN = """async ([what, options]) => {
  const found = await axe.run(what ? {include: what} : document, {...options, resultTypes: ['violations']});
  return found.violations.map(rule => `${rule.id}: ${rule.help}, ${rule.nodes.length} times: ` + rule.nodes
    .slice(0, 3).map(node => `${node.target.join(' ')} ${node.any[0]?.message ?? ''}`).join('; '));
}"""


def violations(page, width: int) -> list[str]:
    """Return what axe finds on a page, its texts' colours in both themes."""
    page.set_viewport_size({"width": width, "height": 900})
    wait_for_boxes(page)
    others = {"runOnly": TAGS, "rules": {rule: {"enabled": False} for rule in COLOURS}}
    found = [f"{width} pixels: {line}" for line in page.evaluate(RUN, [None, others])]
    for theme in ("light", "dark"):
        set_theme(page, theme)
        colours = page.evaluate(RUN, [page.evaluate_handle(LOOKS), {"runOnly": COLOURS}])
        found += [f"{width} pixels, {theme}: {line}" for line in colours]
    return found


def test_axe(visit, looked_at):
    page = visit(looked_at)
    unfold(page)
    page.evaluate(AXE)
    found = [line for width in (DESKTOP, PHONE) for line in violations(page, width)]
    assert found == [], "\n".join(found)


def test_one_pale_word_and_one_picture_without_a_text_are_found(visit):
    page = visit("intro.html")
    page.evaluate(AXE)
    page.evaluate(
        """() => document.querySelector('article p').insertAdjacentHTML('beforeend',
          '<span style="color: rgb(150 150 150)">pale</span><img src="_static/logo.svg">')"""
    )
    alt, pale = violations(page, DESKTOP)
    assert "image-alt" in alt and ", 1 times" in alt
    assert "light: color-contrast" in pale and ", 1 times" in pale and "#969696" in pale
