"""The language confusion gate, against loops over the vocabulary, the texts and the steps of an answer."""

import random

import pytest
import torch
from transformers import AutoModelForCausalLM

from lensflow.artifacts import interventions
from lensflow.artifacts.interventions import Gate, Intervention, StateEdit
from lensflow.artifacts.layout import INTERVENTION
from lensflow.errors import LensflowError
from lensflow.languages import scripts_in
from lensflow.mathematics.probabilities import families_among
from lensflow.methods.base import Run
from lensflow.methods.gate import observed
from lensflow.methods.registry import AnyMethod
from lensflow.models.engines import hf, vllm
from lensflow.models.engines.gate import CHINESE_JAPANESE, LATIN_SCRIPT, OTHERS, SYMBOLS, families_of
from lensflow.models.engines.hf import TransformersEngine
from lensflow.models.engines.vllm import VllmEngine
from lensflow.models.tokenizer import PromptTokenizer
from lensflow.schema.backbone import PlainPrompt, Resources
from lensflow.schema.decoding import Decoding
from lensflow.schema.parsing import parse
from lensflow.schema.setting import Setting
from lensflow.stages import train
from lensflow.storage.atomic import write_jsonl
from lensflow.storage.verified import read_jsonl
from tests import tiny

PROMPT = PlainPrompt(format="plain", template="Q: {prompt}\nA:")
SETTING = Setting(central="en", languages=("en", "zh"))
ANSWER = Decoding(max_new_tokens=16)
TEXTS = {
    "en": [("What is rain?", "Water."), ("Who was Ada?", "A writer."), ("Why?", "So.")],
    "zh": [("雨是什么？", "水。"), ("艾达是谁？", "作家 Ada。"), ("为什么？", "因为。")],
}
# With tied embeddings a tiny random model says its last token again and again, and a gate never bans its family.
UNTIED = pytest.mark.parametrize("family", ["llama", "mistral"])


def random_gate(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Gate(*(torch.randn(size, tiny.WIDTH, generator=generator) for size in (tiny.WIDTH, 4)))


def top(z, k, p):
    """Tokens of a row of logits, the likeliest first, as long as those before them have less than p."""
    probabilities, found, before = z.double().softmax(0).tolist(), [], 0.0
    for index in sorted(range(len(z)), key=lambda i: -float(z[i]))[:k]:
        if before >= p:
            break
        found.append(index)
        before += probabilities[index]
    return found


def family_of(text):
    letters = set(scripts_in(text))
    if letters & {"Hani", "Hira", "Kana"}:
        return CHINESE_JAPANESE
    return LATIN_SCRIPT if "Latn" in letters else OTHERS if letters else SYMBOLS


def test_families_of_pieces(checkpoint):
    """The tiny tokenizer has a token per byte."""
    tokenizer = PromptTokenizer(checkpoint("llama"), PROMPT)
    families = families_of(tokenizer, tiny.VOCABULARY + 3)
    assert families[: len(tiny.SPECIAL)].tolist() == [SYMBOLS] * 3 and families[-3:].tolist() == [SYMBOLS] * 3

    def of(character):
        return [int(families[i]) for i in tokenizer.tokenizer.encode(character, add_special_tokens=False).ids]

    assert [of(char) for char in "aZ3 ?"] == [[LATIN_SCRIPT]] * 2 + [[SYMBOLS]] * 3
    for char in "雨艾ひカ":
        assert of(char) == [CHINESE_JAPANESE, OTHERS, OTHERS], char
    assert of("é")[0] == LATIN_SCRIPT
    assert [of(char)[0] for char in "مह한ж"] == [OTHERS] * 4


@pytest.mark.parametrize("seed", range(4))
def test_families_among_the_likeliest(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(9, 50, generator=generator)
    families = torch.randint(seed % 3 + 1, (50,), generator=generator)  # some families have no token
    for k, p in ((1, 1.0), (5, 0.999), (20, 0.95), (50, 0.5), (50, 1.0)):
        expected = [[f in {int(families[i]) for i in top(row, k, p)} for f in range(4)] for row in logits]
        assert families_among(logits, families, k, p).tolist() == expected


def naive_ban(z, scores, said, families, temperature, top_p):
    """The rule, read off the paper: which tokens are banned."""
    lettered = [families[i] for i in said if families[i] != SYMBOLS]
    if not lettered:
        return set()
    wanted = {f for f in range(4) if 1 / (1 + torch.exp(-scores[f])) >= 0.5} | {int(scores.argmax())}
    banned = {CHINESE_JAPANESE, LATIN_SCRIPT} - wanted - {lettered[-1]}
    z = z / temperature if temperature else z
    may = top(z, len(z), top_p) if temperature else top(z, 1, 1.0)
    near = top(z, 5, 0.999) + top(z, 20, 0.95)
    if not any(families[i] in banned for i in may) or not any(families[i] in wanted for i in near):
        return set()
    return {i for i, f in enumerate(families) if f in banned}


@UNTIED
def test_answers_follow_the_rule(checkpoint, family):
    folder = checkpoint(family)
    tokenizer, model = PromptTokenizer(folder, PROMPT), AutoModelForCausalLM.from_pretrained(folder).eval()
    families = [family_of(text) if "\ufffd" not in text else None for text in tokenizer.vocabulary]
    known = families_of(tokenizer, tiny.VOCABULARY).tolist()
    assert all(mine in (None, theirs) for mine, theirs in zip(families, known, strict=True))
    gate, prompts = random_gate(), tiny.random_sequences(12, seed=4)
    engine = TransformersEngine(folder, "float32", tokenizer, batch_size=5)
    plain = engine.generate(prompts, ANSWER)
    with engine.edited(StateEdit(gate=gate)):
        answers = engine.generate(prompts, ANSWER)
    changed = 0
    for prompt, answer in zip(prompts, answers, strict=True):
        said: list[int] = []
        while len(said) < 16 and (not said or said[-1] != 2):
            with torch.inference_mode():
                h = model.base_model(torch.tensor([prompt + said])).last_hidden_state[0, -1]
                z = model.lm_head(h)
            scores = gate.outer @ torch.relu(gate.inner @ h)
            banned = naive_ban(z, scores, said, known, 0.0, 1.0)
            best = max(set(range(len(z))) - banned, key=lambda i: float(z[i]))
            changed += best != int(z.argmax())
            said.append(best)
        assert answer.ids == tuple(said)
    assert changed > 3
    assert engine.generate(prompts, ANSWER) == plain != answers


def test_sampled_answers_follow_the_rule(checkpoint):
    from lensflow.models.engines.gate import FamilyMask

    tokenizer = PromptTokenizer(checkpoint("llama"), PROMPT)
    mask = FamilyMask(tokenizer, random_gate())
    families, generator = families_of(tokenizer, tiny.VOCABULARY).tolist(), torch.Generator().manual_seed(3)
    acted = 0
    for seed in range(200):
        z = 2 * torch.randn(tiny.VOCABULARY, generator=generator)
        states = torch.randn(2, tiny.WIDTH, generator=generator) / 9
        said = random.Random(seed).choices(range(tiny.VOCABULARY), k=seed % 4)
        temperature, top_p = (0.0, 1.0) if seed % 3 else (0.7, 0.8)
        mask.read(states)
        logits = z.clone()
        mask.apply(logits, 1, 2, said, temperature, top_p)
        gate = random_gate()
        scores = gate.outer @ torch.relu(gate.inner @ states[1])
        banned = naive_ban(z, scores, said, families, temperature, top_p)
        acted += bool(banned)
        assert {int(i) for i in logits.isinf().nonzero()} == banned
    assert 20 < acted < 180


def test_a_gate_that_allows_everything_changes_nothing(checkpoint):
    folder = checkpoint("llama")
    engine = TransformersEngine(folder, "float32", PromptTokenizer(folder, PROMPT))
    prompts, request = tiny.random_sequences(6, seed=4), [([1, 5, 6], [7, 8])]
    plain, scores = engine.generate(prompts, ANSWER), engine.loglikelihoods(request)
    nothing = Gate(torch.zeros(tiny.WIDTH, tiny.WIDTH), torch.zeros(4, tiny.WIDTH))
    with engine.edited(StateEdit(gate=nothing)):
        assert engine.generate(prompts, ANSWER) == plain
    with engine.edited(StateEdit(gate=random_gate())):
        assert engine.generate(prompts, ANSWER) != plain
        assert engine.loglikelihoods(request) == scores


def test_a_gate_that_sees_no_states_is_an_error(checkpoint, monkeypatch):
    folder = checkpoint("llama")
    engine = TransformersEngine(folder, "float32", PromptTokenizer(folder, PROMPT))
    monkeypatch.setattr(hf, "shown_to", lambda mask, model: hf.ExitStack())
    with (
        engine.edited(StateEdit(gate=random_gate())),
        pytest.raises(LensflowError, match="the gate does not see the states of this model"),
    ):
        engine.generate(tiny.random_sequences(6, seed=4), ANSWER)


def run_of(folder, checkpoint, method):
    manifest = folder / "backbone" / "manifest.json"
    if not manifest.exists():
        tiny.backbone(checkpoint, manifest)
    texts = {language: folder / f"{language}.jsonl" for language in TEXTS}
    for language, pairs in TEXTS.items():
        rows = [{"prompt": prompt, "answer": answer} for prompt, answer in pairs]
        write_jsonl(
            texts[language], [{"id": str(i), "split": "dev" if i == 2 else "train"} | r for i, r in enumerate(rows)]
        )
    output = folder / "run" / "seed0" / "delta.safetensors"
    return Run(parse(AnyMethod, {"kind": "gate"} | method), SETTING, 0, PROMPT, manifest, texts, output)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_what_it_learns(checkpoint, tmp_path, family):
    """States and labels, token by token; training lowers the loss that is written."""
    run = run_of(tmp_path, checkpoint(family), {"lr": 1e-2, "epochs": 20, "warmup": 2, "batch_size": 2})
    tokenizer = PromptTokenizer(run.backbone.parent, PROMPT)
    model = AutoModelForCausalLM.from_pretrained(run.backbone.parent, dtype=torch.float32).eval()
    families = families_of(tokenizer, tiny.VOCABULARY).tolist()
    weights = model.get_output_embeddings().weight.detach()
    found = dict(zip(("train", "dev"), observed(run), strict=True))
    for split, numbers in (("train", (0, 1)), ("dev", (2,))):
        given = [TEXTS[language][number] for language in TEXTS for number in numbers]
        assert len(found[split]) == len(given)
        for (prompt, answer), (states, labels) in zip(given, found[split], strict=True):
            start = tokenizer.encode(prompt)
            ids = [1, *tokenizer.tokenizer.encode(f"Q: {prompt}\nA: {answer}", add_special_tokens=False).ids, 2]
            assert ids[: len(start)] == start and len(states) == len(labels) == len(ids) - len(start)
            with torch.no_grad():
                h = model.base_model(torch.tensor([ids])).last_hidden_state[0]
            for row, place in enumerate(range(len(start) - 1, len(ids) - 1)):
                assert torch.allclose(states[row], h[place], atol=1e-4)
                z = (weights @ h[place]) / torch.tensor([float(w.norm()) for w in weights])
                near = {families[i] for i in top(z, 20, 0.95)}
                assert labels[row].tolist() == [f in near for f in range(4)]
    train.train_measured(run)
    written = interventions.load(run.output.with_name(INTERVENTION))
    history = read_jsonl(run.output.with_name("history.jsonl"))
    dev = [row["loss"] for row in history if row["split"] == "dev"]
    assert len(dev) == 21 and dev[-1] < 0.8 * dev[0]
    assert [row["lr"] for row in history if row["split"] == "train"][:3] == pytest.approx([5e-3, 1e-2, 1e-2 * 38 / 38])
    with torch.no_grad():
        losses = []
        for states, labels in found["dev"]:
            for h, label in zip(states, labels.tolist(), strict=True):
                g = written.gate.outer @ torch.relu(written.gate.inner @ h)
                losses += [-float(torch.log(torch.sigmoid(g[f] if label[f] else -g[f]))) for f in range(4)]
    assert dev[-1] == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_it_is_written_and_read(tmp_path):
    given = Intervention(gate=random_gate())
    interventions.write(given, tmp_path / "delta.safetensors")
    read = interventions.load(tmp_path / INTERVENTION)
    assert read.width == tiny.WIDTH and read.edit("zh").gate is read.edit("sw", "en").gate is read.gate
    assert read.identity("zh") == given.identity("zh") != Intervention(gate=random_gate(1)).identity("zh")
    for name in ("inner", "outer"):
        assert torch.equal(getattr(read.gate, name), getattr(given.gate, name))


def test_answers_are_needed():
    method = parse(AnyMethod, {"kind": "gate"})
    with pytest.raises(ValueError, match=r"^kind: gate trains on answers, and corpus 'embedded' has none in 'zh'"):
        method.check_items([{"id": "1", "prompt": {}, "answer": {"en": "x"}}], SETTING)


@pytest.mark.slow
@UNTIED
def test_vllm_bans_the_same(tmp_path, monkeypatch, family):
    tiny.save_checkpoint(family, tmp_path, head=32)
    tokenizer, prompts = PromptTokenizer(tmp_path, PROMPT), tiny.random_sequences(12, seed=4)
    plain = TransformersEngine(tmp_path, "float32", tokenizer)
    edit = StateEdit(gate=random_gate())
    with plain.edited(edit):
        expected = plain.generate(prompts, ANSWER)
    fast = VllmEngine(tmp_path, "float32", tokenizer, 128, Resources())
    try:
        untouched, request = fast.generate(prompts, ANSWER), [([1, 5, 6], [7, 8])]
        scores = fast.loglikelihoods(request)
        with fast.edited(edit):
            assert fast.generate(prompts, ANSWER) == expected != untouched
            assert fast.loglikelihoods(request)[0] == pytest.approx(scores[0], abs=1e-5)
        assert fast.generate(prompts, ANSWER) == untouched
        monkeypatch.setattr(vllm, "_edit", lambda edit, gate, model: vllm._GATE.__setitem__(slice(None), [gate]))
        monkeypatch.setattr(vllm, "_leave", lambda model: None)
        with pytest.raises(LensflowError, match="the gate does not see the states"), fast.edited(edit):
            fast.generate(prompts, ANSWER)
    finally:
        fast.close()
