"""A study is exact and loses nothing while its workers and its database are struck; the short form of `make chaos`."""

from chaos import run_chaos


def test_a_study_under_blows_ends_exact_and_whole(url, tmp_path, pictures, mlflow_store, request):
    (tmp_path / "pictures").symlink_to(pictures)
    postgres = request.getfixturevalue("postgres") if url.startswith("postgresql") else None
    done, wrong = run_chaos(tmp_path, url, mlflow_store, postgres, trials=12, seed=1, minutes=3)
    assert wrong == []
    assert done["finished"] == 12
    assert sum(done[blow] for blow in ("kill", "pause", "term", "restart", "away")) > 0
