"""Self-distillation: the pairs that are learnt, against loops over tokens; own answers that survive a kill."""

import json
import os
import signal
from multiprocessing import get_context

import pytest
import torch
from transformers import AutoModelForCausalLM

from lensflow.errors import LensflowError
from lensflow.methods import finetuning, sdrrl
from lensflow.methods.base import Run, resampled
from lensflow.methods.registry import AnyMethod
from lensflow.models.engines import hf
from lensflow.schema.backbone import PlainPrompt
from lensflow.schema.parsing import parse
from lensflow.schema.setting import Setting
from lensflow.storage.atomic import write_jsonl
from lensflow.storage.journal import journal
from tests import tiny

PROMPT = PlainPrompt(format="plain", template="Q: {prompt}\nA:")
SETTING = Setting.model_validate({"central": "en", "languages": ["en", "zh", "sw"]})
BOS, EOS = 1, 2
X = {
    "en": ["What is rain?", "Who was Ada?"],
    "zh": ["雨是什么？", "艾达是谁？"],
    "sw": ["Mvua ni nini?", "Ada ni nani?"],
}
Y = {
    "en": ["Water.", "Ada wrote."],
    "zh": ["从云中落下的水。", "她写程序。"],
    "sw": ["Ni maji ya mawingu.", "Aliandika."],
}
LONGEST = 6


@pytest.fixture
def run(checkpoint, tmp_path):
    """Build a run on a tiny backbone; the dev split has one item."""
    texts = {language: tmp_path / "texts" / f"{language}.jsonl" for language in X}
    for language, path in texts.items():
        rows = [{"id": str(i), "prompt": X[language][i], "answer": Y[language][i]} for i in range(2)]
        write_jsonl(path, [row | {"split": "train"} for row in rows] + [rows[0] | {"id": "d", "split": "dev"}])

    def build(family="llama", folder="first", seed=0, **keys):
        manifest = tmp_path / family / "manifest.json"
        if not manifest.exists():
            tiny.backbone(checkpoint(family), manifest)
        keys = {"lr": 1e-2, "epochs": 1, "batch_size": 64, "warmup": 0.0, "answers": {"max_new_tokens": LONGEST}} | keys
        output = tmp_path / folder / "sdrrl" / f"seed{seed}" / "delta.safetensors"
        return Run(parse(AnyMethod, {"kind": "sdrrl"} | keys), SETTING, seed, PROMPT, manifest, texts, output)

    return build


def answer(model, tokenizer, prompt) -> tuple[str, bool]:
    """The backbone's answer token by token, and whether it ended."""
    ids, said = tokenizer.encode(prompt), []
    while len(said) < LONGEST and (not said or said[-1] != EOS):
        with torch.no_grad():
            said.append(int(model(torch.tensor([ids + said])).logits[0, -1].argmax()))
    return tokenizer.decode(said).strip(), said[-1] == EOS


def expected(own) -> list[tuple[str, str, bool]]:
    """Every pair of the default parts, written out."""
    found = [(X["en"][i], *own[i]) for i in range(2)]
    names = {"zh": "Chinese", "sw": "Swahili"}
    halves = {"从云中落下的水。": ("从云中落", "下的水。"), "她写程序。": ("她写", "程序。")}
    halves |= {"Ni maji ya mawingu.": ("Ni maji", "ya mawingu."), "Aliandika.": ("Alian", "dika.")}
    items = [(language, i) for language in names for i in range(2)]
    found += [(X[t][i], Y[t][i], True) for t, i in items]
    for t, i in items:
        found.append((f"{X[t][i]}\nAnswer in English.", *own[i]))
        found.append((f"{X['en'][i]}\nAnswer in {names[t]}.", Y[t][i], True))
    found += [(f"Translate this question from English into {names[t]}: {X['en'][i]}", X[t][i], True) for t, i in items]
    for t, i in items:
        first, rest = halves[Y[t][i]]
        found.append((f"Complete this text in {names[t]}: {first}", rest, True))
    return found


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_the_loss_is_that_of_all_pairs(run, family):
    """The Trainer's first loss against a loop over pairs and tokens."""
    this = run(family)
    sdrrl.train(this)
    model = AutoModelForCausalLM.from_pretrained(this.backbone.parent, dtype=torch.float32).eval()
    tokenizer, losses = finetuning.tokenizer_of(this), []
    for prompt, said, ended in expected([answer(model, tokenizer, x) for x in X["en"]]):
        ids = tokenizer.encode(prompt)
        start = len(ids)
        ids = [*ids, *tokenizer.tokenizer.encode(f" {said}", add_special_tokens=False).ids, *([EOS] if ended else [])]
        with torch.no_grad():
            scores = model(torch.tensor([ids])).logits[0].log_softmax(dim=-1)
        losses += [-float(scores[place - 1, ids[place]]) for place in range(start, len(ids))]
    history = [json.loads(line) for line in this.output.with_name("history.jsonl").open()]
    assert [row["split"] for row in history] == ["dev", "train", "dev"]
    assert history[1]["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert {path.name for path in this.output.parent.iterdir()} == {"delta.safetensors", "history.jsonl"}


def learnt_from(this, monkeypatch) -> list[finetuning.Example]:
    found = []

    def fine_tune(run, train, dev):
        found.extend(train)
        return finetuning.Trained(0, 0)

    monkeypatch.setattr(finetuning, "fine_tune", fine_tune)
    sdrrl.train(this)
    return found


def said(example, tokenizer) -> str:
    return tokenizer.decode([i for i, counted in zip(example.ids, example.counted, strict=True) if counted])


def test_an_end_is_learnt_only_where_there_was_one(run, monkeypatch):
    this = run(parts=["own"])
    answers = {"0": sdrrl.Own("yes", True), "1": sdrrl.Own("and so", False)}
    monkeypatch.setattr(sdrrl, "own_answers", lambda *given: (answers, 0.0))
    ended, cut = learnt_from(this, monkeypatch)
    tokenizer = finetuning.tokenizer_of(this)
    assert (said(ended, tokenizer), said(cut, tokenizer)) == (" yes", " and so")
    assert (ended.ids[-1], ended.counted[-1], cut.ids[-1] == EOS) == (EOS, True, False)


def test_empty_answers_are_left_out(run, monkeypatch, caplog):
    answers = {"0": sdrrl.Own("", True), "1": sdrrl.Own("no", True)}
    monkeypatch.setattr(sdrrl, "own_answers", lambda *given: (answers, 0.0))
    names = [example.name for example in learnt_from(run(parts=["own", "cross"]), monkeypatch)]
    assert names == ["en 1", "zh 0 cross", "zh 1 cross", "zh 1 cross", "sw 0 cross", "sw 1 cross", "sw 1 cross"]
    assert "empty answers to 1 of 2 prompts in 'en' are left out" in caplog.text
    answers["1"] = sdrrl.Own("", True)
    with pytest.raises(LensflowError, match=r"empty answers to 2 of 2 prompts in 'en'; drop the parts own and"):
        learnt_from(run(parts=["own"]), monkeypatch)


def test_the_targets_alone_are_sft_and_nothing_is_generated(run, monkeypatch):
    monkeypatch.setattr(hf, "TransformersEngine", None)
    tokenizer = finetuning.tokenizer_of(run())
    found = learnt_from(run(parts=["target"], examples=1), monkeypatch)
    assert [(e.ids, e.counted) for e in found] == [tokenizer.encode_answered(X[t][0], Y[t][0]) for t in ("zh", "sw")]


def test_the_lines_that_are_used_are_noted(run, monkeypatch):
    this = run(examples=1)
    with journal() as kept:
        learnt_from(this, monkeypatch)
    assert kept.lines == {this.texts["en"]: {1}, this.texts["zh"]: {1, 3}, this.texts["sw"]: {1, 3}}


def test_resampled_items_are_learnt_as_often_in_the_central_language(run, monkeypatch):
    seed = next(seed for seed in range(9) if len(set(resampled([0, 1], seed))) == 1)
    names = [
        example.name for example in learnt_from(run(seed=seed, resample=True, parts=["own", "target"]), monkeypatch)
    ]
    (item,) = set(resampled(["0", "1"], seed))
    assert names == [f"en {item}"] * 2 + [f"zh {item} target"] * 2 + [f"sw {item} target"] * 2


@pytest.mark.parametrize(
    ("text", "first", "rest"),
    [("a b c d", "a b", "c d"), ("abcd", "ab", "cd"), ("abc de", "abc", "de"), ("x", "", "x"), (" abc", " a", "bc")],
)
def test_halves(text, first, rest):
    assert sdrrl.halves(text) == (first, rest)


def watched(generate, asked):
    def watch(self, prompts, decoding):
        asked.append(len(prompts))
        return generate(self, prompts, decoding)

    return watch


def killed(this):
    """Answer one prompt, and stop at the second, in a process of its own."""
    sdrrl.AT_A_TIME, asked = 1, []
    generate = hf.TransformersEngine.generate

    def kill(self, prompts, decoding):
        asked.append(prompts)
        if len(asked) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return generate(self, prompts, decoding)

    hf.TransformersEngine.generate = kill
    sdrrl.train(this)


def test_one_that_was_killed_keeps_its_answers(run, monkeypatch):
    monkeypatch.setattr(sdrrl, "AT_A_TIME", 1)
    whole, broken, other = run(folder="a"), run(folder="b"), run(folder="c", seed=1)
    process = get_context("spawn").Process(target=killed, args=(broken,))
    process.start()
    process.join()
    (folder,) = broken.output.parent.iterdir()
    assert process.exitcode == -signal.SIGKILL and [path.name for path in folder.iterdir()] == ["0.json"]
    asked = []
    monkeypatch.setattr(hf.TransformersEngine, "generate", watched(hf.TransformersEngine.generate, asked))
    took = [sdrrl.train(this) for this in (broken, whole, other)]
    assert asked == [1, 1, 1, 1, 1]  # one of the broken run's, two of each of the others'
    assert took[0].earlier_seconds > 0 and took[1].earlier_seconds == 0
    assert broken.output.read_bytes() == whole.output.read_bytes() != other.output.read_bytes()
    assert not folder.exists()


def test_damaged_or_foreign_answers_are_made_again(run, monkeypatch, caplog):
    this, asked = run(parts=["own"]), []
    monkeypatch.setattr(hf.TransformersEngine, "generate", watched(hf.TransformersEngine.generate, asked))
    monkeypatch.setattr(finetuning, "fine_tune", lambda *given: 1 / 0)  # the answers stay
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            sdrrl.train(this)
    assert asked == [2]
    (folder,) = this.output.parent.iterdir()
    part = folder / "0.json"
    part.write_text(part.read_text()[:-20])
    for again in (this, run(parts=["own"], answers={"max_new_tokens": 3})):
        with pytest.raises(ZeroDivisionError):
            sdrrl.train(again)
    assert asked == [2, 2, 2] and "damaged" in caplog.text
    assert not folder.exists()


def test_what_is_checked_before():
    def check(items, **keys):
        parse(AnyMethod, {"kind": "sdrrl"} | keys).check_items(items, SETTING)

    plain, answered = {"id": "1", "prompt": {}}, {"id": "2", "prompt": {}, "answer": {"zh": "x", "sw": "y"}}
    check([plain], parts=["own", "translation"])
    check([plain, answered], examples=1)
    with pytest.raises(ValueError, match=r"^kind: sdrrl trains on answers, and corpus 'embedded' has none in 'zh'"):
        check([plain])
    for part in sdrrl.OF_ANSWERS:
        with pytest.raises(ValueError, match=r"^examples: 2 is more than the 1 items"):
            check([plain, answered], examples=2, parts=[part])
    check([plain, answered], examples=2, parts=["own"])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"parts": []}, "mine.parts: "),
        ({"parts": ["owned"]}, "mine.parts"),
        ({"answers": {"max_tokens": 3}}, "mine.answers: unknown key 'max_tokens'; did you mean 'max_new_tokens'?"),
    ],
)
def test_refused_keys(keys, message):
    with pytest.raises(LensflowError) as error:
        parse(dict[str, AnyMethod], {"mine": {"kind": "sdrrl"} | keys}, "config: methods")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_parts(run, monkeypatch):
    assert parse(AnyMethod, {"kind": "sdrrl"}).parts == ("own", "target", "cross", "translation", "completion")
    names = [example.name for example in learnt_from(run(parts=["translation", "own"]), monkeypatch)]
    assert names == ["en 0", "en 1", *(f"{t} {i} translation" for t in ("zh", "sw") for i in range(2))]
