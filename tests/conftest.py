"""Which browser there is: without one its tests are left out, and the summary says so."""

import os
import shutil

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
LEFT_OUT = pytest.StashKey[int]()


def find_browser():
    """Return the browser that TTC_CHROMIUM names, else the first on PATH, else None."""
    named = os.environ.get("TTC_CHROMIUM")
    return named or next((found for name in BROWSERS if (found := shutil.which(name))), None)


def pytest_collection_modifyitems(config, items):
    marked = [item for item in items if item.get_closest_marker("browser")]
    if marked and find_browser() is None:
        items[:] = [item for item in items if not item.get_closest_marker("browser")]
        config.hook.pytest_deselected(items=marked)
        config.stash[LEFT_OUT] = len(marked)


def pytest_terminal_summary(terminalreporter, config):
    count = config.stash.get(LEFT_OUT, 0)
    if count:
        terminalreporter.section("NO BROWSER", sep="!", red=True, bold=True)
        terminalreporter.line(f"{count} tests of the report's page did not run: there is no Chromium or Chrome here.")
        terminalreporter.line("Install one (Debian: apt-get install chromium), or name one: TTC_CHROMIUM=/path/to/it.")


@pytest.fixture(scope="session")
def browser_path():
    """Return the browser that the tests drive."""
    return find_browser()
