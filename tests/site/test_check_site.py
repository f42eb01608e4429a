"""The site check finds faults planted in a small site."""

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


def test_missing_pages(site):
    pages = [site / "html" / f"{doc}.html" for doc in DOCUMENTS]
    for page in pages:
        page.unlink()
    assert check(site) == (1, [f"{page}: missing" for page in pages])


@pytest.mark.parametrize("mark", ["Traceback (most recent call last):", '<div class="output traceback">'])
def test_failed_cell(site, mark):
    page = site / "html" / "chapters" / "01-a.html"
    page.write_text(f"<html><pre>{mark}</pre></html>")
    status, lines = check(site)
    assert status == 1 and len(lines) == 1 and lines[0].startswith(f"{page}: contains")


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


LOADS = [
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
]
HARMLESS = [
    '<script src="../_static/x.js?v=1"></script><link rel="stylesheet" href="_static/a.css">',
    f'<script src="{CDN}" {PINNED}></script>',
    f'<link rel="stylesheet" href="https://cdn.example/a.css" {PINNED}>',
    f'<link rel="next" href="https://other.example/"><a href="{CDN}">a link to follow</a>',
    f"<script>'a'</script> {CDN} <pre>&lt;script src={CDN}&gt;</pre>",
    '<img alt="A dot" src="data:image/png;base64,AAAA">',
    '<style>@import "a.css"; p {background: url(a.png)}</style>',
]


def test_loading_from_elsewhere(site):
    """A page for each way to load from another host: all are reported, once each."""
    for number, markup in enumerate(LOADS):
        (site / "html" / f"{number:02}.html").write_text(f"<html><head></head>{markup}</html>")
    status, lines = check(site)
    assert status == 1 and len(lines) == len(LOADS)
    for number, line in enumerate(lines):
        assert line.startswith(f"{site / 'html'}/{number:02}.html: loads "), LOADS[number]
        assert line.endswith(" from elsewhere") and ".example" in line


def test_what_the_site_may_load(site):
    for number, markup in enumerate(HARMLESS):
        (site / "html" / f"{number}.html").write_text(f"<html><head></head>{markup}</html>")
    assert check(site) == (0, [])


def test_style_sheet_that_loads_from_elsewhere(site):
    rules = ['@import "https://x.example/a.css";', "p {src: url( '//x.example/a.woff' )}"]
    (site / "html" / "_static").mkdir()
    sheets = [site / "html" / "_static" / f"{number}.css" for number in range(len(rules))]
    for sheet, rule in zip(sheets, rules, strict=True):
        sheet.write_text(f"b {{background: url(data:image/svg+xml,xmlns='http://www.w3.org')}} {rule}")
    status, lines = check(site)
    assert status == 1 and len(lines) == 2
    for sheet, line in zip(sheets, lines, strict=True):
        assert line.startswith(f"{sheet}: loads ") and "x.example" in line


# Joined here, so that no scanner takes this file for a leak.
SECRETS = [
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
]


@pytest.mark.parametrize("end", ["html", "ipynb", "js"])
def test_secrets(site, end):
    files = [site / "html" / f"{number}.{end}" for number in range(len(SECRETS))]
    for file, (head, tail) in zip(files, SECRETS, strict=True):
        file.write_text(f"<p>\n{head}{tail}\n")
    status, lines = check(site)
    assert status == 1 and len(lines) == len(SECRETS)
    for file, (_, tail), line in zip(files, SECRETS, lines, strict=True):
        assert line.startswith(f"{file}: contains ")
        assert tail not in line  # the line goes into a public log


def test_what_is_no_secret(site):
    text = "risk-of-a-very-long-hyphenated-word token = next(tokens); secret: 'short' sk-learn ghp_short AKIA"
    (site / "html" / "intro.html").write_text(f"<p>{text}</p>")
    assert check(site) == (0, [])
