"""Printed pages, and formulas that are wider than a phone."""

from reader import PHONE


def test_dark_pages_are_printed_in_light(visit):
    page = visit("chapters/04-loss.html", theme="dark")
    page.evaluate(
        """() => addEventListener('beforeprint', () => {
          const shown = [...document.querySelectorAll('.figure-scroll img')].filter(i => i.checkVisibility());
          window.printed = [document.documentElement.dataset.theme, ...new Set(shown.map(i => i.className))];
        })"""
    )
    page.pdf()
    assert page.evaluate("printed") == ["light", "only-light"]
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"  # the reader's own is back


def test_a_formula_shows_its_beginning(visit, chapter):
    page = visit(chapter, PHONE)
    begins = """[...document.querySelectorAll('div.math')].filter(e => e.checkVisibility()).map(e =>
      Math.min(...[...e.querySelectorAll('math *')].map(part => part.getBoundingClientRect().left))
        - e.getBoundingClientRect().left)"""
    assert [place for place in page.evaluate(begins) if place < -1] == []
