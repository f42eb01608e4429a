"""The site check finds what it is there to find: planted faults in a small site."""

import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).with_name("check_site.py")
TOC = """\
format: jb-book
root: intro
parts:
  - caption: One
    chapters:
      - file: chapters/01-a
  - caption: Two
    chapters:
      - file: reference/index
        sections:
          - file: reference/deep
"""
DOCUMENTS = ["intro", "chapters/01-a", "reference/index", "reference/deep"]


@pytest.fixture
def site(tmp_path):
    (tmp_path / "_toc.yml").write_text(TOC)
    for doc in DOCUMENTS:
        page = tmp_path / "html" / f"{doc}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(f"<html><h1>{doc}</h1>A traceback is what a failed cell prints.</html>")
    return tmp_path


def check(folder):
    command = [sys.executable, CHECK, folder / "_toc.yml", folder / "html"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stderr.splitlines()


def test_sound_site_passes(site):
    assert check(site) == (0, [])


@pytest.mark.parametrize("doc", DOCUMENTS)
def test_missing_page(site, doc):
    page = site / "html" / f"{doc}.html"
    page.unlink()
    assert check(site) == (1, [f"{page}: missing"])


@pytest.mark.parametrize("mark", ["Traceback (most recent call last):", '<div class="output traceback">'])
def test_failed_cell(site, mark):
    page = site / "html" / "chapters" / "01-a.html"
    page.write_text(f"<html><pre>{mark}</pre></html>")
    status, lines = check(site)
    assert status == 1 and len(lines) == 1 and lines[0].startswith(f"{page}: holds")


@pytest.mark.parametrize("alt", ["", 'alt=""', 'alt="../_images/9f.png"'])
def test_image_without_alt_text(site, alt):
    page = site / "html" / "intro.html"
    pictures = f'<img alt="A pole" src="_images/9e.png"/><img {alt} src="_images/9f.png"/>'
    page.write_text(f'<img alt="" src="logo.svg"/><article class="bd-article">{pictures}</article>')
    assert check(site) == (1, [f"{page}: no alt text for _images/9f.png"])


def test_empty_table_of_contents(site):
    (site / "_toc.yml").write_text("format: jb-book\n")
    assert check(site)[0] == 1


def test_site_not_built(site):
    (site / "html").rename(site / "elsewhere")
    status, lines = check(site)
    assert status == 2 and len(lines) == 1 and "build the book first" in lines[0]
