"""The answers of the service, as OpenAPI describes them."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from wastetune.models.answers import Rule
from wastetune.models.bundle import BundleDescription

_GLASS: dict[str, Any] = {"class": "glass", "probability": 0.81}
_READ: dict[str, Any] = {
    "filename": "bottle.jpg",
    "class": "glass",
    "probability": 0.81,
    "unsure": False,
    "unlike": False,
    "top": [_GLASS, {"class": "plastic", "probability": 0.15}, {"class": "metal", "probability": 0.04}],
    "probabilities": {"glass": 0.81, "metal": 0.04, "plastic": 0.15},
    "problem": None,
}
_BROKEN: dict[str, Any] = {
    "filename": "torn.jpg",
    "class": None,
    "probability": None,
    "unsure": False,
    "unlike": False,
    "top": [],
    "probabilities": {},
    "problem": "broken: image file is truncated",
}


class Share(BaseModel):
    """A class and its probability."""

    name: str = Field(serialization_alias="class")
    probability: float


class Answer(BaseModel):
    """What the model says of one picture, or what is wrong with it."""

    model_config = ConfigDict(json_schema_extra={"examples": [_READ, _BROKEN]})
    filename: str = Field(description="As it was sent.")
    name: str | None = Field(
        default=None, serialization_alias="class", description='The most probable class, or "unsure".'
    )
    probability: float | None = Field(default=None, description="Of the most probable class.")
    unsure: bool = Field(default=False, description="Whether it is too low for the precision that is served.")
    unlike: bool = Field(
        default=False, description="Whether it is unlike the training pictures, and may show none of the classes."
    )
    top: list[Share] = Field(default=[], description="The three most probable classes.")
    probabilities: dict[str, float] = Field(default={}, description="Of all classes.")
    problem: str | None = Field(default=None, description="Why the picture could not be read.")


class Answers(BaseModel):
    """An answer for each file, in their order."""

    predictions: list[Answer]


class Problem(BaseModel):
    """Why there is no answer, in a sentence."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"detail": "bottle.jpg: not a picture Pillow can read"}]})
    detail: str


class ModelCard(BaseModel):
    """Which model this is."""

    study: str | None
    backbone: str | None
    dataset: str | None
    classes: list[str]
    input_size: int = Field(description="Pixels a side, to which every picture is scaled.")
    scores: dict[str, float] = Field(description="On the test set that nothing else has seen.")
    unsure_below: float = Field(description="The probability of the predicted class below which it is unsure.")
    config: dict[str, Any] = Field(description="The winning configuration.")
    fingerprint: str | None = Field(description="Of the study's file, space, split, weights and recipes.")
    versions: dict[str, str]


class State(BaseModel):
    """How the service is."""

    status: str


def model_card(about: BundleDescription, rule: Rule) -> ModelCard:
    """The answer of `GET /model`, from the description inside the model and the rule by which it answers."""
    return ModelCard(
        study=about.study,
        backbone=about.backbone,
        dataset=about.dataset,
        classes=list(about.classes),
        input_size=about.input_size,
        scores={key: value for key, value in vars(about.test).items() if isinstance(value, float)}
        if about.test
        else {},
        unsure_below=rule.confidence,
        config=about.config,
        fingerprint=about.fingerprint,
        versions=about.versions,
    )
