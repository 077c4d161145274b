"""Validation of plain values against a section of the configuration."""

from typing import Any

from pydantic import TypeAdapter, ValidationError

from lensflow.errors import LensflowError
from lensflow.schema.messages import first_line


def parse(section: Any, data: Any, where: str = "config") -> Any:
    """Validate `data` against a section of the configuration.

    Args:
        section: its class, or a union of classes such as `Prompt`.
        data: plain values, as YAML or JSON gives them.
        where: what to call the data in a message.

    Raises:
        LensflowError: one line that names the key and says what is wrong with it.
    """
    try:
        return TypeAdapter(section).validate_python(data)
    except ValidationError as error:
        raise LensflowError(f"{where}: {first_line(error, data)}") from None
