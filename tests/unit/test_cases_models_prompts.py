"""Prompts as models want them: chat templates as they are published, special tokens as they are written."""

import datetime
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from lensflow.artifacts.tokens import chat_template, special_tokens
from lensflow.errors import LensflowError
from lensflow.models.chat import ChatTemplate
from lensflow.models.engines.ends import eos_token_ids
from lensflow.models.thinking import split
from lensflow.models.tokenizer import PromptTokenizer
from lensflow.schema.backbone import ChatPrompt, PlainPrompt
from lensflow.schema.parsing import parse
from lensflow.workflow import experiment

TEMPLATES = Path(__file__).parents[1] / "data/chat_templates"
BOS, EOS = "<s>", "</s>"
# Beside BOS and EOS; those of the last row are no special ones, as in DeepSeek's and Qwen's tokenizers.
SPECIAL = (
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>"),
    *("<start_of_turn>", "<end_of_turn>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    *("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>"),
    *("<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>", "[THINK]", "[/THINK]"),
)
WORDS = ("<think>", "</think>")
CHAT = ChatPrompt(format="chat")
TEXTS = ("What is rain?", "  雨はなぜ降りますか。\n", "Write </s> and <|im_end|> as they are.")


def save(folder: Path, template: str = "", frame: str = f"{BOS} $A", **settings: Any) -> Path:
    """Write a tokenizer of one token per byte, with the special tokens of all templates."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [BOS, EOS, *SPECIAL, *WORDS]
    words = [*names, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in (BOS, EOS, *SPECIAL)])
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in WORDS])
    tokenizer.post_processor = processors.TemplateProcessing(single=frame, special_tokens=[(BOS, 0), (EOS, 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    content = {"bos_token": BOS, "eos_token": EOS, "tokenizer_class": "PreTrainedTokenizerFast"} | settings
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    if template:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def published(name: str) -> str:
    return (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


def names_of(tokenizer: PromptTokenizer, ids: list[int]) -> list[str]:
    return [tokenizer.tokenizer.id_to_token(index) for index in ids]


TAKE_SYSTEM = {
    **dict.fromkeys(("llama-3", "llama-3.1", "llama-3.2", "chatml", "qwen3", "smollm2"), True),
    **dict.fromkeys(("phi-3", "phi-3.5", "zephyr", "command-r", "deepseek-r1"), True),
    **dict.fromkeys(("gemma-2", "mistral-v0.2"), False),
}


def test_the_table_has_all_templates():
    assert set(TAKE_SYSTEM) == {path.stem for path in TEMPLATES.glob("*.jinja")}


@pytest.mark.parametrize("name", TAKE_SYSTEM)
def test_token_ids_are_those_of_transformers(tmp_path, name):
    """Of plain texts and conversations; what reads like a special token is text with us and a token with them."""
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(save(tmp_path / name, published(name)))
    ours = PromptTokenizer(tmp_path / name, CHAT)
    moment = datetime.datetime.combine(CHAT.date, datetime.time())

    def ids(messages: list[dict[str, str]]) -> list[int]:
        encoded = theirs.apply_chat_template(
            messages, add_generation_prompt=True, strftime_now=moment.strftime, return_dict=False
        )
        return list(encoded)

    for text in TEXTS[:2]:
        turns = [{"role": role, "content": text} for role in ("user", "assistant", "user")]
        system = [{"role": "system", "content": "Be brief."}] if TAKE_SYSTEM[name] else []
        assert ours.encode(text) == ids(turns[:1])
        assert ours.encode_rendered(ours.conversation(turns)) == ids(turns)
        assert ours.encode_rendered(ours.conversation([*system, *turns])) == ids([*system, *turns])
    evil = [{"role": "user", "content": TEXTS[2]}]
    assert ours.encode(TEXTS[2]) != ids(evil)
    assert ours.decode_all(ours.encode(TEXTS[2])) == ours.decode_all(ids(evil))


@pytest.mark.parametrize("name", TAKE_SYSTEM)
def test_a_system_message_is_refused_where_the_template_has_no_place_for_it(tmp_path, name):
    prompt = ChatPrompt(format="chat", system="Be brief.")
    template = ChatTemplate(save(tmp_path, published(name)), prompt)
    assert template.takes_system == TAKE_SYSTEM[name]
    if TAKE_SYSTEM[name]:
        template.check("backbones.b.prompt")
        return
    with pytest.raises(LensflowError, match=r"^backbones.b.prompt.system: .* takes no system message; set it to null"):
        template.check("backbones.b.prompt")


def test_a_template_that_drops_the_system_message_without_a_word(tmp_path):
    text = "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"
    with pytest.raises(LensflowError, match="takes no system message"):
        ChatTemplate(save(tmp_path, text), ChatPrompt(format="chat", system="Be brief.")).check("p")
    ChatTemplate(tmp_path, CHAT).check("p")


def test_the_description_of_a_task_goes_where_the_template_takes_it(tmp_path):
    tokenizer = PromptTokenizer(save(tmp_path, published("gemma-2")), CHAT)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert tokenizer.conversation(messages) == (
        f"{BOS}<start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\n"
    )
    empty = PromptTokenizer(tmp_path, ChatPrompt(format="chat", system=""))
    assert empty.render("Hi") == tokenizer.render("Hi")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ raise_exception('no') }}", r"cannot render a prompt \(no\); correct the template"),
        ("{{ nothing.at.all }}", r"cannot render a prompt \('nothing' is undefined\)"),
        ("{% for %}", "cannot render a prompt"),
        ("Hello", "drops or changes the prompt"),
        ("{{ messages[0].content | upper }}", "drops or changes the prompt"),
        ("{{ messages[0].content | e }}", "drops or changes the prompt"),
        ("{{ messages[0].content[:80] }}", "drops or changes the prompt"),
    ],
)
def test_a_template_that_cannot_be_used(tmp_path, text, message):
    with pytest.raises(LensflowError, match=message) as error:
        ChatTemplate(save(tmp_path, text), CHAT).check("backbones.b.prompt")
    assert "\n" not in str(error.value)


def test_a_template_that_is_no_text_is_refused(tmp_path):
    (save(tmp_path) / "chat_template.jinja").write_bytes("{{ messages[0].content }} é".encode("latin-1"))
    with pytest.raises(LensflowError, match=r"chat_template\.jinja: not UTF-8 text; convert it"):
        ChatTemplate(tmp_path, CHAT)


PARTS = "{% for m in messages %}<{{ m.role }}>{% for c in m.content %}{{ c.text }}{% endfor %}{% endfor %}<answer>"


def test_a_template_of_parts_gets_parts(tmp_path):
    """Models of images have the content of a message as a list; theirs is what transformers is given as a list, too."""
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(save(tmp_path, PARTS))
    ours = ChatTemplate(tmp_path, CHAT)
    ours.check("p")
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": TEXTS[1]}]
    parts = [{"role": turn["role"], "content": [{"type": "text", "text": turn["content"]}]} for turn in turns]
    expected = theirs.apply_chat_template(parts, add_generation_prompt=True, tokenize=False)
    assert ours.render(turns) == expected == f"<system>Be brief.<user>{TEXTS[1]}<answer>"


@pytest.mark.parametrize("name", ["chat_template.json", "processor_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("form", [str, lambda text: {"default": text, "tools": "x"}])
def test_a_template_may_stand_with_the_processor(tmp_path, name, form):
    save(tmp_path)
    settings = json.loads((tmp_path / name).read_text()) if (tmp_path / name).exists() else {}
    (tmp_path / name).write_text(json.dumps(settings | {"chat_template": form(PARTS)}))
    assert chat_template(tmp_path) == PARTS


# Special tokens


@pytest.mark.parametrize("form", ["text", "dictionary", "map", "legacy"])
def test_special_tokens_however_they_are_written(tmp_path, form):
    """Also where older checkpoints keep them; `legacy` overrides tokenizer_config.json, as in transformers."""
    from transformers import AutoTokenizer

    as_dictionary = {"__type": "AddedToken", "content": BOS, "lstrip": False, "normalized": False, "special": True}
    settings: dict[str, Any] = {"text": {}, "dictionary": {"bos_token": as_dictionary}}.get(form, {"bos_token": None})
    if form == "legacy":
        settings = {"bos_token": "<|end|>"}
    save(tmp_path, "{{ bos_token + 'A' }}{{ messages[0].content }}", **settings)
    if form in ("map", "legacy"):
        (tmp_path / "special_tokens_map.json").write_text(json.dumps({"bos_token": {"content": BOS}}))
    tokenizer = PromptTokenizer(tmp_path, CHAT)
    assert names_of(tokenizer, tokenizer.encode("x")) == [BOS, "A", "x"]
    assert tokenizer.eos == 1
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert special_tokens(tmp_path)["bos_token"] == theirs.bos_token == BOS


@pytest.mark.parametrize(
    "settings",
    [
        {"eos_token": WORDS[1]},  # a token of tokenizer.json that is no special one there
        {"added_tokens_decoder": {"24": {"content": WORDS[1], "special": True}}},
        {"added_tokens_decoder": {"281": {"content": "<|new|>", "special": True}}},
    ],
)
def test_tokens_that_only_the_settings_name(tmp_path, settings):
    """Merged and fine-tuned checkpoints have such; their answers ended in `<|im_end|>`."""
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(save(tmp_path, **settings))
    ours = PromptTokenizer(tmp_path, PlainPrompt(format="plain", template=f"a{WORDS[1]}<|new|>{{prompt}}"))
    ids = theirs(f"a{WORDS[1]}<|new|>b").input_ids
    assert ours.encode("b") == ids
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    assert ours.decode(ids) != f"a{WORDS[1]}<|new|>b"


def test_a_token_without_an_embedding_is_refused(tmp_path):
    """Added to the tokenizer, while the embeddings were not resized."""
    save(tmp_path, added_tokens_decoder={"281": {"content": "<|new|>", "special": True}})
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 281}))
    PromptTokenizer(tmp_path, PlainPrompt(format="plain")).encode("b")
    message = (
        r"token '<\|new\|>' has the id 281, and the model has 281 embeddings; leave it out of the prompt, or resize"
    )
    with pytest.raises(LensflowError, match=message):
        PromptTokenizer(tmp_path, PlainPrompt(format="plain", template="<|new|>{prompt}")).encode("b")


def test_no_eos_is_said(tmp_path):
    tokenizer = PromptTokenizer(save(tmp_path, eos_token=None), PlainPrompt(format="plain"))
    assert tokenizer.end_tokens == set()
    with pytest.raises(LensflowError, match="no token ends an answer; name eos_token"):
        _ = tokenizer.eos


@pytest.mark.parametrize("frame", [f"{BOS} $A", "$A", f"{BOS} $A {EOS}"])
@pytest.mark.parametrize("start", ["", BOS, BOS + BOS])
def test_a_plain_template_has_one_bos(tmp_path, frame, start):
    save(tmp_path, frame=frame)
    tokenizer = PromptTokenizer(tmp_path, PlainPrompt(format="plain", template=start + "[{prompt}]"))
    added = frame.startswith(BOS)
    expected = ([BOS] if added else [BOS] * (len(start) // len(BOS))) + ["[", "H", "i", "]"]
    assert names_of(tokenizer, tokenizer.encode("Hi")) == expected  # and no EOS: the answer follows
    ids, inside = tokenizer.encode_with_span("Hi")
    assert names_of(tokenizer, [index for index, is_text in zip(ids, inside, strict=True) if is_text]) == ["H", "i"]
    assert names_of(tokenizer, tokenizer.encode_plain("Hi"))[-3:] == ["H", "i", EOS]
    assert names_of(tokenizer, tokenizer.encode_plain(EOS)).count(EOS) == 1  # of a text: characters


def test_bos_is_kept_between_the_turns_of_no_conversation(tmp_path):
    tokenizer = PromptTokenizer(save(tmp_path), PlainPrompt(format="plain", template=f"{BOS}[{{prompt}}]"))
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant", "user")]
    assert names_of(tokenizer, tokenizer.encode_rendered(tokenizer.conversation(turns))).count(BOS) == 1


# Lists of templates, variables, dates


def test_the_default_of_a_list_of_templates(tmp_path):
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "{{ messages[0].content }}!"}]
    save(tmp_path, chat_template=named)
    assert chat_template(tmp_path) == "{{ messages[0].content }}!"
    assert PromptTokenizer(tmp_path, CHAT).render("Hi") == "Hi!"
    (tmp_path / "chat_template.jinja").write_text("its own file")
    assert chat_template(tmp_path) == "its own file"


def test_a_list_of_templates_without_a_default(tmp_path):
    save(tmp_path, chat_template=[{"name": "rag", "template": "x"}])
    with pytest.raises(LensflowError, match=r"none of the chat templates in .* is called default"):
        PromptTokenizer(tmp_path, CHAT)


def test_template_variables_reach_the_template(tmp_path):
    prompt = parse(ChatPrompt, {"format": "chat", "template_variables": {"enable_thinking": False}}, "prompt")
    save(tmp_path, published("qwen3"))
    ChatTemplate(tmp_path, prompt).check("p")
    assert PromptTokenizer(tmp_path, prompt).render("Hi").endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert PromptTokenizer(tmp_path, CHAT).render("Hi").endswith("<|im_start|>assistant\n")


def test_the_catalogs_qwen3_does_not_think(tmp_path):
    catalog = experiment.read([], TEMPLATES.parents[2]).backbones
    for name in (name for name in catalog if name.startswith("qwen3")):
        ChatTemplate(save(tmp_path / name, published("qwen3")), catalog[name].prompt).check(name)
        assert PromptTokenizer(tmp_path / name, catalog[name].prompt).render("Hi").endswith("</think>\n\n")


def test_a_variable_that_the_template_does_not_have(tmp_path):
    prompt = ChatPrompt(format="chat", template_variables={"enable_thinkin": False})
    with pytest.raises(LensflowError, match=r"^p.template_variables: .* has no variable 'enable_thinkin'; it has "):
        ChatTemplate(save(tmp_path, published("qwen3")), prompt).check("p")


@pytest.mark.parametrize("name", ["messages", "bos_token", "add_generation_prompt", "strftime_now"])
def test_a_variable_that_is_not_the_users(name):
    with pytest.raises(LensflowError, match=f"'{name}' is set by Lensflow; remove it"):
        parse(ChatPrompt, {"format": "chat", "template_variables": {name: "x"}}, "prompt")


@pytest.mark.parametrize("date", [None, "2025-03-09", datetime.date(2025, 3, 9)])
def test_the_date_is_pinned(tmp_path, date):
    prompt = parse(ChatPrompt, {"format": "chat"} | ({} if date is None else {"date": date}), "prompt")
    rendered = PromptTokenizer(save(tmp_path, published("llama-3.2")), prompt).render("Hi")
    assert f"Today Date: {'26 Jul 2024' if date is None else '09 Mar 2025'}\n" in rendered
    assert prompt.canonical()["date"] == ("2024-07-26" if date is None else "2025-03-09")  # written down
    clock = save(tmp_path / "clock", "{{ strftime_now('%H:%M:%S') }}{{ messages[0].content }}")
    assert PromptTokenizer(clock, prompt).render("Hi") == "00:00:00Hi"


# Ends of answers


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("llama-3.1", "<|eot_id|>"),
        ("qwen3", "<|im_end|>"),
        ("gemma-2", "<end_of_turn>"),
        ("mistral-v0.2", EOS),
        ("phi-3", "<|end|>"),
        ("command-r", "<|END_OF_TURN_TOKEN|>"),
        ("deepseek-r1", "<｜end▁of▁sentence｜>"),
    ],
)
def test_an_answer_ends_where_the_template_ends_a_turn(tmp_path, name, end):
    tokenizer = PromptTokenizer(save(tmp_path, published(name)), CHAT)
    assert tokenizer.end_tokens == {1, tokenizer.tokenizer.token_to_id(end)}


def test_a_turn_may_end_in_a_token_that_is_not_special(tmp_path):
    template = "{% for m in messages %}{{ m.content }}</think>\n{% endfor %}"
    tokenizer = PromptTokenizer(save(tmp_path, template), CHAT)
    end = tokenizer.tokenizer.token_to_id("</think>")
    assert tokenizer.end_tokens == {1, end}
    assert tokenizer.decode([*tokenizer.tokenizer.encode("好", add_special_tokens=False).ids, end]) == "好"


def test_a_template_without_an_end_of_turn(tmp_path):
    tokenizer = PromptTokenizer(save(tmp_path, "{% for m in messages %}{{ m.content }}\n{% endfor %}"), CHAT)
    assert tokenizer.end_tokens == {1}


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [([7, 8], 9, {1, 7, 8}), (7, 9, {1, 7}), (None, [9, 10], {1, 9, 10}), (None, None, {1})],
)
def test_several_tokens_end_an_answer(tmp_path, generation, config, expected):
    save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": config}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": generation}))
    assert eos_token_ids(tmp_path, PromptTokenizer(tmp_path, PlainPrompt(format="plain"))) == expected


# Thinking


@pytest.mark.parametrize(
    ("prompt", "said", "thought", "answer"),
    [
        ("x", "<think>\nHm.\n</think>\n\n好。</s>", "Hm.", "好。"),
        ("x<think>\n", "Hm.\n</think>\n\n好。</s>", "Hm.", "好。"),  # the template opened the block
        ("x", "<think>\n\n</think>\n\n好。", "", "好。"),  # an empty thought
        ("x", "[THINK]Hm.[/THINK]好。</s>", "Hm.", "好。"),  # special tokens, which are not decoded
        ("x", "<think>Hm, let me", "Hm, let me", ""),  # cut while it thinks
        ("x<think>\n", "Hm, let me", "Hm, let me", ""),
        ("x<think>\n\n</think>\n\n", "好。</s>", "", "好。"),  # switched off by the template
        ("x", "好。I think so.", "", "好。I think so."),
    ],
)
def test_an_answer_is_measured_apart_from_the_thought(tmp_path, prompt, said, thought, answer):
    tokenizer = PromptTokenizer(save(tmp_path), PlainPrompt(format="plain"))
    ids = [list(tokenizer.tokenizer.encode(text, add_special_tokens=False).ids) for text in (prompt, said)]
    assert split(tokenizer, *ids, tokenizer.decode(ids[1]), ()) == (thought, answer)


def test_stop_strings_cut_the_answer_not_the_thought(tmp_path):
    tokenizer = PromptTokenizer(save(tmp_path), PlainPrompt(format="plain"))
    ids = list(tokenizer.tokenizer.encode("<think>a\nb</think>c\nd", add_special_tokens=False).ids)
    assert split(tokenizer, [], ids, "<think>a", ["\n"]) == ("a\nb", "c")
