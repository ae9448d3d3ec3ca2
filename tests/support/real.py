"""Real photos and pretrained weights, where they are on this machine."""

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def real_data(before):
    """A folder of real data sets, such as `trashnet`."""
    return _folder(before, "WASTETUNE_DATA", "data")


@pytest.fixture(scope="session")
def real_weights(before):
    """A folder of ImageNet weights files."""
    return _folder(before, "WASTETUNE_WEIGHTS", "weights")


def _folder(before, variable, name):
    folder = Path(before.get(variable) or REPOSITORY.parent / "shared" / name)
    if not folder.is_dir():
        pytest.skip(f"there are no real {name}: set {variable} to a folder that holds them")
    return folder.resolve()
