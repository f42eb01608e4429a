"""The live agent in a browser: it loads on sight, and does what its buttons and keys say."""

import json

import pytest
from playwright.sync_api import expect

# Counts calls of what draws and of what makes the browser compute styles or layout.
COUNTED = """
window.calls = {};
for (const [owner, ...names] of [
  [CanvasRenderingContext2D.prototype, "clearRect", "fillRect", "putImageData"],
  [Element.prototype, "querySelector", "querySelectorAll", "getBoundingClientRect"],
  [window, "getComputedStyle"],
]) {
  for (const name of names) {
    const real = owner[name];
    owner[name] = function (...given) {
      calls[name] = (calls[name] ?? 0) + 1;
      return real.apply(this, given);
    };
  }
}
"""
READY = "name => document.querySelector('.live').dataset.loaded === name"


@pytest.fixture
def live(visit):
    page = visit("intro.html")
    box = page.locator(".live")
    box.scroll_into_view_if_needed()
    page.wait_for_function(READY, arg="masked")
    return box


def data(box):
    return box.evaluate("box => ({...box.dataset})")


def test_nothing_moves_by_itself_and_a_click_is_one_step(live):
    expect(live).to_have_attribute("data-playing", "false")  # this reader prefers less motion
    assert data(live)["steps"] == "0"
    live.locator("[data-do=right]").click()
    assert data(live)["steps"] == "1"
    expect(live.locator("[role=status]")).to_have_text("Pushed to the right.")
    live.locator("[data-do=left]").press("ArrowRight")
    assert data(live)["steps"] == "2"
    live.locator("[data-do=again]").click()
    assert data(live)["steps"] == "0"


def test_it_stands_and_falls_where_its_memory_is_wiped_at_every_step(live):
    live.locator("[data-do=play]").click()
    live.page.wait_for_function("+document.querySelector('.live').dataset.steps > 150")
    assert data(live)["falls"] == "0"
    live.locator("[data-set=wiping]").check()
    live.page.wait_for_function("+document.querySelector('.live').dataset.falls > 0")
    expect(live.locator("[role=status]")).to_contain_text("The pole fell after")
    live.locator("[data-do=play]").press("Enter")
    expect(live).to_have_attribute("data-playing", "false")


def test_a_wiped_memory_shows_in_the_q_values(live):
    live.locator("[data-do=play]").click()
    live.page.wait_for_function("+document.querySelector('.live').dataset.steps > 20")
    live.locator("[data-do=play]").click()
    kept = data(live)["qLeft"]
    live.locator("[data-do=wipe]").click()
    assert abs(float(data(live)["qLeft"]) - float(kept)) > 1e-3
    live.locator("[data-do=hide]").click()
    expect(live.locator(".live-eye p")).to_have_text("sees nothing")
    assert data(live)["seen"] == "hidden"


def test_a_new_theme_paints_it_anew(live):
    """Also while nothing moves."""
    paint = "box => box.querySelector('.live-scene').toDataURL()"
    light = live.evaluate(paint)
    live.page.evaluate("document.documentElement.dataset.theme = 'dark'")
    live.page.wait_for_function(f"before => ({paint})(document.querySelector('.live')) !== before", arg=light)


@pytest.mark.parametrize("agent", ["pixel", "none", "leak", "primer"])
def test_every_agent_can_be_chosen(live, agent):
    live.locator("select").select_option(agent)
    live.page.wait_for_function(READY, arg=agent)
    live.locator("[data-do=right]").click()
    values = live.evaluate("box => [box.dataset.qLeft, box.dataset.qRight].map(Number)")
    assert all(abs(value) < 10 for value in values) and data(live)["steps"] == "1"
    picture = live.locator(".live-eye canvas")
    if agent == "pixel":
        expect(picture).to_be_visible()
        pixels = picture.evaluate(
            "canvas => JSON.stringify([...canvas.getContext('2d').getImageData(0, 0, 84, 84).data])"
        )
        shades = json.loads(pixels)[::4]
        assert min(shades) < 20 and max(shades) == 255 and shades.count(255) > 84 * 84 / 2
    else:
        expect(picture).to_be_hidden()
    if agent == "none":
        expect(live.locator("[data-set=wiping]")).to_be_disabled()


@pytest.mark.parametrize("agent", ["masked", "pixel"])
def test_a_second_is_fifty_steps_and_little_work(browser, address, agent):
    """Each step is drawn once; numbers change twelve times a second; no styles are read between."""
    context = browser.new_context(reduced_motion="reduce")
    page = context.new_page()
    page.add_init_script(COUNTED)
    page.clock.install(time=0)
    page.goto(address + "intro.html")
    box = page.locator(".live")
    box.scroll_into_view_if_needed()
    page.wait_for_function(READY, arg="masked", polling=50)
    box.locator("select").select_option(agent)
    page.wait_for_function(READY, arg=agent, polling=50)
    page.clock.pause_at(60_000)
    box.locator("[data-do=play]").click()
    metrics = context.new_cdp_session(page)
    metrics.send("Performance.enable")

    def layouts():
        return {x["name"]: x["value"] for x in metrics.send("Performance.getMetrics")["metrics"]}[
            "LayoutCount"
        ]

    before = layouts()
    page.evaluate("window.calls = {}")
    page.clock.run_for(1000)  # a frame every 16 ms
    calls = page.evaluate("calls")
    assert 45 <= int(data(box)["steps"]) <= 50 and 48 <= calls["clearRect"] // 2 <= 50
    pictures = calls.pop("putImageData", 0)
    assert pictures == (calls["clearRect"] // 2 if agent == "pixel" else 0)
    assert calls.pop("fillRect") <= (3 + 64) * 50  # scene and memory
    assert list(calls) == ["clearRect"] and layouts() - before <= 12
    context.close()


# Where the rows of the live agent lie, in every frame since they are there.
PLACES = """
window.places = new Set();
(function look() {
  const box = document.querySelector('.live');
  const all = box?.dataset.live === undefined ? [] : box.querySelectorAll('.live-body > div, .live-caption');
  const place = row => Math.round(row.getBoundingClientRect().top - box.getBoundingClientRect().top);
  if (all.length) places.add([...all].map(place).join());
  requestAnimationFrame(look);
})();
"""


@pytest.mark.parametrize("width", [360, 390, 412, 768, 1280])
def test_no_row_of_it_moves(browser, address, width):
    """While the agent loads, plays, counts its steps and is paused."""
    context = browser.new_context(viewport={"width": width, "height": 820}, is_mobile=width < 500)
    page = context.new_page()
    page.add_init_script(PLACES)
    page.goto(address + "intro.html")
    page.locator(".live").scroll_into_view_if_needed()
    page.wait_for_function("+document.querySelector('.live').dataset.steps > 120")
    page.locator("[data-do=play]").click()
    expect(page.locator("[data-do=play]")).to_have_text("Play")
    page.evaluate("() => new Promise(requestAnimationFrame)")
    assert len(page.evaluate("[...places]")) == 1, page.evaluate("[...places]")
    context.close()


def test_weights_are_loaded_on_sight(browser, address):
    """A window too low to show the agent loads none of its files."""
    context = browser.new_context(viewport={"width": 800, "height": 60}, reduced_motion="reduce")
    page = context.new_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address + "intro.html")
    page.wait_for_selector(".live[data-live]", state="attached")
    assert not [url for url in asked if "/live/" in url]
    page.set_viewport_size({"width": 800, "height": 900})
    page.wait_for_function(READY, arg="masked")
    assert sorted(url.rsplit("/", 1)[1] for url in asked if "/live/" in url) == [
        "cartpole.js", "masked.js", "network.js",
    ]  # fmt: skip
    context.close()


def test_without_scripts_there_is_the_film(browser, address):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address + "intro.html")
    expect(page.locator(".live noscript img, .live > img").first).to_be_visible()
    expect(page.locator(".live-body")).to_be_hidden()
    context.close()
