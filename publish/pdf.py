"""Print the whole built site into one PDF: ``python publish/pdf.py book/_toc.yml _build/html OUT.pdf``.

A headless Chromium prints each page in the order of the table of contents. The parts are then joined, with an
outline, page numbers, and internal links. Needs Chromium on the path, and ``pip install playwright pypdf``.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urldefrag

import yaml
from browser import BROWSER, BROWSERS, FLAGS
from playwright.sync_api import Page, sync_playwright
from pypdf import PdfReader, PdfWriter
from pypdf.generic import ArrayObject, FloatObject, NameObject, NullObject, TextStringObject

PAPER = {
    "format": "A4",
    "margin": {"top": "16mm", "bottom": "18mm", "left": "16mm", "right": "16mm"},
    "print_background": True,
}
NUMBER = '<p style="width: 100%; font-size: 8px; text-align: center"><span class="pageNumber"></span></p>'
# Unfold everything, since a PDF has no script. Chromium records the position of an anchor only if the page
# links to it, so each gets an invisible link, removed again in `join`.
PREPARE = """() => {
  document.documentElement.dataset.theme = "light";
  document.documentElement.dataset.mode = "light";
  for (const fold of document.querySelectorAll("details")) fold.open = true;
  for (const fold of document.querySelectorAll(".toggle-hidden")) fold.classList.remove("toggle-hidden");
  for (const image of document.images) image.loading = "eager";
  const links = document.createElement("div");
  links.style = "position: absolute; font-size: 1px; line-height: 1px; opacity: 0";
  for (const {id} of document.querySelectorAll("article [id], main [id]")) {
    const link = document.createElement("a");
    link.href = "#" + id;
    link.textContent = ".";
    links.append(link);
  }
  document.querySelector("h1").before(links);
  return document.fonts.ready;
}"""
INVISIBLE = 4  # square points; the area of those links is smaller, that of any other larger


@dataclass(frozen=True)
class Part:
    """One page of the site, printed."""

    depth: int
    file: Path
    title: str
    home: str  # the published site's address, for links to pages that the PDF omits
    data: bytes


def chapters(node: object, depth: int = 0) -> Iterator[tuple[int, str]]:
    """Yield depth below the parts and name of every page of a table of contents, in reading order."""
    if isinstance(node, list):
        for item in node:
            yield from chapters(item, depth)
    elif isinstance(node, dict):
        name = node.get("root") or node.get("file")
        if name:
            yield depth, name
        for key in ("parts", "chapters"):
            yield from chapters(node.get(key, []), depth)
        yield from chapters(node.get("sections", []), depth + 1)


def print_page(browser: Page, depth: int, site: Path, name: str) -> Part:
    """Print one page of the site."""
    file = (site / f"{name}.html").resolve()
    browser.goto(file.as_uri())
    browser.emulate_media(media="print", color_scheme="light")
    title = browser.inner_text("h1").removesuffix("#").strip()
    browser.evaluate(PREPARE)
    address = browser.locator("link[rel=canonical]").get_attribute("href")
    return Part(depth, file, title, address.removesuffix(f"{name}.html"), browser.pdf(**PAPER))


def numbers(browser: Page, count: int) -> PdfReader:
    """Print empty pages with page numbers only."""
    browser.set_content('<p style="break-after: page">&nbsp;</p>' * (count - 1) + "<p>&nbsp;</p>")
    empty = "<span></span>"
    data = browser.pdf(**PAPER, display_header_footer=True, header_template=empty, footer_template=NUMBER)
    return PdfReader(io.BytesIO(data))


def join(parts: list[Part], site: Path) -> PdfWriter:
    """Join printed pages, with an outline and with links between pages inside the PDF."""
    book, above = PdfWriter(), {}
    places: dict[tuple[Path, str], list] = {}  # PDF destination of a file, or of an anchor in it
    for part in parts:
        reader, start = PdfReader(io.BytesIO(part.data)), len(book.pages)
        for page in reader.pages:
            book.add_page(page)
        places[part.file, ""] = [start, NameObject("/Fit")]
        for name, place in reader.named_destinations.items():
            page = start + reader.get_destination_page_number(place)
            spot = [
                NameObject("/XYZ"),
                FloatObject(place.left or 0),
                FloatObject(place.top or 0),
                NullObject(),
            ]
            places[part.file, unquote(name.removeprefix("/"))] = [page, *spot]
        above[part.depth] = book.add_outline_item(
            title=part.title, page_number=start, parent=above.get(part.depth - 1)
        )
        for page in book.pages[start:]:
            page[NameObject("/Annots")] = ArrayObject(
                entry for entry in page.get("/Annots") or [] if area(entry.get_object()["/Rect"]) > INVISIBLE
            )
            page[NameObject("/Source")] = TextStringObject(part.file)
    for page in book.pages:
        file = Path(page.pop("/Source"))
        for annotation in page["/Annots"]:
            entry = annotation.get_object()
            address = str(entry.get("/A", {}).get("/URI", ""))
            if "/Dest" in entry:
                target = (file, unquote(str(entry["/Dest"]).removeprefix("/")))
            elif address.startswith("file://"):
                base, anchor = urldefrag(address.removeprefix("file://"))
                target = (Path(unquote(base)), unquote(anchor))
            else:
                continue  # leads out of the book
            place = places.get(target) or places.get((target[0], ""))
            if place:
                where, *spot = place
                entry[NameObject("/Dest")] = ArrayObject([book.pages[where].indirect_reference, *spot])
                entry.pop("/A", None)
            else:
                rest = address.removeprefix(f"{site.resolve().as_uri()}/")
                entry["/A"][NameObject("/URI")] = TextStringObject(parts[0].home + rest)
    return book


def area(rectangle: list) -> float:
    """Return the area of an annotation, in square points."""
    left, bottom, right, top = map(float, rectangle)
    return abs((right - left) * (top - bottom))


def main(arguments: list[str]) -> int:
    """Print the site and return the exit status."""
    if len(arguments) != 3:
        print("usage: pdf.py TOC SITE OUT.pdf", file=sys.stderr)
        return 2
    toc, site, out = map(Path, arguments)
    pages = list(chapters(yaml.safe_load(toc.read_text(encoding="utf-8"))))
    missing = [f"{name}.html" for _, name in pages if not (site / f"{name}.html").is_file()]
    if missing:
        print(f"pdf: {site} has no {missing[0]}: build the book first", file=sys.stderr)
        return 2
    if not BROWSER:
        print(f"pdf: no browser: install one of {', '.join(BROWSERS)}", file=sys.stderr)
        return 2
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=BROWSER, args=FLAGS)
        page = browser.new_page()
        book = join([print_page(page, depth, site, name) for depth, name in pages], site)
        for sheet, number in zip(book.pages, numbers(page, len(book.pages)).pages, strict=True):
            sheet.merge_page(number)
        browser.close()
    book.compress_identical_objects()
    book.write(out)
    print(f"{out}: {len(book.pages)} pages, {out.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
