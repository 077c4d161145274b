"""What methods that edit the residual stream write, against their equations: loops over texts and tokens."""

from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lensflow.artifacts import interventions
from lensflow.artifacts.layout import INTERVENTION
from lensflow.artifacts.texts import read_texts
from lensflow.benchmarks.base import generated
from lensflow.errors import LensflowError
from lensflow.methods.base import Run, StateFiles, blocks_of
from lensflow.methods.registry import AnyMethod
from lensflow.models.engines.protocol import Answer
from lensflow.models.tokenizer import PromptTokenizer
from lensflow.schema.backbone import ChatPrompt, PlainPrompt, Resources
from lensflow.schema.decoding import Decoding
from lensflow.schema.extraction import Extraction
from lensflow.schema.parsing import parse
from lensflow.schema.setting import Setting
from lensflow.schema.stages import Answering
from lensflow.stages import extract_hidden_states, train
from lensflow.stages.answer import Session, Speaker
from lensflow.storage.atomic import write_jsonl
from tests import tiny

PROMPT = PlainPrompt(format="plain", template="Q: {prompt}\nA:")
TEXTS = {
    "en": ["What is rain?", "Who was Ada?", "Name a colour.", "How old is the sun?"],
    "zh": ["雨是什么？", "艾达是谁？", "说一种颜色。", "太阳多大了？"],
    "sw": ["Mvua ni nini?", "Ada alikuwa nani?", "Taja rangi.", "Jua lina umri gani?"],
}
TRAIN = 3
STAGE = {"prompt": PROMPT.canonical(), "evaluation": {"engine": "hf"}, "cells": [], "checkpoints": {}}


class Backbone:
    """A tiny model, its texts and their states, one text at a time and in float64."""

    def __init__(self, family, folder, checkpoint):
        self.folder, self.manifest = folder, folder / "backbone" / "manifest.json"
        tiny.backbone(checkpoint(family), self.manifest)
        self.tokenizer = PromptTokenizer(self.manifest.parent, PROMPT)
        self.model = AutoModelForCausalLM.from_pretrained(self.manifest.parent, dtype=torch.float32).eval()
        self.setting = Setting(central="en", languages=tuple(TEXTS))
        self.texts = {language: folder / "texts" / f"{language}.jsonl" for language in TEXTS}
        self.hidden = {language: folder / "states" / f"{language}.safetensors" for language in TEXTS}
        for language, texts in TEXTS.items():
            rows = [
                {"id": str(i), "split": "train" if i < TRAIN else "dev", "prompt": t, "answer": t[::-1]}
                for i, t in enumerate(texts)
            ]
            write_jsonl(self.texts[language], rows)
            self.extract(language)

    def extract(self, language):
        decoder, extraction = extract_hidden_states.load_decoder(self.manifest.parent), Extraction(batch_tokens=64)
        kept = read_texts(self.texts[language], ["train", "dev"])
        sequences = extract_hidden_states.tokenize(self.tokenizer, language, kept, extraction)
        scratch = self.folder / "scratch" / language
        scratch.mkdir(parents=True)
        states = extract_hidden_states.extract(decoder, sequences, extraction, scratch)
        extract_hidden_states.save(self.hidden[language], states, sequences.names)

    @torch.no_grad()
    def states(self, ids):
        """After every block, before the final norm: (L, T, d)."""
        found = []
        handles = [
            layer.register_forward_hook(lambda m, a, output: found.append(output[0] if output.ndim == 3 else output))
            for layer in self.model.base_model.layers
        ]
        self.model(torch.tensor([ids]), use_cache=False)
        for handle in handles:
            handle.remove()
        return torch.stack(found).double()

    def plain(self, language):
        """States of each train text outside of the prompt format, without the first token."""
        return [
            self.states([1, *self.tokenizer.tokenizer.encode(t, add_special_tokens=False).ids])[:, 1:]
            for t in self.train(language)
        ]

    def prompts(self, language):
        """The last token's states of each train prompt, in its format: (L, d) each."""
        return [self.states(self.tokenizer.encode(text))[:, -1] for text in self.train(language)]

    def train(self, language):
        return TEXTS[language][:TRAIN]

    def run(self, method, name="run", seed=0):
        output = self.folder / "runs" / name / "seed0" / "delta.safetensors"
        this = parse(AnyMethod, method)
        hidden = StateFiles(Extraction(), self.folder / "unused", self.hidden) if this.needs_states else None
        train.train_measured(Run(this, self.setting, seed, PROMPT, self.manifest, self.texts, output, hidden))
        assert load_file(output) == {}
        return interventions.load(output.with_name(INTERVENTION))


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def backbone(request, checkpoint, tmp_path_factory):
    return Backbone(request.param, tmp_path_factory.mktemp(request.param), checkpoint)


def mean(rows):
    return sum(rows) / len(rows)


def close(tensor, wanted):
    assert torch.allclose(tensor.double(), wanted, rtol=1e-5, atol=1e-5)


def test_steer(backbone):
    written = backbone.run({"kind": "steer", "layers": [1, 2], "strength": 0.5})
    means = {language: mean(backbone.prompts(language)) for language in TEXTS}
    for source, wanted, away in (("en", "zh", "en"), ("zh", "zh", "en"), ("sw", "zh", "en"), ("zh", "en", "zh")):
        edits = written.edit(wanted, source).blocks
        assert [(e.layer, e.operation, e.strength, e.positions) for e in edits] == [
            (1, "add", 0.5, "generated"),
            (2, "add", 0.5, "generated"),
        ]
        for edit in edits:
            close(edit.vector, means[wanted][edit.layer] - means[away][edit.layer])
    assert written.edit("en") is None
    published = backbone.run({"kind": "steer", "away_from": "prompt"}, "prompt")
    assert published.edit("zh") is None
    (edit,) = published.edit("zh", "sw").blocks
    close(edit.vector, means["zh"][2] - means["sw"][2])


def test_diffmean(backbone):
    written = backbone.run({"kind": "diffmean", "layer": 1, "strength": 2.0, "unit": "state_norm"})
    tokens = {language: torch.cat(backbone.plain(language), dim=1)[1] for language in TEXTS}
    difference = mean(list(tokens["zh"])) - mean(list(tokens["en"]))
    length = mean([float(h.norm()) for h in tokens["sw"]])
    (edit,) = written.edit("zh", "sw").blocks
    close(edit.vector, difference / difference.norm())
    assert (edit.layer, edit.positions, edit.restore_norm) == (1, "all", False)
    assert edit.strength == pytest.approx(2 * length, rel=1e-5)
    (there,), (back,) = written.edit("sw", "en").blocks, written.edit("en", "sw").blocks
    close(there.vector, -back.vector.double())
    absolute = backbone.run({"kind": "diffmean"}, "absolute")
    (edit,) = absolute.edit("zh").blocks
    assert (edit.layer, edit.strength) == (2, 5.0)
    assert float(edit.vector.norm()) == pytest.approx(1, rel=1e-6)


def test_texts_without_a_second_token_are_refused(backbone, monkeypatch):
    monkeypatch.setattr(PromptTokenizer, "ids_of", lambda *given, **more: [1])
    with pytest.raises(LensflowError, match=r"en\.jsonl: no train text of 'en' has two tokens; add one$"):
        backbone.run({"kind": "diffmean"}, "short")


def test_controls_of_diffmean(backbone):
    def vectors(direction, **keys):
        method = {"kind": "diffmean", "layer": 1, "direction": direction} | keys
        written = backbone.run(method, direction + str(keys.get("draw", "")))
        pairs = [(wanted, source) for wanted in TEXTS for source in TEXTS if written.edit(wanted, source)]
        return {pair: written.edit(*pair).blocks[0].vector.double() for pair in pairs}

    tokens = {language: torch.cat(backbone.plain(language), dim=1)[1] for language in TEXTS}
    delta = {x: mean(list(tokens[x])) - mean(list(tokens["en"])) for x in ("zh", "sw")}
    own, negative, common, deranged = map(vectors, ("own", "negative", "common", "deranged"))
    together = delta["zh"] + delta["sw"]
    for wanted, lender in (("zh", "sw"), ("sw", "zh")):
        close(own[wanted, "en"], delta[wanted] / delta[wanted].norm())
        close(negative[wanted, "en"], -own[wanted, "en"])
        close(common[wanted, "en"], together / together.norm())
        close(deranged[wanted, "en"], own[lender, "en"])
    rotated, other = vectors("rotated"), vectors("rotated", draw=1)
    assert abs(float(rotated["zh", "en"] @ rotated["sw", "en"] - own["zh", "en"] @ own["sw", "en"])) < 1e-5
    assert not torch.allclose(rotated["zh", "en"], other["zh", "en"])
    drawn = vectors("covariance")["zh", "en"]
    rows = torch.stack([text[1].mean(0) for language in TEXTS for text in backbone.plain(language)])
    axes = torch.linalg.svd(rows - rows.mean(0), full_matrices=False).Vh[:-1]
    assert float((axes @ drawn).norm()) == pytest.approx(1, rel=1e-5)
    for found in (own, negative, common, deranged, rotated):
        assert found.keys() == own.keys()
        close(found["en", "zh"], -found["zh", "en"])


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_recover(backbone, beta):
    written = backbone.run({"kind": "recover", "source_strength": beta, "strength": 1.5}, f"recover-{beta}")
    means = {language: mean([text.mean(1) for text in backbone.plain(language)]) for language in TEXTS}
    centre = mean(list(means.values()))
    for source, wanted in (("en", "zh"), ("sw", "en"), ("zh", "zh"), ("en", "en")):
        away = 0 if source == wanted else beta * (means[source] - centre)
        edits = written.edit(wanted, source).blocks
        assert [edit.layer for edit in edits] == list(range(tiny.LAYERS))
        for edit in edits:
            v = (means[wanted] - centre - away)[edit.layer]
            close(edit.vector, v / v.norm())
            assert (edit.strength, edit.positions, edit.restore_norm) == (1.5, "but_first", True)
            h = torch.randn(2, 3, tiny.WIDTH)
            changed = edit(h, torch.arange(3).expand(2, 3), torch.tensor([[3], [3]]))
            assert torch.allclose(changed.norm(dim=-1), h.norm(dim=-1), rtol=1e-5)
            assert torch.equal(changed[:, 0], h[:, 0]) and not torch.allclose(changed[:, 1], h[:, 1])
    if beta == 1.0:  # centring makes no difference
        v = (means["zh"] - means["sw"])[0]
        close(written.edit("zh", "sw").blocks[0].vector, v / v.norm())


def test_disentangle(backbone):
    written = backbone.run({"kind": "disentangle", "remove": 0.6, "reinject": 0.2})
    means = torch.stack([mean(backbone.prompts(language)) for language in TEXTS], dim=1)
    edits = written.edit("fr", "de").blocks  # it is told no language
    assert [(edit.layer, edit.strength) for edit in edits] == [(1, 0.6), (2, 0.6), (3, -0.2)]
    h, places = torch.randn(5, tiny.WIDTH), torch.arange(5)
    for edit in edits:
        differences = (means[edit.layer] - means[edit.layer].mean(0)).T
        basis = torch.linalg.svd(differences, full_matrices=False).U[:, :2]
        inside = sum((h.double() @ m)[:, None] * m for m in basis.T)
        close(edit(h, places, places), h.double() - edit.strength * inside)
    _, edit, _ = edits
    whole, undone = (interventions.BlockEdit(2, "remove", basis=edit.basis, strength=c) for c in (1.0, -1.0))
    assert (whole(h, places, places) @ edit.basis).abs().max() < 1e-5
    half = interventions.BlockEdit(2, "remove", basis=edit.basis, strength=0.5)
    back = interventions.BlockEdit(2, "remove", basis=edit.basis, strength=-0.5)
    inside = h @ edit.basis @ edit.basis.T
    assert torch.allclose(back(half(h, places, places), places, places), h - 0.25 * inside, atol=1e-5)
    assert torch.allclose(undone(h, places, places), h + inside, atol=1e-5)


def test_lda_injection(backbone):
    """Without pruning, the shift is the part of the difference of standardised means that lies in span(W)."""
    written = backbone.run({"kind": "lda_injection", "threshold": 0.0, "strength": 2.0})
    rows = {language: torch.stack([text[1].mean(0) for text in backbone.plain(language)]) for language in TEXTS}
    whole = torch.cat(list(rows.values()))
    z = {language: (r - whole.mean(0)) / whole.std(0, correction=0) for language, r in rows.items()}
    (there,), (back,) = written.edit("zh", "sw").blocks, written.edit("sw", "zh").blocks
    assert (there.layer, there.operation, there.strength, there.positions) == (tiny.LAYERS // 2 - 1, "add", 2.0, "all")
    close(there.vector, -back.vector.double())
    (zh,), (sw,) = written.edit("zh", "zh").blocks, written.edit("sw", "sw").blocks
    assert torch.allclose(zh.vector - sw.vector, there.vector, atol=1e-4)
    span = torch.linalg.qr(torch.stack([zh.vector, sw.vector], dim=1).double()).Q
    difference = z["zh"].mean(0) - z["sw"].mean(0)
    inside = span @ (span.T @ there.vector.double())
    assert torch.allclose(inside, there.vector.double(), atol=1e-4)
    # W+ is a right inverse on y: the discriminant coordinates of the shift are those of the difference.
    (en,) = written.edit("en", "en").blocks
    total = sum(len(r) for r in rows.values())
    centre = sum(e.vector.double() * len(rows[x]) for e, x in ((zh, "zh"), (sw, "sw"), (en, "en"))) / total
    assert centre.norm() < 1e-3 * zh.vector.norm()  # y is centred
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    labels = [x for x in TEXTS for _ in rows[x]]
    analysis = LinearDiscriminantAnalysis(solver="svd").fit(torch.cat(list(z.values())).numpy(), labels)
    axes = torch.linalg.qr(torch.from_numpy(analysis.scalings_[:, :2])).Q
    close(there.vector, axes @ (axes.T @ difference))
    pruned = backbone.run({"kind": "lda_injection", "threshold": 1e6}, "pruned")
    assert not pruned.edit("zh", "sw").blocks[0].vector.any()


def test_language_dimensions(backbone):
    written = backbone.run({"kind": "language_dimensions", "dimensions": 5, "strength": 1.5})
    means = {language: torch.cat(backbone.plain(language), dim=1)[-1].mean(0) for language in TEXTS}
    for wanted in ("zh", "sw"):
        (edit,) = written.edit(wanted, "en").blocks
        assert edit.layer == 3
        chosen = (means["en"] - means[wanted]).abs().topk(5).indices.tolist()
        h, places = torch.randn(4, tiny.WIDTH), torch.arange(4)
        after = edit(h, places, places)
        for j in range(tiny.WIDTH):
            if j in chosen:
                close(after[:, j], 1.5 * means[wanted][j].expand(4))
                assert (after[:, j] == 1.5 * edit.vector[j]).all()
            else:
                assert torch.equal(after[:, j], h[:, j])
    assert written.edit("en", "zh") is None and written.edit("en") is None
    (edit,) = backbone.run({"kind": "language_dimensions"}, "share").edit("zh").blocks
    assert edit.basis.shape == (tiny.WIDTH, 3)
    with pytest.raises(LensflowError, match=r"^dimensions: 99 is more than the model's 32 dimensions; lower it$"):
        backbone.run({"kind": "language_dimensions", "dimensions": 99}, "many")


FRAME = {"zh": "问：{prompt}\n答：", "sw": "Swali: {prompt}\nJibu:"}


def test_native_frames_and_examples(backbone):
    """The prompt as the model gets it, letter by letter."""
    written = backbone.run({"kind": "prompt", "instruction": None, "frame": FRAME, "examples": 2}, "frame")
    session = Session(backbone.manifest, Answering.model_validate(STAGE), Resources())
    zh, en, first = (Speaker(session, None, written, language) for language in ("zh", "en", "sw"))
    told = "问：雨是什么？\n答： ？么什是雨\n\n问：艾达是谁？\n答： ？谁是达艾\n\n问：<eos>几点？\n答："
    ids = zh.prompting.encode(zh.instruct("<eos>几点？"))
    assert zh.tokenizer.decode(ids) == told and ids.count(2) == 0
    assert en.prompting is session.tokenizer and en.instruct("When?") == "When?"
    assert first.prompting.render("X").endswith("Swali: X\nJibu:")
    assert zh.prompting is Speaker(session, None, written, "zh").prompting
    (rows,) = [generated(Asked(zh), {"1": "几点？"}, Decoding(max_new_tokens=2))]
    assert rows == [{"prompt": "几点？", "answer": "", "tokens": [], "cut": False}]
    assert [session.tokenizer.decode(prompt) for prompt in Asked.prompts] == [told.replace("<eos>", "")]


class Asked:
    """An asker that takes prompts down."""

    prompts: ClassVar[list] = []

    def __init__(self, speaker):
        self.prompting, self.instruct, self.tokenizer = speaker.prompting, speaker.instruct, speaker.tokenizer

    def generate(self, prompts, decoding):
        Asked.prompts[:] = prompts
        return [Answer("", (), cut=False)] * len(prompts)


def test_examples_of_a_chat_are_turns(backbone, tmp_path):
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).write_bytes((backbone.manifest.parent / file).read_bytes())
    template = "{% for m in messages %}[{{ m.role }}: {{ m.content }}]{% endfor %}"
    (tmp_path / "chat_template.jinja").write_text(template)
    shots = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}]
    tokenizer = PromptTokenizer(tmp_path, ChatPrompt(format="chat"), shots)
    assert tokenizer.render("C") == "[user: A][assistant: B][user: C]"


def test_what_a_prompt_needs(backbone):
    method = parse(AnyMethod, {"kind": "prompt", "examples": 2, "frame": {"zh": "{prompt}"}})
    with pytest.raises(ValueError, match=r"^frame: no text for sw of setting mine; add it$"):
        method.check(Extraction(), {"mine": backbone.setting})
    items = [{"id": "1", "prompt": {}, "answer": {"zh": "x", "sw": "y"}}]
    message = r"^examples: 2 is more than the 1 items with answers in 'zh' of corpus 'embedded'; lower it$"
    with pytest.raises(ValueError, match=message):
        method.check_items(items, backbone.setting)
    with pytest.raises(LensflowError, match=r"mine\.frame\.zh: must contain {prompt} exactly once"):
        parse(dict[str, AnyMethod], {"mine": {"kind": "prompt", "frame": {"zh": "x"}}}, "config: methods")


@pytest.mark.parametrize(
    ("layers", "depth", "wanted"),
    [("all", 3, [0, 1, 2]), (2, 4, [2]), (0.5, 9, [4]), ([1, 3], 4, [1, 2, 3]), ([0.25, 3], 4, [1, 2, 3])],
)
def test_the_blocks_that_a_key_names(layers, depth, wanted):
    assert list(blocks_of(layers, depth)) == wanted


@pytest.mark.parametrize(("layers", "named"), [(4, "4 to 4"), ([2, 1], "2 to 1"), ([0.5, 9], "2 to 9")])
def test_blocks_that_a_model_lacks(layers, named):
    message = rf"^layers: .* names blocks {named}, but the model has 4; name blocks from 0 to 3, the first one first$"
    with pytest.raises(LensflowError, match=message):
        blocks_of(layers, 4)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"kind": "steer", "layers": 1.5}, "mine.layers: must be 'all', a block's number from 0 or a share of"),
        ({"kind": "steer", "layers": [1]}, "or a list of the first and the last block, not [1]"),
        ({"kind": "steer", "positions": "some"}, "mine.positions: must be 'all', 'but_first', 'prompt' or 'generated'"),
        ({"kind": "diffmean", "strength": -1.0}, "mine.strength: must be greater than or equal to 0"),
        ({"kind": "diffmean", "layer": "all"}, "mine.layer: must be a block's number from 0 or a share of the depth"),
        ({"kind": "recover", "away_from": "prompt"}, "unknown key 'away_from'"),
    ],
)
def test_refused_keys(method, message):
    with pytest.raises(LensflowError) as error:
        parse(dict[str, AnyMethod], {"mine": method}, "config: methods")
    assert message in str(error.value)
