"""The untouched backbone: nothing is trained."""

from typing import Literal

from lensflow.config import Method


class Base(Method):
    """The untouched backbone."""

    kind: Literal["base"]


Config = Base
