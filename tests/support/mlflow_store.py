"""An empty MLflow store, whose tables are created once."""

import shutil

import pytest


@pytest.fixture(scope="session")
def empty_store(once):
    def write(folder):
        from mlflow import MlflowClient

        MlflowClient(f"sqlite:///{folder / 'empty.db'}").search_experiments()

    return once("mlflow", write) / "empty.db"  # creating the tables takes seconds


@pytest.fixture
def mlflow_store(empty_store, tmp_path):
    """The URI of an empty MLflow store, at the place in the working folder `tmp_path` where wastetune looks for it."""
    file = tmp_path / "mlruns" / "mlflow.db"
    file.parent.mkdir()
    shutil.copyfile(empty_store, file)
    return f"sqlite:///{file}"
