"""The methods by their `kind`, and the code of each method."""

from typing import Annotated

from lensflow.methods.base import Method
from lensflow.provenance.code import closure, code_digest
from lensflow.schema.kinds import Kinds

METHODS = Kinds(
    "lensflow.methods",
    Method,
    {"registry", "alignment", "finetuning", "probing", "sharing"},
    function="train",
    without="base",
)
AnyMethod = Annotated[Method, METHODS]


def method_digest(kind: str) -> str:
    """Return the digest of a method's training code: the stage, the module of the kind, and all that they import."""
    return code_digest("lensflow.stages.train", METHODS.path_of(kind))


def method_modules(kind: str) -> list[str]:
    """Return the modules of this package that a kind of method consists of, sorted."""
    return closure("lensflow.stages.train", METHODS.path_of(kind))
