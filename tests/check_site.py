"""Check a built book: every entry of the contents has a page, no cell failed, every picture has alt text.

Run as ``python tests/check_site.py book/_toc.yml _build/html``; it prints a line for each problem.
"""

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import yaml

# How a failed cell shows: the traceback itself, and the class myst-nb puts around an error output. Text in a
# page may speak of tracebacks, hence the whole first line of one.
FAILURE_MARKS = ("Traceback (most recent call last)", 'class="output traceback')


def toc_documents(node: object) -> Iterator[str]:
    """Every document named anywhere in a table of contents: the root, chapters and nested sections."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("root", "file"):
                yield value
            else:
                yield from toc_documents(value)
    elif isinstance(node, list):
        for item in node:
            yield from toc_documents(item)


class Images(HTMLParser):
    """Collects images without alt text; for a cell's figure without one Sphinx puts the file's path."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.without_alt: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at one tag."""
        if tag == "img":
            given = dict(attrs)
            alt, source = (given.get("alt") or "").strip(), given.get("src") or ""
            if not alt or Path(alt).name == Path(source).name:
                self.without_alt.append(source[:80])


def problems(toc: Path, site: Path) -> list[str]:
    """What is wrong with the site built from this table of contents, one line each."""
    documents = list(toc_documents(yaml.safe_load(toc.read_text(encoding="utf-8"))))
    if not documents:
        return [f"{toc}: names no document"]
    found = [f"{site / doc}.html: missing" for doc in documents if not (site / f"{doc}.html").is_file()]
    for page in sorted(site.rglob("*.html")):
        text = page.read_text(encoding="utf-8")
        found += [f"{page}: holds {mark!r}" for mark in FAILURE_MARKS if mark in text]
        article = text.partition("<article")[2].partition("</article>")[0]  # leaves out the theme's own logo
        found += [f"{page}: no alt text for {source}" for source in Images(article).without_alt]
    return found


def main(arguments: list[str]) -> int:
    """Print the problems of the site and return the exit status."""
    if len(arguments) != 2:
        print("usage: check_site.py TOC SITE", file=sys.stderr)
        return 2
    toc, site = map(Path, arguments)
    if not toc.is_file() or not site.is_dir():
        print(f"check_site: no file {toc} or no folder {site}: build the book first", file=sys.stderr)
        return 2
    found = problems(toc, site)
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
