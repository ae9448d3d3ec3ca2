"""The system's own Chromium, headless."""

import shutil

import pytest

# As root, in a container, without a graphics card, and without asking anybody for anything.
CHROMIUM = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]


@pytest.fixture(scope="session")
def browser():
    """A Playwright Browser: headless, and the system's own Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="browser tests need pip install '.[dev]'")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("there is no chromium, chromium-browser or google-chrome here")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=CHROMIUM)
        yield browser
        browser.close()
