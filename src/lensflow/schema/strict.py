"""The base of all sections of the configuration."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from lensflow.schema.messages import did_you_mean


class Strict(BaseModel):
    """A frozen section of the configuration that knows its keys and does not convert types."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, populate_by_name=True, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            shown = {field.alias or name for name, field in cls.model_fields.items()}
            for key in data:
                if type(key) is int:
                    raise ValueError(f"unknown key '{key}'; write decimals with a point: YAML ends a value at a comma")
                if key not in shown and key not in cls.model_fields:
                    raise ValueError(f"unknown key '{key}'; {did_you_mean(str(key), shown)}")
        return data

    def canonical(self) -> dict[str, Any]:
        """Return the section as plain JSON values, defaults included."""
        return self.model_dump(mode="json", by_alias=True)
