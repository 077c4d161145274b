"""Likelihood of reference answers and of texts: models whose worth is known must get the values that they deserve."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lensflow.benchmarks.base import Folders
from lensflow.benchmarks.references import References
from lensflow.benchmarks.texts import Texts
from lensflow.errors import LensflowError
from lensflow.stages.score import measure
from lensflow.storage.atomic import write_jsonl

ROOT = Path(__file__).parents[2]
N, K = 12, 4
ENGLISH = [f"The answer to number {number} is a plain sentence." for number in range(N)]
SWAHILI = [f"Jibu la swali namba {number} ni sentensi fupi tu." for number in range(N)]
BENGALI = [f"{number} নম্বর প্রশ্নের উত্তর একটি ছোট বাক্য।" for number in range(N)]
ANSWERS = {"en": ENGLISH, "sw": SWAHILI, "bn": BENGALI}


class Bytes:
    """A tokenizer with a token per byte, and an end token; a prompt is `Q: … A:`."""

    eos, prefix = 256, 257

    def ids_of(self, text: str, add_special_tokens: bool) -> list[int]:
        return [*([257] if add_special_tokens else []), *text.encode()]

    def literal(self, text: str) -> str:
        return text

    def encode_answered(self, text: str, answer: str) -> tuple[list[int], list[bool]]:
        prompt, own = f"Q: {text} A:".encode(), f" {answer}".encode()
        return [*prompt, *own, self.eos], [False] * len(prompt) + [True] * (len(own) + 1)


class Scripted:
    """A model that gives every answer the log-likelihood per byte that `rate` says, of its prompt and answer."""

    tokenizer = Bytes()

    def __init__(self, rate: Callable[[str, str], float]) -> None:
        self.rate, self.asked = rate, 0

    def instruct(self, prompt: str) -> str:
        return prompt

    def loglikelihoods(self, requests: list[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        self.asked += len(requests)
        assert all(context and self.tokenizer.eos not in continuation for context, continuation in requests)
        texts = [(bytes(i for i in c if i < 256).decode(), bytes(a).decode().strip()) for c, a in requests]
        return [(self.rate(prompt, answer) * len(answer.encode()), False) for prompt, answer in texts]


def number_of(text: str) -> str:
    return next(word for word in text.split() if word.isdigit())


def knows(prompt: str, answer: str) -> float:
    """Prefers the right answer in the language of the prompt, then the right one in English, then others."""
    if number_of(prompt) != number_of(answer):
        return -2.0
    return -1.5 if answer in ENGLISH and "swali" in prompt else -1.0


MODELS = {
    "knows": knows,
    "slips into English": lambda prompt, answer: -0.5 if answer in ENGLISH else knows(prompt, answer),
    "knows no answer": lambda prompt, answer: -1.5 if answer in ENGLISH else -1.0,
    "prefers wrong answers": lambda prompt, answer: -2.0 if number_of(prompt) == number_of(answer) else -1.0,
    "knows nothing": lambda prompt, answer: -math.log(256),
}
# model: language margin (Swahili), content margin, own first, bits per byte; the rates above in bits.
MATRIX = {
    "knows": (0.5, 1.0, 1, 1.0),
    "slips into English": (-0.5, 1.0, 1, 1.0),
    "knows no answer": (0.5, 0, 0, 1.0),
    "prefers wrong answers": (0, -1.0, 0, 2.0),
    "knows nothing": (0, 0, 0, math.log(256)),
}


@pytest.fixture
def folders(tmp_path) -> Folders:
    for language, answers in ANSWERS.items():
        rows = [
            {"id": f"t-{n}", "split": "test", "prompt": f"swali {n} ?", "answer": answer}
            for n, answer in enumerate(answers)
        ]
        unanswered = [{"id": "d-0", "split": "dev", "prompt": "?"}]
        write_jsonl(tmp_path / "embedded" / f"{language}.jsonl", [*rows, *unanswered])
    return Folders(tmp_path, Path())


def references(**keys: Any) -> References:
    return References.model_validate({"kind": "references", "distractors": K} | keys)


def scores(benchmark: Any, model: Any, folders: Folders, language: str) -> dict[str, dict[str, Any]]:
    items = benchmark.items(folders, "b", language)
    rows = benchmark.ask(model, items, {}, language, ())
    samples = benchmark.samples(rows, items, language, ())
    return {found["metric"]: found for found in measure(samples, benchmark, language)[1]}


@pytest.mark.parametrize("name", MATRIX)
def test_a_model_gets_what_it_deserves(folders, name):
    found = scores(references(), Scripted(MODELS[name]), folders, "sw")
    language, content, first, bits = MATRIX[name]
    assert found.keys() == {"language_margin", "content_margin", "own_first", "bits_per_byte"}
    assert all(score["n"] == N for score in found.values())
    assert found["language_margin"]["value"] == pytest.approx(language / math.log(2), abs=1e-9)
    assert found["content_margin"]["value"] == pytest.approx(content / math.log(2), abs=1e-9)
    assert found["own_first"]["value"] == first
    assert found["bits_per_byte"]["value"] == pytest.approx(bits / math.log(2))


def test_a_tie_is_not_first(folders):
    """A model without a preference has no share by luck: it has none."""
    assert scores(references(), Scripted(MODELS["knows nothing"]), folders, "bn")["own_first"]["value"] == 0


def test_bytes_not_characters_or_tokens(folders):
    """A model that gives every byte the same chance needs 8 bits per byte in every script."""
    for language in ANSWERS:
        found = scores(references(), Scripted(MODELS["knows nothing"]), folders, language)
        assert found["bits_per_byte"]["value"] == pytest.approx(8)
        assert found["bits_per_byte"]["weights"] == [len(answer.encode()) for answer in ANSWERS[language]]


def test_the_central_language_has_no_language_margin(folders):
    model = Scripted(knows)
    assert scores(references(), model, folders, "en").keys() == {"content_margin", "own_first", "bits_per_byte"}
    assert model.asked == N * (1 + K)
    assert references().reads("en") == ("en",) and references().reads("bn") == ("bn", "en")
    found = scores(references(central="sw"), Scripted(knows), folders, "en")
    assert found["language_margin"]["value"] < 0  # a prompt of Swahili words


def test_distractors_are_other_items_the_same_in_every_language(folders):
    drawn = [references().others(references().items(folders, "b", language)) for language in ANSWERS]
    assert drawn[0] == drawn[1] == drawn[2]
    assert all(id_ not in others and len(set(others)) == K for id_, others in drawn[0].items())
    assert len({tuple(others) for others in drawn[0].values()}) > N / 2
    assert references(seed=1).others(references().items(folders, "b", "en")) != drawn[0]


def test_too_few_items(folders):
    items = dict(list(references().items(folders, "b", "en").items())[:K])
    with pytest.raises(LensflowError, match=r"^4 items, but 4 answers of other items .*; raise evaluation.limit"):
        references().ask(Scripted(knows), items, {}, "en", ())


def test_an_item_without_an_answer(folders):
    with pytest.raises(LensflowError, match=r"sw.jsonl, line 13: no answer; a benchmark of kind references needs one"):
        references(split="dev").items(folders, "b", "sw")


def test_a_corpus_that_is_not_aligned(folders):
    write_jsonl(folders.corpora / "embedded" / "en.jsonl", [{"id": "x", "split": "test", "prompt": "?", "answer": "!"}])
    with pytest.raises(LensflowError, match=r"no item 't-0' in en; use an aligned corpus"):
        references().items(folders, "b", "sw")


def test_texts_are_read_outside_of_any_prompt(folders):
    def rate(prompt: str, text: str) -> float:
        assert prompt == ""
        return -math.log(256) if text == "swali 0 ?" else -math.log(16)

    found = scores(Texts(kind="texts"), Scripted(rate), folders, "sw")
    sizes = [len(f"swali {n} ?") for n in range(N)]
    assert found.keys() == {"bits_per_byte"} and found["bits_per_byte"]["n"] == N
    assert found["bits_per_byte"]["value"] == pytest.approx((8 * sizes[0] + 4 * sum(sizes[1:])) / sum(sizes))


def test_against_a_naive_loop_over_a_tiny_model(folders, request):
    """What a real tokenizer and a real engine make of it."""
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    from lensflow.models.engines.hf import TransformersEngine
    from lensflow.models.tokenizer import PromptTokenizer
    from lensflow.schema.backbone import PlainPrompt

    checkpoint = request.getfixturevalue("checkpoint")("llama")
    tokenizer = PromptTokenizer(checkpoint, PlainPrompt(format="plain", template="Q: {prompt}\nA:"))
    engine = TransformersEngine(checkpoint, "float32", tokenizer)
    engine.tokenizer, engine.instruct = tokenizer, lambda prompt: prompt
    model = AutoModelForCausalLM.from_pretrained(checkpoint)

    def bits(prompt: str, text: str) -> float:
        start = tokenizer.tokenizer.encode(prompt).ids
        ids = torch.tensor([[*start, *tokenizer.tokenizer.encode(text, add_special_tokens=False).ids]])
        logp = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        return -float(logp[len(start) - 1 :].sum().detach()) / math.log(2)

    expected = [bits(f"Q: swali {n} ?\nA:", f" {BENGALI[n]}") for n in range(N)]
    found = scores(references(), engine, folders, "bn")["bits_per_byte"]
    assert found["items"] == pytest.approx(expected, rel=1e-4)
    english = [bits(f"Q: swali {n} ?\nA:", f" {ENGLISH[n]}") / len(ENGLISH[n]) for n in range(N)]
    own = [value / len(text.encode()) for value, text in zip(expected, BENGALI, strict=True)]
    margins = scores(references(), engine, folders, "bn")["language_margin"]["items"]
    assert margins == pytest.approx([e - o for e, o in zip(english, own, strict=True)], abs=1e-4)
    plain = scores(Texts(kind="texts"), engine, folders, "sw")["bits_per_byte"]
    assert plain["items"] == pytest.approx([bits("", f"swali {n} ?") for n in range(N)], rel=1e-4)


@pytest.fixture
def plan():
    """Plan a run of a benchmark, on a corpus of the package, in a setting that lacks English."""
    from lensflow.workflow.experiment import read
    from lensflow.workflow.plan import Plan

    def build(kind: str, corpus: str = "embedded") -> Plan:
        run = {
            "backbones": ["smollm2-135m-instruct"],
            "settings": ["zh-sw"],
            "methods": ["base"],
            "benchmarks": ["mine"],
        }
        config = {
            "corpora": {"mine": {"path": corpus, "license": "none"}},
            "settings": {"zh-sw": {"central": "zh", "languages": ["zh", "sw"]}},
            "benchmarks": {"mine": {"kind": kind, "corpus": "mine"}},
            "runs": [run],
        }
        return Plan(read([], ROOT, config), ROOT, ROOT)

    return build


def test_the_central_languages_texts_are_read_too(plan):
    (checkpoint,) = plan("references").checkpoints
    assert plan("references").evaluation_corpora(checkpoint) == {"mine": ["zh", "en", "sw"]}
    assert plan("drift").evaluation_corpora(checkpoint) == {"mine": ["zh", "sw"]}


@pytest.mark.parametrize("kind", ["references", "drift"])
def test_a_corpus_without_answers_is_refused_before_anything_runs(plan, kind):
    """Version 1 has answers in train only."""
    message = r"^benchmarks.mine.corpus: an item of mine, split test, has no answer in 'zh'; .* one to every prompt$"
    with pytest.raises(LensflowError, match=message):
        plan(kind, corpus="embedded-1")
    assert plan("texts", corpus="embedded-1").benchmarks == {"mine": ["zh", "sw"]}
