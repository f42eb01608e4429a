"""Links from code and hover cards: names are found, cards say what they should, where they should."""

import ast
import inspect
import re
import zlib
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import api_links
import hover_cards
import nbformat
import pytest
import release_links
import yaml
from bs4 import BeautifulSoup
from hover_cards import Card
from markupsafe import Markup
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "book" / "_inventories").glob("*.txt"))
SETTINGS = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["sphinx"]["config"]
# Documented under another name than the one the book imports, or not documented at all.
UNLISTED = {
    "Binary",
    "ExplorationType",
    "Sequence",
    "assert_close",
    "get_primers_from_module",
    "signed_hyperbolic",
    "signed_parabolic",
    "split_trajectories",
}


def load(path):
    spec = spec_from_file_location(path.stem, path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


inventories = load(ROOT / "publish" / "inventories.py")


def imported():
    """Every class and function that a notebook imports from torchrl or tensordict."""
    for path in sorted((ROOT / "book").rglob("*.ipynb")):
        for cell in nbformat.read(path, as_version=nbformat.NO_CONVERT).cells:
            if cell.cell_type == "code":
                for node in ast.walk(ast.parse(cell.source)):
                    if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in (
                        "torchrl",
                        "tensordict",
                    ):
                        yield from ((node.module, alias.name) for alias in node.names)


def test_what_the_book_imports_is_in_an_inventory():
    names = [name for file in FILES for name in api_links.listed(file)]
    known = [api_links.find(name) for name in names]
    used = {name: api_links.find(f"{module}.{name}") for module, name in imported()}
    missing = {name for name, thing in used.items() if not any(thing is k for k in known)}
    assert {name for name in missing if not inspect.ismodule(used[name])} <= UNLISTED


def test_definitions_lead_to_the_documented_name():
    assert api_links.definitions(["collections.OrderedDict", "json.JSONDecoder", "os.path.join"]) == {
        "json.decoder.JSONDecoder": "json.JSONDecoder",
        "posixpath.join": "os.path.join",
    }


def test_links_are_to_the_documentation_of_the_pinned_release():
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    release = re.search(r"(?m)^torchrl==(\d+\.\d+)", pins)[1]
    assert SETTINGS["intersphinx_mapping"]["torchrl"][0].endswith(f"/rl/{release}/")


def test_the_weekly_comparison_of_inventories(tmp_path, monkeypatch, capsys):
    lines = ["# Sphinx inventory version 1", "# Project: A", "# Version: 1"]
    for folder in ("book/_inventories", "site"):
        (tmp_path / folder).mkdir(parents=True)
    stored = tmp_path / "book" / "_inventories" / "a.txt"
    stored.write_text("\n".join([*lines, "a.B class b.html", "a.c function old.html", "a.d function d.html"]))
    head = "# Sphinx inventory version 2\n# Project: A\n# Version: 1\n# zlib\n"
    body = "a.B py:class 1 b.html#$ -\na.c py:function 1 new.html#$ -\nb std:label 1 x.html#b B\n"
    (tmp_path / "site" / "objects.inv").write_bytes(head.encode() + zlib.compress(body.encode()))
    mapping = {"a": [(tmp_path / "site").as_uri() + "/", "_inventories/a.txt"]}
    (tmp_path / "_config.yml").write_text(yaml.dump({"sphinx": {"config": {"intersphinx_mapping": mapping}}}))
    monkeypatch.setattr(inventories, "ROOT", tmp_path)
    assert inventories.main(["--write"]) == 1
    said = ["a.txt: a.c has moved from old.html to new.html", "a.txt: a.d is no longer documented"]
    assert capsys.readouterr().out.splitlines() == said
    assert stored.read_text().splitlines()[3:] == [
        "a.B class b.html",
        "a.c function new.html",
        "a.d function d.html",
    ]
    assert inventories.main([]) == 1 and capsys.readouterr().out.splitlines() == said[1:]


GLOSSARY = """<dl class="simple glossary">
<dt id="term-slice">slice<a class="headerlink" href="#term-slice">#</a></dt>
<dd><p>Steps of <em>one</em> episode <a href="b.html#x"><code>a &lt; b</code></a>.</p><p>More.</p></dd></dl>
<dl class="py function"><dt class="sig sig-object py" id="m.f">f(x)</dt>
<dd><p>Do it.</p><dl><dd><p>No.</p></dd></dl></dd></dl>
<dl class="py class"><dt class="sig sig-object py" id="m.G">G</dt><dd></dd></dl>"""


def test_cards_of_this_site():
    assert hover_cards.own_cards("sub/glossary.html", GLOSSARY) == {
        "sub/glossary.html#term-slice": Card("slice", "Steps of <em>one</em> episode a &lt; b."),
        "sub/glossary.html#m.f": Card("m.f", "Do it.", code=True),
    }


def test_links_get_their_cards():
    cards = {
        "glossary.html#t": Card("t", Markup("A <em>term</em>.")),
        "https://x.example/#n": Card("x.n", "a < b", code=True, source="class of x"),
        "sub/page.html#t": Card("own", "Own"),
    }
    html = """<html><body><a href="../glossary.html#t">menu</a><article>
<a class="r" href="../glossary.html#t" title="t">one</a> <a class="s" href="../glossary.html#t">two</a>
<a href="https://x.example/#n">three</a> <a href="#t">here</a>
<a href="page.html#t">own</a> <a aria-describedby="z" href="../glossary.html#t">taken</a>
<a href="../other.html#t">none</a></article></body></html>"""
    page = hover_cards.with_cards("sub/page.html", html, cards)
    assert re.findall(r"<a [^>]*>\w+", page) == [
        '<a href="../glossary.html#t">menu',
        '<a class="r" href="../glossary.html#t" aria-describedby="card-1">one',
        '<a class="s" href="../glossary.html#t" aria-describedby="card-1">two',
        '<a href="https://x.example/#n" aria-describedby="card-2">three',
        '<a href="#t">here',
        '<a href="page.html#t">own',
        '<a aria-describedby="z" href="../glossary.html#t">taken',
        '<a href="../other.html#t">none',
    ]
    shown = BeautifulSoup(page, "html.parser").select(".hover-card[role=tooltip][hidden]")
    assert [(card["id"], " ".join(card.get_text().split())) for card in shown] == [
        ("card-1", "t A term."),
        ("card-2", "x.n a < b class of x"),
    ]
    assert [element.name for element in shown[0].find_all()] == ["strong", "em"]
    assert hover_cards.with_cards("sub/page.html", page, cards) == page  # a second build adds none


@pytest.mark.parametrize(
    "text, short",
    [
        ("One  line\nthat fits.", "One line that fits."),
        (f"First. {'x' * 300}", "First."),
        ("word " * 100, "word " * 55 + "word …"),
    ],
)
def test_a_card_is_short(text, short):
    assert hover_cards.shorten(text) == short


def test_one_link_for_each_name_in_a_cell_and_none_for_variables():
    named = [("LSTMModule", "m.LSTMModule"), ("memory", "m.LSTMModule"), ("m.LSTMModule", "m.LSTMModule")]
    names = [SimpleNamespace(code_str=code, resolved_location=place) for code, place in named]
    block = SimpleNamespace(names=names)
    env = SimpleNamespace(sphinx_codeautolink_transforms={"page": [block]})
    api_links.prune(None, env)
    assert block.names == names[:1]


def test_a_public_name_links_to_its_definition():
    linked = []
    domain = SimpleNamespace(resolve_xref=lambda *args: linked.append(args[3:5]) or "link")
    env = SimpleNamespace(get_domain={"py": domain}.get)
    app = SimpleNamespace(builder=None)

    def link(target, module):
        node = {"reftarget": target, "py:module": module, "refdoc": "page", "reftype": "func"}
        return api_links.link_public_name(app, env, node, None)

    assert link("recdqn.train", "recdqn.commands") == link("train", "recdqn") == "link"
    assert linked == [("func", "recdqn.training.train")] * 2
    assert link("recdqn.no_such_name", "recdqn") is link("torch.nn.Module", "") is None


def test_the_rocket_opens_the_release(tmp_path):
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "3.2.1"\n')
    urls = [
        "https://hub.example/gh/a/b/main?path=book/main.ipynb",
        "https://lab.example/a/b/blob/main/x.ipynb",
    ]
    for suffix, left in ((".ipynb", 2), (".md", 1)):
        app = SimpleNamespace(
            srcdir=tmp_path / "book",
            config=SimpleNamespace(html_theme_options={"repository_branch": "main"}),
            env=SimpleNamespace(doc2path=lambda page, suffix=suffix: f"{page}{suffix}"),
        )
        rocket = {"label": "launch-buttons", "buttons": [{"url": url} for url in urls]}
        context = {"header_buttons": [{"label": "download-buttons"}, rocket]}
        release_links.pin(app, "page", "", context, None)
        assert len(context["header_buttons"]) == left
        if suffix == ".ipynb":
            assert [button["url"] for button in rocket["buttons"]] == [
                "https://hub.example/gh/a/b/v3.2.1?path=book/main.ipynb",
                "https://lab.example/a/b/blob/v3.2.1/x.ipynb",
            ]


@pytest.mark.parametrize("published", [True, False])
def test_without_an_address_no_page_needs_it(tmp_path, published):
    source = tmp_path / "source"
    source.mkdir()
    (source / "index.rst").write_text("Title\n=====\n\n.. only:: published\n\n   Clone it.\n")
    options = dict.fromkeys(release_links.NEEDS_ADDRESS, True)
    settings = {"extensions": ["release_links"], "published": published, "html_theme_options": options}
    folders = [source, None, tmp_path / "html", tmp_path / "trees"]
    with patch_docutils(), docutils_namespace():
        app = Sphinx(*folders, "pseudoxml", confoverrides=settings, status=None, warningiserror=True)
        app.build()
    assert ("Clone it." in (tmp_path / "html" / "index.pseudoxml").read_text(encoding="utf-8")) == published
    assert all(bool(options[option]) == published for option in release_links.NEEDS_ADDRESS)
