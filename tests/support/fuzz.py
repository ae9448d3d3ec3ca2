"""Fuzzing that is the same each time: FUZZ_TIMES=100 in the environment looks a hundred times as long."""

import os
from contextlib import contextmanager

import pytest

from wastetune.errors import UserError

hypothesis = pytest.importorskip("hypothesis", reason="needs pip install '.[dev]'")


def examples(count):
    """The settings of a test of so many examples."""
    return hypothesis.settings(
        max_examples=count * int(os.environ.get("FUZZ_TIMES", "1")),
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )


@contextmanager
def or_one_sentence(*starts):
    """What is inside ends well, or with a UserError of one line that begins with one of these words, if any."""
    try:
        yield
    except UserError as error:
        sentence = str(error)
        assert sentence.startswith(starts or "")
        assert "\n" not in sentence
