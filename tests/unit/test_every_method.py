"""Every method trains and answers on a tiny model of five families, by the first entry that the catalog has of it."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from lensflow.artifacts import interventions
from lensflow.artifacts.interventions import Intervention
from lensflow.artifacts.layout import INTERVENTION
from lensflow.benchmarks.base import Folders
from lensflow.benchmarks.dataset_generation import DatasetGeneration
from lensflow.methods.base import Run, StateFiles
from lensflow.methods.registry import METHODS, AnyMethod
from lensflow.schema.backbone import PlainPrompt
from lensflow.schema.extraction import Extraction
from lensflow.schema.parsing import parse
from lensflow.schema.setting import Setting
from lensflow.stages import extract_hidden_states, fit_subspaces, train
from lensflow.stages.answer import Cell
from lensflow.storage.atomic import write_jsonl
from lensflow.storage.parsing import read_yaml
from tests import tiny
from tests.e2e import answering

PROMPT = PlainPrompt(format="plain", template="Q: {prompt}\nA:")
SETTING = Setting(central="en", languages=("en", "zh", "sw"))
EXTRACTION = Extraction(trainable_layers=2, batch_tokens=64)
TEXTS = {
    "en": ["What is rain?", "Who was Ada?", "Name a colour.", "How old is the sun?"],
    "zh": ["雨是什么？", "艾达是谁？", "说一种颜色。", "太阳多大了？"],
    "sw": ["Mvua ni nini?", "Ada alikuwa nani?", "Taja rangi.", "Jua lina umri gani?"],
}
BENCHMARK = {
    "kind": "dataset_generation",
    "dataset": {"path": "x/y", "columns": ["prompt"]},
    "languages": {"zh": "zh"},
    "max_new_tokens": 8,
}
ENTRIES: dict[str, tuple[str, dict]] = {}  # kind -> the name and the keys of its first entry
for name, entry in read_yaml(Path(__file__).parents[2] / "config/catalog/methods.yaml")["methods"].items():
    ENTRIES.setdefault(entry["kind"], (name, entry))
# More steps than the first one, whose rate is 0; shorter own answers.
SMALLER = {"lens": {"batch_size": 1}, "sdrrl": {"answers": {"max_new_tokens": 8}}}


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def prepared(request, checkpoint, tmp_path_factory):
    """What the stages before training write for a family: its folder, with texts, states and subspaces."""
    folder = tmp_path_factory.mktemp(f"{request.param}-methods")
    manifest = tiny.backbone(checkpoint(request.param), folder / "backbone" / "manifest.json")
    tokenizer = answering.session(manifest, PROMPT).tokenizer
    for language, texts in TEXTS.items():
        rows = [
            {"id": str(i), "split": "dev" if i == 3 else "train", "prompt": text, "answer": text[::-1]}
            for i, text in enumerate(texts)
        ]
        write_jsonl(folder / "texts" / f"{language}.jsonl", rows)
        kept = extract_hidden_states.read_texts(folder / "texts" / f"{language}.jsonl", ["train", "dev"])
        sequences = extract_hidden_states.tokenize(tokenizer, language, kept, EXTRACTION)
        (scratch := folder / "scratch" / language).mkdir(parents=True)
        decoder = extract_hidden_states.load_decoder(manifest.parent)
        states = extract_hidden_states.extract(decoder, sequences, EXTRACTION, scratch)
        extract_hidden_states.save(folder / "states" / f"{language}.safetensors", states, sequences.names)
    fit_subspaces.fit(SETTING, of(folder, "states"), of(folder, "texts"), folder / "subspaces.safetensors")
    write_jsonl(
        folder / "items" / "zh.jsonl", [{"split": "items", "id": t, "item": {"prompt": t}} for t in TEXTS["zh"]]
    )
    return folder


def of(folder, kind):
    ending = {"states": "safetensors", "texts": "jsonl"}[kind]
    return {language: folder / kind / f"{language}.{ending}" for language in TEXTS}


@pytest.mark.slow
def test_it_trains_and_answers(prepared):
    """All kinds, one after the other in one engine, as the stage `answer` does; base is the same at the end.

    What others have shared needs their folder: tests/unit/test_pushing.py.
    """
    assert set(ENTRIES) == {*METHODS.builtin(), METHODS.without} - {"shared"}
    manifest, cell = prepared / "backbone" / "manifest.json", Cell("items", parse(DatasetGeneration, BENCHMARK), "zh")
    one, folders = answering.session(manifest, PROMPT, engine="hf"), Folders(prepared, prepared)

    def answers(run, cache):
        return [sample["answer"] for sample in answering.samples(one, folders, cell, prepared / cache, run)[0]]

    plain, acted = answers(None, "first"), set()
    assert len(plain) == len(TEXTS["zh"])
    for kind, (name, entry) in ENTRIES.items():
        if kind == METHODS.without:
            continue
        method = parse(AnyMethod, entry | SMALLER.get(kind, {}))
        hidden = StateFiles(EXTRACTION, prepared / "subspaces.safetensors", of(prepared, "states"))
        output = prepared / "runs" / name / "seed0" / "delta.safetensors"
        given = hidden if method.needs_states else None
        train.train_measured(Run(method, SETTING, 0, PROMPT, manifest, of(prepared, "texts"), output, given))
        written, changed = interventions.load(output.with_name(INTERVENTION)), load_file(output)
        assert written != Intervention() or changed, kind
        found = answers(output.parent, "cells")
        assert len(found) == len(plain)
        acted |= {kind} if found != plain else set()
    assert answers(None, "again") == plain
    # The others move too little for another likeliest token of a random model; a tied one repeats its last token.
    assert acted >= {"disentangle", "recover", "language_dimensions", "prompt"}
