"""A browser and the built site on localhost; run these tests with `make browser`."""

import pytest
from browser import BROWSER, FLAGS, SITE, chapters, missing, pages
from playwright.sync_api import Page, sync_playwright
from reader import DESKTOP, looked, new_context, pictured, settle
from serve import serving


def pytest_configure():
    if line := missing():
        raise pytest.UsageError(line)


def pytest_generate_tests(metafunc):
    """Run a test for every page that its argument stands for."""
    arguments = {"name": pages, "looked_at": looked, "pictured_page": pictured, "chapter": chapters}
    for argument, names in arguments.items():
        if argument in metafunc.fixturenames:
            metafunc.parametrize(argument, names())


@pytest.fixture(scope="session")
def address():
    """Where the site is served."""
    with serving(SITE) as address:
        yield address


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def contexts(browser):
    """Browser contexts by width and theme, shared between tests: warm caches save time."""
    made = {}

    def context(width, theme):
        if (width, theme) not in made:
            made[width, theme] = new_context(browser, width, theme)
        return made[width, theme]

    return context


@pytest.fixture
def page(browser):
    """A page in a fresh browser, without cache or settings."""
    context = new_context(browser)
    yield context.new_page()
    context.close()


@pytest.fixture
def visit(contexts, address):
    """Open pages of the site; they are closed after the test."""
    opened: list[Page] = []

    def open_page(name: str, width: int = DESKTOP, theme: str = "light") -> Page:
        page = contexts(width, theme).new_page()
        opened.append(page)
        page.goto(address + name)
        settle(page)
        return page

    yield open_page
    for page in opened:
        page.close()
