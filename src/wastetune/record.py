"""Frozen records that are read from JSON and written back to it."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Base class of the records that are stored as JSON. Keys that only another version knows are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The record. ValueError where a required key is missing or a value has the wrong type."""
        return cls.model_validate(values)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, with exactly the keys that the record was made from."""
        return self.model_dump(mode="json", exclude_unset=True)
