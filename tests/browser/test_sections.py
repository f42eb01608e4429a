"""Links to sections land on the sections' headings."""

import pytest
from reader import DESKTOP, new_context

PHONE = 390  # pixels
TOLERANCE = 2  # pixels

# How far a section is from the top of the window, less the room for the header that stays there. A section
# near the end of the page cannot come up further than the page scrolls.
MISS = """id => {
  const section = document.getElementById(id), root = document.documentElement;
  const padding = parseFloat(getComputedStyle(root).scrollPaddingTop) || 0;
  const margin = parseFloat(getComputedStyle(section).scrollMarginTop) || 0;
  const atEnd = root.scrollHeight - innerHeight - scrollY < 1;
  const miss = section.getBoundingClientRect().top - padding - margin;
  return atEnd && miss > 0 ? 0 : miss;
}"""


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_contents_entries_land_on_their_sections(browser, address, chapter, width):
    """A fresh reader, with lazy pictures still to come, follows every entry of a chapter's contents."""
    context = new_context(browser, width)
    page = context.new_page()
    page.goto(address + chapter)
    page.wait_for_load_state("networkidle")
    entries = page.locator("#pst-secondary-sidebar a[href^='#'], #pst-secondary-sidebar-modal a[href^='#']")
    missed = {}
    for number in range(entries.count()):
        page.evaluate("scrollTo(0, 0)")
        if width == PHONE:
            page.locator(".secondary-toggle:visible").first.click()
        target = entries.nth(number).get_attribute("href")[1:]
        if not target:
            continue
        entries.nth(number).click()
        if width == PHONE:
            assert page.locator("dialog[open]").count() == 0, "the drawer stays open"
        page.wait_for_timeout(150)  # the browser scrolls
        miss = page.evaluate(MISS, target)
        if abs(miss) > TOLERANCE:
            missed[target] = miss
    context.close()
    assert number > 3
    assert missed == {}


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_links_from_other_pages_land_on_their_sections(browser, address, chapter, width):
    """A fresh reader arrives at a section from another page, before any picture of this one was loaded."""
    context = new_context(browser, width)
    page = context.new_page()
    page.goto(address + chapter)
    headings = page.locator("main section[id] > :is(h2, h3)")
    sections = [headings.nth(k).locator("xpath=..").get_attribute("id") for k in range(headings.count())]
    missed = {}
    for section in sections[1::4]:
        page.goto("about:blank")
        page.goto(f"{address}{chapter}#{section}")
        page.wait_for_load_state("networkidle")
        page.wait_for_timeout(150)
        miss = page.evaluate(MISS, section)
        if abs(miss) > TOLERANCE:
            missed[section] = miss
    context.close()
    assert len(sections) > 3
    assert missed == {}
