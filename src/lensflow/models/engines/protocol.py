"""Engines: two ways to run one checkpoint, behind one protocol.

`vllm.VllmEngine` is the fast engine for generation. `transformers.TransformersEngine` is the plain one; on a CPU it is
the fast one for log-likelihoods. Both take token ids, so the caller tokenises a prompt once, with its BOS token.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from lensflow.artifacts.interventions import StateEdit
from lensflow.models.likelihood import Counted, Likeliest, Masks
from lensflow.schema.decoding import Decoding


@dataclass(frozen=True)
class Answer:
    """The answer of a model.

    Attributes:
        text: the text without special tokens, cut before the first stop string.
        ids: all generated tokens, including the one that ended the answer.
        cut: whether the answer ended only because it reached its limit.
    """

    text: str
    ids: tuple[int, ...]
    cut: bool


class Engine(Protocol):
    """A causal language model that is ready to run."""

    def generate(self, prompts: list[list[int]], decoding: Decoding) -> list[Answer]:
        """Continue each prompt.

        Args:
            prompts: token ids, with BOS if the model needs one; no prompt may be empty.
            decoding: the decoding settings. An answer ends before the first stop string, and at the end-of-sequence
                token. Sampling with the same seed gives the same answers on the same engine, but not on another engine.

        Returns:
            The answers in the order of `prompts`.
        """
        ...

    def loglikelihoods(self, requests: list[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """Score continuations.

        Args:
            requests: pairs (context, continuation) of token ids; neither may be empty.

        Returns:
            For each request: the sum of log p(token | context and the tokens before it) over its continuation in
            nats, and whether each of these tokens was the most probable one (ties count).
        """
        ...

    def read(
        self, sequences: Sequence[list[int]], counted: Sequence[list[bool]], masks: Masks | None
    ) -> list[dict[str, float]]:
        """Score whole prompts; see `lensflow.models.likelihood.read_prompts`.

        Only for engines whose `READS` is true.
        """
        ...

    def distributions(self, sequences: Counted, candidates: Sequence[Tensor] | None) -> list[Likeliest]:
        """Read next-token distributions; see `lensflow.models.likelihood`. Only for engines whose `READS` is true."""
        ...

    def swap(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace some weights in place; results from the old weights are not used again.

        Args:
            tensors: new values under the checkpoint's names.

        Raises:
            LensflowError: the model has no weight of a name.
        """
        ...

    def edited(self, edit: StateEdit | None) -> AbstractContextManager[None]:
        """Edit everything that runs in this context: states after blocks and after the final norm, or allowed tokens.

        Args:
            edit: the edit; None runs the model as it is.

        Raises:
            LensflowError: an edit of a block does not change the states as it should.
        """
        ...

    def close(self) -> None:
        """Free the model's memory; the engine cannot be used afterwards."""
        ...
