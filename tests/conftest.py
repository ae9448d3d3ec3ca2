"""Fixtures for all tests; they are defined in `support/`."""

import gc
import os
import signal

import pytest

from wastetune.settings import SETTINGS

pytest_plugins = [
    "support.browser",
    "support.migrations",
    "support.mlflow_store",
    "support.models",
    "support.postgres",
    "support.processes",
    "support.real",
    "support.studies",
]


OURS = (*(setting.variable for setting in SETTINGS), "WASTETUNE_PARENT", "WASTETUNE_END")


@pytest.fixture(scope="session", autouse=True)
def before(once):
    """The environment before the tests took a developer's settings out of it and named a cache of their own.

    All processes of this run of the tests share the cache, as those of a user do.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in what a shell starts in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.MonkeyPatch.context() as patch:
        environment = dict(os.environ)
        for name in OURS:
            patch.delenv(name, raising=False)
        patch.setenv("WASTETUNE_CACHE", str(once("cache", lambda folder: None)))
        patch.setenv("KERAS_BACKEND", environment.get("KERAS_BACKEND", "tensorflow"))
        patch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        yield environment


def pytest_collection_finish():
    """Collects garbage rarely: Keras and TensorFlow leave millions of objects, which each collection would visit."""
    gc.freeze()
    gc.set_threshold(10_000, 50, 100)


def pytest_collection_modifyitems(items):
    """Marks tests by the fixtures that they use; `slow` stands where a test or a module is slow.

    A test that takes minutes comes first, so that no process is left alone with it at the end.
    """
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
    for item in items:
        used = set(getattr(item, "fixturenames", ()))
        if "postgres" in used or "postgresql" in item.nodeid:
            item.add_marker("postgres")
        if "browser" in used:
            item.add_marker("browser")
