"""What a name on the command line leads to."""

import pytest

from wastetune.cli.lookup import pictures_of
from wastetune.errors import UserError
from wastetune.storage.database import open_storage
from wastetune.storage.study import DataSource, StudyInfo, open_study, write_study_info


@pytest.fixture
def url(tmp_path, monkeypatch):
    """A database with the study `mine`, whose pictures are in `photos`; its file is not there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    study = open_study(open_storage("sqlite:///w.db"), "mine", {})
    data = DataSource("photos", str(tmp_path / "photos"), "d", ("box", "leaf"), {})
    write_study_info(study, StudyInfo(question="", metric="macro_f1", data=data, tags={}))
    return "sqlite:///w.db"


def test_without_its_file_a_studys_pictures_are_those_of_its_database(url, tmp_path):
    assert pictures_of("mine", url, tmp_path / "data") == tmp_path / "photos"


def test_its_file_comes_first(url, tmp_path):
    (tmp_path / "others").mkdir()
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "mine.toml").write_text('dataset = "others"\nbackbone = "resnet50"\n')
    assert pictures_of("mine", url, tmp_path / "data").resolve() == tmp_path / "others"


def test_where_neither_knows_the_files_mistake_is_told(url, tmp_path):
    with pytest.raises(UserError, match="no study named 'none'"):
        pictures_of("none", url, tmp_path / "data")
    (tmp_path / "photos").rmdir()
    with pytest.raises(UserError, match="no study named 'mine'"):
        pictures_of("mine", url, tmp_path / "data")
