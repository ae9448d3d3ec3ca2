"""The configuration of one trial."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

_LATER = {("head_start", "random")}


class TrialConfig(BaseModel):
    """The hyperparameters of one trial: a point of a search space."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    head_layers: int = Field(ge=0, le=6)
    head_units: int | None = Field(default=None, ge=1, le=65536)  # None: the head has no hidden layer
    head_norm: bool = True
    dropout: float = Field(ge=0, lt=1)
    learning_rate: float = Field(gt=0, le=10)
    weight_decay: float = Field(default=1e-4, ge=0, le=10)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    batch_size: int = Field(ge=1, le=65536)
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    frozen_depth: float = Field(default=1.0, ge=0, le=1)  # share of the backbone's blocks that stay frozen
    head_start: Literal["random", "fitted"] = "random"  # fitted: a tail's head is fitted alone before both are
    augmentation: float = Field(default=0.0, ge=0, le=1)  # 0: the original pictures only
    class_weighting: Literal["none", "balanced"] = "none"
    epochs: int = Field(ge=1)
    patience: int = Field(default=6, ge=1)  # epochs without improvement before training stops

    @model_serializer(mode="wrap")
    def _leave_out_later_keys(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Keys that came later are left out at their default: trials of earlier versions compare equal."""
        values: dict[str, Any] = handler(self)
        return {key: value for key, value in values.items() if (key, value) not in _LATER}

    @model_validator(mode="after")
    def _check_head_units(self) -> Self:
        if self.head_layers > 0 and self.head_units is None:
            raise ValueError(
                f"head_units has no value where head_layers is {self.head_layers}; give it one for every "
                "head_layers > 0, for example "
                'head_units = { int = [64, 1024], log = true, default = 256, when = "head_layers > 0" }.'
            )
        return self
