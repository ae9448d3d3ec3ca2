"""wastetune from Python: run a study, load its report and trials, predict, evaluate. `import wastetune` offers these.

Each argument is the command line's option of that name, with the same default and the same environment variable; the
messages name it as the command line does.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wastetune.console import open_console, silence_tensorflow
from wastetune.errors import UserError
from wastetune.settings import DATA, RESULTS, STORAGE, TRACKING, WEIGHTS, Locations, check_results

if TYPE_CHECKING:
    import pandas


def run_study(
    study: str | Path,
    *,
    trials: int | None = None,
    seed: int | None = None,
    timeout: float | None = None,
    time_limit: float | None = None,
    workers: int | None = None,
    data: str | Path | None = None,
    weights: str | Path | None = None,
    storage: str | None = None,
    tracking_uri: str | None = None,
    results: str | Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """The report of a study, after running it up to its number of trials as `wastetune run` does.

    `study` is a name or the path of a .toml file; `trials` counts all runs together. No trial begins after
    `timeout` seconds, and the report is there after about `time_limit`. Running a study again resumes it. The report is
    the content of report.json, which is in `results` with the other files.
    `quiet` keeps this process, but not its workers, from printing.

    UserError, in one sentence, for what the caller can mend, and where no trial has a score yet. After Ctrl-C,
    finished trials are kept.
    """
    for name, seconds in (("timeout", timeout), ("time_limit", time_limit)):
        if seconds is not None and not seconds > 0:
            raise UserError(f"{name} is {seconds}, but must be a number of seconds above 0, or None")
    if workers is not None and workers < 0:
        raise UserError(f"workers is {workers}, but must be 0 or more, or None for this process alone")
    silence_tensorflow()
    from wastetune.tuning.spec import changed_study

    named = WEIGHTS.resolve(weights) or None
    spec, weights_folder = changed_study(str(study), weights=named, trials=trials, seed=seed)
    locations = Locations(
        storage=STORAGE.resolve(storage),
        tracking_uri=TRACKING.resolve(tracking_uri),
        results=Path(results or RESULTS),
        data=Path(DATA.resolve(data)),
        weights=weights_folder,
    )
    check_results(locations.results)
    from wastetune.study import run

    report = run.run_study(
        spec, locations, open_console(quiet=quiet), timeout=timeout, time_limit=time_limit, workers=workers
    )
    if report is None:
        raise UserError(f"study {spec.name!r} has no trial with a score yet, so there is no report; run it again")
    return report.to_dict()


def load_report(study: str | Path, *, results: str | Path | None = None) -> dict[str, Any]:
    """The report of a finished study: the content of `results/<study>/report.json`.

    `test` holds the scores on the test set and their 95 % intervals, `best` the winning trial and its configuration.
    UserError where there is none.
    """
    from wastetune.report.results import read_report
    from wastetune.tuning.spec import study_name

    name = study_name(str(study))
    folder = Path(results or RESULTS) / name
    if (report := read_report(folder)) is None:
        raise UserError(f"there is no report of study {name!r} in {folder}; run the study, or see --results")
    return report.to_dict()


def load_trials(study: str | Path, *, storage: str | None = None) -> "pandas.DataFrame":
    """A pandas DataFrame with a row for each trial that has ended, by number; the study may still be running.

    Columns: number; state (complete, pruned, failed or interrupted); score on the validation pictures, for a pruned
    trial the last one reported; the costs of its model, in a study with several objectives; seconds, without the
    activations; cut, the block of the backbone below which everything was frozen; each parameter of the configuration,
    first the backbone where the study has several, those of a head of your own as head.NAME; and failure, the reason
    why a trial failed or was interrupted, or an empty text.
    UserError where the study or the database does not exist.
    """
    import pandas

    from wastetune.storage.database import open_storage
    from wastetune.storage.study import find_study, read_records
    from wastetune.training.config import BACKBONE, OWN_HEAD, TrialConfig
    from wastetune.tuning.spec import study_name

    records = read_records(find_study(open_storage(STORAGE.resolve(storage)), study_name(str(study))))
    several = any(BACKBONE in record.config for record in records)
    keys = [key for key in TrialConfig.model_fields if key not in OWN_HEAD and (several or key != BACKBONE)]
    keys += dict.fromkeys(key for record in records for key in record.config if key not in keys)
    costs = list(dict.fromkeys(key for record in records for key in record.costs))
    fields = ("number", "state", "score", *costs, "seconds", "cut", *keys, "failure")
    rows = [{**vars(record), **record.config, **record.costs} for record in records]
    return pandas.DataFrame(rows, columns=list(fields))


def predict(
    bundle: str | Path,
    pictures: str | Path | Iterable[str | Path],
    *,
    precision: float | None = None,
    coverage: float | None = None,
) -> "pandas.DataFrame":
    """A pandas DataFrame with a row for each picture: the class that a study's model predicts.

    `bundle` is the folder `results/<study>/bundle`, or a file that `wastetune export` wrote; `pictures` is a file, a
    folder (all files in it except hidden ones), or several of either. Every call loads the model, so pass all pictures
    at once.

    Columns: picture, its path; class, the most probable one; probability, that of the class; problem, why a picture
    could not be read, or an empty text; and `probability of <class>` for each class. A picture with a problem has no
    class and no probabilities, and does not stop the others. With a `precision` in percent, the class is "unsure"
    unless so many of such answers are right; with a `coverage` in percent, a column `set` has the classes, separated by
    `; `, that hold the true one so often. UserError for a bundle that cannot be read, for what the model cannot
    promise, and where there is no picture.
    """
    named = [pictures] if isinstance(pictures, str | Path) else list(pictures)
    silence_tensorflow()
    import pandas

    from wastetune.models.answers import choose_rule
    from wastetune.models.loading import open_model
    from wastetune.models.predict import PROBABILITY, find_pictures, predict_files, table_columns, table_row

    paths = find_pictures(named)
    model = open_model(Path(bundle))
    rule = choose_rule(model.about, precision=precision, coverage=coverage)
    rows = [table_row(model, said, rule) for said in predict_files(model, paths)]
    table = pandas.DataFrame(rows, columns=table_columns(model, rule))
    numbers = [name for name in table.columns if name == "probability" or name.startswith(PROBABILITY)]
    return table.astype(dict.fromkeys(numbers, float))


def evaluate(
    bundle: str | Path,
    folder: str | Path,
    *,
    classes: str | Path | None = None,
    output: str | Path | None = None,
    data: str | Path | None = None,
    results: str | Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """The evaluation of a model on a labelled folder, as `wastetune evaluate` makes and writes it.

    `bundle` as in `predict`; `folder` has one subfolder of pictures per class; `classes` is a CSV file with the columns
    folder_class and model_class. The result is the content of the report.json that is written: `scores` with 95 %
    intervals, `calibration`, `folder_classes`, and what was left out.

    UserError where the folder's classes are not the model's, and where no picture is left to evaluate.
    """
    silence_tensorflow()
    from wastetune.checks.evaluate import evaluate_folder

    evaluation, _ = evaluate_folder(
        Path(bundle),
        Path(folder),
        table=None if classes is None else Path(classes),
        dataset=None,
        data=Path(DATA.resolve(data)),
        results=Path(results or RESULTS),
        output=None if output is None else Path(output),
        console=open_console(quiet=quiet),
    )
    return evaluation.to_dict()
