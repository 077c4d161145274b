"""Models for lm-eval: one that asks an engine, and one that returns stored answers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lm_eval.api.model import LM, TemplateLM

from lensflow.benchmarks.base import Asker, Row, said
from lensflow.benchmarks.lm_eval.decoding import decoding
from lensflow.errors import LensflowError
from lensflow.schema.backbone import PlainPrompt
from lensflow.schema.decoding import Decoding


def asking(asker: Asker, chat: bool) -> TemplateLM:
    """Return an lm-eval model that uses a checkpoint: lm-eval builds the requests, and the checkpoint answers them.

    Args:
        asker: the checkpoint.
        chat: whether contexts are rendered in the backbone's prompt format, which brings its own special tokens.
    """
    tokenizer = asker.tokenizer
    plain = isinstance(tokenizer.prompt, PlainPrompt)

    class Asking(TemplateLM):  # type: ignore[misc]
        """Return the token ids that lm-eval's own `hf` model would make."""

        tokenizer_name = "lensflow"

        @property
        def eot_token_id(self) -> int:
            """Return the token that replaces an empty context."""
            token: int = tokenizer.prefix
            return token

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
            """Return a text's token ids, with special tokens unless a chat template has written them."""
            wanted = (plain or not chat) if add_special_tokens is None else add_special_tokens
            ids: list[int] = tokenizer.ids_of(string if chat else tokenizer.literal(string), wanted)
            return ids

        def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
            pair: tuple[list[int], list[int]] = super()._encode_pair(
                context, tokenizer.literal(continuation) if chat else continuation
            )
            return pair

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            """Render a conversation in the backbone's prompt format; its last message may be the answer's beginning."""
            begun = ""
            if not add_generation_prompt and chat_history[-1]["role"] == "assistant":
                *chat_history, last = chat_history
                begun = tokenizer.literal(last["content"])
            asked = max(i for i, message in enumerate(chat_history) if message["role"] == "user")
            question = chat_history[asked] | {"content": asker.instruct(chat_history[asked]["content"])}
            rendered: str = tokenizer.conversation([*chat_history[:asked], question, *chat_history[asked + 1 :]])
            # lm-eval puts nothing between a rendered prompt and an answer; a plain template's wants a space there.
            return (rendered if not plain or rendered[-1:].isspace() else f"{rendered} ") + begun

        def chat_template(self, chat_template: bool | str = False) -> str:
            """Name the template, for lm-eval's records."""
            name: str = tokenizer.prompt.format
            return name

        def _loglikelihood_tokens(
            self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **_: Any
        ) -> list[Row]:
            pairs = [(context, continuation) for _, context, continuation in requests]
            scored = asker.loglikelihoods(pairs)
            return [{"logprob": logprob, "greedy": greedy} for logprob, greedy in scored]

        def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
            """Refuse: held-out likelihood is its own kind of benchmark."""
            raise LensflowError("tasks of type loglikelihood_rolling are not supported; use kind likelihood")

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[Row]:
            """Generate answers; requests with the same settings go to the engine together."""
            answers: list[Row] = [{} for _ in requests]
            groups: dict[Decoding, list[int]] = {}
            for index, request in enumerate(requests):
                groups.setdefault(decoding(request.args[1]), []).append(index)
            for settings, indices in groups.items():
                contexts = [requests[index].args[0] for index in indices]
                if plain and chat:
                    contexts = [context.removesuffix(" ") for context in contexts]  # what apply_chat_template added
                prompts = [self.tok_encode(context) for context in contexts]
                for index, answer in zip(indices, said(asker, prompts, settings), strict=True):
                    answers[index] = answer
            return answers

    return Asking()


def replaying(rows: Sequence[Row]) -> LM:
    """Return an lm-eval model that returns stored answers, in the order in which `LoadedTask.ask` got them."""
    stored: Mapping[str, Iterator[Row]] = {
        kind: iter([row for row in rows if row["request"] == kind]) for kind in {row["request"] for row in rows}
    }

    class Replaying(LM):  # type: ignore[misc]
        """Needs no weights and no tokenizer, because lm-eval scores answers, not prompts."""

        tokenizer_name = "lensflow"

        def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            """Return stored sums of log-probabilities, and whether every token was the likeliest."""
            found = [next(stored["loglikelihood"]) for _ in requests]
            return [(row["logprob"], row["greedy"]) for row in found]

        def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
            """Refuse: such answers are not stored."""
            raise LensflowError("tasks of type loglikelihood_rolling are not supported; use kind likelihood")

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
            """Return stored answers."""
            return [next(stored["generate_until"])["answer"] for _ in requests]

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            """Return the conversation without a template."""
            return "\n".join(message["content"] for message in chat_history)

        def chat_template(self, chat_template: bool | str = False) -> str:
            """Name the template, for lm-eval's records."""
            return "none"

    return Replaying()
