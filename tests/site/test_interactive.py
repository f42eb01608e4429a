"""The episode player and the stepper as they stand in the page, without a browser."""

import json
import re
from html.parser import HTMLParser
from importlib import util
from pathlib import Path

import pytest
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "book" / "_ext"


def extension(name):
    spec = util.spec_from_file_location(f"book_{name}", FOLDER / f"{name}.py")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


player, stepper = extension("player"), extension("stepper")
EPISODE = json.loads((ROOT / "results" / "episode.json").read_text(encoding="utf-8"))
STEPS = json.loads((ROOT / "results" / "step-mdp.json").read_text(encoding="utf-8"))


class Elements(HTMLParser):
    """Every element with its attributes and the text in it; ``inside`` are the attributes of its parents."""

    def __init__(self, text):
        super().__init__()
        self.all, self.open = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "text": "", "inside": [e["attrs"] for e in self.open], "attrs": dict(attrs)}
        self.all.append(element)
        if tag not in ("img", "input", "wbr"):
            self.open.append(element)

    def handle_endtag(self, tag):
        if tag in ("line", "polyline"):
            return
        assert self.open.pop()["tag"] == tag

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def find(self, tag, **attrs):
        wanted = {name.replace("_", "-"): value for name, value in attrs.items()}
        wanted = {name.removesuffix("-"): value for name, value in wanted.items()}
        return [e for e in self.all if e["tag"] == tag and wanted.items() <= e["attrs"].items()]


def test_every_recorded_entry_is_in_the_page_without_javascript():
    cells = Elements(stepper.markup(STEPS)).find("td")
    found = {}
    for cell in cells:
        panel = next(a for a in cell["inside"] if a.get("class") == "stepper-panel")
        where = *(panel[f"data-{x}"] for x in ("wiring", "step", "moment")), cell["attrs"]["data-place"]
        assert (*where, cell["attrs"]["data-key"]) not in found
        found[*where, cell["attrs"]["data-key"]] = cell
    count = 0
    for wiring, rollout in STEPS["rollouts"].items():
        for step, recorded in rollout.items():
            for number, moment in enumerate(recorded["moments"]):
                for place in ("root", "next"):
                    for key, (value, mark) in moment[place].items():
                        cell = found[wiring, step, str(number), place, key]
                        assert json.loads(cell["attrs"]["data-value"]) == value
                        assert cell["attrs"]["data-mark"] == mark
                        shown = re.findall(r"−?\d+\.\d{3}|\d+|True|False", cell["text"].split("length")[0])
                        expected = [str(x) if isinstance(x, bool | int) else f"{x:.3f}" for x in value or []]
                        assert [x.replace("−", "-") for x in shown] == expected
                        count += 1
    assert [cell["attrs"]["data-place"] for cell in cells] == ["root", "next"] * (len(cells) // 2)
    heads = [head["text"] for head in Elements(stepper.markup(STEPS)).find("th", scope="col")]
    assert heads == ["entry", "root", "next"] * 30
    others = [cell for cell in cells if cell["attrs"]["data-value"] == "null"]
    assert count > 400 and len(cells) - count == sum(cell["attrs"]["data-mark"] == "" for cell in others)


def test_what_moved_or_changed_is_said_in_words():
    """Colour alone would not do."""
    for cell in Elements(stepper.markup(STEPS)).find("td"):
        words = re.sub(r"[-−–\d.\s]|True|False|length", "", cell["text"])
        assert bool(words) == bool(cell["attrs"]["data-mark"]), cell


def test_every_moment_has_its_own_words():
    said = {
        (wiring, step, n): stepper.said(n, wiring, step)
        for wiring in stepper.WIRINGS
        for step in stepper.STEPS
        for n in range(5)
    }
    panels = Elements(stepper.markup(STEPS)).find("p", class_="stepper-moment")
    assert len(panels) == len(said) == 30
    for text, moment in zip(said.values(), panels, strict=True):
        assert moment["text"].endswith(text)
    assert {text for text in said.values()} == set(stepper.SAID.values())


def test_the_page_has_the_recorded_episode_and_its_numbers():
    page = Elements(player.markup(EPISODE, "../"))
    (data,) = page.find("script", type="application/json")
    sent = json.loads(data["text"])
    assert sent == {key: EPISODE[key] for key in sent} and {"values", "truth", "readout"} <= sent.keys()
    (caption,) = page.find("div", class_="player-caption")
    for source in ("hidden", "features"):
        for key, score in EPISODE["r2"][source].items():
            assert f"{score:.2f}" in caption["text"]
            (chart,) = page.find("div", data_chart=key)
            assert f"(R² {score:.2f})" in chart["text"]
        assert str(EPISODE["inputs"][source]) in caption["text"]
    assert EPISODE["picked"] in caption["text"] and EPISODE["made"]["command"] in caption["text"]


def test_without_javascript_the_film_is_shown():
    page = Elements(player.markup(EPISODE, ""))
    (film,) = page.find("img")
    assert film["attrs"]["alt"] and (ROOT / "book" / film["attrs"]["src"]).is_file()
    (box,) = page.find("div", class_="player")
    assert (ROOT / "book" / box["attrs"]["data-pictures"]).is_file()
    (live,) = page.find("div", class_="player-live")
    assert "hidden" in live["attrs"]
    assert "hidden" in Elements(stepper.markup(STEPS)).find("div", class_="stepper-controls")[0]["attrs"]


def test_every_control_has_a_name():
    page = Elements(player.markup(EPISODE, "") + stepper.markup(STEPS))
    for button in page.find("button"):
        assert button["attrs"].get("aria-label") or button["text"].strip()
    for tag in ("input", "select"):
        for control in page.find(tag):
            parents = [e for e in page.find("label") if e["attrs"] in control["inside"]]
            assert parents and parents[0]["text"].strip()


@pytest.mark.parametrize(
    "markup", [player.markup(EPISODE, ""), stepper.markup(STEPS)], ids=["player", "stepper"]
)
def test_a_piece_needs_no_server_and_no_other_site(markup):
    links = re.findall(r"https?://[^\s\"'<]+", markup)
    assert set(links) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"\b(fetch|XMLHttpRequest|import)\s*\(", markup)
    assert 'type="module"' not in markup and len(markup) < 250_000


def test_sphinx_builds_pages_with_both(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "index.rst").write_text("Title\n=====\n\n.. episode-player::\n\n.. toctree::\n\n   deep/page\n")
    (source / "deep" / "page.rst").write_text("Page\n====\n\n.. step-mdp-stepper::\n\n.. episode-player::\n")
    folders = [source, None, tmp_path / "html", tmp_path / "trees"]
    extensions = {"extensions": ["player", "stepper"]}
    with patch_docutils(), docutils_namespace():
        Sphinx(*folders, "html", confoverrides=extensions, status=None, warningiserror=True).build()
    deep = (tmp_path / "html" / "deep" / "page.html").read_text(encoding="utf-8")
    assert stepper.markup(STEPS) in deep and player.markup(EPISODE, "../") in deep
    assert player.markup(EPISODE, "") in (tmp_path / "html" / "index.html").read_text(encoding="utf-8")
