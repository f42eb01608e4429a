"""Check a built book: missing pages, failed cells, alt text, requests to other hosts, and secrets.

Every entry of the table of contents has a page, no cell failed, every image has alt text, a browser loads
nothing from another host except files pinned by an integrity hash, and no file contains a password or a key.

Run ``python publish/check_site.py book/_toc.yml _build/html``; it prints a line for each problem.
"""

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import yaml

# Signs of a failed cell: a traceback's first line, and the class that myst-nb gives to an error output.
FAILURE_MARKS = ("Traceback (most recent call last)", 'class="output traceback')

ELSEWHERE = re.compile(r"\s*(?:https?:)?//", re.IGNORECASE)  # start of an address on another host
IN_STYLE = re.compile(r"""(?:@import\s*|url\(\s*)["']?\s*((?:https?:)?//[^"')\s;]+)""", re.IGNORECASE)
IN_SCRIPT = re.compile(r"""(?:https?:)?//[^\s"'`<>]+\.(?:m?js|css)\b""", re.IGNORECASE)
# Relations of a <link> that a browser does not fetch.
UNFETCHED_LINKS = {"alternate", "author", "canonical", "help", "index", "license", "next", "prev", "search"}

SECRETS = {
    "an AWS key": rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a GitHub token": rb"\b(?:gh[opsur]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{22,})",
    "a private key": rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY",
    "a Slack token": rb"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",
    "an API key": rb"\bsk-[A-Za-z0-9_-]{20,}",
    "a Hugging Face token": rb"\bhf_[A-Za-z0-9]{30,}",
    "an assigned secret": rb"(?i)(?:api_?key|password|secret|token)[\"']?\s*[:=]\s*[\"'][\w+/-]{20,}=*[\"']",
}


def toc_documents(node: object) -> Iterator[str]:
    """Yield every document of a table of contents: the root, chapters and nested sections."""
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
    """Collect images without alt text, or with the file's path, which Sphinx writes if there is none."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.without_alt: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Check one tag."""
        if tag == "img":
            given = dict(attrs)
            alt, source = (given.get("alt") or "").strip(), given.get("src") or ""
            if not alt or Path(alt).name == Path(source).name:
                self.without_alt.append(source[:80])


class Fetches(HTMLParser):
    """Collect the addresses on other hosts that a browser would load for a page.

    A script or style sheet with an integrity hash is allowed; browsers check the hash only with
    ``crossorigin``.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elsewhere: list[str] = []
        self.inside: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Check one tag."""
        self.inside = tag if tag in ("script", "style") else None
        given = {name: value or "" for name, value in attrs}
        addresses = [given[name] for name in ("src", "poster", "data") if name in given]
        addresses += given.get("srcset", "").split(",")
        if tag in ("image", "use") or (tag == "link" and set(given.get("rel", "").split()) - UNFETCHED_LINKS):
            addresses.append(given.get("href", ""))
        pinned = (
            tag in ("script", "link")
            and given.get("integrity", "").startswith("sha")
            and "crossorigin" in given
        )
        if not pinned:
            self.elsewhere += [address for address in addresses if ELSEWHERE.match(address)]
        self.elsewhere += IN_STYLE.findall(given.get("style", ""))

    def handle_endtag(self, tag: str) -> None:
        """Leave a script or style."""
        self.inside = None

    def handle_data(self, data: str) -> None:
        """Check the text of a script or style."""
        if self.inside == "script":
            self.elsewhere += IN_SCRIPT.findall(data)
        elif self.inside == "style":
            self.elsewhere += IN_STYLE.findall(data)


def problems(toc: Path, site: Path) -> list[str]:
    """Return a line for each problem of the site built from a table of contents."""
    documents = list(toc_documents(yaml.safe_load(toc.read_text(encoding="utf-8"))))
    if not documents:
        return [f"{toc}: names no document"]
    found = [f"{site / doc}.html: missing" for doc in documents if not (site / f"{doc}.html").is_file()]
    for page in sorted(site.rglob("*.html")):
        text = page.read_text(encoding="utf-8")
        found += [f"{page}: contains {mark!r}" for mark in FAILURE_MARKS if mark in text]
        article = text.partition("<article")[2].partition("</article>")[0]  # without the theme's logo
        found += [f"{page}: no alt text for {source}" for source in Images(article).without_alt]
        found += [f"{page}: loads {address[:80]} from elsewhere" for address in Fetches(text).elsewhere]
    for sheet in sorted(site.rglob("*.css")):
        addresses = IN_STYLE.findall(sheet.read_text(encoding="utf-8"))
        found += [f"{sheet}: loads {address[:80]} from elsewhere" for address in addresses]
    for file in sorted(site.rglob("*")):
        if file.is_file():
            content = file.read_bytes()  # never printed: the log is public
            found += [
                f"{file}: contains {name}" for name, pattern in SECRETS.items() if re.search(pattern, content)
            ]
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
