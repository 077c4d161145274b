"""Prompts, their tokens and their shortening, with tokenizers of one token a byte built here."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from lensflow.errors import LensflowError
from lensflow.models.tokenizer import PromptTokenizer, truncate
from lensflow.schema.backbone import ChatPrompt, PlainPrompt

SPECIAL = ["<bos>", "<eos>", "<user>", "<end>", "<model>"]
# As Gemma's and Llama's templates do, this one begins with the BOS token and strips white space.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<user>You asked: {{ message['content'] | trim }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<model>{% endif %}"
)
PLAIN = PlainPrompt(format="plain", template="Question: {prompt}\nAnswer:")
CHAT = ChatPrompt(format="chat")


def save_tokenizer(folder: Path, chat_template: str | None) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    tokenizer.enable_truncation(5)  # as some published tokenizers come
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<bos>", "eos_token": "<eos>"}))
    if chat_template is not None:
        (folder / "chat_template.jinja").write_text(chat_template)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(path, CHAT_TEMPLATE)
    return path


@pytest.fixture(scope="module")
def plain(folder) -> PromptTokenizer:
    return PromptTokenizer(folder, PLAIN)


@pytest.fixture(scope="module")
def chat(folder) -> PromptTokenizer:
    return PromptTokenizer(folder, CHAT)


def bytes_of(text: str, tokenizer: PromptTokenizer) -> list[int]:
    return list(tokenizer.tokenizer.encode(text, add_special_tokens=False).ids)


def test_a_plain_prompt_begins_with_bos_and_ends_where_the_answer_begins(plain):
    ids = plain.encode("天气?")
    assert plain.tokenizer.id_to_token(ids[0]) == "<bos>"
    assert plain.decode(ids) == "Question: 天气?\nAnswer:"
    assert len(ids) == 1 + len("Question: 天气?\nAnswer:".encode())


def test_a_chat_prompt_has_one_bos_and_ends_with_the_generation_prompt(chat):
    ids = chat.encode("Hi")
    assert [chat.tokenizer.id_to_token(i) for i in ids].count("<bos>") == 1
    expected = ["<bos>", "<user>", "Y", "o", "u", "Ġ", "a", "s", "k", "e", "d", ":", "Ġ", "H", "i", "<end>", "<model>"]
    assert [chat.tokenizer.id_to_token(i) for i in ids] == expected


def test_braces_of_a_prompt_are_text(plain, chat):
    assert plain.render("{prompt}") == "Question: {prompt}\nAnswer:"
    assert "{{ bos_token }} {% x" in chat.render("{{ bos_token }} {% x")


def test_chat_needs_a_chat_template(tmp_path):
    save_tokenizer(tmp_path, None)
    PromptTokenizer(tmp_path, PLAIN)
    with pytest.raises(LensflowError, match="no chat template"):
        PromptTokenizer(tmp_path, CHAT)


TEXTS = st.one_of(
    st.text(st.characters(exclude_characters="<>\x85\x1c\x1d\x1e\x1f", exclude_categories=("Cs",)), min_size=1),
    # What stands in the templates, too.
    st.sampled_from(["Question", ":", " ", "Answer:", "You", "asked", "o", "u", "\n", "{prompt}"]),
).filter(str.strip)


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(text=TEXTS)
def test_the_span_is_the_prompt_and_nothing_else(plain, chat, text):
    for tokenizer, shown, template in (
        (plain, text, ("<bos>Question: ", "\nAnswer:")),
        (chat, text.strip(), ("<bos><user>You asked: ", "<end><model>")),
    ):
        ids, inside = tokenizer.encode_with_span(text)
        before, after = (bytes_of(part, tokenizer) for part in template)
        assert ids == tokenizer.encode(text) == before + bytes_of(shown, tokenizer) + after
        assert inside == [False] * len(before) + [True] * (len(ids) - len(before) - len(after)) + [False] * len(after)


def test_the_span_holds_tokens_that_the_prompt_shares_with_the_template(tmp_path):
    save_tokenizer(tmp_path, None)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"]["ĠH"] = len(content["model"]["vocab"])
    content["model"]["merges"] = [["Ġ", "H"]]
    path.write_text(json.dumps(content))
    tokenizer = PromptTokenizer(tmp_path, PLAIN)
    ids, inside = tokenizer.encode_with_span("Hi")
    tokens = [tokenizer.tokenizer.id_to_token(index) for index in ids]
    assert [token for token, marked in zip(tokens, inside, strict=True) if marked] == ["ĠH", "i"]


def test_the_vocabulary_is_the_text_of_every_token(plain):
    vocabulary = plain.vocabulary
    assert len(vocabulary) == len(SPECIAL) + 256
    assert vocabulary[: len(SPECIAL)] == [""] * len(SPECIAL)
    assert {"a", " ", "\n"} <= set(vocabulary)


def test_decoding_leaves_special_tokens_out(chat):
    assert chat.decode(chat.encode("Hi")) == "You asked: Hi"


def test_truncation_on_the_left_keeps_bos_and_the_generation_prompt(chat):
    ids = chat.encode("word " * 50)
    short = truncate(ids, 12, "left")
    assert len(short) == 12
    assert chat.tokenizer.id_to_token(short[0]) == "<bos>"
    assert [chat.tokenizer.id_to_token(i) for i in short[-2:]] == ["<end>", "<model>"]
    assert short[1:] == ids[-11:]


def test_truncation_on_the_right_keeps_the_beginning(chat):
    ids = chat.encode("word " * 50)
    assert truncate(ids, 12, "right") == ids[:12]


@pytest.mark.parametrize("side", ["left", "right"])
def test_truncation_leaves_what_fits(side):
    ids = random.Random(0).choices(range(99), k=7)
    assert truncate(ids, 7, side) == ids
    assert len(truncate(ids, 6, side)) == 6
    assert truncate(ids, 2, side) == [ids[0], ids[-1] if side == "left" else ids[1]]
