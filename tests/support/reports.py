"""The report of a finished study, made up."""

import json
from dataclasses import asdict

import numpy as np

from wastetune.evaluation.scores import score_predictions
from wastetune.report.results import Report
from wastetune.report.results_folder import write_results
from wastetune.search.history import History

# The nine classes of WID: long names, unequal sizes.
CLASSES = [
    "Cardboard",
    "Food Organics",
    "Glass",
    "Metal",
    "Miscellaneous Trash",
    "Paper",
    "Plastic",
    "Textile Trash",
    "Vegetation",
]


def scores(skill, classes=CLASSES, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(classes)), rng.integers(40, 190, len(classes)))
    probabilities = rng.random((len(labels), len(classes))) + skill * np.eye(len(classes))[labels]
    return json.loads(json.dumps(asdict(score_predictions(labels, probabilities, classes))))


def report_values(**changes):
    """What stands in report.json."""
    return {
        "study": "resnet50_wid",
        "question": "Does training the last blocks of ResNet50 beat its frozen features on WID?",
        "backbone": "resnet50",
        "dataset": "wid",
        "metric": "macro_f1",
        "classes": CLASSES,
        "counts": {"train": 3090, "val": 874, "test": 789},
        "trials": {"complete": 14, "pruned": 6, "failed": 1},
        "best": {
            "number": 17,
            "score": 0.95123,
            "config": {
                "head_layers": 0,
                "head_units": None,
                "learning_rate": 0.00298,
                "frozen_depth": 0.8125,
            },
        },
        "retrain": {"epochs": 5},
        "test": scores(0.75),
        "default_test": scores(0.6),
        "edges": [
            {"parameter": "learning_rate", "value": 0.00298, "bound": 0.003, "widen": True},
            {"parameter": "head_layers", "value": 0, "bound": 0, "widen": False},
        ],
        "problems": [{"path": "Glass/broken | 1.jpg", "what": "the file ends too early"}],
        "duplicates": 12,
        "contradictions": 1,
        "seconds": {"activations": 311.4, "trials": 3725.0, "retrain": 95.2, "total": 4133.0},
        "versions": {"wastetune": "0.1.0", "keras": "3.12.0"},
        "fingerprint": "3f1c0a9b",
        "test_opened_for": [17],
    } | changes


def a_report(**changes):
    return Report.from_dict(report_values(**changes))


def write(report, folder):
    """A results folder of a study without predictions or trials."""
    write_results(report, None, History((), {}, {}), folder, folder)
