"""The chat template of a tokenizer: how the model sees conversations, and which messages the template accepts.

No torch.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, time
from functools import cached_property
from pathlib import Path
from typing import Any

from lensflow.artifacts.tokens import chat_template, special_tokens
from lensflow.errors import LensflowError
from lensflow.schema.backbone import ChatPrompt

Message = Mapping[str, str]
_PROBE = "Lensflow"  # a text that no template has, and that none changes
# What a template must keep as it is: both cases, marks of HTML and JSON, a line break, another script, and more than a
# few words.
_PROMPT = f"""{_PROBE}: How long is '1 km' in METRES & "miles", if x < y?
Please answer in one sentence, {"and take your time " * 20}雨."""


class ChatTemplate:
    """The chat template of a checkpoint, with the special tokens, variables and date that it is rendered with.

    A template may print today's date. It gets the fixed date of the prompt format instead, so that a prompt is the same
    every day.

    Args:
        checkpoint: folder with tokenizer_config.json and, unless the settings hold the template, chat_template.jinja.
        prompt: the prompt format of the backbone.

    Raises:
        LensflowError: there is no template.
    """

    def __init__(self, checkpoint: Path, prompt: ChatPrompt) -> None:
        self.prompt = prompt
        self._checkpoint = checkpoint
        self._text = chat_template(checkpoint)
        moment = datetime.combine(prompt.date, time())
        self._variables = special_tokens(checkpoint) | prompt.template_variables | {"strftime_now": moment.strftime}

    def render(self, messages: Sequence[Message], answered: bool = False) -> str:
        """Return a conversation as the model sees it.

        Args:
            messages: dictionaries with `role` and `content`. If the template takes no system message, the system text
                is put before the first user message.
            answered: whether the last message is an answer. If not, the text ends where the next answer begins.

        Raises:
            LensflowError: the template refuses the conversation.
        """
        if messages and messages[0]["role"] == "system" and not self.takes_system:
            messages = _merged(messages)
        return self._render(messages, answered)

    def _render(self, messages: Sequence[Message], answered: bool = False) -> str:
        return self._fill(_in_parts(messages) if self._wants_parts else messages, answered)

    @cached_property
    def missing_beginning(self) -> str:
        """Text that the template writes before a finished answer but not before a new one; empty for nearly all
        templates."""
        turns = [_message("user", "Hi"), _message("assistant", _PROBE)]
        try:
            asked, without = self._render(turns[:1]), self._render(turns[:1], answered=True)
            whole = self._render(turns, answered=True)
        except LensflowError:
            return ""
        between = whole.removeprefix(asked).partition(_PROBE)[0]
        return between.strip() if asked == without and whole.startswith(asked) else ""

    def _fill(self, turns: Sequence[Mapping[str, Any]], answered: bool = False) -> str:
        from transformers.utils.chat_template_utils import render_jinja_template  # takes most of a second

        try:
            rendered, _ = render_jinja_template(
                [list(turns)], chat_template=self._text, add_generation_prompt=not answered, **self._variables
            )
        except Exception as error:  # a template can fail in any way
            raise LensflowError(
                f"{self._checkpoint}: its chat template cannot render a prompt ({_reason(error)}); correct the "
                f"template "
                "or set prompt.format: plain"
            ) from None
        return str(rendered[0])

    @cached_property
    def _wants_parts(self) -> bool:
        """Whether the template writes a message only if its content is a list of parts, as in models that read
        images."""
        turn = [_message("user", _PROBE)]
        return not self._shows(turn) and self._shows(_in_parts(turn))

    def _shows(self, turns: Sequence[Mapping[str, Any]]) -> bool:
        with suppress(LensflowError):
            return _PROBE in self._fill(turns)
        return False

    @cached_property
    def takes_system(self) -> bool:
        """Whether the template accepts a system message."""
        try:
            rendered = self._render([_message("system", f"{_PROBE}a"), _message("user", f"{_PROBE}b")])
        except LensflowError:
            return False
        return f"{_PROBE}a" in rendered and f"{_PROBE}b" in rendered

    @cached_property
    def keeps_turns(self) -> bool:
        """Whether the template writes every turn of a conversation. One that refuses conversations says so itself."""
        turns = [_message(role, f"{_PROBE} {role} {n}") for n, role in enumerate(("user", "assistant", "user"))]
        with suppress(LensflowError):
            rendered = self._render(turns)
            return all(turn["content"] in rendered for turn in turns)
        return True

    @cached_property
    def turn_end(self) -> str:
        """Text that the template writes after an answer; empty if it is unknown."""
        try:
            rendered = self._render([_message("user", "Hi"), _message("assistant", _PROBE)], answered=True)
        except LensflowError:
            return ""
        return rendered.partition(_PROBE)[2].lstrip()

    def check(self, where: str) -> None:
        """Check that the template renders prompts of this format.

        Args:
            where: the beginning of a message: the key of the prompt.

        Raises:
            LensflowError: the template fails, drops the text, takes no system message, or lacks a variable that is set.
        """
        if _PROMPT not in self.render([_message("user", _PROMPT)]):
            raise LensflowError(
                f"{where}: the chat template of {self._checkpoint} drops or changes the prompt; correct the template"
            )
        if self.prompt.system and not self.takes_system:
            raise LensflowError(
                f"{where}.system: the chat template of {self._checkpoint} takes no system message; set it to null, or "
                "use a template that does"
            )
        known = _variables_of(self._text)
        for name in self.prompt.template_variables:
            if name not in known:
                raise LensflowError(
                    f"{where}.template_variables: the chat template of {self._checkpoint} has no variable '{name}'; it "
                    f"has {', '.join(sorted(known))}"
                )


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _in_parts(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]


def _merged(messages: Sequence[Message]) -> list[Message]:
    """Put the text of the first system message before the first user message."""
    system, *rest = messages
    first = next((i for i, message in enumerate(rest) if message["role"] == "user"), None)
    if first is None:
        return [_message("user", system["content"]), *rest]
    content = f"{system['content']}\n\n{rest[first]['content']}" if system["content"] else rest[first]["content"]
    return [*rest[:first], {**rest[first], "content": content}, *rest[first + 1 :]]


def _variables_of(text: str) -> frozenset[str]:
    """Return the variables that a template reads but does not set."""
    import jinja2.meta  # noqa: F401  (transformers uses it without importing it)
    from transformers.utils.chat_template_utils import _get_template_variables

    found: frozenset[str] = _get_template_variables(text)
    return found


def _reason(error: Exception) -> str:
    """Return in one line why a template failed."""
    return re.sub(r"\s+", " ", str(error)).strip()[:200] or type(error).__name__
