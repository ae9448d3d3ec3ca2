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


def complaints(page, parts=None):
    """What axe-core finds wrong on a page, or on the `parts` of it that this CSS selector names: rule and element."""
    from importlib.resources import files

    pytest.importorskip("axe_playwright_python", reason="tests of accessibility need pip install '.[dev]'")
    page.evaluate((files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("parts => axe.run(parts || document)", parts)
    assert found["passes"]
    return [f"{rule['id']}: {node['html'][:200]}" for rule in found["violations"] for node in rule["nodes"]]
