"""Prompts and their tokens.

The fast tokenizer is read directly, because transformers needs several seconds per process to load a 262k vocabulary.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from tokenizers import AddedToken, Encoding, Tokenizer

from lensflow.artifacts.checkpoint import positions, text_config
from lensflow.artifacts.tokens import added_tokens, end_token_ids, special_tokens
from lensflow.errors import LensflowError
from lensflow.models.chat import ChatTemplate
from lensflow.schema.backbone import ChatPrompt, PlainPrompt

PLACEHOLDER = "{prompt}"
# Stands, in a rendered prompt, on both sides of what reads like a special token but came with a text. It is a Unicode
# noncharacter: no text has a use for it, and one that holds it gets U+FFFD in its place.
MARK = "\ufdd0"


class PromptTokenizer:
    """Turns prompts into token ids for one backbone.

    Args:
        checkpoint: folder with tokenizer.json, tokenizer_config.json and, for chat prompts, chat_template.jinja.
        prompt: the prompt format of the backbone.
        shots: messages at the beginning of every conversation: example questions and their answers.

    Attributes:
        embeddings: number of tokens in the model; None if config.json does not say.

    Raises:
        LensflowError: the tokenizer cannot be read, or the format is `chat` and it has no chat template.
    """

    def __init__(
        self, checkpoint: Path, prompt: PlainPrompt | ChatPrompt, shots: Sequence[Mapping[str, str]] = ()
    ) -> None:
        try:
            self.tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
        except Exception as error:  # the library raises no other type
            raise LensflowError(
                f"{checkpoint / 'tokenizer.json'}: cannot be read ({error}); fetch or write it again"
            ) from None
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self._chat = ChatTemplate(checkpoint, prompt) if isinstance(prompt, ChatPrompt) else None
        self._add_tokens(checkpoint)
        self.prompt = prompt
        self._checkpoint, self._shots = checkpoint, shots
        self.embeddings = text_config(checkpoint).get("vocab_size") if (checkpoint / "config.json").is_file() else None
        encoding = self.tokenizer.encode("a", add_special_tokens=True)
        own = [place for place, added in enumerate(encoding.special_tokens_mask) if not added]
        self._prefix = "".join(encoding.tokens[: own[0]]) if own else ""  # what the tokenizer puts before a text
        self._behind = len(encoding.ids) - own[-1] - 1 if own else 0  # how many tokens, such as EOS, behind it
        self._plain = self._without_prefix(prompt.template) if isinstance(prompt, PlainPrompt) else ""

    def _add_tokens(self, checkpoint: Path) -> None:
        """Add tokens that only tokenizer_config.json names, and make special the tokens that it or the chat template
        uses so."""
        special = {token.content: token.special for token in self.tokenizer.get_added_tokens_decoder().values()}
        for token in added_tokens(checkpoint):
            if token.content not in special or (token.special and not special[token.content]):
                self.tokenizer.add_tokens([token])
        ends = [text for text in special if self._chat is not None and text and self._chat.turn_end.startswith(text)]
        for text in (*special_tokens(checkpoint).values(), *ends):
            if not special.get(text) and self.tokenizer.token_to_id(text) is not None:
                self.tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False)])

    def _without_prefix(self, template: str) -> str:
        """Remove the beginning of a plain template if the tokenizer adds the same, such as BOS."""
        while self._prefix and template.startswith(self._prefix):
            template = template.removeprefix(self._prefix)
        return template

    def render(self, text: str) -> str:
        """Return the prompt as the model sees it, up to the beginning of the answer, with the marks of `literal`."""
        return self.conversation([{"role": "user", "content": text}])

    def conversation(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return a conversation as the model sees it, up to the beginning of the next answer, with the marks of
        `literal`.

        A plain template is filled once per user message. The answer follows each message, and an empty line separates
        the turns.

        Args:
            messages: dictionaries with `role` (`system`, `user`, `assistant`) and `content`; the last message is the
                user's.
        """
        messages = [{**message, "content": self.literal(message["content"])} for message in (*self._shots, *messages)]
        if self._chat is None:
            rendered = ""
            for message in messages:
                content = message["content"]
                if message["role"] == "user":
                    rendered += self._plain.replace(PLACEHOLDER, content)
                else:
                    rendered += f"{' ' if message['role'] == 'assistant' else ''}{content}\n\n"
            return rendered
        system = self._chat.prompt.system
        if system is not None and not any(message["role"] == "system" for message in messages):
            messages = [{"role": "system", "content": system}, *messages]
        return self._chat.render(messages)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of the rendered prompt.

        A chat template writes its own beginning-of-sequence token, so the tokenizer adds none. If the prompt has
        `add_special_tokens`, it does add a second one, as the published code does when it probes.
        """
        return self.encode_rendered(self.render(text))

    def encode_rendered(self, rendered: str) -> list[int]:
        """Return the token ids of a text from `render` or `conversation`."""
        return self._encoding(rendered)[0]

    def encode_with_span(self, text: str) -> tuple[list[int], list[bool]]:
        """Return token ids and, for each, whether it covers characters of `text` and not only of the template."""
        rendered = self.render(text)
        # The text itself may stand in the template, too.
        start = self.render(PLACEHOLDER).replace(MARK, "").index(PLACEHOLDER)
        text = text.replace(MARK, "\ufffd")
        if not rendered.replace(MARK, "").startswith(text, start):  # a template that strips white space
            text = text.strip()
        ids, offsets = self._encoding(rendered)
        return ids, [begin < start + len(text) and end > max(start, begin) for begin, end in offsets]

    def encode_answered(self, text: str, answer: str) -> tuple[list[int], list[bool]]:
        """Return the token ids of the rendered prompt followed by its answer and EOS, and which of them belong to the
        answer.

        Prompt and answer are tokenised together. A token that covers characters of both belongs to the answer. As in
        `conversation`, a space separates a plain template from the answer.
        """
        rendered = self.render(text)
        separator = " " if isinstance(self.prompt, PlainPrompt) else ""
        ids, offsets = self._encoding(rendered + separator + self.literal(answer))
        length = len(rendered.replace(MARK, ""))
        return [*ids, self.eos], [*(end > length for _, end in offsets), True]

    def encode_plain(self, text: str) -> list[int]:
        """Return the token ids of a text outside of any prompt, with the tokenizer's usual beginning and with EOS at
        the end."""
        return [*self.ids_of(self.literal(text), add_special_tokens=True), self.eos]

    def shortened(self, text: str, max_tokens: int, side: str) -> list[int]:
        """Return the token ids of the rendered prompt, at most `max_tokens` and at most the model's positions.

        Args:
            text: text of the prompt.
            max_tokens: largest number of tokens.
            side: the side that is cut; see `truncate`.
        """
        return truncate(self.encode(text), min(max_tokens, self._positions or max_tokens), side)

    @cached_property
    def _positions(self) -> int | None:
        return positions(self._checkpoint)

    @cached_property
    def eos(self) -> int:
        """The id of the token that ends an answer: the tokenizer's, or else the first one in generation_config.json.

        Raises:
            LensflowError: the tokenizer has none.
        """
        index = self.tokenizer.token_to_id(special_tokens(self._checkpoint).get("eos_token", ""))
        named = [index] if index is not None else end_token_ids(self._checkpoint)
        if not named:
            raise LensflowError(
                f"{self._checkpoint}: no token ends an answer; name eos_token in tokenizer_config.json, or "
                "eos_token_id in generation_config.json"
            )
        return int(named[0])

    @cached_property
    def prefix(self) -> int:
        """The id of the token that replaces an empty context: BOS, or else EOS, as in lm-eval's own model.

        Raises:
            LensflowError: the tokenizer has neither.
        """
        index = self.tokenizer.token_to_id(special_tokens(self._checkpoint).get("bos_token", ""))
        return self.eos if index is None else int(index)

    @cached_property
    def end_tokens(self) -> set[int]:
        """Ids of `eos`, if there is one, and of the special token that the chat template ends an answer with."""
        texts = [special_tokens(self._checkpoint).get("eos_token", "")]
        if self._chat is not None and (end := self._special_tokens.match(self._chat.turn_end)):
            texts.append(end[0])
        ids = [self.tokenizer.token_to_id(text) for text in texts]
        return {int(index) for index in ids if index is not None}

    def decode(self, ids: list[int]) -> str:
        """Return the text of generated tokens, without special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def decode_all(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, with special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    def without_special(self, text: str) -> str:
        """Return a text of `decode_all` without its special tokens."""
        return self._special_tokens.sub("", text)

    @cached_property
    def vocabulary(self) -> list[str]:
        """The decoded text of every token id, in order."""
        size = self.tokenizer.get_vocab_size(with_added_tokens=True)
        return list(self.tokenizer.decode_batch([[index] for index in range(size)], skip_special_tokens=True))

    @cached_property
    def _special_tokens(self) -> re.Pattern[str]:
        """The special tokens, the longest first."""
        texts = [token.content for token in self.tokenizer.get_added_tokens_decoder().values() if token.special]
        return re.compile("|".join(map(re.escape, sorted(filter(None, texts), key=len, reverse=True))) or "(?!)")

    def literal(self, text: str) -> str:
        """Mark text that looks like a special token, so that it is tokenised as plain characters."""
        return self._special_tokens.sub(lambda match: f"{MARK}{match[0]}{MARK}", text.replace(MARK, "\ufffd"))

    def ids_of(self, marked: str, add_special_tokens: bool) -> list[int]:
        """Return the token ids of a text with the marks of `literal`."""
        return self._tokens(marked, add_special_tokens)[0]

    def _encoding(self, rendered: str) -> tuple[list[int], list[tuple[int, int]]]:
        return self._tokens(rendered, isinstance(self.prompt, PlainPrompt) or self.prompt.add_special_tokens)

    def _tokens(self, marked: str, add_special_tokens: bool) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids, and the characters that each token covers in the text without its marks.

        Tokens that the tokenizer adds at the end of a text, such as EOS, are left out, because the answer follows the
        prompt.

        Raises:
            LensflowError: the model has no embedding for a token, because the token was added only to the tokenizer.
        """
        ids, offsets = self._tokenised(marked, add_special_tokens)
        if self.embeddings is not None and (highest := max(ids, default=0)) >= self.embeddings:
            raise LensflowError(
                f"{self._checkpoint}: token '{self.tokenizer.id_to_token(highest)}' has the id {highest}, and the "
                f"model has {self.embeddings} embeddings; leave it out of the prompt, or resize the embeddings"
            )
        return ids, offsets

    def _tokenised(self, marked: str, add_special_tokens: bool) -> tuple[list[int], list[tuple[int, int]]]:
        pieces = marked.split(MARK)  # every second one is literal
        if len(pieces) == 1:
            encoding = self.tokenizer.encode(marked, add_special_tokens=add_special_tokens)
            kept = len(encoding.ids) - (self._behind if add_special_tokens else 0)
            return list(encoding.ids)[:kept], list(encoding.offsets)[:kept]
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
        kept = len(whole.ids) - (self._behind if add_special_tokens else 0)
        masks = whole.special_tokens_mask[:kept]
        return list(whole.ids)[:kept], [(0, 0) if added else next(places) for added in masks]


def truncate(ids: list[int], max_tokens: int, side: str) -> list[int]:
    """Shorten token ids to `max_tokens`: `left` cuts the beginning (after a special first token), `right` cuts the
    end."""
    if len(ids) <= max_tokens:
        return ids
    return ids[:max_tokens] if side == "right" else [ids[0], *ids[len(ids) - max_tokens + 1 :]]
