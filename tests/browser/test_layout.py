"""Nothing overflows at any width, and figures are legible in both themes."""

import io
import re

import numpy as np
import pytest
from PIL import Image
from reader import DESKTOP, PHONE, TABLET, set_theme, unfold, wait_for_boxes

# Elements that stick out of the page and are not inside a box of their own that scrolls; and boxes that
# scroll sideways which a keyboard cannot reach.
OVERFLOW = """() => {
  const width = document.documentElement.clientWidth, found = [];
  const name = e => [e.tagName.toLowerCase() + (e.id && '#' + e.id), ...e.classList].join('.');
  const scroll = document.documentElement.scrollWidth;
  if (scroll > width) found.push(`the page is ${scroll} wide`);
  for (const e of document.body.querySelectorAll('*')) {
    if (!e.checkVisibility({visibilityProperty: true})) continue;
    const box = e.getBoundingClientRect();
    if (!box.width || !box.height || (box.right <= width + 1 && box.left >= -1)) continue;
    let up = e.parentElement;  // what is cut off or scrolls stays inside the page if its box does
    while (up && getComputedStyle(up).overflowX === 'visible') up = up.parentElement;
    if (up && up !== document.body && up !== document.documentElement) continue;
    const fixed = [e, e.offsetParent].some(p => p && getComputedStyle(p).position === 'fixed');
    if (box.right <= 0 || (fixed && box.left >= width)) continue;  // parked outside until it is needed
    found.push(`${name(e)} reaches from ${box.left} to ${box.right}`);
  }
  for (const e of document.querySelectorAll('#main-content *')) {
    if (!e.checkVisibility({visibilityProperty: true}) || e.scrollWidth <= e.clientWidth + 1) continue;
    if (!['auto', 'scroll'].includes(getComputedStyle(e).overflowX)) continue;
    if (e.tabIndex < 0 && !e.querySelector('a[href], button, input')) found.push(`${name(e)}: no keyboard`);
  }
  return found.slice(0, 10);
}"""


def test_nothing_overflows(visit, looked_at):
    page = visit(looked_at)
    unfold(page)
    found = {}
    for width in (PHONE, TABLET, DESKTOP):
        page.set_viewport_size({"width": width, "height": 900})
        wait_for_boxes(page)
        found[width] = page.evaluate(OVERFLOW)
    assert found == {PHONE: [], TABLET: [], DESKTOP: []}


def test_theme_switch(page, address):
    def look():
        return page.evaluate(
            "[document.documentElement.dataset.theme, getComputedStyle(document.body).backgroundColor,"
            " localStorage.getItem('mode')]"
        )

    page.goto(address + "intro.html")
    switch = page.locator(".theme-switch-button:visible").first
    seen = {}
    for _ in range(3):
        theme, ground, mode = look()
        seen[mode] = (theme, ground)
        page.reload()
        assert look() == [theme, ground, mode], "a reload forgets the theme"
        switch.click()
    assert set(seen) == {"light", "dark", "auto"}
    assert (seen["light"][0], seen["dark"][0]) == ("light", "dark")
    assert seen["light"][1] != seen["dark"][1]
    assert seen["auto"] == seen["light"]  # this reader's system is light
    page.emulate_media(color_scheme="dark")
    page.evaluate("localStorage.setItem('mode', 'auto'); localStorage.setItem('theme', '')")
    page.goto(address + "intro.html")
    assert look()[:2] == list(seen["dark"])


def luminance(picture: np.ndarray) -> np.ndarray:
    """WCAG's relative luminance of 8-bit RGB, 0 for black to 1 for white."""
    value = picture[..., :3] / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


def contrast(one: float, other: float) -> float:
    """WCAG's contrast ratio of two luminances."""
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


def test_contrast():  # the two examples everybody knows
    black, grey, white = luminance(np.array([[0, 0, 0], [118, 118, 118], [255, 255, 255]]))
    assert contrast(black, white) == pytest.approx(21)
    assert contrast(white, grey) == pytest.approx(4.54, abs=0.01)


FIGURES = "article figure img, article .cell_output img, article .figure-scroll img"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_figures_are_legible(visit, pictured_page, theme):
    page = visit(pictured_page, theme=theme)
    unfold(page)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    paper = luminance(np.array([int(part) for part in paper[4:-1].split(",")]))
    faults = []
    for figure in page.locator(FIGURES).all():
        if not figure.is_visible():
            continue
        source = figure.get_attribute("src").rpartition("/")[2]
        if source.endswith((".gif", ".png")):  # photographs of the game, white as it draws itself
            continue
        shot = Image.open(io.BytesIO(figure.screenshot(animations="disabled"))).convert("RGB")
        light = luminance(np.asarray(shot))
        rim = np.median(np.concatenate([light[0], light[-1], light[:, 0], light[:, -1]]))
        # Letters and lines cover little of a figure: what lies furthest from its ground is ink.
        ink = max(np.quantile(light, [0.002, 0.998]), key=lambda value: contrast(rim, value))
        if contrast(rim, paper) > 1.5:
            faults.append(f"{source}: a ground of luminance {rim:.2f} on a page of {paper:.2f}")
        if contrast(rim, ink) < 4.5:
            faults.append(f"{source}: contrast {contrast(rim, ink):.1f} of ink on ground")
    assert faults == []


def test_one_figure_of_each_pair_is_shown(visit, pictured_page):
    page = visit(pictured_page)
    unfold(page)
    pairs = page.locator("article .figure-scroll:visible").all()
    assert pairs
    for theme in ("light", "dark"):
        set_theme(page, theme)
        for pair in pairs:
            shown = [image.get_attribute("class") for image in pair.locator("img:visible").all()]
            assert shown == [f"only-{theme}"]
            assert len(pair.locator("img").all()) == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_without_scripts_a_page_is_whole_and_light(browser, address, chapter, scheme):
    context = browser.new_context(java_script_enabled=False, color_scheme=scheme)
    page = context.new_page()
    page.goto(address + chapter)
    shown = page.locator("article .figure-scroll img:visible").all()
    assert {image.get_attribute("class") for image in shown} == {"only-light"}
    assert len(shown) == page.locator("article .figure-scroll:visible").count() > 0
    border = page.locator("#pst-primary-sidebar").evaluate("e => getComputedStyle(e).borderRightColor")
    ink = page.locator("article h1").evaluate("e => getComputedStyle(e).color")
    assert border != ink, "the theme's colours are not set"
    assert page.locator("article math").count() == page.locator("article math:visible, details math").count()
    context.close()


def test_theme_is_there_before_any_script_file(browser, address):
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme)
        context.route("**/*.js*", lambda route: route.abort())
        page = context.new_page()
        page.goto(address + "intro.html")
        assert page.evaluate("document.documentElement.dataset.theme") == scheme
        context.close()


def test_figures_fit_a_phone(visit, pictured_page):
    """No figure is wider than its column, and its letters are at least 11 pixels high."""
    page = visit(pictured_page, 390)
    unfold(page)
    found = page.evaluate(
        """() => [...document.querySelectorAll('article .figure-scroll img')]
          .filter(image => image.checkVisibility())
          .map(image => ({source: image.currentSrc, width: image.getBoundingClientRect().width,
                          column: image.closest('.figure-scroll').clientWidth}))"""
    )
    assert found
    faults = []
    for figure in found:
        svg = page.request.get(figure["source"]).text()
        natural = float(re.search(r'<svg [^>]*?width="([\d.]+)pt"', svg)[1])
        # Letters are drawn 100 points high and scaled; what has one factor only is an index of a formula.
        smallest = min(map(float, re.findall(r"scale\(([\d.]+) -[\d.]+\)", svg)), default=1)
        letters = 100 * smallest * figure["width"] / natural
        if figure["width"] > figure["column"] + 0.5 or letters < 11:
            faults.append({**figure, "letters": letters})
    assert faults == []
