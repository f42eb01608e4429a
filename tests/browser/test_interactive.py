"""The stepper and the player respond to clicks and keys, and the player shows the recorded numbers."""

import json

import pytest
from browser import ROOT
from playwright.sync_api import expect

STEPS = json.loads((ROOT / "results" / "step-mdp.json").read_text(encoding="utf-8"))["rollouts"]
EPISODE = json.loads((ROOT / "results" / "episode.json").read_text(encoding="utf-8"))
AGENTS = {"kept": EPISODE, "wiped": EPISODE["wiped"]}
SIDES = ("left", "right")


def number(text):
    """Return the number in a text with a true minus sign."""
    return float(text.replace("−", "-"))


def test_stepper(visit):
    """Every choice and click shows the right table and announces it; the tables' numbers need no browser."""
    page = visit("chapters/03-hidden-state.html")
    box = page.locator(".stepper")
    previous, following = box.locator("[data-go=previous]"), box.locator("[data-go=next]")
    for wiring, rollout in STEPS.items():
        for step, recorded in rollout.items():
            box.locator(f"input[data-choose=wiring][value={wiring}]").check()
            box.locator(f"input[data-choose=step][value={step}]").check()
            last = len(recorded["stages"]) - 1
            for index, stage in enumerate(recorded["stages"]):
                panel = box.locator(".stepper-panel:visible")
                expect(panel).to_have_count(1)
                for name, value in (("wiring", wiring), ("step", step), ("stage", str(index))):
                    expect(panel).to_have_attribute(f"data-{name}", value)
                expect(panel).to_contain_text(stage["name"])
                if index:  # the first table is not announced
                    expect(box.locator("[role=status]")).to_contain_text(stage["name"])
                if index < last:
                    following.click()
            expect(following).to_have_attribute("aria-disabled", "true")
            for _ in range(last):
                previous.click()
            expect(previous).to_have_attribute("aria-disabled", "true")


def test_stepper_keys(visit):
    page = visit("chapters/03-hidden-state.html")
    box = page.locator(".stepper")
    following = box.locator("[data-go=next]")
    following.press("Enter")
    following.press(" ")
    expect(box).to_have_attribute("data-stage", "2")
    following.press("ArrowLeft")
    expect(box).to_have_attribute("data-stage", "1")
    following.press("End")
    expect(box).to_have_attribute("data-stage", "4")
    following.press("Home")
    expect(box).to_have_attribute("data-stage", "0")
    box.locator("input[value=right]").focus()
    page.keyboard.press("ArrowDown")
    expect(box).to_have_attribute("data-wiring", "same")


def check_player(box, step):
    """Compare what the player shows with the record of a step."""
    shown = box.evaluate(
        "box => Object.fromEntries([...box.querySelectorAll('[data-show]')]"
        ".map(part => [part.dataset.show, part.textContent]))"
    )
    shown = {name: number(text) for name, text in shown.items() if text.strip()}
    assert shown["step"] == step
    for agent, played in AGENTS.items():
        at = min(step, played["steps"] - 1)
        left, right = played["values"][at]
        expected = {"left": left, "right": right, "difference": right - left}
        for what, value in expected.items():
            assert shown[f"{agent}-{what}"] == pytest.approx(value, abs=5.1e-4)
        part = box.locator(f"[data-agent={agent}]")
        if step < played["steps"]:
            expect(part.locator(".taken")).to_have_attribute("data-side", SIDES[played["actions"][at]])
        else:
            expect(part.locator(".player-state")).to_have_text(f"fell after {played['steps']} steps")
        check_picture(part.locator(".player-picture"), at + (agent == "wiped") * EPISODE["steps"])
    for velocity in ("cart", "pole"):
        for what in ("truth", "readout", "single"):
            assert shown[f"{velocity}-{what}"] == pytest.approx(EPISODE[what][velocity][step], abs=5.1e-3)
    for unit, value in enumerate(EPISODE["hidden"][step]):
        assert shown[f"unit-{unit}"] == pytest.approx(value, abs=5.1e-3)
    expect(box).to_have_attribute("data-action", SIDES[EPISODE["actions"][step]])


def check_picture(picture, cell):
    """Compare the picture's place in the sheet, in percent of what sticks out of the frame."""
    columns = EPISODE["columns"]
    rows = -(-(EPISODE["steps"] + EPISODE["wiped"]["steps"]) // columns)
    at = picture.evaluate("picture => getComputedStyle(picture).backgroundPosition")
    x, y = (float(part.rstrip("%")) for part in at.split())
    assert x * (columns - 1) / 100 == pytest.approx(cell % columns, abs=1e-2)
    assert y * (rows - 1) / 100 == pytest.approx(cell // columns, abs=1e-2)


def test_player(visit):
    page = visit("intro.html")
    box = page.locator(".player")
    expect(box).to_have_attribute("data-playing", "false")  # nothing moves by itself
    check_player(box, 0)
    for step in (1, 2, 3):
        box.locator("[data-go=next]").click()
        check_player(box, step)
    box.locator("[data-go=previous]").click()
    check_player(box, 2)
    slider = box.locator("input[type=range]")
    for step in (99, 100, 250, EPISODE["steps"] - 1):
        slider.fill(str(step))
        check_player(box, step)
        status = box.locator("[role=status]")
        expect(status).to_contain_text(f"Step {step}: {SIDES[EPISODE['actions'][step]]} taken")


def test_a_click_on_a_chart_goes_to_its_step(visit):
    page = visit("intro.html")
    box = page.locator(".player")
    for count, chart in enumerate(
        (*box.locator(".player-plot svg").all(), box.locator(".player-unit svg").first)
    ):
        chart.scroll_into_view_if_needed()
        place = chart.bounding_box()
        share = 0.205 + 0.1 * count
        chart.click(position={"x": share * place["width"], "y": place["height"] / 2})
        check_player(box, int(100 * share))


def test_player_keys(visit):
    page = visit("intro.html")
    box = page.locator(".player")
    slider = box.locator("input[type=range]")
    slider.focus()
    for key, step in (
        ("End", EPISODE["steps"] - 1),
        ("ArrowLeft", EPISODE["steps"] - 2),
        ("Home", 0),
        ("ArrowRight", 1),
    ):
        page.keyboard.press(key)
        check_player(box, step)
    check = box.locator("input[type=checkbox]")
    check.press(" ")
    expect(check).to_be_checked()
    expect(box.locator(".player-of-single").first).to_be_visible()


def test_player_plays(visit):
    page = visit("intro.html")
    box = page.locator(".player")
    box.locator("select").select_option("50")
    play = box.locator("[data-go=play]")
    play.press("Enter")
    expect(box).to_have_attribute("data-playing", "true")
    expect(play).to_have_text("Pause")
    page.wait_for_function("+document.querySelector('.player').dataset.step > 5")
    play.press("Enter")
    expect(box).to_have_attribute("data-playing", "false")
    check_player(box, int(box.get_attribute("data-step")))


def test_a_solution_opens_from_anywhere_in_its_bar(visit, chapter):
    page = visit(chapter)
    bars = page.locator("article div.solution > .admonition-title")
    assert bars.count() > 0
    for bar in bars.all():
        box = bar.bounding_box()
        for place, opened in ((0.05, "true"), (0.3, "false"), (0.95, "true")):
            bar.click(position={"x": place * box["width"], "y": box["height"] / 2})
            expect(bar.locator(".toggle-button")).to_have_attribute("aria-expanded", opened)
