"""The report of a study as a frozen record, and its file `report.json`."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from wastetune.data.layout import Problem
from wastetune.evaluation.calibration import Calibration
from wastetune.evaluation.conformal import Covered, SetThreshold
from wastetune.evaluation.scores import Scores
from wastetune.evaluation.selective import Answered, Threshold
from wastetune.evaluation.shift import Shift
from wastetune.record import Record
from wastetune.storage.records import BackboneTrials, FrontPoint, Opening, Origin

FILE = "report.json"

# A final model: the mean of several trials, the winner alone, or the default configuration.
Kind = Literal["ensemble", "best", "default"]


class PictureCounts(Record):
    """Pictures on each side of the split."""

    train: int
    val: int
    test: int

    @property
    def total(self) -> int:
        """The pictures of all three sides."""
        return self.train + self.val + self.test


class TrialCounts(Record):
    """Trials in each state."""

    complete: int
    pruned: int
    failed: int
    interrupted: int = 0  # and tried again

    @property
    def total(self) -> int:
        """The trials in all states."""
        return self.complete + self.pruned + self.failed + self.interrupted


class Best(Record):
    """The winning trial: its score on the validation pictures, and its configuration."""

    number: int
    score: float
    config: dict[str, Any]
    origin: str = ""  # the trial of an earlier study that the configuration is from
    costs: dict[str, float] = Field(default_factory=dict)  # of its model, in a study with several objectives


class Edge(Record):
    """A parameter of the best configuration that lies on a bound of its range."""

    parameter: str
    value: int | float
    bound: int | float
    widen: bool = True  # whether values beyond the bound exist


class Retrain(Record):
    """How the winner was refitted."""

    epochs: int
    largest_difference: float | None = None  # between assembled model and stored activations, in a probability


class FinalModel(Record):
    """What the final model is made of, and its scores on validation pictures that it was not fitted on for them."""

    kind: Kind
    members: tuple[int, ...]  # trials, each fitted again on training and validation pictures
    weights: tuple[float, ...] = ()  # of each in the mean; none: all alike
    considered: tuple[int, ...]  # the trials it was selected from
    temperature: float  # by which its logits are divided
    score: float  # the metric on the validation pictures, fitted on the training pictures alone
    default_score: float  # likewise, of the default configuration
    whole_schedule: bool = False  # each is fitted for all epochs of its configuration; up to its trial's best before
    epochs: tuple[int, ...] = ()  # of each member's last fit, where there was no time for all; none: as above
    thresholds: tuple[Threshold, ...] = ()  # of confidence, by those pictures
    set_thresholds: tuple[SetThreshold, ...] = ()
    unlike_below: float | None = None  # the likeness to the training pictures of 5 % of those pictures
    costs: dict[str, float] = Field(default_factory=dict)  # of this model, in a study with several objectives


class ModelSize(Record):
    """The size of the final model."""

    parameters: int  # of the whole model
    trained: int | None = None
    bytes: int  # of its file


class Seconds(Record):
    """Where the time of a study went, over all of its runs."""

    preparing: float | None = None
    activations: float
    trials: float  # without the activations
    retrain: float
    total: float


class StudySummary(Record):
    """What was studied, on which data, and what the search found."""

    study: str
    question: str
    backbone: str  # of the best trial
    dataset: str
    classes: tuple[str, ...]
    metric: str  # a key of METRICS
    command: str = ""  # that runs this study again
    begun_with: dict[str, str] = Field(default_factory=dict)  # what the fingerprint is made of
    class_counts: dict[str, PictureCounts] = Field(default_factory=dict)
    left_out: int = 0  # training pictures that look like a test picture
    counts: PictureCounts
    trials: TrialCounts
    default_number: int = 0  # the trial of the default configuration
    best: Best
    edges: tuple[Edge, ...] = ()
    problems: tuple[Problem, ...] = ()
    duplicates: int = 0
    near_duplicates: int = 0  # groups of pictures that look alike, but are not all the same pixels
    contradictions: int = 0  # pictures in more than one class
    corrected: dict[str, int] = Field(default_factory=dict)  # decision in corrections.csv -> pictures that it changed
    warm_starts: tuple[Origin, ...] = ()  # of the configurations that ran early
    backbones: tuple[BackboneTrials, ...] = ()  # of a study with several, in its order
    limits: dict[str, float] = Field(default_factory=dict)  # of costs
    front: tuple[FrontPoint, ...] = ()  # by the first cost, where the study has several objectives
    leaked: int = 0  # test pictures with a near-duplicate that the model learns from; 0 unless split = "random"

    @property
    def default_won(self) -> bool:
        """Whether no trial was better than the default configuration."""
        return self.best.number == self.default_number


class FinalEvaluation(Record):
    """What refitting the winner and the default configuration measured on the test set."""

    test: Scores
    default_test: Scores
    retrain: Retrain
    openings: tuple[Opening, ...] = ()  # the evaluations on test pictures of this data set so far
    test_opened_for: tuple[int, ...] = ()  # of an earlier version: the winners that were evaluated
    versions: dict[str, str]  # package -> version
    gain: dict[str, tuple[float, float]] = Field(default_factory=dict)  # 95 % intervals of final model minus default
    repeats: dict[str, tuple[float, ...]] = Field(default_factory=dict)  # scores of the final model with other seeds
    model: ModelSize | None = None
    final: FinalModel | None = None  # None: the winner alone, of an earlier version
    calibration: Calibration | None = None  # on the test set
    uncalibrated: Calibration | None = None  # likewise, at a temperature of 1
    shift: Shift | None = None  # of the test pictures
    answered: tuple[Answered, ...] = ()  # what the thresholds do to the test pictures
    covered: tuple[Covered, ...] = ()  # likewise, the thresholds of prediction sets
    unlike: float | None = None  # the share of test pictures that are unlike the training pictures by that
    accuracy_by_coverage: tuple[tuple[float, float], ...] = ()  # of the test pictures, the surest answers first
    latency_ms: dict[str, float] = Field(default_factory=dict)  # each of several backbones -> for one picture, here

    @property
    def seeds(self) -> int:
        """With how many seeds the final model was fitted and evaluated."""
        return 1 + max(map(len, self.repeats.values()), default=0)

    def is_worse(self, key: str) -> bool:
        """Whether the final model is worse than the default on the test set, beyond chance, by a key of the scores."""
        return key in self.gain and self.gain[key][1] < 0


class Report(FinalEvaluation, StudySummary):  # in JSON the summary comes first: fields follow the reversed MRO
    """The report of a finished study."""

    seconds: Seconds
    fingerprint: str

    @property
    def is_default(self) -> bool:
        """Whether the final model is that of the default configuration."""
        return self.default_won if self.final is None else self.final.kind == "default"

    @property
    def evaluation(self) -> FinalEvaluation:
        """The part that was measured on the test set."""
        return FinalEvaluation(
            **{key: getattr(self, key) for key in FinalEvaluation.model_fields.keys() & self.model_fields_set}
        )


def read_report(folder: Path) -> Report | None:
    """The report in a results folder; None where there is none that can be read."""
    try:
        return Report.from_dict(json.loads((folder / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
