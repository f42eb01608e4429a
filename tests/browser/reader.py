"""Helpers of the browser tests: pages to look at, and a reader's browser."""

import contextlib

from browser import SITE, pages
from playwright.sync_api import Browser, BrowserContext, Page
from playwright.sync_api import TimeoutError as NotInTime

PHONE, TABLET, DESKTOP = 360, 768, 1440  # pixels

# Whether a keyboard reaches every box that scrolls sideways.
REACHABLE = """() => [...document.querySelectorAll('#main-content *')].every(e =>
  e.scrollWidth <= e.clientWidth + 1 || !['auto', 'scroll'].includes(getComputedStyle(e).overflowX)
  || e.tabIndex >= 0 || e.querySelector('a[href], button, input'))"""


def looked() -> list[str]:
    """Return every page, but only the first of the package's sources, which are all alike."""
    sources = [name for name in pages() if name.startswith("_modules/recdqn/")]
    return [name for name in pages() if name not in sources[1:]]


def pictured() -> list[str]:
    """Return the pages with figures in two versions."""
    return [name for name in pages() if "figure-scroll" in (SITE / name).read_text(encoding="utf-8")]


def new_context(browser: Browser, width: int = DESKTOP, theme: str = "light") -> BrowserContext:
    """Open a browser window of a given width, with the theme switch set."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, reduced_motion="reduce", color_scheme="light"
    )
    context.set_default_timeout(10_000)
    context.add_init_script(
        f"if (!localStorage.getItem('mode')) {{ localStorage.setItem('mode', '{theme}');"
        f" localStorage.setItem('theme', '{theme}'); }}"
    )
    return context


def settle(page: Page) -> None:
    """Wait for fonts and images, lazy ones included."""
    page.evaluate(
        """async () => {
          const images = [...document.images];
          images.forEach(image => { image.loading = 'eager'; });
          await Promise.all(images.map(image => image.decode().catch(() => null)));
          await document.fonts.ready;
        }"""
    )


def wait_for_boxes(page: Page) -> None:
    """Wait until the theme has looked for boxes that scroll, on a busy machine longer."""
    page.wait_for_timeout(400)
    with contextlib.suppress(NotInTime):  # the test says what is wrong
        page.wait_for_function(REACHABLE, timeout=5_000)


def set_theme(page: Page, theme: str) -> None:
    """Switch a page to light or dark at once, without a click."""
    page.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == theme


def unfold(page: Page) -> None:
    """Unfold everything."""
    page.evaluate(
        """() => {
          document.querySelectorAll('details').forEach(details => { details.open = true; });
          document.querySelectorAll('button.toggle-button-hidden').forEach(button => button.click());
        }"""
    )
