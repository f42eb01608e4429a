"""The whole site in one PDF: a site of two pages, printed by a real browser."""

import subprocess
import sys
from pathlib import Path

import pypdf
import pytest

PDF = Path(__file__).parents[2] / "publish" / "pdf.py"
HOME = "https://book.example/"
PAGE = """<html><head><link rel="canonical" href="{home}{name}.html"></head><body><main>
<h1>{title}<a class="headerlink" href="#far">#</a></h1>{body}</main></body></html>"""
GAP = '<div style="height: 2500px"></div>'  # more than two sheets
FIRST = f"""<p><a href="sub/b.html#far">one</a> <a href="sub/b.html">two</a> <a href="#far">three</a>
<a href="left-out.html#x">four</a> <a href="https://other.example/">five</a></p>
{GAP}<h2 id="far">Far A</h2>"""
SECOND = f"""<p><a href="../a.html">six</a> <a href="#far">seven</a></p>{GAP}<h2 id="far">Far B</h2>
<details><summary>fold</summary>folded words</details>"""


@pytest.fixture
def site(tmp_path):
    (tmp_path / "html" / "sub").mkdir(parents=True)
    for name, title, body in (("a", "Page <i>A</i>", FIRST), ("sub/b", "Page B", SECOND)):
        page = PAGE.format(home=HOME, name=name, title=title, body=body)
        (tmp_path / "html" / f"{name}.html").write_text(page)
    toc = "root: a\nparts:\n  - caption: One\n    chapters:\n      - file: sub/b\n"
    (tmp_path / "_toc.yml").write_text(toc)
    return tmp_path


def make(site):
    command = [sys.executable, PDF, site / "_toc.yml", site / "html", site / "book.pdf"]
    return subprocess.run(command, capture_output=True, text=True)


def test_two_pages(site):
    done = make(site)
    assert (done.returncode, done.stderr) == (0, "")
    book = pypdf.PdfReader(site / "book.pdf")
    sheets = [page.extract_text().split() for page in book.pages]
    far = {"A": None, "B": None}
    for number, words in enumerate(sheets):
        assert words[-1] == str(number + 1)  # numbered through
        for letter in far:
            if f"Far {letter}" in " ".join(words):
                far[letter] = number
    begins = [book.get_destination_page_number(entry) for entry in book.outline]
    assert [entry.title for entry in book.outline] == ["Page A", "Page B"] and begins[0] == 0
    assert begins[0] < far["A"] < begins[1] < far["B"]
    assert "folded" in sheets[far["B"]]

    index = {page.indirect_reference.idnum: number for number, page in enumerate(book.pages)}
    leads = []
    for sheet in (0, begins[1]):
        for annotation in book.pages[sheet]["/Annots"]:
            entry = annotation.get_object()
            inside = "/Dest" in entry
            leads.append(index[list.__getitem__(entry["/Dest"], 0).idnum] if inside else entry["/A"]["/URI"])
    a, b = far["A"], far["B"]
    first = [
        a,
        b,
        begins[1],
        a,
        f"{HOME}left-out.html#x",
        "https://other.example/",
    ]  # the title's own link first
    assert leads == [*first, b, 0, b]
    assert str(site).encode() not in (site / "book.pdf").read_bytes()


def test_a_site_that_is_not_built(site):
    (site / "html" / "sub" / "b.html").unlink()
    done = make(site)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [f"pdf: {site / 'html'} has no sub/b.html: build the book first"]
