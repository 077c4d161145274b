"""What `lensflow check` says of data beside a model: prompts that are too long, texts that are not what they seem."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from tokenizers import Regex, Tokenizer, normalizers

from lensflow.cli.configuration import checked_plan
from lensflow.errors import LensflowError
from lensflow.models.tokenizer import PromptTokenizer
from lensflow.schema.backbone import ChatPrompt, PlainPrompt
from lensflow.schema.decoding import Decoding
from lensflow.schema.parsing import parse
from lensflow.storage.parsing import read_yaml

EN = [f"What is the number {n} in the old book?" for n in range(10)]
SW = [f"Namba {n} ni nini katika kitabu cha zamani?" for n in range(10)]


def rows(en: list[str], sw: list[str]) -> list[dict[str, Any]]:
    return [{"id": n, "en": one, "sw": other} for n, (one, other) in enumerate(zip(en, sw, strict=True))]


@pytest.fixture
def check(checkpoint, tmp_path, monkeypatch, capsys):
    """Check a run of a tiny model on a file of texts; return the hints."""
    monkeypatch.chdir(tmp_path)

    def checked(texts: list[dict[str, Any]], **changes: Any) -> list[str]:
        Path("texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
        dataset = {"path": "texts.jsonl", "layout": "columns", "languages": {"en": "en", "sw": "sw"}, "id": "id"}
        config = {
            "evaluation": {"engine": "hf"},
            "backbones": {
                "tiny": {
                    "source": {"kind": "folder", "path": str(checkpoint("llama"))},
                    "license": "none",
                    "prompt": {"format": "plain"},
                }
            },
            "corpora": {"mine": {"license": "none", "dataset": dataset | {"train": 6, "dev": 2, "test": 2}}},
            "settings": {"pair": {"central": "en", "languages": ["en", "sw"], "probing": "mine", "training": "mine"}},
            "benchmarks": {
                "held-out": {"kind": "likelihood", "corpus": "mine"},
                "answers": {"kind": "generation", "corpus": "mine", "max_new_tokens": 8},
            },
            "runs": [
                {
                    "backbones": ["tiny"],
                    "settings": ["pair"],
                    "methods": ["base", "lens-gentle"],
                    "benchmarks": ["held-out", "answers"],
                }
            ],
        }
        for key, value in changes.items():
            config[key] = value if isinstance(value, list) else config.get(key, {}) | value
        Path("run.yaml").write_text(yaml.safe_dump(config))
        checked_plan([Path("run.yaml")], Path("results"))
        return capsys.readouterr().out.splitlines()

    return checked


def test_nothing_is_said_where_all_is_well(check):
    assert check(rows(EN, SW)) == []


@pytest.mark.parametrize(
    ("text", "changes", "message"),
    [
        (
            " neno" * 120,
            {},
            r"^benchmarks.held-out, sw: a prompt and its answer of \d+ tokens exceed the 512 positions of backbone "
            "tiny; shorten the items, lower max_new_tokens or give fewer examples$",
        ),
        (
            "",
            {"benchmarks": {"answers": {"kind": "generation", "corpus": "mine", "max_new_tokens": 500}}},
            r"^benchmarks.answers, en: a prompt and its answer of \d+ tokens exceed the 512 positions of backbone tiny",
        ),
        (
            "",
            {"evaluation": {"engine": "auto", "max_model_len": 40}},
            r"^benchmarks.answers, en: .* of \d+ tokens exceed evaluation.max_model_len \(40\); raise it$",
        ),
    ],
)
def test_a_prompt_that_is_too_long_is_refused(check, text, changes, message):
    with pytest.raises(LensflowError, match=message):
        check(rows(EN, [f"{one}{text}" for one in SW]), **changes)


def test_items_that_are_not_asked_may_be_long(check):
    texts = rows(EN, [*SW[:9], f"{SW[9]}{' neno' * 120}"])
    assert check(texts, evaluation={"engine": "hf", "limit": 1}) == []


def test_texts_that_are_cut_before_training_are_counted(check):
    long = [f"{one}{' neno' * 30}" for one in SW[:3]]
    assert check(rows(EN, [*long, *SW[3:]])) == [
        "hint: corpora.mine: 3 of 8 texts in 'sw' have more than 128 tokens for backbone tiny and lose their "
        "beginning; raise max_tokens if that matters"
    ]


@pytest.mark.parametrize(
    ("texts", "hints"),
    [
        (rows(SW, EN), ["the texts in 'en' read as 'sw'; correct", "the texts in 'sw' read as 'en'; correct"]),
        (rows(EN, [EN[0], *SW[1:]]), ["1 of 10 texts are the same in 'en' and 'sw'; translate them"]),
        (rows(EN, [str(1000 + n) for n in range(10)]), ["10 of 10 texts in 'sw' have no letter; name another column"]),
        (
            rows(EN, [SW[0].replace("n", "\0"), SW[1].replace("n", "\ufffd"), *SW[2:]]),
            ["2 of 10 texts in 'sw' hold U+0000 or U+FFFD instead of a character"],
        ),
    ],
)
def test_texts_that_are_not_what_they_seem_are_hints(check, texts, hints):
    found = check(texts)
    assert [line[: len(f"hint: corpora.mine: {hint}")] for line, hint in zip(found, hints, strict=True)] == [
        f"hint: corpora.mine: {hint}" for hint in hints
    ]


def test_letters_that_a_tokenizer_does_not_know_are_counted(check, checkpoint, tmp_path):
    """One without bytes knows the letters that it was trained on; a model would be asked with what is left."""
    folder = tmp_path / "ascii"
    shutil.copytree(checkpoint("llama"), folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.normalizer = normalizers.Replace(Regex(r"[^\x00-\x7f]"), "")
    tokenizer.save(str(folder / "tokenizer.json"))
    source = {"kind": "folder", "path": str(folder)}
    backbones = {"tiny": {"source": source, "license": "none", "prompt": {"format": "plain"}}}
    assert check(rows(EN, SW), backbones=backbones) == []
    # A backbone that is asked in English only need not know the other language.
    runs = [
        {"backbones": ["tiny"], "settings": ["pair"], "methods": ["base", "lens-gentle"], "benchmarks": ["answers"]},
        {"backbones": ["ascii"], "settings": ["pair"], "methods": ["base"], "benchmarks": [{"answers": ["en"]}]},
    ]
    russian = [f"Какова длина реки {n}?" for n in range(10)]
    assert check(rows(EN, russian), backbones={"ascii": backbones["tiny"]}, runs=runs) == []
    (hint,) = check(rows(EN, [f"{text} ŋŋŋ" for text in SW]), backbones=backbones)
    assert re.match(
        r"hint: corpora\.mine: the tokenizer of backbone tiny loses \d% of the letters in 'sw'; give a", hint
    )
    with pytest.raises(
        LensflowError, match=r"^corpora\.mine: the tokenizer of backbone tiny loses 100% of the letters"
    ):
        check(rows(EN, russian), backbones=backbones)
    assert check(rows(EN, [f"{text} ﬁ Ａ" for text in SW])) == []


def test_a_text_is_cut_to_what_the_model_was_made_for(checkpoint):
    tokenizer = PromptTokenizer(checkpoint("llama"), PlainPrompt(format="plain"))
    text = "neno " * 200
    assert len(tokenizer.encode(text)) > 1000
    assert len(tokenizer.shortened(text, 128, "left")) == 128
    assert len(tokenizer.shortened(text, 1000, "left")) == 512
    assert tokenizer.shortened("neno", 1000, "left") == tokenizer.encode("neno")


@pytest.mark.parametrize("template", ["Question:", "{{text}}", "{{ text }}"])
def test_a_template_without_a_column_is_refused(check, template):
    source = {"path": "texts.jsonl", "layout": "rows", "language": "lang", "languages": {"en": "en", "sw": "sw"}}
    corpus = {"license": "none", "dataset": source | {"prompt": template, "train": 2}}
    with pytest.raises(LensflowError, match=r"corpora.mine.dataset.prompt: must name a column in single braces"):
        check(rows(EN, SW), corpora={"mine": corpus})


def test_a_file_that_is_not_there_is_refused(check):
    """It is never fetched from the hub, so that its stage would only say later what is known now."""
    dataset = {"path": "text.jsonl", "layout": "columns", "languages": {"en": "en", "sw": "sw"}}
    corpora = {"mine": {"license": "none", "dataset": dataset | {"train": 6, "dev": 2, "test": 2}}}
    with pytest.raises(
        LensflowError, match=r"^corpus text\.jsonl .*: no such file, neither here nor below datasets_root"
    ):
        check(rows(EN, SW), corpora=corpora)
    asked = {"dataset": {"path": "question.csv", "columns": ["prompt"]}, "languages": {"sw": "sw"}}
    benchmarks = {"answers": asked | {"kind": "dataset_generation", "max_new_tokens": 4}}
    runs = [{"backbones": ["tiny"], "settings": ["pair"], "methods": ["base"], "benchmarks": [{"answers": ["sw"]}]}]
    with pytest.raises(
        LensflowError, match=r"^benchmarks\.answers: data set question\.csv .*: no such file, neither here"
    ):
        check(rows(EN, SW), benchmarks=benchmarks, runs=runs)


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        (PlainPrompt, {"format": "plain", "template": r"Question: {prompt}\nAnswer:"}),
        (ChatPrompt, {"format": "chat", "system": r"Be brief.\nBe kind."}),
        (Decoding, {"stop": [r"\n"]}),
    ],
)
def test_a_line_break_in_single_quotes_is_refused(section, changes):
    """YAML keeps a backslash and an n there: a prompt would show them, and a stop string would never be found."""
    with pytest.raises(LensflowError, match="is a backslash and an n here, not a line break; write the text in double"):
        parse(section, changes)
    parse(
        section, {key: yaml.safe_load(f'"{value}"') if value != ["\\n"] else ["\n"] for key, value in changes.items()}
    )
    parse(ChatPrompt, {"format": "chat", "system": r"Write \nabla in LaTeX."})


def test_items_that_are_copies_are_a_hint(check):
    Path("questions.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in [*SW, SW[0], SW[1]]))
    asked = {"dataset": {"path": "questions.jsonl", "columns": ["prompt"]}, "languages": {"sw": "sw"}}
    benchmarks = {"answers": asked | {"kind": "dataset_generation", "max_new_tokens": 4}}
    runs = [
        {"backbones": ["tiny"], "settings": ["pair"], "methods": ["base"], "benchmarks": [{"answers": ["sw"]}]},
    ]
    (hint,) = check(rows(EN, SW), benchmarks=benchmarks, runs=runs)
    assert hint.startswith("hint: benchmarks.answers, sw: 2 of 12 items are copies of others")


def test_one_file_for_two_languages_is_refused(check):
    """Both would be asked the same prompts, of which one language's are in another one."""
    Path("questions.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in SW))
    asked = {"dataset": {"path": "questions.jsonl", "columns": ["prompt"]}, "languages": {"sw": "sw", "en": "en"}}
    asked |= {"kind": "dataset_generation", "max_new_tokens": 4}
    runs = [{"backbones": ["tiny"], "settings": ["pair"], "methods": ["base"], "benchmarks": ["answers"]}]
    with pytest.raises(
        LensflowError, match=r"^benchmarks\.answers: 10 of 10 texts are the same in 'en' and 'sw'; transl"
    ):
        check(rows(EN, SW), benchmarks={"answers": asked}, runs=runs)
    assert check(rows(EN, SW), benchmarks={"answers": asked | {"prompt_language": "sw"}}, runs=runs) == []


def test_more_examples_than_there_are_items_are_refused(check):
    methods = {"lens-gentle": {"kind": "lens", "examples": 7}}
    with pytest.raises(LensflowError, match=r"examples: 7 is more than the 6 items to train on in corpus 'mine'"):
        check(rows(EN, SW), methods=methods)


@pytest.mark.parametrize(
    ("counts", "split", "message"),
    [
        ({"train": 8, "dev": 2, "test": 0}, "test", "raise corpora.mine.dataset.test, or set split: dev"),
        ({"train": 8, "dev": 0, "test": 2}, "dev", "raise corpora.mine.dataset.dev, or set split: test"),
        ({"train": 10, "dev": 0, "test": 0}, "test", "raise corpora.mine.dataset.test"),
    ],
)
def test_a_benchmark_on_a_split_without_items_is_refused(check, counts, split, message):
    dataset = {"path": "texts.jsonl", "layout": "columns", "languages": {"en": "en", "sw": "sw"}, **counts}
    answers = {"kind": "generation", "corpus": "mine", "max_new_tokens": 8, "split": split}
    runs = [{"backbones": ["tiny"], "settings": ["pair"], "methods": ["base"], "benchmarks": ["answers"]}]
    said = f"benchmarks.answers.split: corpus mine has no items in '{split}'; {message}"
    with pytest.raises(LensflowError, match=f"^{re.escape(said)}$"):
        check(
            rows(EN, SW),
            corpora={"mine": {"license": "none", "dataset": dataset}},
            benchmarks={"answers": answers},
            runs=runs,
        )


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("evaluation: {engine: hf}\nruns: []\nevaluation: {limit: 3}\n", 3, "evaluation"),
        ("methods:\n  mine: {kind: lens, layers: 1}\n  mine: {kind: lens}\n", 3, "mine"),
        ("runs:\n  - methods: [base]\n    seeds: [1]\n    methods: [lens-gentle]\n", 4, "methods"),
    ],
)
def test_a_key_that_stands_twice_is_refused(tmp_path, text, line, key):
    """YAML keeps the last one, so that what stands below the first would be lost."""
    file = tmp_path / "run.yaml"
    file.write_text(text)
    said = f"{file}, line {line}: key '{key}' occurs twice in one mapping; keep one"
    with pytest.raises(LensflowError, match=f"^{re.escape(said)}$"):
        read_yaml(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("runs:\n\t- methods: [base]\n", r", line 2: not valid YAML \(.*\); indent by spaces, not by tabs$"),
        ("title: my run: first\n", r", line 1: not valid YAML \(mapping values .*\); check its indentation, colons, "),
        (
            "a:\n  b: 1\n  limit:12\nc: 3\n",
            r", line 4: not valid YAML \(.*, .* that begins in line 3\); check its indentation",
        ),
        ("a: [", r", line \d: not valid YAML \(.*\); check its indentation, colons, commas and quotes$"),
    ],
)
def test_a_mistake_in_yaml_is_named_by_its_line_and_its_usual_cause(tmp_path, text, message):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(LensflowError, match=f"^{file}{message}") as caught:
        read_yaml(file)
    assert "\n" not in str(caught.value)


def test_anchors_and_merged_keys_are_no_repeated_keys(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("a: &a {kind: lens, lr: 1.0}\nb: &b {lr: 2.0}\nc: {<<: *a, <<: *b, lr: 3.0}\nd: [*a, *a]\n")
    assert read_yaml(file)["c"] == {"kind": "lens", "lr": 3.0}


@pytest.mark.parametrize("seed", [2**32, 10**20, -1])
def test_a_seed_that_no_generator_takes_is_refused(check, seed):
    runs = [
        {
            "backbones": ["tiny"],
            "settings": ["pair"],
            "methods": ["base", "sft-lora"],
            "benchmarks": ["answers"],
            "seeds": [seed],
        }
    ]
    with pytest.raises(LensflowError, match=r"^config: runs\[0\]\.seeds\[0\]: must be "):
        check(rows(EN, SW), runs=runs)


def test_more_texts_to_probe_with_than_there_are_are_refused(check):
    """The stage after the extraction would notice it."""
    pair = {"central": "en", "languages": ["en", "sw"], "probing": "mine", "training": "mine", "probing_texts": 7}
    said = "settings.pair.probing_texts: 7 is more than the 6 texts to train on in corpus 'mine'; lower it"
    with pytest.raises(LensflowError, match=f"^{re.escape(said)}$"):
        check(rows(EN, SW), settings={"pair": pair})
    assert check(rows(EN, SW), settings={"pair": pair | {"probing_texts": 6}}) == []
