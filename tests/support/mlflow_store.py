"""An empty MLflow store, whose tables are created once."""

import shutil

import pytest


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("mlflow") / "empty.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()  # creating the tables takes seconds, so once for all
    return file


@pytest.fixture
def mlflow_store(empty_store, tmp_path):
    """The URI of an empty MLflow store, at the place in the working folder `tmp_path` where wastetune looks for it."""
    file = tmp_path / "mlruns" / "mlflow.db"
    file.parent.mkdir()
    shutil.copyfile(empty_store, file)
    return f"sqlite:///{file}"
