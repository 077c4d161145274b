"""Edits of the residual stream of the embedded chat model: both engines give the same answers and scores."""

import pytest

from lensflow.artifacts import interventions, texts
from lensflow.artifacts.layout import INTERVENTION
from lensflow.artifacts.texts import read_corpus
from lensflow.models.engines.hf import TransformersEngine
from lensflow.models.engines.vllm import VllmEngine
from lensflow.models.tokenizer import PromptTokenizer
from lensflow.schema.backbone import Resources
from lensflow.schema.decoding import Decoding
from tests.e2e.conftest import NAME, ROOT

ANSWER = Decoding(max_new_tokens=8)
METHODS = {"recover": {"kind": "recover"}, "disentangle": {"kind": "disentangle"}}


@pytest.mark.slow
def test_both_engines_answer_alike_under_edits(config, manifest, train):
    tokenizer = PromptTokenizer(manifest.parent, config.backbones[NAME].prompt)
    items = read_corpus(texts.folder("embedded", ROOT))["test"][:40]
    prompts = [tokenizer.encode(item["prompt"]["zh"]) for item in items]
    requests = [
        (prompt, tokenizer.encode_answered("", item["answer"]["zh"])[0][-9:-1])
        for prompt, item in zip(prompts, items, strict=True)
    ]
    engine = TransformersEngine(manifest.parent, "float32", tokenizer)
    plain = [answer.ids for answer in engine.generate(prompts, ANSWER)]
    expected, edits = {}, {}
    for name, method in METHODS.items():
        edits[name] = interventions.load(train(method) / INTERVENTION).edit("zh")
        with engine.edited(edits[name]):
            answers = [answer.ids for answer in engine.generate(prompts, ANSWER)]
            expected[name] = answers, [score for score, _ in engine.loglikelihoods(requests[:8])]
        assert answers != plain
    engine.close()
    fast = VllmEngine(manifest.parent, "float32", tokenizer, 256, Resources())
    try:
        for name, edit in edits.items():
            with fast.edited(edit):
                answers = [answer.ids for answer in fast.generate(prompts, ANSWER)]
                scores = [score for score, _ in fast.loglikelihoods(requests[:8])]
            same = sum(one == other for one, other in zip(answers, expected[name][0], strict=True))
            assert same >= 0.95 * len(prompts), (name, same)
            assert scores == pytest.approx(expected[name][1], abs=2e-3), name
        assert [answer.ids for answer in fast.generate(prompts, ANSWER)] == plain
    finally:
        fast.close()
