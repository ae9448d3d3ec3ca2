"""The configuration of one trial."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

OWN_HEAD = ("head", "head_params")  # fields of a head of the user's own: they stand in no space
BACKBONE = "backbone"  # the field of a study's backbone; it stands in no space either
HEAD_KEYS = ("head_layers", "head_units", "head_norm", "dropout")  # of the head of wastetune
HEAD_PREFIX = "head."  # of the parameters of a head of the user's own, wherever parameters are written

_LATER: tuple[tuple[str, object], ...] = (
    (BACKBONE, None),
    ("head_start", "random"),
    ("precision", "float32"),
    ("live_depth", 0.0),
    ("head", None),
    ("head_params", {}),
)


class TrialConfig(BaseModel):
    """The hyperparameters of one trial: a point of a search space."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    backbone: str | None = None  # None: the only one of its study
    head_layers: int = Field(ge=0, le=6)
    head_units: int | None = Field(default=None, ge=1, le=65536)  # None: the head has no hidden layer
    head_norm: bool = True
    head: str | None = None  # FILE:FUNCTION of a head of the user's own, which the four keys above have no effect on
    head_params: dict[str, int | float | str | bool] = Field(default_factory=dict)  # of that head
    dropout: float = Field(ge=0, lt=1)
    learning_rate: float = Field(gt=0, le=10)
    weight_decay: float = Field(default=1e-4, ge=0, le=10)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    batch_size: int = Field(ge=1, le=65536)
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    frozen_depth: float = Field(default=1.0, ge=0, le=1)  # share of the backbone's blocks that stay frozen
    live_depth: float = Field(default=0.0, ge=0, le=1)  # up to this frozen depth, views are new in every epoch
    head_start: Literal["random", "fitted"] = "random"  # fitted: a tail's head is fitted alone before both are
    precision: Literal["float32", "bfloat16"] = "float32"  # in which a part of the backbone is trained
    augmentation: float = Field(default=0.0, ge=0, le=1)  # 0: the original pictures only
    class_weighting: Literal["none", "balanced"] = "none"
    epochs: int = Field(ge=1)
    patience: int = Field(default=6, ge=1)  # epochs without improvement before training stops

    @property
    def has_live_views(self) -> bool:
        """Whether views are made anew in every epoch and not stored: always at a frozen depth of 0."""
        return self.frozen_depth <= self.live_depth

    @model_serializer(mode="wrap")
    def _leave_out_later_keys(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Keys that came later are left out at their default: trials of earlier versions compare equal.

        The parameters of a head of the user's own are keys like all others, and take the place of wastetune's.
        """
        values: dict[str, Any] = handler(self)
        if self.head is not None:
            values = {key: value for key, value in values.items() if key not in HEAD_KEYS}
            values |= {HEAD_PREFIX + key: value for key, value in values.pop("head_params").items()}
        return {key: value for key, value in values.items() if (key, value) not in _LATER}

    @model_validator(mode="before")
    @classmethod
    def _gather_own_head(cls, values: Any) -> Any:
        """The reverse of `_leave_out_later_keys`."""
        if not isinstance(values, Mapping) or values.get("head") is None:
            return values
        own = {key.removeprefix(HEAD_PREFIX): value for key, value in values.items() if key.startswith(HEAD_PREFIX)}
        others = {key: value for key, value in values.items() if not key.startswith(HEAD_PREFIX)}
        return {"head_layers": 0, "dropout": 0.0, "head_params": own, **others}

    @model_validator(mode="after")
    def _check_head_units(self) -> Self:
        if self.head_layers > 0 and self.head_units is None:
            raise ValueError(
                f"head_units has no value where head_layers is {self.head_layers}; give it one for every "
                "head_layers > 0, for example "
                'head_units = { int = [64, 1024], log = true, default = 256, when = "head_layers > 0" }.'
            )
        return self


def has_live_views(config: Mapping[str, Any]) -> bool:
    """`TrialConfig.has_live_views` of a configuration as it is stored."""
    return bool(config.get("frozen_depth", 1.0) <= config.get("live_depth", 0.0))
