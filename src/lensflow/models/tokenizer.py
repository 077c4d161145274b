"""Prompts and their tokens.

The fast tokenizer is read directly: transformers' own loading of a 262k vocabulary takes several seconds a process.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from tokenizers import Encoding, Tokenizer

from lensflow.errors import LensflowError
from lensflow.schema.backbone import ChatPrompt, PlainPrompt
from lensflow.storage.verified import read_json

PLACEHOLDER = "{prompt}"
# Stands, in a rendered prompt, on both sides of what reads like a special token but came with a text. It is a Unicode
# noncharacter: no text has a use for it, and one that holds it gets U+FFFD in its place.
MARK = "\ufdd0"


class PromptTokenizer:
    """Turns prompts into token ids for one backbone.

    Args:
        checkpoint: folder with tokenizer.json, tokenizer_config.json and, for chat prompts, chat_template.jinja.
        prompt: the prompt format of the backbone.

    Raises:
        LensflowError: the format is `chat` and the tokenizer has no chat template.
    """

    def __init__(self, checkpoint: Path, prompt: PlainPrompt | ChatPrompt) -> None:
        self.tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.prompt = prompt
        self._checkpoint = checkpoint
        self._special = {
            key: value
            for key, value in read_json(checkpoint / "tokenizer_config.json").items()
            if key.endswith("_token") and isinstance(value, str)
        }
        self._chat_template = ""
        if isinstance(prompt, ChatPrompt):
            template = checkpoint / "chat_template.jinja"
            if not template.is_file():
                raise LensflowError(f"{checkpoint}: the tokenizer has no chat template; set prompt.format: plain")
            self._chat_template = template.read_text(encoding="utf-8")

    def render(self, text: str) -> str:
        """Return the prompt as the model sees it, up to where its answer begins, with the marks of `literal`."""
        return self.conversation([{"role": "user", "content": text}])

    def conversation(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return a conversation as the model sees it, up to where its next answer begins, with the marks of `literal`.

        A plain template is filled once for every user message, with the answers behind it and empty lines between.

        Args:
            messages: dictionaries with `role` (`system`, `user`, `assistant`) and `content`; the last one is a user's.
        """
        messages = [{**message, "content": self.literal(message["content"])} for message in messages]
        if isinstance(self.prompt, PlainPrompt):
            rendered = ""
            for message in messages:
                content = message["content"]
                if message["role"] == "user":
                    rendered += self.prompt.template.replace(PLACEHOLDER, content)
                else:
                    rendered += f"{' ' if message['role'] == 'assistant' else ''}{content}\n\n"
            return rendered
        from transformers.utils.chat_template_utils import render_jinja_template  # takes most of a second

        given = any(message["role"] == "system" for message in messages)
        system = [] if given or self.prompt.system is None else [{"role": "system", "content": self.prompt.system}]
        rendered, _ = render_jinja_template(
            [[*system, *messages]],
            chat_template=self._chat_template,
            add_generation_prompt=True,
            **self._special,
        )
        return str(rendered[0])

    def encode(self, text: str) -> list[int]:
        """Return the token ids of the rendered prompt.

        A chat template writes its own beginning-of-sequence token, so none is added to it (the published code adds
        a second one).
        """
        return self.encode_rendered(self.render(text))

    def encode_rendered(self, rendered: str) -> list[int]:
        """Return the token ids of what `render` or `conversation` gave."""
        return self._encoding(rendered)[0]

    def encode_with_span(self, text: str) -> tuple[list[int], list[bool]]:
        """Return token ids and, for each, whether it covers characters of `text` itself rather than the template."""
        rendered = self.render(text)
        # The text itself may stand in the template, too.
        start = self.render(PLACEHOLDER).replace(MARK, "").index(PLACEHOLDER)
        text = text.replace(MARK, "\ufffd")
        if not rendered.replace(MARK, "").startswith(text, start):  # a template that strips white space
            text = text.strip()
        ids, offsets = self._encoding(rendered)
        return ids, [begin < start + len(text) and end > max(start, begin) for begin, end in offsets]

    def encode_answered(self, text: str, answer: str) -> tuple[list[int], list[bool]]:
        """Return the token ids of the rendered prompt with its answer and EOS behind it, and which are of the answer.

        The whole is tokenised at once; a token that covers characters of both belongs to the answer. As in
        `conversation`, a space stands between a plain template and the answer.
        """
        rendered = self.render(text)
        separator = " " if isinstance(self.prompt, PlainPrompt) else ""
        ids, offsets = self._encoding(rendered + separator + self.literal(answer))
        length = len(rendered.replace(MARK, ""))
        return [*ids, self.eos], [*(end > length for _, end in offsets), True]

    def encode_plain(self, text: str) -> list[int]:
        """Return the token ids of a text outside of any prompt, as the tokenizer begins one, with EOS behind it."""
        return [*self.ids_of(self.literal(text), add_special_tokens=True), self.eos]

    @property
    def eos(self) -> int:
        """The id of the token that ends an answer.

        Raises:
            LensflowError: the tokenizer has none.
        """
        if not self.end_tokens:
            raise LensflowError(f"{self._checkpoint}: no eos_token in tokenizer_config.json that the tokenizer knows")
        return self.end_tokens.pop()

    @property
    def prefix(self) -> int:
        """The id of the token that stands for an empty context: BOS, else EOS, as in lm-eval's own model.

        Raises:
            LensflowError: the tokenizer has neither.
        """
        index = self.tokenizer.token_to_id(self._special.get("bos_token", ""))
        return self.eos if index is None else int(index)

    @property
    def end_tokens(self) -> set[int]:
        """The id of `eos`, as a set that is empty where the tokenizer has none."""
        index = self.tokenizer.token_to_id(self._special.get("eos_token", ""))
        return set() if index is None else {int(index)}

    def decode(self, ids: list[int]) -> str:
        """Return the text of generated tokens, without special ones."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    @cached_property
    def vocabulary(self) -> list[str]:
        """The decoded text of every token id, in order."""
        size = self.tokenizer.get_vocab_size(with_added_tokens=True)
        return list(self.tokenizer.decode_batch([[index] for index in range(size)], skip_special_tokens=True))

    @cached_property
    def _special_tokens(self) -> re.Pattern[str]:
        """Special tokens, the longest first."""
        texts = [token.content for token in self.tokenizer.get_added_tokens_decoder().values() if token.special]
        return re.compile("|".join(map(re.escape, sorted(filter(None, texts), key=len, reverse=True))) or "(?!)")

    def literal(self, text: str) -> str:
        """Mark what reads like a special token in a text, so that it is tokenised as the characters that it is."""
        return self._special_tokens.sub(lambda match: f"{MARK}{match[0]}{MARK}", text.replace(MARK, "\ufffd"))

    def ids_of(self, marked: str, add_special_tokens: bool) -> list[int]:
        """Return the token ids of a text with the marks of `literal`."""
        return self._tokens(marked, add_special_tokens)[0]

    def _encoding(self, rendered: str) -> tuple[list[int], list[tuple[int, int]]]:
        return self._tokens(rendered, isinstance(self.prompt, PlainPrompt))

    def _tokens(self, marked: str, add_special_tokens: bool) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids, and the characters that each covers in the text without its marks."""
        pieces = marked.split(MARK)  # every second one is literal
        if len(pieces) == 1:
            encoding = self.tokenizer.encode(marked, add_special_tokens=add_special_tokens)
            return list(encoding.ids), list(encoding.offsets)
        encodings: list[Encoding] = []
        offsets: list[tuple[int, int]] = []
        start = 0
        for number, piece in enumerate(pieces):
            self.tokenizer.encode_special_tokens = number % 2 == 1
            encodings.append(self.tokenizer.encode(piece, add_special_tokens=False))
            offsets += [(start + begin, start + end) for begin, end in encodings[-1].offsets]
            start += len(piece)
        self.tokenizer.encode_special_tokens = False
        whole = self.tokenizer.post_process(Encoding.merge(encodings, True), None, add_special_tokens)
        places = iter(offsets)
        return list(whole.ids), [(0, 0) if added else next(places) for added in whole.special_tokens_mask]


def truncate(ids: list[int], max_tokens: int, side: str) -> list[int]:
    """Shorten token ids to `max_tokens`: `left` drops the beginning (past a first, special token), `right` the end."""
    if len(ids) <= max_tokens:
        return ids
    return ids[:max_tokens] if side == "right" else [ids[0], *ids[len(ids) - max_tokens + 1 :]]
