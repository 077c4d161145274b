"""Fine-tuning on texts: what is learnt from, what comes out, and that it is the same again."""

import json
import math
import os
import re
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from multiprocessing import get_context, resource_tracker
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, Trainer

from lensflow.artifacts import export
from lensflow.errors import LensflowError
from lensflow.methods import alignment, base, finetuning, sharing
from lensflow.methods.base import Run
from lensflow.methods.finetuning import IGNORED, Example, answered, cut, packed, plain
from lensflow.methods.registry import METHODS
from lensflow.models import skeleton
from lensflow.models.tokenizer import PromptTokenizer
from lensflow.schema.backbone import ChatPrompt, PlainPrompt
from lensflow.schema.parsing import parse
from lensflow.schema.setting import Setting
from lensflow.storage.atomic import write_jsonl
from lensflow.storage.journal import journal
from lensflow.workflow.experiment import AnyMethod
from tests import tiny

PROMPT = PlainPrompt(format="plain", template="Q: {prompt}\nA:")
SETTING = Setting.model_validate({"central": "en", "languages": list(tiny.LANGUAGES)})
BOS, EOS = 1, 2
IDS = torch.arange(3, 40).reshape(1, -1)
TRAIN, DEV = 9, 3
needs_bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed: it is in the lock for CUDA"
)
FAST = {"lr": 1e-2, "batch_size": 4, "epochs": 2, "warmup": 0.0}


def item(language: str, index: int, split: str, answers: bool) -> dict:
    row = {"id": f"{split}-{index}", "split": split, "prompt": f"{language} {split} {index}?"}
    return row | {"answer": f"{language} says {index * 7}."} if answers else row


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> dict[str, Path]:
    """Texts as the embedded corpus has them: answers in the train split alone."""
    folder = tmp_path_factory.mktemp("texts")
    for language in tiny.LANGUAGES:
        rows = [item(language, index, "train", True) for index in range(TRAIN)]
        rows += [item(language, index, split, False) for split in ("dev", "test") for index in range(DEV)]
        write_jsonl(folder / f"{language}.jsonl", rows)
    return {language: folder / f"{language}.jsonl" for language in tiny.LANGUAGES}


@pytest.fixture
def run(checkpoint, texts, tmp_path):
    """Build a run of a method on a tiny backbone."""

    def build(kind="sft", family="llama", seed=0, folder="first", dtype=torch.float32, texts=texts, **keys):
        manifest = tmp_path / family / str(dtype) / "manifest.json"
        if not manifest.exists():
            tiny.backbone(checkpoint(family, dtype), manifest)
        method = parse(AnyMethod, {"kind": kind} | FAST | keys)
        output = tmp_path / folder / kind / f"seed{seed}" / "delta.safetensors"
        return Run(method, SETTING, seed, PROMPT, manifest, texts, output)

    return build


def train(run):
    return METHODS.module_of(run.method.kind).train(run)


def history(run):
    return [json.loads(line) for line in run.output.with_name("history.jsonl").open()]


def learnt_from(run, monkeypatch) -> dict[str, list[Example]]:
    """The examples that a method trains on and those that it records the loss of."""
    found = {}
    monkeypatch.setattr(finetuning, "fine_tune", lambda run, train, dev: found.update(train=train, dev=dev))
    train(run)
    return found


def tokenizer_of(checkpoint, prompt=PROMPT):
    return PromptTokenizer(checkpoint("llama"), prompt)


# --- What is learnt from ----------------------------------------------------------------------------------------------


def test_the_answer_counts_and_the_prompt_does_not(checkpoint):
    """By hand: the tokenizer has one token a byte."""
    tokenizer = tokenizer_of(checkpoint)
    example = answered(tokenizer, "zh 1", "Hi", "好")
    before, after = "Q: Hi\nA:", " 好"
    prompt, answer = (tokenizer.tokenizer.encode(part, add_special_tokens=False).ids for part in (before, after))
    assert (len(prompt), len(answer)) == (8, 4)
    assert example.ids == [BOS, *prompt, *answer, EOS]
    assert example.counted == [False] * 9 + [True] * 5
    assert example.ids[:9] == tokenizer.encode("Hi")  # what the model is asked with when it is evaluated


def test_a_chats_answer_follows_its_template(checkpoint, tmp_path):
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).write_bytes((checkpoint("llama") / file).read_bytes())
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}[{{ messages[0]['content'] }}]")
    tokenizer = PromptTokenizer(tmp_path, ChatPrompt(format="chat"))
    example = answered(tokenizer, "zh 1", "Hi", "yes")
    assert example.ids == [
        *tokenizer.encode("Hi"),
        *tokenizer.tokenizer.encode("yes", add_special_tokens=False).ids,
        EOS,
    ]
    assert example.counted == [False] * (len(example.ids) - 4) + [True] * 4


def test_a_tokenizer_without_an_end(checkpoint, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes((checkpoint("llama") / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(LensflowError, match=r"no token ends an answer; name eos_token in tokenizer_config\.json"):
        plain(PromptTokenizer(tmp_path, PROMPT), "zh 1", "Hi")


def test_a_batch_lies_end_to_end():
    short, long = Example("a", [1, 7, 2], [False, False, True]), Example("b", [1, 8, 9, 2], [True] * 4)
    batch = packed([short, long])
    assert batch["input_ids"].tolist() == [[1, 7, 2, 1, 8, 9, 2]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 2, 3]]
    assert batch["labels"].tolist() == [[IGNORED, IGNORED, 2, IGNORED, 8, 9, 2]]


@pytest.mark.parametrize(
    "family", [name for name in tiny.FAMILIES | tiny.HEADS | tiny.ROPES if name != "phi3"]
)  # which has dropout
def test_the_loss_is_the_mean_over_the_answers_tokens(run, family):
    """The Trainer's first loss against whole distributions, text by text."""
    first = run(family=family, batch_size=64, epochs=1)
    train(first)
    model = AutoModelForCausalLM.from_pretrained(first.backbone.parent, dtype=torch.float32).eval()
    tokenizer, losses = finetuning.tokenizer_of(first), []
    for language in ("zh", "sw"):
        for index in range(TRAIN):
            row = item(language, index, "train", True)
            ids = tokenizer.encode(row["prompt"])
            start = len(ids)
            ids = [*ids, *tokenizer.tokenizer.encode(f" {row['answer']}", add_special_tokens=False).ids, EOS]
            with torch.no_grad():
                scores = model(torch.tensor([ids])).logits[0].log_softmax(dim=-1)
            losses += [-float(scores[place - 1, ids[place]]) for place in range(start, len(ids))]
    assert history(first)[0]["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_sft_learns_from_the_targets_answers(run, monkeypatch):
    found = learnt_from(run(), monkeypatch)
    assert [e.name for e in found["train"]] == [f"{code} train-{i}" for code in ("zh", "sw") for i in range(TRAIN)]
    assert found["dev"] == []  # no answers there
    found = learnt_from(run(languages="all", examples=2), monkeypatch)
    assert [e.name for e in found["train"]] == [f"{code} train-{i}" for code in tiny.LANGUAGES for i in range(2)]


def test_resampled_items_are_another_bootstrap_sample_for_every_seed(run, monkeypatch):
    def names(seed):
        found = [example.name.split() for example in learnt_from(run(resample=True, seed=seed), monkeypatch)["train"]]
        return [[name for language, name in found if language == code] for code in ("zh", "sw")]

    first, second = names(0), names(1)
    assert first == names(0) and first != second
    assert first[0] == first[1]  # the languages stay parallel
    assert len(first[0]) == TRAIN and len(set(first[0])) < TRAIN
    assert set(first[0]) <= {f"train-{i}" for i in range(TRAIN)}


def test_replay_adds_the_central_languages_first_items(run, monkeypatch):
    names = [example.name for example in learnt_from(run(replay=2), monkeypatch)["train"]]
    without = [example.name for example in learnt_from(run(), monkeypatch)["train"]]
    assert names == [*without, "en train-0", "en train-1"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"layers": 2}, "layers: trains whole blocks; set lora: null, or drop this key"),
        (
            {"lora": None, "frozen_weights": "nf4"},
            "frozen_weights: nf4 needs adapters on top; set lora",
        ),
        ({"kind": "midalign", "gpus": 2}, "gpus: midalign compares all sentences of a batch with each other; drop"),
        ({"frozen_weights": "bfloat16"}, "frozen_weights: bfloat16 is computed in bfloat16; set precision: bfloat16"),
        ({"replay": 1, "languages": "all"}, "replay: languages: all already includes the central language"),
    ],
)
def test_keys_that_do_not_go_together(keys, message):
    with pytest.raises(LensflowError, match=message):
        parse(AnyMethod, {"kind": "sft"} | keys)


def test_a_block_that_the_backbone_lacks():
    with pytest.raises(LensflowError, match=r"^layer: "):
        parse(AnyMethod, {"kind": "midalign", "layer": 9}).check_depth(8)
    with pytest.raises(LensflowError, match=r"^layers: 9 is more than the model's 8"):
        parse(AnyMethod, {"kind": "sft", "lora": None, "layers": 9}).check_depth(8)


def test_more_replay_than_there_is(run):
    items = [{"id": "1", "prompt": {}, "answer": {"zh": "x", "sw": "x", "en": "x"}}]
    message = r"^replay: 2 is more than the 1 items with answers in 'en' to train on in corpus 'embedded'; lower it$"
    with pytest.raises(ValueError, match=message):
        run(replay=2).method.check_items(items, SETTING)


def test_only_the_top_blocks_train(run):
    """The tensors of Lens: a delta has no others, so they are the backbone's bits."""
    one = run(lora=None, layers=1, family="gemma3")  # whose head is tied to the embeddings
    took = train(one)
    delta = load_file(one.output)
    assert delta.keys() == {name for name in _names(one) if f"layers.{tiny.LAYERS - 1}." in name}
    assert took.parameters == sum(tensor.numel() for tensor in delta.values())
    with pytest.raises(LensflowError, match=r"^layers: 9 is more than the model's 4 blocks; lower it$"):
        train(run(lora=None, layers=9))


def _names(run):
    model = AutoModelForCausalLM.from_pretrained(run.backbone.parent)
    return [name for name, _ in model.named_parameters()]


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_midalign_is_cross_entropy_and_a_double_loop_over_cosines(run, family):
    """The Trainer's first loss against states of sentences one by one."""
    keys = {"batch_size": 64, "epochs": 1, "lora": None, "lr": 1e-4, "temperature": 0.2}
    plain, aligned = (
        run(family=family, folder=name, **keys, weight=weight, kind="midalign")
        for name, weight in (("plain", 0.0), ("aligned", 0.5))
    )
    for one in (plain, aligned):
        train(one)
    task = run(family=family, folder="sft", **{k: v for k, v in keys.items() if k != "temperature"})
    train(task)
    assert history(plain)[0]["loss"] == pytest.approx(history(task)[0]["loss"], rel=1e-6)
    model = AutoModelForCausalLM.from_pretrained(plain.backbone.parent, dtype=torch.float32).eval()
    tokenizer = finetuning.tokenizer_of(plain)

    def mean_state(text):
        found = []
        hook = model.base_model.layers[tiny.LAYERS // 2 - 1].register_forward_hook(lambda m, a, o: found.append(o[0]))
        with torch.no_grad():
            model(torch.tensor([[BOS, *tokenizer.tokenizer.encode(text, add_special_tokens=False).ids]]))
        hook.remove()
        states = found[0] if found[0].ndim == 2 else found[0][0]
        return states[1:].double().mean(0)

    places = [(language, index) for language in ("zh", "sw") for index in range(TRAIN)]
    p = [mean_state(item("en", index, "train", False)["prompt"]) for _, index in places]
    q = [mean_state(item(language, index, "train", False)["prompt"]) for language, index in places]
    total = 0.0
    for i, one in enumerate(p):
        scores = [math.exp(float(torch.cosine_similarity(one, other, dim=0)) / 0.2) for other in q]
        total -= math.log(scores[i] / sum(scores))
    expected = history(task)[0]["loss"] + 0.5 * total / len(p)
    assert history(aligned)[0]["loss"] == pytest.approx(expected, rel=1e-5)


def test_midalign_aligns_the_items_that_have_answers(run, texts, tmp_path, monkeypatch):
    """Also if the first items have none."""
    late = dict(texts, zh=tmp_path / "zh.jsonl")
    write_jsonl(late["zh"], [item("zh", index, "train", index > 4) for index in range(TRAIN)])
    found = []
    monkeypatch.setattr(finetuning, "fine_tune", lambda run, train, *given: found.extend(train))
    train(run(kind="midalign", examples=2, texts=late))
    decode = PromptTokenizer(run().backbone.parent, PROMPT).decode
    assert [decode(e.source) for e in found] == [f"en train {index}?" for index in (5, 6, 0, 1)]


def test_alignment_does_not_train_the_blocks_above(run, monkeypatch):
    one = run(kind="midalign", lora=None)
    monkeypatch.setattr(alignment.finetuning.Loss, "forward", lambda self, *given: {"loss": torch.tensor(0.0)})
    losses = {}

    def fine_tune(run, train, dev, loss, batch):
        model = AutoModelForCausalLM.from_pretrained(run.backbone.parent, dtype=torch.float32)
        loss(model, model.base_model.layers)(**batch(train))["loss"].backward()
        losses.update({name: parameter.grad for name, parameter in model.named_parameters()})

    monkeypatch.setattr(finetuning, "fine_tune", fine_tune)
    train(one)
    trained = {name for name, grad in losses.items() if grad is not None and grad.any()}
    assert any("layers.1." in name for name in trained)
    assert not [name for name in trained if re.search(r"layers\.[23]\.|^lm_head|model\.norm", name)]


def test_cpt_learns_from_plain_text(run, monkeypatch):
    this = run("cpt", examples=3)
    found, tokenizer = learnt_from(this, monkeypatch), finetuning.tokenizer_of(this)
    assert [e.name for e in found["train"]] == [f"{code} train-{i}" for code in ("zh", "sw") for i in range(3)]
    assert [e.name for e in found["dev"]] == [f"{code} dev-{i}" for code in ("zh", "sw") for i in range(DEV)]
    assert [tokenizer.decode(e.ids) for e in found["train"][:2]] == [
        "zh train 0?\nzh says 0.",
        "zh train 1?\nzh says 7.",
    ]
    assert tokenizer.decode(found["dev"][0].ids) == "zh dev 0?"
    assert all(e.ids[0] == BOS and e.ids[-1] == EOS and all(e.counted) for e in found["train"])


def test_qalign_learns_to_translate_into_the_central_language(run, monkeypatch):
    this = run("qalign", examples=3)
    found, tokenizer = learnt_from(this, monkeypatch), finetuning.tokenizer_of(this)
    assert [e.name for e in found["train"]] == [f"{code} train-{i}" for code in ("zh", "sw") for i in range(3)]
    assert len(found["dev"]) == 2 * DEV
    example = found["train"][4]
    asked = "Q: Translate this question from Swahili into English: sw train 1?\nA:"
    assert tokenizer.decode(example.ids) == f"{asked} en train 1?"
    counted = [token for token, flag in zip(example.ids, example.counted, strict=True) if flag]
    assert tokenizer.decode(counted) == " en train 1?"
    assert counted[-1] == EOS


@pytest.mark.parametrize(
    ("keys", "lines"),
    [
        ({"kind": "sft", "examples": 2}, {"zh": {1, 2}, "sw": {1, 2}}),
        ({"kind": "cpt", "examples": 3}, {code: {1, 2, 3, 10, 11, 12} for code in ("zh", "sw")}),
        ({"kind": "qalign"}, {code: set(range(1, 13)) for code in tiny.LANGUAGES}),
    ],
)
def test_the_lines_that_are_used_are_noted(run, monkeypatch, keys, lines):
    this = run(**keys)
    with journal() as kept:
        learnt_from(this, monkeypatch)
    assert kept.lines == {this.texts[code]: numbers for code, numbers in lines.items()}


def test_a_long_example_is_cut():
    example = Example("zh train-1", [1, 5, 6, 7], [False, False, True, True])
    assert cut([example], 3) == [Example("zh train-1", [1, 5, 6], [False, False, True])]
    with pytest.raises(LensflowError, match=r"^zh train-1: nothing to learn within max_tokens \(2\); raise it$"):
        cut([example], 2)


def test_too_few_items(run, texts, tmp_path):
    with pytest.raises(LensflowError, match=r"zh\.jsonl: 9 items with answer in the train split, 10 needed; lower"):
        train(run(examples=10))
    unanswered = dict(texts, sw=tmp_path / "sw.jsonl")
    write_jsonl(unanswered["sw"], [item("sw", index, "train", False) for index in range(TRAIN)])
    with pytest.raises(LensflowError, match=r"sw\.jsonl: 0 items with answer in the train split, 1 needed"):
        train(run(texts=unanswered))


# --- What comes out ---------------------------------------------------------------------------------------------------


@pytest.fixture
def trained_logits(monkeypatch):
    """The logits of every model as the Trainer left it, adapters still beside the weights."""
    found = []
    original = Trainer.train

    def train_and_look(self):
        original(self)
        with torch.no_grad():
            found.append(self.model.model.eval()(IDS).logits)

    monkeypatch.setattr(Trainer, "train", train_and_look)
    return found


@pytest.mark.parametrize("lora", [{}, None], ids=["lora", "full"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_exported_model_is_the_trained_one(run, tmp_path, trained_logits, family, lora):
    this = run(family=family, lora=lora, epochs=1)
    train(this)
    output = tmp_path / "checkpoint" / "manifest.json"
    export.export(this.backbone, this.output, output)
    exported, before = (
        AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32).eval()
        for path in (output, this.backbone)
    )
    with torch.no_grad():
        # Merged adapters round once more than adapters beside the weights.
        torch.testing.assert_close(exported(IDS).logits, trained_logits[0], rtol=1e-4, atol=1e-4)
        assert not torch.allclose(before(IDS).logits, trained_logits[0], atol=1e-2)
    delta, old = load_file(this.output), before.state_dict()
    assert all(value.dtype == torch.float32 and not torch.equal(value, old[name]) for name, value in delta.items())
    tied = tiny.FAMILIES[family]["tie_word_embeddings"]
    if lora is None:
        assert delta.keys() == {name for name in old if not (tied and name == "lm_head.weight")}
    else:
        linear = {f"{name}.weight" for name, module in before.named_modules() if isinstance(module, torch.nn.Linear)}
        assert delta.keys() == linear - {"lm_head.weight"}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_small_updates_of_a_bfloat16_backbone_are_kept(run, precision):
    this = run(dtype=torch.bfloat16, lora=None, lr=1e-5, precision=precision)
    train(this)
    backbone = AutoModelForCausalLM.from_pretrained(this.backbone.parent, dtype=torch.float32).state_dict()
    moved = torch.cat([(value - backbone[name]).flatten().abs() for name, value in load_file(this.output).items()])
    assert 0 < moved.max() < 1e-4
    assert (moved != 0).float().mean() > 0.8  # but for the embeddings of bytes that no text has


def test_bfloat16_computes_in_it(run):
    first, second = run(folder="a", epochs=1), run(folder="b", epochs=1, precision="bfloat16")
    for this in (first, second):
        train(this)
    losses = [[row["loss"] for row in history(this)] for this in (first, second)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_what_it_took(run):
    this = run("cpt", lora={"rank": 3}, epochs=3)
    took = train(this)
    lines = [
        "\n".join(row[key] for key in ("prompt", "answer"))
        for row in (item(code, i, "train", True) for code in ("zh", "sw") for i in range(TRAIN))
    ]
    assert took.tokens == 3 * sum(len(line) + 2 for line in lines)  # BOS and EOS
    model = AutoModelForCausalLM.from_pretrained(this.backbone.parent)
    linear = [m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and name != "lm_head"]
    assert took.parameters == sum(3 * (m.in_features + m.out_features) for m in linear)
    whole = train(run(lora=None, epochs=1))
    assert whole.parameters == sum(p.numel() for p in model.parameters())


def test_history(run, capsys):
    this = run("cpt", epochs=3, warmup=0.4, schedule="linear", lora=None)
    train(this)
    assert capsys.readouterr().out == ""  # progress goes to stderr
    rows, steps = history(this), 3 * math.ceil(2 * TRAIN / 4)
    learnt, dev = ([row for row in rows if row["split"] == split] for split in ("train", "dev"))
    assert [row["step"] for row in learnt] == list(range(1, steps + 1))
    assert [row["epoch"] for row in learnt] == pytest.approx([step / 5 for step in range(1, steps + 1)], abs=1e-4)
    warmup = 6
    factors = [step / warmup if step < warmup else (steps - step) / (steps - warmup) for step in range(steps)]
    assert [row["lr"] for row in learnt] == pytest.approx([1e-2 * factor for factor in factors])
    assert all(row["grad_norm"] > 0 for row in learnt)
    assert [row["step"] for row in dev] == [0, 5, 10, 15]
    assert learnt[-1]["loss"] < learnt[0]["loss"]
    assert {path.name for path in this.output.parent.iterdir()} == {"delta.safetensors", "history.jsonl"}


def test_the_same_again(run):
    first, again, other = run(folder="a"), run(folder="b"), run(folder="c", seed=1)
    for this in (first, again, other):
        train(this)
    assert first.output.read_bytes() == again.output.read_bytes()
    assert history(first) == history(again)
    assert first.output.read_bytes() != other.output.read_bytes()


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("keys", [{}, {"lora": None}, {"kind": "midalign", "lora": None}], ids=["lora", "full", "mid"])
def test_gradient_checkpointing_keeps_less_and_changes_nothing(run, monkeypatch, family, keys):
    kept = []

    def forward(model, *args, **kwargs):
        kept[-1] = 0
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            return call(model, *args, **kwargs)

    def keep(tensor):
        kept[-1] += tensor.numel()
        return tensor

    call = nn.Module.__call__
    monkeypatch.setattr(finetuning.Loss, "__call__", forward)
    plain, again = (run(folder=name, family=family, gradient_checkpointing=name == "b", **keys) for name in "ab")
    for this in (plain, again):
        kept.append(0)
        train(this)
    if "kind" not in keys:  # whose loss is another module
        assert 0 < kept[1] < kept[0]
    before, after = load_file(plain.output), load_file(again.output)
    assert before.keys() == after.keys()
    for name in before:
        assert torch.equal(before[name], after[name]), name


@pytest.fixture
def weights(monkeypatch):
    """Bytes of frozen weights and of weights that train, for every model that the Trainer trained."""
    found = []
    original = Trainer.train

    def train_and_count(self):
        original(self)
        sizes = [0, 0]
        for parameter in self.model.parameters():
            sizes[parameter.requires_grad] += parameter.nbytes
        found.append(sizes)

    monkeypatch.setattr(Trainer, "train", train_and_count)
    return found


def updates(run) -> dict[str, torch.Tensor]:
    """What training added to the backbone's weights, by name."""
    backbone = AutoModelForCausalLM.from_pretrained(run.backbone.parent, dtype=torch.float32).state_dict()
    return {name: value - backbone[name] for name, value in load_file(run.output).items()}


def distance(one, other) -> float:
    """How far one update is from another, relative to the other's length."""
    assert one.keys() == other.keys()
    squares = sum(float((one[name] - other[name]).square().sum()) for name in one)
    return math.sqrt(squares / sum(float(value.square().sum()) for value in other.values()))


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_frozen_weights_in_bfloat16_take_half_and_train_to_about_the_same(run, weights, family):
    keys = {"family": family, "dtype": torch.bfloat16, "precision": "bfloat16", "epochs": 1, "lr": 1e-3}
    whole, half = run(folder="a", **keys), run(folder="b", frozen_weights="bfloat16", **keys)
    for this in (whole, half):
        train(this)
    (frozen, adapters), (frozen_half, adapters_half) = weights
    assert frozen == 2 * frozen_half and adapters == adapters_half
    assert distance(updates(half), updates(whole)) < 0.3  # Adam's first steps go by a gradient's sign
    assert history(half)[0]["loss"] == pytest.approx(history(whole)[0]["loss"], rel=0.01)
    assert history(half)[-1]["loss"] < history(half)[0]["loss"]


@needs_bitsandbytes
@pytest.mark.parametrize("kind", ["sft", "cpt", "qalign", "midalign"])
def test_qlora_trains_as_on_the_weights_that_four_bits_stand_for(run, tmp_path, weights, kind):
    """The adapters are those of a backbone of rounded weights, and they are merged into the weights as they were."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    def rounded(weight):
        return dequantize_4bit(*quantize_4bit(weight.data, quant_type="nf4", compress_statistics=True))

    four = run(kind, folder="a", frozen_weights="nf4", gradient_checkpointing=True)
    model = AutoModelForCausalLM.from_pretrained(four.backbone.parent, dtype=torch.float32)
    linear = {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear) and name != "lm_head"}
    originals = {f"{name}.weight": part.weight.detach().clone() for name, part in linear.items()}
    for part in linear.values():
        part.weight.data = rounded(part.weight)
    folder = tmp_path / "rounded"
    folder.mkdir()
    for file in four.backbone.parent.glob("*token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    model.save_pretrained(folder)
    whole = replace(run(kind, folder="b"), backbone=tiny.backbone(folder, tmp_path / "prepared" / "manifest.json"))
    for this in (four, whole):
        train(this)
    added = updates(four)
    assert distance(added, updates(whole)) < 1e-3
    assert max(float((rounded(w) - w).norm() / w.norm()) for w in originals.values()) > 0.05  # so that it would be seen
    assert added.keys() == originals.keys()
    assert all(torch.linalg.matrix_rank(value, rtol=1e-3) <= 8 for value in added.values())
    (frozen, _), (frozen_whole, _) = weights
    numbers = sum(weight.numel() for weight in originals.values())
    assert frozen == frozen_whole - 4 * numbers + numbers / 2


@needs_bitsandbytes
def test_qlora_in_bfloat16(run):
    keys = {"precision": "bfloat16", "dtype": torch.bfloat16, "epochs": 1, "lr": 1e-3}
    half, four = run(folder="a", **keys), run(folder="b", frozen_weights="nf4", **keys)
    for this in (half, four):
        train(this)
    losses, rounded = ([row["loss"] for row in history(this)] for this in (half, four))
    assert rounded != losses and rounded == pytest.approx(losses, rel=0.1)
    assert rounded[-1] < rounded[0]


def test_bitsandbytes_that_is_missing_is_named_before_anything_is_read(run, monkeypatch):
    monkeypatch.setattr(base, "find_spec", lambda name: None)
    run().method.check_installed()
    monkeypatch.setattr(finetuning, "Skeleton", None)
    with pytest.raises(LensflowError, match=r"^frozen_weights: nf4 needs bitsandbytes, which is not installed; run"):
        train(run(frozen_weights="nf4"))


def in_two(run, train, dev):
    return sharing.together(2, finetuning.tune, run, train, dev)


@pytest.mark.parametrize("keys", [{"lora": {"dropout": 0.0}}, {"lora": None, "lr": 1e-3}], ids=["lora", "full"])
@pytest.mark.parametrize("way", ["packed", "padded"])
def test_two_processes_compute_the_update_of_one(run, checkpoint, tmp_path, monkeypatch, way, keys):
    """Batches of 5 are shared as 3 and 2, and the last one of 3 as 2 and 1."""
    one, two = (run("cpt", folder=name, batch_size=5, **keys) for name in "ab")
    if way == "padded":
        folder = shutil.copytree(checkpoint("llama"), tmp_path / "chunks")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"attention_chunk_size": 512}))
        manifest = tiny.backbone(folder, tmp_path / "prepared" / "manifest.json")
        one, two = (replace(this, backbone=manifest) for this in (one, two))
    took = train(one)
    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "fine_tune", in_two)
        assert train(two) == took
    assert distance(updates(two), updates(one)) < 1e-4
    for ours, reference in zip(history(two), history(one), strict=True):
        assert ours.pop("split") == (split := reference.pop("split"))
        assert ours == pytest.approx(reference, rel=1e-4 if way == "packed" or split == "train" else 0.02)
    assert finetuning.sharing.place() == (0, 1)  # as before: the next training is one of one process
    train(replace(one, output=two.output))
    assert one.output.read_bytes() == two.output.read_bytes()


def killed_in_two(run, step):
    finetuning.fine_tune = in_two
    killed(run, step)


def test_two_processes_die_together(run, monkeypatch):
    resource_tracker.ensure_running()  # it stays for the tests' own process, so the mark must come later
    monkeypatch.setenv("LENSFLOW_TEST", mark := f"{os.getpid()}-{time.monotonic_ns()}")

    def running():
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if f"LENSFLOW_TEST={mark}".encode() in path.read_bytes():
                    found.append(path)
        return found

    this = run()
    process = get_context("spawn").Process(target=killed_in_two, args=(this, 3))
    process.start()
    most = 0
    while process.is_alive():
        most = max(most, len(running()))
        time.sleep(0.2)
    assert most >= 2 and process.exitcode == -signal.SIGKILL and not this.output.exists()
    until = time.monotonic() + 30
    while running() and time.monotonic() < until:
        time.sleep(0.2)
    assert not running()


def waits_for_one_that_fails():
    if sharing.place()[0]:
        os._exit(7)
    time.sleep(600)  # as a call of NCCL does


def first_of_two():
    sharing.PATIENCE = 0.5
    sharing.together(2, waits_for_one_that_fails)


def test_a_process_does_not_wait_for_one_that_failed(capfd):
    process = get_context("spawn").Process(target=first_of_two)
    process.start()
    process.join(120)
    assert process.exitcode == 2
    assert "one of the training's processes ended with code 7; see above" in capfd.readouterr().err


def test_as_many_gpus_as_the_method_asks_for(run):
    with pytest.raises(LensflowError, match=r"^--gpus 1: the method's gpus is 2; give as many$"):
        train(replace(run(gpus=2), gpus=1))
    with pytest.raises(LensflowError, match=r"^gpus: 2 GPUs cannot share a loss of the method's own; drop this key$"):
        finetuning.fine_tune(replace(run(gpus=2), gpus=2), [], [], loss=lambda model, blocks: None)


def killed(run, step):
    """Train in a process of its own until a step."""

    def kill(progress, args, state, control, **kwargs):
        if state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    finetuning._Progress.on_log = kill
    train(run)


@pytest.mark.parametrize("lora", [{}, None], ids=["lora", "full"])
def test_one_that_was_killed_begins_again(run, lora):
    whole, broken = run(folder="a", lora=lora), run(folder="b", lora=lora)
    process = get_context("spawn").Process(target=killed, args=(broken, 3))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL and not broken.output.parent.exists()
    for this in (whole, broken):
        train(this)
    assert whole.output.read_bytes() == broken.output.read_bytes()
    assert history(whole) == history(broken)


def test_a_loss_that_is_not_finite(run):
    with pytest.raises(LensflowError, match=r"^step \d+: the loss or its gradient is not finite; lower lr$"):
        train(run(lr=1e30, lora=None))


def test_the_gpus_that_the_stage_was_given_count_not_those_of_the_machine(run, monkeypatch):
    given = replace(run(), gpus=1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(LensflowError, match=r"^--gpus 1: torch finds 0 CUDA devices on this machine; set"):
        train(given)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    asked = []
    monkeypatch.setattr(finetuning, "TrainingArguments", lambda **keys: asked.append(keys) or SimpleNamespace(n_gpu=0))
    for gpus in (0, 1):
        finetuning._arguments(given, "", False, finetuning.device_of(gpus))
    assert [keys["use_cpu"] for keys in asked] == [True, False]


def test_a_family_whose_checkpoints_have_other_names(run, monkeypatch):
    class Renamed(skeleton.WeightFiles):
        def __init__(self, checkpoint):
            super().__init__(checkpoint)
            self.location = {f"old.{name}": path for name, path in self.location.items()}

    monkeypatch.setattr(skeleton, "WeightFiles", Renamed)
    message = r"^model type 'llama': the checkpoint has no tensor 'lm_head\.weight'; this family is not"
    with pytest.raises(LensflowError, match=message):
        train(run())


def test_nothing_is_left_behind(run, monkeypatch, tmp_path):
    """No checkpoint of the Trainer's, which would be a pickle."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    train(run())
    assert list((tmp_path / "temporary").iterdir()) == []
