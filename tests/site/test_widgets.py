"""The HTML of the episode player and the stepper, without a browser."""

import json
import re
from pathlib import Path

import player
import pytest
import stepper
from bs4 import BeautifulSoup
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils
from widgets import decimal

ROOT = Path(__file__).parents[2]
EPISODE = json.loads((ROOT / "results" / "episode.json").read_text(encoding="utf-8"))
STEPS = json.loads((ROOT / "results" / "step-mdp.json").read_text(encoding="utf-8"))
MARKUP = {"player": player.markup(EPISODE, ""), "stepper": stepper.markup(STEPS)}
PLAYER, STEPPER = (BeautifulSoup(html, "html.parser") for html in MARKUP.values())


def text(element):
    return " ".join(element.get_text().split())


def test_the_stepper_holds_every_recorded_entry_without_javascript():
    cells = STEPPER.select("td")
    names = ("data-wiring", "data-step", "data-stage")
    found = {}
    for cell in cells:
        panel = cell.find_parent(class_="stepper-panel")
        found[*(panel[name] for name in names), cell["data-place"], cell["data-key"]] = cell
    assert len(found) == len(cells)
    count = 0
    for wiring, rollout in STEPS["rollouts"].items():
        for step, recorded in rollout.items():
            for number, stage in enumerate(recorded["stages"]):
                for place in ("root", "next"):
                    for key, (value, mark) in stage[place].items():
                        cell = found[wiring, step, str(number), place, key]
                        assert json.loads(cell["data-value"]) == value
                        assert cell["data-mark"] == mark
                        shown = text(cell.select_one(".stepper-value")).replace("−", "-").split()
                        expected = [f"{x:.3f}" if isinstance(x, float) else str(x) for x in value or ["–"]]
                        assert shown == expected
                        count += 1
    others = [cell for cell in cells if cell["data-value"] == "null"]
    assert count > 400 and len(cells) - count == sum(cell["data-mark"] == "" for cell in others)
    assert [text(head) for head in STEPPER.select("th[scope=col]")] == ["entry", "root", "next"] * 30


def test_a_changed_entry_is_marked_in_words():
    """Colour alone would not do."""
    for cell in STEPPER.select("td"):
        words = re.sub(r"[-−–\d.\s]|True|False|norm", "", text(cell))
        assert bool(words) == bool(cell["data-mark"]), cell


def test_every_stage_is_explained_and_every_explanation_is_used():
    panels = STEPPER.select(".stepper-stage")
    explained = {next(t for t in stepper.TEXTS.values() if text(panel).endswith(t)) for panel in panels}
    assert len(panels) == 30 and explained == set(stepper.TEXTS.values())


def test_the_player_shows_the_recorded_episode_and_its_numbers():
    sent = json.loads(PLAYER.find("script", type="application/json").string)
    assert sent == {key: EPISODE[key] for key in sent} and {"values", "truth", "readout"} <= sent.keys()
    caption = text(PLAYER.select_one(".player-caption"))
    for source in ("hidden", "features"):
        for key, score in EPISODE["r2"][source].items():
            assert f"{score:.2f}" in caption
            assert f"(R² {score:.2f})" in text(PLAYER.select_one(f"[data-chart={key}]"))
        assert str(EPISODE["inputs"][source]) in caption
    assert EPISODE["picked"] in caption and EPISODE["made"]["command"] in caption


def test_without_javascript_the_animation_is_shown_and_the_controls_are_hidden():
    film = PLAYER.find("img")
    assert film["alt"] and (ROOT / "book" / film["src"]).is_file()
    assert (ROOT / "book" / PLAYER.select_one(".player")["data-pictures"]).is_file()
    for controls in (PLAYER.select_one(".player-live"), STEPPER.select_one(".stepper-controls")):
        assert controls.has_attr("hidden")


@pytest.mark.parametrize("name", MARKUP)
def test_a_widget_needs_no_server_and_no_other_site(name):
    assert set(re.findall(r"https?://[^\s\"'<]+", MARKUP[name])) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"\b(fetch|XMLHttpRequest|import)\s*\(", MARKUP[name])
    assert 'type="module"' not in MARKUP[name] and len(MARKUP[name]) < 250_000


def test_negative_numbers_have_a_true_minus_sign():
    assert [decimal(x, 3) for x in (-0.12345, 2.0)] == ["−0.123", "2.000"]


def test_sphinx_builds_pages_with_both(tmp_path):
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "index.rst").write_text(
        "Title\n=====\n\n.. live-agent::\n\n.. episode-player::\n\n.. toctree::\n\n   deep/page\n"
    )
    (source / "deep" / "page.rst").write_text("Page\n====\n\n.. step-mdp-stepper::\n\n.. episode-player::\n")
    folders = [source, None, tmp_path / "html", tmp_path / "trees"]
    extensions = {"extensions": ["live", "player", "stepper"]}
    with patch_docutils(), docutils_namespace():
        Sphinx(*folders, "html", confoverrides=extensions, status=None, warningiserror=True).build()
    deep = (tmp_path / "html" / "deep" / "page.html").read_text(encoding="utf-8")
    assert MARKUP["stepper"] in deep and player.markup(EPISODE, "../") in deep
    index = (tmp_path / "html" / "index.html").read_text(encoding="utf-8")
    assert MARKUP["player"] in index
    assert [page.count("globalThis.recdqnValues =") for page in (index, deep)] == [1, 1]
    sheet = re.search(r'href="\.\./(_static/widgets\.css)', deep)[1]
    assert (tmp_path / "html" / sheet).is_file()
