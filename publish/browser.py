"""The built site and the browser that looks at it, for Lighthouse, the PDF and the browser tests."""

import os
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[1]
SITE = Path(os.environ.get("RECDQN_SITE", ROOT / "_build" / "html")).absolute()
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), "")
FLAGS = [
    "--no-sandbox",  # CI runs as root in a container
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def missing() -> str:
    """Return what is missing, a browser or the built site, in one line; empty if nothing is."""
    if not BROWSER:
        return f"no browser: install one of {', '.join(BROWSERS)}"
    if not (SITE / "intro.html").is_file():
        return f"no built site in {SITE}: run 'make book' first, or name a site's folder in RECDQN_SITE"
    return ""


def pages() -> list[str]:
    """Return every page of the site except redirects; the package's sources come last."""
    files = [path for path in SITE.rglob("*.html") if not path.is_relative_to(SITE / "_static")]
    names = [
        path.relative_to(SITE).as_posix() for path in files if "<body" in path.read_text(encoding="utf-8")
    ]
    return sorted(names, key=lambda name: (name.startswith("_modules/"), name))


def chapters() -> list[str]:
    """Return the pages of the numbered chapters."""
    return [name for name in pages() if name.startswith("chapters/")]
