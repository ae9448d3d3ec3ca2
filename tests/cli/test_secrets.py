"""Passwords in URLs: odd ones work, and none is ever shown."""

import subprocess
import time

import pytest

from wastetune.storage.database import hide_password, open_storage, quote_password
from wastetune.storage.records import TrialAttrs
from wastetune.storage.study import open_study
from wastetune.storage.trials import begin_trial, complete_trial

pytestmark = pytest.mark.slow

ODD = "p{a}%25:s%s@w/ö"  # as it stands in a URL: %25 is a percent sign
REAL = "p{a}%:s%s@w/ö"


@pytest.fixture(scope="module")
def protected(postgres):
    """Makes a URL of a new database for a user whose password the server really asks for."""
    secret = REAL.replace("'", "''")
    postgres.server.psql(f"CREATE ROLE secretive LOGIN SUPERUSER PASSWORD '{secret}';")
    rules = postgres.server.pgdata / "pg_hba.conf"
    rules.write_text("local all secretive scram-sha-256\n" + rules.read_text())
    postgres.server.psql("SELECT pg_reload_conf();")

    def build(password=ODD):
        return postgres.new_database().replace("postgres:@", f"secretive:{password}@")

    return build


def test_a_password_with_braces_percent_and_at_signs_opens_the_database(protected):
    study = open_study(open_storage(protected()), "mine", {})
    assert complete_trial(begin_trial(study, {}, {}, TrialAttrs()), 0.5).value == 0.5


def test_mlflow_takes_it_too(protected):
    from wastetune.storage.study import DataSource
    from wastetune.tracking.mlflow_store import open_mirror

    data = DataSource("litter", "/data", "d" * 64, ("box", "leaf"), {"train": 1, "val": 1, "test": 1})
    mirror = open_mirror(protected(), study="mine", study_id="abc", data=data, tags={})
    assert ODD not in str(mirror.client.get_run(mirror.parent).to_dictionary())


def test_no_command_shows_it(protected, run_cli, tiny_heads, tmp_path):
    url = protected()
    said = [
        run_cli("worker", "--study", tiny_heads, "--storage", url, "--timeout", 0.01),
        run_cli("status", "--study", "tiny", "--storage", url),
        run_cli("status", "--study", "tiny", "--storage", url.replace("secretive", "nobody")),
        run_cli("status", "--study", "none", "--storage", url),
        run_cli("sync", "--study", "tiny", "--storage", url, "--tracking-uri", protected("wrong" + ODD)),
        run_cli("worker", "--study", tiny_heads, WASTETUNE_STORAGE=protected("wrong" + ODD)),
        run_cli("proxy", "--storage", protected("wrong" + ODD)),
    ]
    assert [ran.returncode for ran in said] == [0, 0, 2, 2, 2, 2, 2]
    for ran in said:
        words = ran.stdout + ran.stderr
        assert len(ran.stderr.splitlines()) <= 1, ran.stderr
        assert not any(part in words for part in ("p{a}", "s%s", "w/ö", "%C3%B6"))


def test_workers_do_not_get_it_in_their_command_line(protected, start_cli, tiny_heads, mlflow_store):
    run = start_cli("run", "--study", tiny_heads, "--workers", 1, "--no-retrain", WASTETUNE_STORAGE=protected())
    seen = set()
    while run.poll() is None:
        listed = subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, text=True, check=True)
        seen |= set(listed.stdout.splitlines())
        time.sleep(0.2)
    run.communicate()
    assert run.returncode == 0
    assert any(" -m wastetune worker " in line for line in seen)
    assert not any("p{a}" in line for line in seen)


@pytest.mark.parametrize(
    ("url", "shown", "host"),
    [
        ("postgresql://me:a@b@host/x", "postgresql://me:***@host/x", "host"),
        ("postgresql://me:a/b@c@host:1/x?y=z", "postgresql://me:***@host:1/x?y=z", "host"),
        ("postgresql://me@host/x", "postgresql://me@host/x", "host"),
        ("postgresql://me:@/x?host=/tmp/a@b", "postgresql://me:***@/x?host=/tmp/a@b", None),
        ("https://me:a@b@host:1/x", "https://me:***@host:1/x", "host"),
    ],
)
def test_the_host_begins_after_the_last_at_sign(url, shown, host):
    from sqlalchemy.engine import make_url

    assert hide_password(url).replace("%2F", "/").replace("%40", "@") == shown
    assert make_url(quote_password(url)).host == host
