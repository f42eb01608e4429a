"""The stepper and the player are clicked through, and show the numbers of the recorded rollouts."""

import json

import pytest
from browser import ROOT
from playwright.sync_api import expect

STEPS = json.loads((ROOT / "results" / "step-mdp.json").read_text(encoding="utf-8"))["rollouts"]
EPISODE = json.loads((ROOT / "results" / "episode.json").read_text(encoding="utf-8"))
SIDES = ("left", "right")


def numbers(text):
    """The numbers and truth values that a reader sees, a real minus sign being one."""
    words = {"True": True, "False": False}
    return [
        words[word] if word in words else float(word)
        for word in text.replace("−", "-").split()
        if word != "–"
    ]


@pytest.mark.parametrize("step", ["inside", "end"])
@pytest.mark.parametrize("wiring", ["right", "same", "new"])
def test_stepper(visit, wiring, step):
    page = visit("chapters/03-hidden-state.html")
    box = page.locator(".stepper")
    for what, value in (("wiring", wiring), ("step", step)):
        box.locator(f"input[data-choose={what}][value={value}]").check()
    previous, following = box.locator("[data-go=previous]"), box.locator("[data-go=next]")
    moments = STEPS[wiring][step]["moments"]
    assert len(moments) == 5
    for number, moment in enumerate(moments):
        panel = box.locator(".stepper-panel:visible")
        expect(panel).to_have_count(1)
        expect(panel).to_contain_text(moment["moment"])
        if number:  # at first nothing has changed, so nothing is said
            expect(box.locator("[role=status]")).to_contain_text(moment["moment"])
        shown = panel.locator("td").evaluate_all(
            "cells => cells.map(c => [c.dataset.place, c.dataset.key, c.dataset.mark,"
            " c.querySelector('.stepper-value').textContent])"
        )
        seen = {(place, key): (numbers(text), mark) for place, key, mark, text in shown}
        for (place, key), (values, mark) in seen.items():
            recorded, became = moment[place].get(key) or ([], "")
            assert values == pytest.approx(recorded or [], abs=5.1e-4), (number, place, key)
            assert mark == became
        missing = {(place, key) for place in ("root", "next") for key in moment[place]} - set(seen)
        assert missing == set()
        if number < 4:
            following.click()
    expect(following).to_have_attribute("aria-disabled", "true")
    for _ in range(4):
        previous.click()
    expect(box).to_have_attribute("data-moment", "0")


def test_stepper_keys(visit):
    page = visit("chapters/03-hidden-state.html")
    box = page.locator(".stepper")
    following = box.locator("[data-go=next]")
    following.press("Enter")
    following.press(" ")
    expect(box).to_have_attribute("data-moment", "2")
    following.press("ArrowLeft")
    expect(box).to_have_attribute("data-moment", "1")
    following.press("End")
    expect(box).to_have_attribute("data-moment", "4")
    following.press("Home")
    expect(box).to_have_attribute("data-moment", "0")
    box.locator("input[value=right]").focus()
    page.keyboard.press("ArrowDown")
    expect(box).to_have_attribute("data-wiring", "same")


def check_player(box, step):
    """Compare what the player shows with the record of a step."""
    shown = box.evaluate(
        "box => Object.fromEntries([...box.querySelectorAll('[data-show]')]"
        ".map(part => [part.dataset.show, part.textContent]))"
    )
    shown = {name: numbers(text)[0] for name, text in shown.items() if text.strip()}
    assert shown["step"] == step
    for side, value in zip(SIDES, EPISODE["values"][step], strict=True):
        assert shown[f"q-{side}"] == pytest.approx(value, abs=5.1e-4)
    for velocity in ("cart", "pole"):
        for what in ("truth", "readout", "single"):
            assert shown[f"{velocity}-{what}"] == pytest.approx(EPISODE[what][velocity][step], abs=5.1e-3)
    for unit, value in enumerate(EPISODE["hidden"][step]):
        assert shown[f"unit-{unit}"] == pytest.approx(value, abs=5.1e-3)
    action = SIDES[EPISODE["actions"][step]]
    expect(box).to_have_attribute("data-action", action)
    expect(box.locator(".player-q.taken")).to_have_attribute("data-side", action)
    expect(box.locator(f"[data-side={action}] .player-taken")).to_be_visible()
    # The picture: the step's place in the sheet, in percent of what sticks out of the frame.
    columns = EPISODE["columns"]
    rows = -(-EPISODE["steps"] // columns)
    at = box.locator(".player-picture").evaluate("picture => getComputedStyle(picture).backgroundPosition")
    x, y = (float(part.rstrip("%")) for part in at.split())
    assert x * (columns - 1) / 100 == pytest.approx(step % columns, abs=1e-2)
    assert y * (rows - 1) / 100 == pytest.approx(step // columns, abs=1e-2)


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
