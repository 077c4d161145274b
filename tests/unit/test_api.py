"""The objects for notebooks do what the stages do, say what they are, and cost nothing until they are named."""

import subprocess
import sys

import pytest
import torch
from matplotlib.figure import Figure

import lensflow as lf
from lensflow.errors import LensflowError
from lensflow.mathematics.subspaces import fit_subspaces
from tests.tiny import LAYERS, save_checkpoint

COUNTS = {"train": 14, "dev": 2, "test": 4}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What the ten lines of `lensflow.api` make of a tiny random model."""
    folder = tmp_path_factory.mktemp("api")
    save_checkpoint("llama", folder / "tiny-model")
    lines = ["en,zh,Swahili", *(f"What is {n}?,{n}是什么？,{n} ni nini?" for n in range(20))]
    (folder / "texts.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    model = lf.load(folder / "tiny-model")
    texts = lf.corpus(folder / "texts.csv", languages=["en", "zh", "sw"])
    space = model.probe(texts, central="en")
    better = lf.Lens(strength=0.3, lr=1e-2).fit(model, space, texts)
    return folder, model, texts, space, better


def test_naming_the_package_loads_no_torch():
    code = "import sys, lensflow; assert 'load' in dir(lensflow); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        lf.nothing  # noqa: B018


def test_objects_say_what_they_are(made):
    _, model, texts, space, better = made
    assert repr(model) == "Model tiny-model: llama, 4 layers, hidden size 32"
    assert repr(texts) == "Texts texts.csv in en, zh, sw: 14 train, 2 dev, 4 test"
    assert repr(texts.test).splitlines()[0] == "en: 4 prompts, such as 'What is 16?'"
    assert repr(space).startswith("Space of tiny-model: 4 layers, rank 2, central language en; length of δ")
    assert "Model tiny-model after Lens in zh, sw: " in repr(better)
    assert "strength" not in repr(lf.Lens(0.5)) and "lambda=0.5, lambda_unit=state_norm" in repr(lf.Lens(0.5))


def test_subspaces_are_those_of_the_mean_states(made):
    space = made[3]
    assert space.subspaces.specific.shape[:2] == (LAYERS, 32)
    fitted = fit_subspaces(space.subspaces.means.double(), None)
    for ours, theirs in ((space.subspaces.specific, fitted.specific), (space.subspaces.agnostic, fitted.agnostic)):
        torch.testing.assert_close(ours.double(), theirs, atol=1e-5, rtol=1e-4)
    assert isinstance(space.plot(), Figure)


def test_training_changes_answers_and_leaves_the_backbone_alone(made):
    _, model, texts, _, better = made
    prompts = list(texts.test["sw"])
    before = model.answer(prompts, max_new_tokens=8)
    after = better.answer(prompts, max_new_tokens=8)
    assert len(before) == len(after) == len(prompts)
    assert before != after
    assert model.answer(prompts, max_new_tokens=8) == before  # the weights were put back
    assert model.answer(prompts[0], max_new_tokens=8) == before[0]


def test_a_comparison_has_a_row_per_language_and_the_mean(made):
    _, model, texts, _, better = made
    found = better.compare(model, texts.test, max_new_tokens=4)
    assert list(found.frame["language"]) == ["en", "zh", "sw", "targets"]
    assert repr(found).splitlines()[0] == "usable answers (95 % intervals)"
    assert ["(central)" in line for line in repr(found).splitlines()[1:]] == [True, False, False, False]
    with pytest.raises(LensflowError, match="compare: this is the untouched backbone; call it on what"):
        model.compare(better, texts.test)


def test_an_exported_model_gives_the_same_answers(made, tmp_path):
    _, model, texts, _, better = made
    prompts = list(texts.test["zh"])
    assert better.export(tmp_path / "exported").endswith("exported: load it with transformers or vLLM")
    assert lf.load(tmp_path / "exported").answer(prompts, max_new_tokens=8) == better.answer(prompts, max_new_tokens=8)
    with pytest.raises(LensflowError, match="export: this is the untouched backbone"):
        model.export(tmp_path / "other")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda made: lf.load("nowhere"), r"^load: 'nowhere' is neither a folder nor owner/name on the hub"),
        (lambda made: lf.load("nowhere", engine="vlm"), r"^evaluation.engine: no 'vlm'; did you mean 'vllm'\?"),
        (lambda made: lf.load("nowhere", dtype="fp16"), r"^load: dtype: must be 'float32' or 'bfloat16', not 'fp16'$"),
        (
            lambda made: lf.corpus("embedded", languages="en, sw"),
            r"^languages: must be a list, not 'en, sw'; write \['en', 'sw'\]$",
        ),
        (lambda made: lf.corpus(made[0] / "texts.csv", ["en", "hi"]), r"texts.csv: no column for hi \(Hindi\)"),
        (lambda made: made[1].probe(made[2], central="fr"), r"^probe: texts.csv has no 'fr'; name one of en, zh, sw$"),
        (lambda made: lf.Lens(strengh=1.0), r"^Lens: unknown key 'strengh'"),
        (lambda made: made[1].answer("a", tokens=3), r"^answer: unknown key 'tokens'"),
    ],
)
def test_a_mistake_is_one_line(made, call, message):
    with pytest.raises(LensflowError, match=message):
        call(made)
