"""The untouched backbone: nothing is trained."""

from typing import ClassVar, Literal

from lensflow.config import Method


class Base(Method):
    """The untouched backbone."""

    seeded: ClassVar[bool] = False

    kind: Literal["base"]


Config = Base
