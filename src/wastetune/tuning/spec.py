"""Reads studies/*.toml into frozen StudySpec values."""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from wastetune.backbones.catalog import Preprocessing
from wastetune.errors import UserError
from wastetune.evaluation.objectives import COSTS, read_objectives
from wastetune.search.choice import MEDIAN, NAMES, TPE, Named, read_choice
from wastetune.search.toml_file import check_keys, explain, find_file, in_toml, named_files, read_toml


class StudySpec(BaseModel):
    """The specification of a study: backbone, data set, search space, number of trials, and how to split."""

    # Strict, because `trials = "50"` or `trials = true` is a mistake to report, not a value to guess.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    name: str  # the file's stem
    source: str  # the file's path, for messages
    question: str = ""  # the comment at the top of the file
    dataset: str = Field(min_length=1)
    dataset_name: str | None = Field(default=None, min_length=1)  # None: that of the folder, see `identity.py`
    backbone: str | tuple[str, ...] = Field(min_length=1)  # several: each trial has one of them
    space: str = Field(default="transfer", min_length=1)
    head: str | None = Field(default=None, min_length=1)  # FILE.py:FUNCTION, beside the study's file; None: wastetune's
    metric: Literal["macro_f1", "accuracy", "balanced_accuracy"] = "macro_f1"
    objectives: tuple[str, ...] | None = None  # the metric, and costs of the model to minimise; None: the metric alone
    max_latency_ms: float | None = Field(default=None, gt=0)  # limits of these costs, also for the final model
    max_megabytes: float | None = Field(default=None, gt=0)
    max_parameters: int | None = Field(default=None, gt=0)
    trials: int = Field(default=50, ge=1)
    warm_start: Literal["auto"] | tuple[str, ...] | None = None  # earlier studies whose best configurations run early
    seed: int = Field(default=0, ge=0)
    corrections: str | None = Field(default=None, min_length=1)  # a file of corrections.py
    weights: str = Field(default="imagenet", min_length=1)  # "imagenet", "none", a file or a folder
    preprocessing: Preprocessing | None = None  # how a backbone of one's own wants its pixels; None: as it says itself
    layer: str | None = Field(default=None, min_length=1)  # its top; None: below its classification head
    image_size: int | None = Field(default=None, ge=32, le=1024)  # pixels a side; None: the backbone's own
    views: int = Field(default=4, ge=1, le=16)
    val_fraction: float = Field(default=0.15, gt=0, lt=0.5)
    test_fraction: float = Field(default=0.2, gt=0, lt=0.5)
    split: Literal["grouped", "random"] = "grouped"  # near-duplicates on one side, or each picture alone, which leaks
    final: Literal["ensemble", "best"] = "ensemble"  # the final model: the mean of the best heads, or the winner alone
    sampler: Named = TPE
    pruner: Named = MEDIAN

    @property
    def backbones(self) -> tuple[str, ...]:
        """The names of the study's backbones, one or several; the first is that of trial 0."""
        return (self.backbone,) if isinstance(self.backbone, str) else self.backbone

    @property
    def limits(self) -> dict[str, float]:
        """The limit of each cost that has one."""
        values = {name: getattr(self, cost.limit) for name, cost in COSTS.items()}
        return {name: value for name, value in values.items() if value is not None}

    @model_validator(mode="before")
    @classmethod
    def _read_choices(cls, values: dict[str, Any]) -> dict[str, Any]:
        _check_twice(values.get("backbone"))
        choices = {key: read_choice(key, values[key]) for key in NAMES if key in values}
        return read_objectives(values | choices)

    @field_validator("backbone")
    @classmethod
    def _unpack(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        return value[0] if len(value) == 1 and not isinstance(value, str) else value

    @field_validator("backbone", "warm_start", mode="before")
    @classmethod
    def _freeze(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value


def _check_twice(names: object) -> None:
    if isinstance(names, list) and len(set(map(str, names))) < len(names):
        raise ValueError(f"backbone = {in_toml(names)} names one twice; keep each once.")


def load_study(name_or_path: str) -> StudySpec:
    """The study of that name, or in that file.

    A text that ends in .toml is a path; anything else is a name, searched in ./studies, then among the studies
    that come with wastetune. UserError, with file and key, where it is missing or invalid.
    """
    path = find_file("studies", name_or_path)
    values = read_toml(path)
    known = [key for key in StudySpec.model_fields if key not in ("name", "source", "question")]
    check_keys(str(path), values, known)
    fixed = {"name": path.stem, "source": str(path), "question": _question(path)}
    try:
        return StudySpec.model_validate(fixed | values)
    except ValidationError as error:
        raise UserError(explain(StudySpec, str(path), error)) from error


def changed_study(name_or_path: str, *, weights: str | None = None, **changes: object) -> tuple[StudySpec, Path | None]:
    """The study with some keys changed for this run, and the folder of weights, if `weights` names one.

    A change of None keeps the value of the file. UserError as in `load_study`, and for a value that is not allowed.
    """
    changes["weights"], folder = name_weights(weights)
    spec = load_study(name_or_path)
    values = {key: value for key, value in changes.items() if value is not None}
    try:
        return StudySpec.model_validate(spec.model_dump() | values), folder
    except ValidationError as error:
        raise UserError(explain(StudySpec, f"study {spec.name!r}", error)) from error


def name_weights(weights: str | None) -> tuple[str | None, Path | None]:
    """What --weights names: the key `weights` of a study, or a folder of weights files; None for what it does not."""
    if weights and Path(weights).is_dir():
        return None, Path(weights)
    return weights or None, None


def study_name(name_or_path: str) -> str:
    """The name of the study in its database and its results folder."""
    return Path(name_or_path).stem if name_or_path.endswith(".toml") else name_or_path


def study_names() -> tuple[str, ...]:
    """The names that `load_study` accepts, sorted: studies in the working directory and those of wastetune."""
    return tuple(sorted(named_files("studies")))


def is_pattern(study: str) -> bool:
    """Whether this is a pattern for names of studies, such as 'inception_*'."""
    return not study.endswith(".toml") and any(sign in study for sign in "*?[")


def matching_studies(pattern: str) -> tuple[str, ...]:
    """The names of the studies that match, sorted. UserError where there is none."""
    names = study_names()
    if found := tuple(name for name in names if fnmatchcase(name, pattern)):
        return found
    raise UserError(f"No study's name matches {pattern!r}; known: {', '.join(names)}.")


def _question(path: Path) -> str:
    """The comment at the top of the file, up to the command that runs the study."""
    lines = []
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        text = line.removeprefix("#").strip()
        if not line.startswith("#") or text.startswith("wastetune "):
            break
        lines.append(text)
    return " ".join(lines).strip()
