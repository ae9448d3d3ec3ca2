"""Errors as one line, and what to install where a package is missing."""

import pytest

from wastetune.errors import UserError, first_line, optional_import
from wastetune.storage.database import open_storage
from wastetune.tracking.mlflow_uri import render_reason


@pytest.mark.parametrize(
    ("error", "line"),
    [(OSError("the disk is full.\nand more"), "the disk is full"), (TimeoutError(), "TimeoutError")],
)
def test_an_error_is_its_first_line_or_its_type(error, line):
    assert first_line(error) == line
    assert first_line(error, most=3) == line[:3]


def test_a_password_is_hidden_wherever_it_stands_in_a_long_line(monkeypatch):
    uri = "postgresql://me:geheim@" + "host" * 20 + "/db"
    error = OSError("x" * 170 + uri)

    def fail(*arguments):
        raise error

    monkeypatch.setattr("wastetune.storage.database._open_database", fail)
    with pytest.raises(UserError, match=r"cannot be opened: x+") as raised:
        open_storage(uri)
    assert "geheim" not in str(raised.value)
    assert "geheim" not in render_reason(error, uri)


def test_a_missing_package_is_named_with_what_installs_it():
    sentence = r"gRPC is not installed \(no grpc\); pip install 'wastetune\[grpc\]'"
    with pytest.raises(UserError, match=sentence), optional_import("gRPC", "grpc"):
        raise ImportError("no grpc")
