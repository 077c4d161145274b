"""The types of single values in the configuration."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from lensflow.errors import LensflowError
from lensflow.languages import script


def _known(language: str) -> str:
    try:
        script(language)
    except LensflowError as error:
        raise ValueError(str(error)) from None
    return language


def without_escapes(text: str) -> str:
    """Refuse a backslash and an n, which YAML reads as a line break in double quotes only."""
    if re.search(r"\\n(?![a-z])", text):  # not \nabla
        raise ValueError("'\\n' is a backslash and an n here, not a line break; write the text in double quotes")
    return text


# Text that a prompt is made of.
PromptText = Annotated[str, AfterValidator(without_escapes)]
# A BCP 47 tag as it is spelt there: language, perhaps script, perhaps region. It becomes the name of files.
LANGUAGE_PATTERN = r"^[a-z]{2,3}(?:-[A-Z][a-z]{3})?(?:-(?:[A-Z]{2}|[0-9]{3}))?$"
Language = Annotated[str, Field(pattern=LANGUAGE_PATTERN), AfterValidator(_known)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# What NumPy takes, which Trainer seeds, too.
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Count = Annotated[int, Field(ge=1)]
# A name becomes a folder: no separators, no leading dot, nothing that a shell or a file system could misread.
NAME_PATTERN = r"[a-z0-9][a-z0-9._-]*"
Name = Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]
# A path that cannot lead out of the folder that it starts from.
PATH_BELOW_PATTERN = r"^[\w{}-][\w.{}-]*(/[\w{}-][\w.{}-]*)*$"
TASK_PATTERN = PATH_BELOW_PATTERN.replace("*)*$", "*)+$")  # in a folder at least
URL_PATTERN = r"^https?://[^@?#\s]+$"
PathBelow = Annotated[str, Field(pattern=PATH_BELOW_PATTERN)]
SHA256_PATTERN = r"^[0-9a-f]{64}$"
REVISION_PATTERN = r"^[0-9a-f]{40}$"
MODEL_REVISION_PATTERN = r"^(?:[0-9a-f]{40}|main)$"
TABLE_PATTERN = r"\.(?:(?:csv|tsv|json|jsonl|ndjson|parquet)(?:\.gz)?|zip)$"
# A name on the hub, owner/name, or a file with rows at any depth.
HUB_NAME_PATTERN = (
    r"^(?:[A-Za-z0-9_][\w.-]*(?:/[A-Za-z0-9_][\w.-]*)?"
    rf"|(?:[A-Za-z0-9_][\w.-]*/)*[A-Za-z0-9_][\w.-]*{TABLE_PATTERN.removesuffix('$')})$"
)
OWNED_NAME_PATTERN = r"^[\w.-]+/[\w.-]+$"
ARXIV_PATTERN = r"^\d{4}\.\d{4,5}(v\d+)?$"
# A key of a method or, with `setting.` before it, of a setting; perhaps a key of a section in it.
SWEPT_KEY_PATTERN = r"^(setting\.)?[a-z_]+(\.[a-z_]+)?$"
