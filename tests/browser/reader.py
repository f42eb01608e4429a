"""What the tests have in common: the site's pages, and a reader's browser."""

import os
import shutil
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page

ROOT = Path(__file__).parents[2]
SITE = Path(os.environ.get("RECDQN_SITE", ROOT / "_build" / "html")).absolute()
PHONE, TABLET, DESKTOP = 360, 768, 1440  # pixels
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--no-sandbox",  # CI runs as root in a container
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


BROWSER = next(filter(None, map(shutil.which, BROWSERS)), "")


def missing() -> str:
    """What these tests need and do not find, in one line; empty if all is there."""
    if not (SITE / "intro.html").is_file():
        return f"no built site in {SITE}: run 'make book' first, or name a site's folder in RECDQN_SITE"
    return "" if BROWSER else f"no browser: install one of {', '.join(BROWSERS)}"


def pages() -> list[str]:
    """Every page of the site, without those that only lead on to another one; sources of the package last."""
    files = [path for path in SITE.rglob("*.html") if not path.is_relative_to(SITE / "_static")]
    names = [
        path.relative_to(SITE).as_posix() for path in files if "<body" in path.read_text(encoding="utf-8")
    ]
    return sorted(names, key=lambda name: (name.startswith("_modules/"), name))


def chapters() -> list[str]:
    """The numbered chapters."""
    return [name for name in pages() if name.startswith("chapters/")]


def looked() -> list[str]:
    """The pages to look at closely: of the package's sources, which are all made alike, only the first."""
    sources = [name for name in pages() if name.startswith("_modules/recdqn/")]
    return [name for name in pages() if name not in sources[1:]]


def pictured() -> list[str]:
    """The pages with figures, each of which is there in two versions."""
    return [name for name in pages() if "figure-scroll" in (SITE / name).read_text(encoding="utf-8")]


def new_context(browser: Browser, width: int = DESKTOP, theme: str = "light") -> BrowserContext:
    """A reader's browser: a window of this width, and what the theme switch was left at."""
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
    """Wait until fonts and pictures are there, also those that wait for the reader to scroll."""
    page.evaluate(
        """async () => {
          const images = [...document.images];
          images.forEach(image => { image.loading = 'eager'; });
          await Promise.all(images.map(image => image.decode().catch(() => null)));
          await document.fonts.ready;
        }"""
    )


def set_theme(page: Page, theme: str) -> None:
    """Switch a page to light or dark without a click, at once."""
    page.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == theme


def unfold(page: Page) -> None:
    """Open everything that folds, and lay out what is not on the screen: all of it is looked at."""
    page.add_style_tag(content="* { content-visibility: visible !important; }")
    page.evaluate(
        """() => {
          document.querySelectorAll('details').forEach(details => { details.open = true; });
          document.querySelectorAll('button.toggle-button-hidden').forEach(button => button.click());
        }"""
    )
