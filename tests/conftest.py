"""Fixtures for all tests; they are defined in `support/`."""

import os
import signal

import pytest

pytest_plugins = [
    "support.browser",
    "support.mlflow_store",
    "support.models",
    "support.postgres",
    "support.processes",
    "support.real",
    "support.studies",
]


OURS = (
    "WASTETUNE_DATA",
    "WASTETUNE_WEIGHTS",
    "WASTETUNE_STORAGE",
    "WASTETUNE_CACHE_GB",
    "WASTETUNE_LEASE",
    "WASTETUNE_PARENT",
    "WASTETUNE_RUNTIME",
    "MLFLOW_TRACKING_URI",
)


@pytest.fixture(scope="session", autouse=True)
def before(tmp_path_factory):
    """The environment before the tests took a developer's settings out of it and named a cache of their own."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in what a shell starts in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.MonkeyPatch.context() as patch:
        environment = dict(os.environ)
        for name in OURS:
            patch.delenv(name, raising=False)
        patch.setenv("WASTETUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("KERAS_BACKEND", environment.get("KERAS_BACKEND", "tensorflow"))
        patch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        yield environment
