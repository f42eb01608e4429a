"""Search finds the pages that explain a term."""

import pytest

# A term, and a page that must be among the results.
TERMS = {
    "hidden state": "chapters/03-hidden-state.html",
    "LSTM": "chapters/02-policy.html",
    "burn-in": "chapters/04-loss.html",
    "epsilon": "chapters/02-policy.html",
    "SliceSampler": "chapters/05-training-loop.html",
    "InitTracker": "chapters/01-transforms.html",
    "diagnose": "field-guide.html",
    "checkpoint": "when-things-go-wrong.html",
    "RecurrentDQNLoss": "reference/loss.html",
    "recdqn train": "reference/cli.html",
}


@pytest.mark.parametrize("term", TERMS)
def test_search(visit, address, term):
    page = visit("search.html")
    field = page.locator("input[name=q]:visible").first
    field.fill(term)
    field.press("Enter")
    page.wait_for_url("**/search.html?q=*")
    page.locator("#search-results li").first.wait_for()
    page.wait_for_function("document.querySelector('.search-summary')?.textContent.includes('finished')")
    found = page.eval_on_selector_all("#search-results li > a", "links => links.map(link => link.href)")
    found = [link.removeprefix(address).partition("?")[0].partition("#")[0] for link in found]
    assert TERMS[term] in found, found


def test_search_dialog(visit):
    """The field that opens on every page leads to the results."""
    page = visit("chapters/03-hidden-state.html")
    page.keyboard.press("Control+k")
    page.locator("#pst-search-dialog input").fill("primer")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=primer*")
    page.locator("#search-results li").first.wait_for()


def test_nothing_found(visit):
    page = visit("search.html?q=zyzzyva")
    page.wait_for_function("document.querySelector('.search-summary')?.textContent.includes('did not match')")
    assert page.locator(".search-help:visible a").count() >= 4  # what else to try
    page = visit("search.html?q=primer")
    page.locator("#search-results li").first.wait_for()
    assert page.locator(".search-help:visible").count() == 0


def test_results_show_the_text_of_a_page(visit):
    """Not its buttons, or its list of contents, which is part of every page for printing."""
    page = visit("search.html?q=hidden+state")
    page.locator("#search-results li p.context").first.wait_for()
    page.wait_for_function("document.querySelector('.search-summary')?.textContent.includes('finished')")
    shown = page.locator("#search-results p.context").all_inner_texts()
    assert shown and [text for text in shown if "Contents" in text or "Suggest edit" in text] == []
