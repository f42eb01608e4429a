"""Every page loads without errors and from the site alone, and its links and images lead somewhere."""

from dataclasses import dataclass, field
from urllib.parse import unquote, urldefrag

import pytest
from browser import SITE, pages
from reader import new_context, settle


@dataclass
class Visit:
    """Messages and requests while a page loads, and the contents of its document."""

    console: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    pictures: int = 0
    broken: list[str] = field(default_factory=list)


DOCUMENT = """() => ({
  links: [...document.querySelectorAll('a[href], area[href]')]
    .map(a => new URL(a.getAttribute('href'), document.baseURI).href),  // also of links in SVG
  ids: [...document.querySelectorAll('[id], a[name]')].map(e => e.id || e.name),
  pictures: document.images.length,
  broken: [...document.images].filter(i => !i.naturalWidth).map(i => i.src),
})"""


def look(context, address: str, name: str) -> Visit:
    seen = Visit()
    page = context.new_page()
    page.on(
        "console", lambda m: m.type in ("error", "warning") and seen.console.append(f"{m.type}: {m.text}")
    )
    page.on("pageerror", lambda error: seen.console.append(f"uncaught: {error}"))
    page.on("requestfailed", lambda r: seen.failed.append(f"{r.url}: {r.failure}"))
    page.on("response", lambda r: r.status >= 400 and seen.failed.append(f"{r.url}: {r.status}"))
    page.on(
        "request",
        lambda r: r.url.startswith((address, "data:", "blob:")) or seen.elsewhere.append(r.url),
    )
    page.goto(address + name)
    settle(page)
    for key, value in page.evaluate(DOCUMENT).items():
        setattr(seen, key, value)
    page.close()
    return seen


@pytest.fixture(scope="session")
def visits(browser, address):
    """Every page of the site, visited once."""
    context = new_context(browser)
    seen = {name: look(context, address, name) for name in pages()}
    context.close()
    return seen


def test_page(visits, name, address):
    """No console message, nothing from elsewhere, every image loads, and every link leads somewhere."""
    seen = visits[name]
    assert seen.console == []
    assert seen.failed == seen.elsewhere == seen.broken == []
    assert seen.pictures > 0  # at least the logo
    assert sorted({i for i in seen.ids if seen.ids.count(i) > 1}) == []
    links = [link for link in seen.links if link.startswith(address)]
    assert links
    assert [link for link in links if is_dead(link.removeprefix(address), visits)] == []


def is_dead(link: str, visits: dict[str, Visit]) -> bool:
    target, anchor = urldefrag(link)
    target = unquote(target.partition("?")[0]) or "index.html"
    missing = anchor and target in visits and unquote(anchor) not in visits[target].ids
    return missing or not (SITE / target).is_file()


def test_front_door(page, address):
    page.goto(address)
    page.wait_for_url(address + "intro.html")


def test_no_page_is_forgotten(visits):
    assert {"intro.html", "search.html", "genindex.html"} <= set(visits)
    assert len([name for name in visits if name.startswith("chapters/")]) >= 6
