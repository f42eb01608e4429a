"""The site check finds what it is there to find: planted faults in a small site."""

import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).parents[2] / "publish" / "check_site.py"
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


CDN = "https://cdn.example/x.js"
PINNED = 'integrity="sha384-abc" crossorigin="anonymous"'


@pytest.mark.parametrize(
    "markup",
    [
        f'<script src="{CDN}"></script>',
        '<script src="//cdn.example/x.js"></script>',
        f'<script src="{CDN}" integrity="sha384-abc"></script>',  # no crossorigin: the hash is not checked
        f'<script src="{CDN}" integrity="" crossorigin></script>',
        f'<script>import("{CDN}")</script>',
        '<link rel="stylesheet" href="https://fonts.example/css?family=Lato">',
        '<link rel="preconnect" href="https://fonts.example">',
        f'<img alt="A pole" src="https://img.example/a.png" {PINNED}>',  # a picture's hash is not checked
        '<img alt="A pole" src="a.png" srcset="a.png 1x, https://img.example/b.png 2x">',
        '<video poster="https://img.example/a.png"></video>',
        '<object data="https://img.example/a.svg"></object>',
        '<iframe src="https://play.example/"></iframe>',
        '<style>@import "https://fonts.example/lato.css";</style>',
        "<p style=\"background: url('//img.example/a.png')\"></p>",
    ],
)
def test_loading_from_elsewhere(site, markup):
    page = site / "html" / "intro.html"
    page.write_text(f"<html><head></head>{markup}</html>")
    status, lines = check(site)
    assert status == 1 and len(lines) == 1
    assert (
        lines[0].startswith(f"{page}: loads ")
        and lines[0].endswith(" from elsewhere")
        and "example" in lines[0]
    )


@pytest.mark.parametrize(
    "markup",
    [
        '<script src="../_static/x.js?v=1"></script><link rel="stylesheet" href="_static/a.css">',
        f'<script src="{CDN}" {PINNED}></script>',
        f'<link rel="stylesheet" href="https://cdn.example/a.css" {PINNED}>',
        f'<link rel="next" href="https://other.example/"><a href="{CDN}">a link to follow</a>',
        f"<script>'a'</script> {CDN} <pre>&lt;script src={CDN}&gt;</pre>",
        '<img alt="A dot" src="data:image/png;base64,AAAA">',
        '<style>@import "a.css"; p {background: url(a.png)}</style>',
    ],
)
def test_what_the_site_may_load(site, markup):
    (site / "html" / "intro.html").write_text(f"<html><head></head>{markup}</html>")
    assert check(site) == (0, [])


@pytest.mark.parametrize(
    "rule", ['@import "https://x.example/a.css";', "p {src: url( '//x.example/a.woff' )}"]
)
def test_style_sheet_that_loads_from_elsewhere(site, rule):
    sheet = site / "html" / "_static" / "custom.css"
    sheet.parent.mkdir()
    sheet.write_text(f"b {{background: url(data:image/svg+xml,xmlns='http://www.w3.org')}} {rule}")
    status, lines = check(site)
    assert (
        status == 1
        and len(lines) == 1
        and lines[0].startswith(f"{sheet}: loads ")
        and "x.example" in lines[0]
    )


# Put together here, so that no scanner takes this file for a leak.
@pytest.mark.parametrize(
    "head, tail",
    [
        ("AKIA", "ABCDEFGHIJKLMNOP"),
        ("ghp_", "a1" * 18),
        ("github_pat_", "a1" * 20),
        ("-----BEGIN RSA PRIV", "ATE KEY-----"),
        ("-----BEGIN PRIV", "ATE KEY-----"),
        ("xoxb-", "123456789012-abc"),
        ("sk-", "proj-" + "a1" * 12),
        ("hf_", "a1" * 17),
        ('{"api_', 'key": "' + "a1" * 12 + '"}'),
        ("PASS", "WORD = '" + "a1" * 12 + "'"),
    ],
)
@pytest.mark.parametrize("name", ["intro.html", "_sources/intro.ipynb", "_static/x.js"])
def test_secret(site, head, tail, name):
    file = site / "html" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"<p>\n{head}{tail}\n")
    status, lines = check(site)
    assert status == 1 and len(lines) == 1 and lines[0].startswith(f"{file}: holds ")
    assert tail not in lines[0]  # it goes into a public log


def test_what_is_no_secret(site):
    text = "risk-of-a-very-long-hyphenated-word token = next(tokens); secret: 'short' sk-learn ghp_short AKIA"
    (site / "html" / "intro.html").write_text(f"<p>{text}</p>")
    assert check(site) == (0, [])
