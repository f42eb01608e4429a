"""The keyboard alone reaches every control, the focus is visible, and keys work."""

import pytest
from playwright.sync_api import expect
from reader import wait_for_boxes

# Number everything a keyboard should reach, and remember how it looks without focus.
NUMBER = """() => {
  window.look = e => {
    const s = getComputedStyle(e), ring = s.outlineStyle === 'none' ? '' : s.outline;
    return [ring, s.boxShadow, s.backgroundColor, s.borderColor, s.color, s.textDecoration].join();
  };
  const all = 'a[href], button, input, select, textarea, summary, video[controls], [tabindex]';
  const wanted = [...document.querySelectorAll(all)].filter(e => e.tabIndex >= 0 && !e.disabled
    && !(e.type === 'radio' && !e.checked)  // arrow keys move within a group
    && e.checkVisibility({visibilityProperty: true}) && e.getClientRects().length && !e.closest('[inert]'));
  window.plain = wanted.map(look);
  wanted.forEach((e, i) => { e.dataset.stop = i; });
  return wanted.map(e => `${e.tagName} ${e.className} ${(e.textContent || e.title).trim().slice(0, 40)}`);
}"""
# Which one has the focus, whether it looks different now, and whether something lies over all of it.
STOP = """() => {
  const e = document.activeElement;
  if (!e || e === document.body || e.dataset.stop === undefined) return null;
  const covered = [...e.getClientRects()].every(box => {
    const spots = [[.5, .5], [.1, .2], [.9, .2], [.1, .8], [.9, .8]];
    return spots.every(([x, y]) => {
      const top = document.elementFromPoint(box.left + x * box.width, box.top + y * box.height);
      return !top || !(e.contains(top) || top.contains(e));
    });
  });
  return {stop: +e.dataset.stop, shown: look(e) !== plain[+e.dataset.stop], covered};
}"""


def test_tab_reaches_everything(visit, chapter):
    page = visit(chapter)
    wait_for_boxes(page)
    wanted = page.evaluate(NUMBER)
    reached, dull, covered = set(), [], []
    for _ in range(len(wanted) + 20):
        page.keyboard.press("Tab")
        at = page.evaluate(STOP)
        if at and (at["covered"] or not at["shown"]):
            page.wait_for_timeout(400)  # some slide in
            at = page.evaluate(STOP)
        if at is None:
            if reached:  # out of the page, into the browser's own controls
                break
            continue
        assert at["stop"] not in reached, f"round in a circle, at {wanted[at['stop']]}"
        reached.add(at["stop"])
        if not at["shown"]:
            dull.append(wanted[at["stop"]])
        if at["covered"]:
            covered.append(wanted[at["stop"]])
    assert [each for i, each in enumerate(wanted) if i not in reached] == []
    assert dull == [], f"no visible focus: {dull}"
    assert covered == [], f"something lies over {covered}"


def press(page, selector, key="Enter"):
    """Focus the first visible match, as the keyboard would, and press a key on it."""
    target = page.locator(f"{selector}:visible").first
    target.focus()
    target.press(key)
    return target


CHAPTER = "chapters/03-hidden-state.html"


@pytest.mark.parametrize("key", ["Enter", " "])
def test_theme_switch(visit, key):
    page = visit(CHAPTER)
    mode = page.evaluate("document.documentElement.dataset.mode")
    press(page, ".theme-switch-button", key)
    assert page.evaluate("document.documentElement.dataset.mode") != mode
    page.evaluate("localStorage.clear()")  # other tests share this reader


@pytest.mark.parametrize("key", ["Enter", " "])
def test_sidebar(visit, key):
    page = visit(CHAPTER)
    sidebar = page.locator("#pst-primary-sidebar")
    expect(sidebar).to_be_visible()
    press(page, ".primary-toggle", key)
    expect(sidebar).not_to_be_visible()
    press(page, ".primary-toggle", key)
    expect(sidebar).to_be_visible()


@pytest.mark.parametrize("toggle", ["primary", "secondary"])
def test_sidebars_on_a_phone(visit, toggle):
    page = visit(CHAPTER, 360)
    press(page, f".{toggle}-toggle")
    dialog = page.locator(f"#pst-{toggle}-sidebar-modal")
    expect(dialog).to_be_visible()
    for _ in range(3):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('dialog') !== null")
    page.keyboard.press("Escape")
    expect(dialog).not_to_be_visible()


def test_search(visit):
    page = visit(CHAPTER)
    press(page, ".search-button__button")
    expect(page.locator("#pst-search-dialog input")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#pst-search-dialog")).not_to_be_visible()


def test_menus(visit):
    page = visit(CHAPTER)
    menus = page.locator("[class*='dropdown-'][class*='-buttons']:has(> button)").all()
    assert menus
    for menu in menus:
        menu.locator("> button").press("Enter")
        entries = menu.locator(".dropdown-menu .dropdown-item")
        expect(entries.first).to_be_visible()
        page.keyboard.press("ArrowDown")
        expect(entries.first).to_be_focused()
        page.keyboard.press("Escape")
        expect(entries.first).not_to_be_visible()


def test_copy_buttons(page, address):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(address + CHAPTER)
    cell = page.locator("div.cell_input:visible").first
    button = cell.locator("button.copybtn")
    button.focus()
    expect(button).to_have_css("opacity", "1")
    button.press("Enter")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.strip() == cell.locator("pre").inner_text().strip() != ""


def test_folds(visit, chapter):
    """Whatever folds opens and closes with a key, and shows that to a screen reader."""
    page = visit(chapter)
    folds = page.locator("article summary:visible").all()
    for summary in folds:
        details = summary.locator("..")
        for state, key in ((True, "Enter"), (False, " ")):
            summary.press(key)
            assert details.evaluate("details => details.open") is state
    buttons = page.locator("article button.toggle-button:visible").all()
    for button in buttons:
        for state, key in (("true", "Enter"), ("false", " ")):
            button.press(key)
            assert button.get_attribute("aria-expanded") == state
    assert folds or buttons
