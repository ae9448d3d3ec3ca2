"""Options that several commands share."""

from pathlib import Path

import click

from wastetune.settings import DATA, RESULTS, STORAGE, TRACKING, WEIGHTS

data_option = click.option(
    "--data",
    "folder",
    type=click.Path(path_type=Path),
    default=Path(DATA.default),
    show_default=True,
    envvar=DATA.variable,
    metavar="FOLDER",
    help="A folder of data sets.",
)
study_option = click.option(
    "--study",
    required=True,
    metavar="NAME|PATH",
    help="A study's name, or the path of its .toml file or of its results folder.",
)
storage_option = click.option(
    "--storage",
    default=STORAGE.default,
    envvar=STORAGE.variable,
    show_default=True,
    metavar="URL",
    help="The study database.",
)
tracking_option = click.option(
    "--tracking-uri",
    default=TRACKING.default,
    envvar=TRACKING.variable,
    show_default=True,
    metavar="URI",
    help="The MLflow store.",
)
weights_option = click.option(
    "--weights",
    envvar=WEIGHTS.variable,
    metavar="FOLDER|FILE|none",
    help="A folder of weights files, searched before Keras's download; a file; or none.",
)
results_option = click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=Path(RESULTS),
    show_default=True,
    metavar="FOLDER",
    help="The folder of reports and models.",
)
model_study_option = click.option(
    "--study",
    metavar="NAME|PATH",
    help="The study whose model is used: its name, or the path of its .toml file or of its results folder.",
)
bundle_option = click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    metavar="FOLDER|FILE",
    help="A model instead of a study: a bundle, or a file that `wastetune export` wrote.",
)
precision_option = click.option(
    "--precision",
    type=click.FloatRange(0, 100),
    metavar="PERCENT",
    help='Answer "unsure" unless so many answers are right, e.g. 95; the report lists what the model can promise.',
)
seed_option = click.option(
    "--seed", type=click.IntRange(min=0), help="Another seed than the study's, for another split and another search."
)
renew_option = click.option(
    "--renew-after",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    metavar="N",
    help="Restart a worker process after N trials that trained a part of the backbone, to free their memory.",
)
