"""Validation of plain values against a section of the configuration."""

from typing import Any

from pydantic import TypeAdapter, ValidationError

from lensflow.errors import LensflowError
from lensflow.schema.messages import first_line


def parse(section: Any, data: Any, where: str = "config") -> Any:
    """Validate `data` against a section of the configuration.

    Args:
        section: the class of the section, or a union of classes such as `Prompt`.
        data: plain values, as read from YAML or JSON.
        where: the name of the data in a message.

    Raises:
        LensflowError: one line that names the key and says what is wrong with its value.
    """
    try:
        return TypeAdapter(section).validate_python(data)
    except ValidationError as error:
        raise LensflowError(f"{where}: {first_line(error, data)}") from None
