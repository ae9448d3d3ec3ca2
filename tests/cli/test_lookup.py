"""What a name on the command line leads to."""

import json

import pytest

from support.reports import report_values
from wastetune.cli.lookup import (
    find_pictures,
    lookup_study,
    model_path,
    pictures_of,
    results_of,
    study_file,
    study_name,
)
from wastetune.errors import UserError
from wastetune.storage.database import open_storage
from wastetune.storage.study import DataSource, StudyInfo, open_study, write_study_info

URL = "sqlite:///w.db"


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with a database that has the study `mine`, whose pictures are in `photos`; its file is not there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    study = open_study(open_storage(URL), "mine", {})
    data = DataSource("photos", str(tmp_path / "photos"), "d", ("box", "leaf"), {})
    source = str(tmp_path / "elsewhere" / "mine.toml")
    write_study_info(study, StudyInfo(question="", metric="macro_f1", data=data, tags={}, source=source))
    return tmp_path


def pictures(study, work, url=URL):
    return pictures_of(study, url, work / "data", work / "results")


def write_file(path, dataset):
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'dataset = "{dataset}"\nbackbone = "resnet50"\n')


def write_results(folder, **bundle):
    (folder / "bundle").mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps(report_values(study=folder.name)))
    about = {"classes": ["box", "leaf"], "input_size": 32, **bundle}
    (folder / "bundle" / "bundle.json").write_text(json.dumps(about))


def test_without_its_file_a_studys_pictures_are_those_of_its_database(work):
    assert pictures("mine", work) == work / "photos"
    assert find_pictures("mine", URL, work / "data", work / "results") == work / "photos"


def test_its_file_comes_first(work):
    (work / "others").mkdir()
    write_file(work / "studies" / "mine.toml", "others")
    assert pictures("mine", work).resolve() == work / "others"


def test_without_file_and_database_they_are_those_of_the_models_data_set(work):
    (work / "data" / "litter").mkdir(parents=True)
    write_results(work / "results" / "theirs", dataset="litter")
    assert pictures("theirs", work) == work / "data" / "litter"
    assert pictures("theirs", work, "sqlite:///none.db") == work / "data" / "litter"
    assert not (work / "none.db").exists()  # a question makes no database


def test_where_nothing_knows_them_the_files_mistake_is_told(work):
    with pytest.raises(UserError, match=r"the pictures of study 'none' are not found: .*no study named 'none'"):
        pictures("none", work)
    (work / "photos").rmdir()
    with pytest.raises(UserError, match="the pictures of study 'mine' are not found"):
        pictures("mine", work)
    with pytest.raises(UserError, match="there is no folder none, here or in "):
        find_pictures("none", URL, work / "data", work / "results")


def test_a_study_is_called_by_its_name_its_file_or_its_results(work):
    write_results(work / "results" / "mine")
    write_results(work / "others" / "mine")
    results = work / "results"
    for called in ("mine", "studies/mine.toml", "results/mine", "results/mine/", "others/mine", "./results/mine"):
        assert study_name(called) == "mine"
        assert lookup_study(called, URL).study_name == "mine"
        expected = work / ("others" if called.startswith("others") else "results") / "mine"
        assert results_of(called, results).resolve() == expected
        assert model_path(called, None, results).resolve() == expected / "bundle"


def test_its_file_is_found_by_name_by_the_database_and_by_its_report(work):
    results = work / "results"
    with pytest.raises(UserError, match="the file of study 'mine' is not found: There is no study named 'mine'"):
        study_file("mine", URL, results)
    write_results(results / "mine")
    report = report_values(study="mine", command="wastetune run --study told.toml --trials 3")
    (results / "mine" / "report.json").write_text(json.dumps(report))
    write_file(work / "told.toml", "photos")
    assert study_file("mine", URL, results) == "told.toml"
    write_file(work / "elsewhere" / "mine.toml", "photos")
    assert study_file("mine", URL, results) == str(work / "elsewhere" / "mine.toml")
    assert study_file("results/mine", URL, results) == str(work / "elsewhere" / "mine.toml")
    write_file(work / "studies" / "mine.toml", "photos")
    assert study_file("mine", URL, results) == "mine"


def test_a_study_that_is_nowhere_is_told_with_those_that_are_near(work):
    write_results(work / "results" / "mine")
    with pytest.raises(UserError, match=r"study 'mien' has no model in .*; did you mean mine"):
        model_path("mien", None, work / "results")
    with pytest.raises(UserError, match=r"there is no study database none.db"):
        lookup_study("mine", "sqlite:///none.db")
