"""Alembic's scripts, which Optuna and MLflow read again for each database that they open, read once in a process."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def _scripts_read_once():
    """Reading them takes 0.1 s for each new database, of which the tests open hundreds; the files do not change."""
    from alembic.script import ScriptDirectory

    read, known = ScriptDirectory.from_config.__func__, {}

    def from_config(cls, config):
        place = config.get_main_option("script_location")
        if place not in known:
            known[place] = read(cls, config)
        return known[place]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScriptDirectory, "from_config", classmethod(from_config))
        yield
