"""A model on other pictures: the scores, what does not count, and what is said and written."""

import csv
import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

import wastetune
from wastetune import UserError
from wastetune.checks.evaluate import evaluate_folder
from wastetune.checks.evaluation import Evaluation, render_markdown, render_text
from wastetune.cli.main import main
from wastetune.console import open_console

DARK, BRIGHT = 60, 200
HOSTILE = "<script>window.harmed = 1</script>"


def draw(path, level, seed):
    """A picture of noise around a level of grey; another seed is another picture."""
    noise = np.random.default_rng(seed).integers(-40, 40, (12, 12, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((level + noise).astype(np.uint8)).resize((48, 48), Image.Resampling.NEAREST).save(path)


def draw_class(folder, dark, bright):
    for number in range(dark + bright):
        seed = sum(map(ord, folder.as_posix())) * 1000 + number
        draw(folder / f"{number}.png", DARK if number < dark else BRIGHT, seed)


@pytest.fixture
def photos(tmp_path):
    """Photos of dark and grey things; the model takes all of them for dark or bright ones."""
    draw_class(tmp_path / "photos" / "dark", 5, 2)
    draw_class(tmp_path / "photos" / "grey", 1, 3)
    return tmp_path / "photos"


@pytest.fixture
def evaluated(tmp_path):
    """Evaluates a model on a folder; gives the evaluation."""

    def run(model, folder, table=None, **changes):
        if isinstance(table, str):
            (tmp_path / "classes.csv").write_text(table, encoding="utf-8")
        options = {"dataset": None, "data": tmp_path / "none", "results": tmp_path / "results", "output": None}
        options |= {"table": tmp_path / "classes.csv" if table else None, "console": open_console(quiet=True)}
        return evaluate_folder(model, folder, **options | changes)[0]

    return run


def test_the_scores_are_those_of_scikit_learn_over_the_classes_that_have_pictures(brightness, photos, evaluated):
    evaluation = evaluated(brightness, photos)
    labels = np.repeat([0, 1], [7, 4])
    predicted = np.array([0] * 5 + [2] * 2 + [0] + [2] * 3)
    scores = evaluation.scores
    assert scores.accuracy == pytest.approx(accuracy_score(labels, predicted))
    for average in ("macro", "weighted"):
        precision, recall, f1, _ = precision_recall_fscore_support(
            labels, predicted, labels=[0, 1], average=average, zero_division=0
        )
        assert getattr(scores, f"precision_{average}") == pytest.approx(precision)
        assert getattr(scores, f"recall_{average}") == pytest.approx(recall)
        assert getattr(scores, f"f1_{average}") == pytest.approx(f1)
    assert scores.confusion_matrix == ((5, 0, 2), (1, 0, 3), (0, 0, 0))
    assert list(scores.per_class) == ["dark", "grey"]
    low, high = scores.intervals["f1_macro"]
    assert low < scores.f1_macro < high
    assert evaluation.absent == ("bright",)
    said = render_text(evaluation)
    assert "no pictures of bright: averages are over the classes that it has, and 5" in " ".join(said.split())
    assert "would not be recognised" in " ".join(said.split())  # the model lies alone, without a split.csv


def test_what_is_written_says_the_same_as_what_is_given(brightness, photos, evaluated, tmp_path):
    evaluation = evaluated(brightness, photos)
    folder = tmp_path / "results" / "model" / "evaluations" / "photos"
    assert sorted(path.name for path in folder.iterdir()) == [
        *("predictions.csv", "report.html", "report.json", "report.md")
    ]
    assert Evaluation.from_dict(json.loads((folder / "report.json").read_text())) == evaluation
    assert (folder / "report.md").read_text() == render_markdown(evaluation)
    with (folder / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 11
    assert (rows[6]["path"], rows[6]["true"], rows[6]["predicted"]) == ("dark/6.png", "dark", "bright")
    assert sum(float(rows[0][f"probability of {name}"]) for name in ("dark", "grey", "bright")) == pytest.approx(1)
    page = (folder / "report.html").read_text()
    for part in ("Classification report", "Confusion matrix", "Confidence", "Most confident mistakes", "6 of 11"):
        assert part in page
    assert page.count("data:image/jpeg") == 6
    assert "grey</th>" in page
    assert '<th scope="row">bright' not in page  # a class without pictures has a column, but no row


def test_classes_are_mapped_by_the_table_and_by_names_that_are_nearly_the_same(brightness, tmp_path, evaluated):
    for name in ("Da-rk", "night", "GREY", "day"):
        draw_class(tmp_path / "photos" / name, 2, 1)
    table = "folder_class,model_class\nnight,dark\nday,\ntwilight,grey\n"
    evaluation = evaluated(brightness, tmp_path / "photos", table)
    assert [(each.folder_class, each.model_class, each.evaluated) for each in evaluation.folder_classes] == [
        *[("Da-rk", "dark", 3), ("GREY", "grey", 3), ("day", None, 0), ("night", "dark", 3)]
    ]
    assert evaluation.scores.per_class["dark"].support == 6
    said = " ".join(render_text(evaluation).split())
    assert "Classes of the table: night = dark." in said
    assert "underscores: Da-rk = dark, GREY = grey." in said
    assert "Classes left out, with their pictures: day (3)." in said
    assert "In the table, but not in the folder: twilight." in said


def test_one_class_is_enough_and_a_broken_file_does_not_count(brightness, tmp_path, evaluated):
    draw_class(tmp_path / "photos" / "dark", 3, 1)
    (tmp_path / "photos" / "dark" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    evaluation = evaluated(brightness, tmp_path / "photos")
    assert evaluation.scores.accuracy == 0.75
    assert evaluation.scores.f1_macro == pytest.approx(2 * 3 / (3 + 4))
    assert [problem.path for problem in evaluation.problems] == ["dark/broken.png"]
    assert "Left out: dark/broken.png" in render_text(evaluation)


def test_where_classes_are_missing_recall_is_compared_with_the_studys_own_test(finished, evaluated, tmp_path):
    model = finished / "results" / "colours" / "bundle"
    draw_class(tmp_path / "photos" / "leaf", 2, 1)
    evaluation = evaluated(model, tmp_path / "photos", output=tmp_path / "out")
    own = json.loads((model / "bundle.json").read_text())["test"]["per_class"]["leaf"]["recall"]
    recall = evaluation.scores.per_class["leaf"].recall
    said = " ".join(render_text(evaluation).split())
    assert f"a mean recall of {own:.3f} in the same classes: here {recall:.3f} ({recall - own:+.3f})." in said


def test_a_folder_that_comes_split_is_evaluated_whole(brightness, tmp_path, evaluated):
    draw_class(tmp_path / "photos" / "TRAIN" / "dark", 3, 0)
    draw_class(tmp_path / "photos" / "TEST" / "dark", 1, 1)
    evaluation = evaluated(brightness, tmp_path / "photos")
    assert evaluation.pictures == 5
    assert "split into TRAIN and TEST; both were evaluated" in render_text(evaluation)


def test_on_the_studys_own_pictures_it_has_the_score_of_the_report(finished, evaluated, tmp_path):
    model = finished / "results" / "colours" / "bundle"
    own = json.loads((model / "bundle.json").read_text())["test"]
    evaluation = evaluated(model, finished / "data" / "drawn", output=tmp_path / "out")
    assert evaluation.scores.confusion_matrix == tuple(map(tuple, own["confusion_matrix"]))
    assert evaluation.scores.intervals == {key: tuple(span) for key, span in own["intervals"].items()}
    said = " ".join(render_text(evaluation).split())
    total = sum(map(sum, own["confusion_matrix"]))
    assert evaluation.own_test_pictures == evaluation.pictures == total
    assert f"{total} pictures are in the study's own test set" in said
    assert "here +0.000 and +0.000" in said
    assert "by hand" not in said
    after = evaluation.model_copy(update={"corrected": {"drop": 2}})
    assert "has corrected its pictures by hand (2 dropped). Here they are as the folder" in " ".join(
        render_text(after).split()
    )


@pytest.mark.parametrize("has_data", [True, False], ids=["data here", "data elsewhere"])
def test_pictures_of_training_are_left_out_and_copies_of_another_size_too(finished, evaluated, tmp_path, has_data):
    model = finished / "results" / "colours" / "bundle"
    with (finished / "results" / "colours" / "split.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    trained = [row for row in rows if row["split"] in ("train", "val")]
    (test, *_) = [row for row in rows if row["split"] == "test"]
    source, folder = finished / "data" / "drawn", tmp_path / "photos"
    for row in trained[:3]:
        (folder / row["class"]).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / row["path"], folder / row["class"] / f"copy of {row['path'].split('/')[-1]}")
    for name, row in (("near", trained[4]), ("test", test)):
        (folder / row["class"]).mkdir(parents=True, exist_ok=True)
        picture = Image.open(source / row["path"]).convert("RGB").resize((90, 90), Image.Resampling.LANCZOS)
        picture.save(folder / row["class"] / f"{name}.jpg", quality=80)
    draw(folder / "leaf" / "new.png", DARK, 1)
    evaluation = evaluated(model, folder, output=tmp_path / "out", data=finished / "data" if has_data else tmp_path)
    assert evaluation.trained == 3
    assert evaluation.near == (1 if has_data else 0)
    assert evaluation.own_test_pictures == (1 if has_data else 0)
    assert evaluation.pictures == (2 if has_data else 3)
    said = " ".join(render_text(evaluation).split())
    if has_data:
        assert "because the model was trained on them: 3 pictures and 1 near-duplicate." in said
    else:
        assert "because the model was trained on them: 3 pictures." in said
        assert "only exact copies" in said


def test_where_all_is_known_nothing_is_left(finished, evaluated, tmp_path):
    with (finished / "results" / "colours" / "split.csv").open(newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["split"] == "train")
    (tmp_path / "photos" / row["class"]).mkdir(parents=True)
    shutil.copy(finished / "data" / "drawn" / row["path"], tmp_path / "photos" / row["class"])
    with pytest.raises(UserError, match="trained on 1 of its 1 pictures"):
        evaluated(finished / "results" / "colours" / "bundle", tmp_path / "photos", output=tmp_path / "out")


def test_another_report_is_not_overwritten(brightness, photos, evaluated, tmp_path):
    evaluated(brightness, photos, output=tmp_path / "out")
    evaluated(brightness, photos, output=tmp_path / "out")  # the same folder again
    draw_class(tmp_path / "others" / "photos" / "dark", 1, 0)
    with pytest.raises(UserError, match=r"has the evaluation of .*photos, which would be lost; .*--output"):
        evaluated(brightness, tmp_path / "others" / "photos", output=tmp_path / "out")
    (tmp_path / "out" / "report.json").write_text('{"study": "mine"}')
    with pytest.raises(UserError, match="has another report, which would be lost"):
        evaluated(brightness, photos, output=tmp_path / "out")


def test_the_command_prints_the_report_and_a_mistake_is_one_sentence(brightness, photos, tmp_path):
    def invoke(*arguments):
        return CliRunner().invoke(main, ["evaluate", "--bundle", str(brightness), *map(str, arguments)])

    done = invoke(photos, "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert "model.onnx on photos" in lines
    assert any(line.split() == ["dark", "0.833", "0.714", "0.769", "7"] for line in lines)
    assert lines[-1].startswith(f"Written to {tmp_path / 'out'}: ")
    (photos / "dark").rename(photos / "shade")
    done = invoke(photos)
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert "does not know 'shade', only 'dark', 'grey', 'bright'" in line


def test_from_python_it_gives_the_content_of_report_json(brightness, photos, tmp_path):
    given = wastetune.evaluate(brightness, photos, output=tmp_path / "out", quiet=True)
    assert given == json.loads((tmp_path / "out" / "report.json").read_text())
    assert given["scores"]["per_class"]["dark"]["support"] == 7


@pytest.mark.parametrize("width", [400, 1400])
def test_a_browser_shows_it_without_complaint_or_overflow(browser, brightness, photos, evaluated, tmp_path, width):
    (photos / "grey").rename(photos / HOSTILE.replace("/", "⁄"))
    table = f"folder_class,model_class\n{HOSTILE.replace('/', '⁄')},grey\n"
    evaluated(brightness, photos, table, output=tmp_path / "out")
    page = browser.new_page(viewport={"width": width, "height": 900})
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((tmp_path / "out" / "report.html").as_uri())
    assert said == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("window.harmed") is None
    assert page.locator("svg circle.winner").count() > 0
    page.close()
