"""An exported method outside of the pipeline: the lines of its card answer as the pipeline does."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lensflow.artifacts import interventions
from lensflow.artifacts.interventions import ANY, BlockEdit, Gate, Intervention
from lensflow.artifacts.weights import WeightFiles
from lensflow.cli import main
from lensflow.errors import LensflowError
from lensflow.models.engines import edits
from lensflow.models.engines.hf import TransformersEngine
from lensflow.models.tokenizer import PromptTokenizer
from lensflow.schema.backbone import PlainPrompt
from lensflow.schema.decoding import Decoding
from lensflow.serving.hf import apply, load
from lensflow.storage.atomic import write_json
from tests import tiny

PROMPT = PlainPrompt(format="plain", template="Q: {prompt}\nA:")
QUESTIONS = ["What is rain?", "雨是什么？", "Je, mvua ni nini?"]
generator = torch.Generator().manual_seed(8)
VECTOR, OTHER = torch.randn(2, tiny.WIDTH, generator=generator)
BASIS = torch.linalg.qr(torch.randn(tiny.WIDTH, 2, generator=generator)).Q
GATE = torch.randn(4, tiny.WIDTH, generator=generator)
INTERVENTIONS = {
    "generated": Intervention(
        blocks={("sw", "sw"): [BlockEdit(1, "add", VECTOR, strength=0.7, positions="generated")]}
    ),
    "prompt": Intervention(blocks={("sw", "sw"): [BlockEdit(2, "replace", OTHER, BASIS, 1.5, "prompt")]}),
    "norm": Intervention(
        blocks={("sw", "sw"): [BlockEdit(n, "add", VECTOR, None, 0.7, "but_first", True) for n in range(tiny.LAYERS)]}
    ),
    "any": Intervention(blocks={ANY: [BlockEdit(1, "remove", basis=BASIS)]}),
    "shift": Intervention(shifts={"sw": 4 * OTHER, "zh": VECTOR}),
    "removed": Intervention(removed=BASIS),
    "gate": Intervention(gate=Gate(torch.randn(tiny.WIDTH, tiny.WIDTH, generator=generator), GATE)),
    "script": Intervention(constrained=("zh",), blocks={("zh", "zh"): [BlockEdit(1, "add", VECTOR)]}),
}


@pytest.fixture
def take_home(checkpoint: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Export an intervention, or a delta; give the new folder."""
    manifest = tiny.backbone(checkpoint("llama"), tmp_path / "backbone" / "manifest.json")
    delta = tmp_path / "tiny" / "trio" / "mine" / "seed0" / "delta.safetensors"
    delta.parent.mkdir(parents=True)

    def export(intervention: Intervention, *options: str, changed: dict[str, torch.Tensor] | None = None) -> Path:
        save_file(changed or {}, delta)
        interventions.write(intervention, delta)
        setting = {"central": "en", "languages": list(tiny.LANGUAGES), "probing": "prompts", "training": "prompts"}
        config = {"method": {"kind": "mine"}, "setting": setting, "seed": 0, "prompt": PROMPT.canonical()}
        write_json(delta.with_name("config.json"), config)
        files = ["--backbone", str(manifest), "--delta", str(delta)]
        assert main.main(["export", *files, *options, str(tmp_path / "home")]) == 0
        return tmp_path / "home"

    return export


def by_the_card(home: Path, question: str, capsys: pytest.CaptureFixture[str], **names: str) -> str:
    """Return what the lines of the card print."""
    card = (home / "README.md").read_text(encoding="utf-8")
    (code,) = (found for found in re.findall(r"```python\n(.*?)```", card, re.DOTALL) if "lensflow.serving.hf" in found)
    assert len([line for line in code.splitlines() if line]) == 5
    capsys.readouterr()
    exec(code, {"folder": str(home), "question": question, **names})
    return capsys.readouterr().out.removesuffix("\n")


def by_the_pipeline(folder: Path, intervention: Intervention, language: str, question: str) -> str:
    tokenizer = PromptTokenizer(folder, PROMPT)
    engine = TransformersEngine(folder, "float32", tokenizer)
    with engine.edited(intervention.edit(language)):
        (answer,) = engine.generate([tokenizer.encode(question)], Decoding(max_new_tokens=128))
    return answer.text


@pytest.mark.parametrize("name", INTERVENTIONS)
def test_the_cards_five_lines_answer_as_the_pipeline(take_home, name, capsys):
    intervention = INTERVENTIONS[name]
    home = take_home(intervention)
    card = (home / "README.md").read_text(encoding="utf-8")
    language = re.search(r'language="(\w+)"', card)[1]
    assert language == {"any": "zh", "removed": "zh", "gate": "zh", "script": "zh", "shift": "zh"}.get(name, "sw")
    assert ("vllm serve FOLDER" in card) == (name != "gate")
    differs = False
    for question in QUESTIONS:
        expected = by_the_pipeline(home, intervention, language, question)
        assert by_the_card(home, question, capsys) == expected
        differs |= expected != by_the_pipeline(home, Intervention(), language, question)
    assert differs
    described = json.loads((home / "lensflow.json").read_text())
    assert described["languages"] == list(tiny.LANGUAGES)
    blocks = [edit for edits_ in intervention.blocks.values() for edit in edits_]
    assert [(edit["layer"], edit["positions"]) for edit in described["edits"]["blocks"]] == [
        (block.layer, block.positions) for block in blocks
    ]


def test_a_reference_has_no_weights_and_answers_the_same(take_home, checkpoint, capsys):
    """With changed weights, an edit and a script."""
    name = "model.layers.3.mlp.up_proj.weight"
    changed = {name: WeightFiles(checkpoint("llama")).read(name) + 0.2}
    intervention = INTERVENTIONS["script"]
    home = take_home(intervention, "--reference", changed=changed)
    files = {path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()}
    assert files == {"README.md", "lensflow.json", "delta.safetensors", "intervention/intervention.safetensors"}
    said = [by_the_card(home, question, capsys, backbone=str(checkpoint("llama"))) for question in QUESTIONS]
    with pytest.raises(LensflowError, match=r"home: its backbone is not on the hub; give the folder of its weights"):
        load(home, "zh")

    home.rename(home.with_name("reference"))
    whole = take_home(intervention, changed=changed)
    assert said == [by_the_pipeline(whole, intervention, "zh", question) for question in QUESTIONS]
    assert said != [by_the_pipeline(checkpoint("llama"), intervention, "zh", question) for question in QUESTIONS]


def test_a_batch_beams_and_several_answers(take_home):
    """Each row has the length of its own prompt, also where rows are repeated."""
    home = take_home(INTERVENTIONS["generated"])
    model, tokenizer = load(home, "sw")
    tokenizer.padding_side = "left"
    padded = tokenizer(QUESTIONS, return_tensors="pt", padding=True)
    said = model.generate(**padded, max_new_tokens=6, do_sample=False)[:, padded["input_ids"].shape[1] :]
    for row, question in zip(said.tolist(), QUESTIONS, strict=True):
        alone = tokenizer(question, return_tensors="pt")
        answer = model.generate(**alone, max_new_tokens=6, do_sample=False)[0, alone["input_ids"].shape[1] :].tolist()
        assert row[: len(answer)] == answer
    beams = model.generate(**padded, max_new_tokens=4, num_beams=2, num_return_sequences=2, do_sample=False)
    assert len(beams) == 2 * len(QUESTIONS)


def test_another_language_after_undoing_the_first(take_home):
    home = take_home(INTERVENTIONS["shift"])
    model = AutoModelForCausalLM.from_pretrained(home)
    ids = AutoTokenizer.from_pretrained(home)(QUESTIONS[0], return_tensors="pt")["input_ids"]

    def logits() -> torch.Tensor:
        with torch.no_grad():
            return model(ids).logits

    plain, found = logits(), {}
    for language in ("zh", "sw", "en"):
        undo = apply(model, home, language)
        found[language] = logits()
        if language != "en":
            with pytest.raises(LensflowError, match="apply: the model has a method already; undo that one first"):
                apply(model, home, "en")
        undo()
        assert torch.equal(logits(), plain)
    assert torch.equal(found["en"], plain)  # the central language is left alone
    assert not torch.allclose(found["zh"], plain) and not torch.allclose(found["zh"], found["sw"])


def test_what_does_not_fit_is_one_line(take_home, checkpoint, tmp_path, monkeypatch):
    home = take_home(INTERVENTIONS["generated"])
    with pytest.raises(LensflowError, match=r"home: does not know language 'fr'; name one of en, zh, sw$"):
        load(home, "fr")
    with pytest.raises(LensflowError, match=r"lensflow.json: no such file; give a folder that lensflow export wrote$"):
        load(checkpoint("llama"), "sw")
    with pytest.raises(LensflowError, match=r"^nowhere: no such folder; give one, or owner/name on the hub$"):
        load("nowhere", "sw")
    model = AutoModelForCausalLM.from_pretrained(home)
    with monkeypatch.context() as patch:
        patch.setattr(edits, "change", lambda *given: [])
        with pytest.raises(LensflowError, match="the edit of block 1 does not change the states as it should"):
            apply(model, home, "sw")
    assert "generate" not in vars(model)  # nothing of a failed attempt is left
    described = json.loads((home / "lensflow.json").read_text())
    described["backbone"]["layers"] = 5
    (home / "lensflow.json").write_text(json.dumps(described))
    with pytest.raises(LensflowError, match="is for 5 blocks and states of 32 dimensions, the model has 4 and 32"):
        apply(model, home, "sw")
    for wrong in ({"format": 2}, {"backbone": {"source": {"kind": "hub"}}}, {"languages": "sw"}, {"prompt": {}}):
        (home / "lensflow.json").write_text(json.dumps(described | wrong))
        with pytest.raises(LensflowError, match="not in format 1 of this version; export the method again"):
            apply(model, home, "sw")
