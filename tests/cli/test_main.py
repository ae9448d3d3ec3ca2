"""The commands as a person meets them: help with an example, one sentence for each mistake, plain output."""

import csv
import errno
import subprocess
import sys

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from wastetune.cli.main import main
from wastetune.datasets.catalog import KNOWN_DATASETS
from wastetune.tuning.spec import study_names

HEAVY = {
    "keras",
    "tensorflow",
    "optuna",
    "mlflow",
    "sklearn",
    "pandas",
    "numpy",
    "PIL",
    "cv2",
    "matplotlib",
    "sqlalchemy",
}


def commands(command=main, path=()):
    yield path
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, (*path, name))


@pytest.fixture
def tiny_study(tmp_path, tiny_mobilenet):
    """Writes a study like the tiny one of MobileNet with some lines changed; gives its path."""

    def write(**changes):
        lines = [line for line in tiny_mobilenet.read_text().splitlines() if line.split(" = ")[0] not in changes]
        path = tmp_path / "mine.toml"
        path.write_text("\n".join([*lines, *(f"{key} = {value}" for key, value in changes.items())]))
        return path

    return write


@pytest.fixture
def complaint(tmp_path, monkeypatch):
    """What a command line that cannot work says on stderr, in this process because TensorFlow is slow to import."""

    def complain(*arguments, **environment):
        monkeypatch.chdir(tmp_path)
        done = CliRunner(env=environment).invoke(main, list(map(str, arguments)))
        assert done.exit_code == 2, done.output + repr(done.exception)
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ")
        return line

    return complain


@pytest.mark.parametrize("path", list(commands()), ids=" ".join)
def test_every_command_has_help_with_an_example_of_itself(path):
    command = main
    for name in path:
        command = command.get_command(click.Context(command), name)
    # A command keeps the help option that it is first asked for.
    names = {"help_option_names": ["-h", "--help"]}
    text = command.get_help(
        click.Context(command, info_name=" ".join(("wastetune", *path)), max_content_width=100, **names)
    )
    _, _, example = text.partition("Example:")
    assert " ".join(("wastetune", *path)) in example.split("Options:")[0]
    assert all(len(line) <= 100 for line in text.splitlines())
    options = [param for param in command.params if isinstance(param, click.Option)]
    assert all(option.help for option in options)


@pytest.mark.parametrize("path", [(), ("run",), ("data", "check")], ids=" ".join)
def test_help_loads_nothing_heavy(path):
    code = "import sys, atexit; atexit.register(lambda: print('loaded:', *sys.modules)); "
    code += f"from wastetune.cli.main import main; main({[*path, '--help']!r})"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    help_text, _, loaded = said.partition("loaded:")
    assert "Example:" in help_text
    assert loaded
    assert not HEAVY & set(loaded.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--study", "dmeo"], "There is no study named 'dmeo'; did you mean demo?"),
        (["run", "--study", "nothing_*"], "No study's name matches 'nothing_*'; known: demo, "),
        (["compare"], "there is no finished study in results"),
        (["compare", "--output", "table.txt"], "--output table.txt must end in .csv, .md, .html"),
        (["run", "--study", "mine.toml"], "There is no study file mine.toml"),
        (
            ["data", "check", "nowhere"],
            "there is no folder nowhere, here or in data, and no known data set",
        ),
        (["data", "check", "wcd"], "The data set wcd is not in data/wcd: sign in at Kaggle"),
        (["data", "fetch", "trashnte"], "There is no known data set 'trashnte': known are trashnet, wid, wcd"),
        (["data", "fetch", "wcd"], "cannot be fetched without an account"),
        (["data", "sample", "."], ". is not empty"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence(complaint, tmp_path, arguments, words):
    (tmp_path / "something").touch()
    assert words in complaint(*arguments)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trials": '"many"'}, 'mine.toml: trials = "many", but it must be a whole number'),
        ({"trails": "3"}, "mine.toml: unknown key 'trails'; did you mean trials?"),
        ({"trials": ""}, "mine.toml is not valid TOML: "),
        ({"backbone": '"mobilenet_v4"'}, "backbone 'mobilenet_v4' is not known; did you mean mobilenet"),
        ({"space": '"nowhere"'}, "There is no search space named 'nowhere'"),
        (
            {"dataset": '"nowhere"'},
            "there is no folder nowhere, here or in data, and no known data set",
        ),
        ({"weights": '"nowhere.h5"'}, "there is no weights file nowhere.h5"),
    ],
)
def test_a_mistake_in_a_study_is_one_sentence(complaint, tiny_study, changes, words):
    assert words in complaint("run", "--study", tiny_study(**changes))


NO_NETWORK = {"https_proxy": "http://127.0.0.1:1", "KERAS_HOME": "keras"}


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["--weights", "nowhere"], {}, "there is no weights file nowhere; give a file, or a folder that holds"),
        (["--weights", "notes.h5"], {}, "the weights in notes.h5 cannot be read"),
        (["--storage", "nowhere/x.db"], {}, "nowhere/x.db is not a database URL"),
        ([], {"WASTETUNE_STORAGE": "foo://me:geheim@h/x"}, "foo://me:***@h/x cannot be opened"),
        (["--tracking-uri", "file:./mlruns"], {}, "the MLflow store cannot be opened"),
        ([], {"MLFLOW_TRACKING_URI": "foo://me:geheim@h/x"}, "the MLflow store cannot be opened"),
        ([], {"WASTETUNE_CACHE_GB": "twenty"}, "WASTETUNE_CACHE_GB is 'twenty', but must be a number of gigabytes"),
        ([], {"WASTETUNE_CACHE_GB": "nan"}, "WASTETUNE_CACHE_GB is 'nan'"),
        ([], {"WASTETUNE_CACHE_GB": "inf"}, "WASTETUNE_CACHE_GB is 'inf'"),
        ([], {"WASTETUNE_CACHE_GB": "0.00001", "WASTETUNE_CACHE": "empty"}, "raise WASTETUNE_CACHE_GB"),
        ([], {"WASTETUNE_CACHE": "notes.h5"}, "WASTETUNE_CACHE"),
        (["--results", "notes.h5"], {}, "notes.h5"),
    ],
)
def test_a_mistake_in_the_surroundings_is_one_sentence(
    complaint, tiny_study, tmp_path, mlflow_store, arguments, environment, words
):
    (tmp_path / "notes.h5").write_text("no weights")
    line = complaint("run", "--study", tiny_study(), *arguments, **environment)
    assert words in line
    assert "geheim" not in line


def test_without_a_network_it_is_said_which_file_to_put_where(complaint, tiny_study, tmp_path):
    (tmp_path / "empty").mkdir()
    study = tiny_study(weights='"imagenet"')
    line = complaint("run", "--study", study, "--weights", "empty", **NO_NETWORK)
    assert "put it as mobilenet_v3_small_minimalistic_notop.weights.h5 into empty" in line


def test_a_mistake_ends_the_process_with_2_and_leaves_the_libraries_silent(run_cli, tiny_study, tmp_path):
    (tmp_path / "notes.h5").write_text("no weights")
    done = run_cli("run", "--study", tiny_study(), "--weights", "notes.h5", fresh=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: the weights in notes.h5 cannot be read")


def test_an_option_that_is_none_is_told_by_click(run_cli):
    done = run_cli("run", "--study", "demo", "--trials", "0", fresh=True)
    assert (done.returncode, "0 is not in the range x>=1" in done.stderr) == (2, True)


def test_studies_are_listed_with_their_questions(run_cli, tmp_path):
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "mine.toml").write_text('# Why?\ndataset = "x"\nbackbone = "resnet50"\n')
    lines = run_cli("studies", fresh=True).stdout.splitlines()
    assert [line.split()[0] for line in lines] == sorted([*study_names(), "mine"])
    assert f"{'mine':28} Why?" in lines
    assert all(len(line.split()) > 1 for line in lines)


def test_data_sets_are_listed_with_where_they_come_from_and_whether_they_are_here(run_cli, tmp_path):
    (tmp_path / "there" / "wid").mkdir(parents=True)
    lines = run_cli("data", "list", WASTETUNE_DATA="there").stdout.splitlines()
    assert [line.split()[:2] for line in lines[::2]] == [["trashnet", "fetch"], ["wid", "here"], ["wcd", "fetch"]]
    for source, first, second in zip(KNOWN_DATASETS, lines[::2], lines[1::2], strict=True):
        assert f"{source.total:,} pictures, {len(source.classes)} classes" in first
        assert source.licence in second
        assert source.page in second


def test_a_sample_is_made_and_checked(run_cli, tmp_path):
    made = run_cli("data", "sample", "drawn", "--per-class", "6")
    assert (made.returncode, made.stdout) == (0, "drawn: a data set of drawn pictures\n")
    assert len(list((tmp_path / "drawn" / "can").iterdir())) == 6
    checked = run_cli("data", "check", "drawn")
    assert (checked.returncode, checked.stderr) == (0, "")
    lines = checked.stdout.splitlines()
    assert lines[:5] == [
        "drawn: 26 pictures in 4 classes",
        "        7  bottle",
        "        6  box",
        "        6  can",
        "        7  leaf",
    ]
    assert lines[5] == "left out: 1"
    assert lines[6].startswith("  leaf/broken.jpg: ")
    twice = "  bottle/bottle000.jpg = leaf/also_elsewhere.jpg"
    for heading in ("the same picture twice: 1", "the same picture in two classes: 1"):
        assert lines[lines.index(heading) + 1] == twice
    assert "nearly the same picture: none" in lines  # a pair of identical ones counts once
    assert run_cli("data", "check", "drawn", "--data", "elsewhere").stdout == checked.stdout


@pytest.mark.parametrize("group", [(), ("data",)])
def test_the_summary_of_every_command_fits_a_terminal_of_eighty_columns(group):
    command = main
    for name in group:
        command = command.get_command(click.Context(main), name)
    text = command.get_help(click.Context(command, terminal_width=80))
    summaries = text.partition("Commands:")[2].strip().splitlines()
    assert len(summaries) >= 5
    assert [line for line in summaries if line.endswith("...") or not line.endswith(".")] == []


def draw(folder, count):
    folder.mkdir(parents=True)
    for number in range(count):
        noise = np.random.default_rng([*folder.name.encode(), number]).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")


def test_what_a_study_would_refuse_a_check_refuses_in_the_same_words(run_cli, tmp_path):
    draw(tmp_path / "one" / "glass", 20)
    draw(tmp_path / "one" / "metal", 1)
    said = run_cli("data", "check", "one")
    assert said.returncode == 2
    assert "21 pictures in 2 classes" in said.stdout
    assert said.stderr == (
        "error: Class 'metal' in one has 1 different pictures to split, and needs at least 3 (those that look alike "
        "count once): add pictures or remove the class.\n"
    )
    (tmp_path / "study.toml").write_text(
        'dataset = "one"\nbackbone = "mobilenet_v3_small_minimalistic"\nweights = "none"'
    )
    run = run_cli("run", "--study", "study.toml", WASTETUNE_CACHE=str(tmp_path / "cache"))
    assert (run.returncode, run.stderr.splitlines()[-1] + "\n") == (2, said.stderr)


def test_a_check_lists_the_first_of_many_and_writes_all_to_a_file(run_cli, tmp_path):
    for name in ("glass", "metal"):
        draw(tmp_path / "set" / name, 20)
    for number in range(14):
        (tmp_path / "set" / "glass" / f"broken{number:02}.jpg").write_bytes(b"no picture")
    said = run_cli("data", "check", "set")
    assert said.returncode == 0
    assert said.stdout.count("broken") == 10
    assert "  and 4 more; --output FILE writes all\n" in said.stdout
    assert "and 4 more\n" in run_cli("data", "check", "set", "--output", "found/all.csv").stdout
    rows = list(csv.reader((tmp_path / "found" / "all.csv").read_text().splitlines()))
    assert [row[:2] for row in rows] == [["left out", f"glass/broken{number:02}.jpg"] for number in range(14)]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/data/x"),
            "No space left on device: /data/x; make room",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "error: No space left on device; make room, of bytes and of files",
        ),
        (
            OSError(errno.EACCES, "Permission denied", "/data/x"),
            "error: Permission denied: /data/x; allow writing there, or name another folder",
        ),
        (OSError(errno.EROFS, "Read-only file system", "/data/x"), "Read-only file system: /data/x; allow writing"),
        (OSError(errno.ENOTDIR, "Not a directory", "/data/x"), "error: Not a directory: /data/x\n"),
    ],
)
def test_a_full_disk_is_told_with_what_to_do(error, words, monkeypatch):
    def fail(*args):
        raise error

    monkeypatch.setattr("wastetune.tuning.spec.study_names", fail)
    done = CliRunner().invoke(main, ["studies"])
    assert done.exit_code == 2
    assert words in done.stderr
    assert "Errno" not in done.stderr
