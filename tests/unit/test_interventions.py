"""What is done while the model runs: its file, the equations that it stands for, and which cells it makes others of."""

import json
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lensflow.artifacts import interventions, language_subspaces, layout
from lensflow.artifacts.interventions import Intervention, StateEdit
from lensflow.artifacts.layout import INTERVENTION
from lensflow.benchmarks.base import Folders
from lensflow.benchmarks.registry import AnyBenchmark
from lensflow.cli import main
from lensflow.errors import LensflowError
from lensflow.methods.base import Run, StateFiles
from lensflow.methods.lens.config import Lens
from lensflow.methods.lens.objective import objective
from lensflow.methods.registry import AnyMethod
from lensflow.models import likelihood
from lensflow.models.engines.hf import TransformersEngine
from lensflow.models.engines.protocol import Answer
from lensflow.models.logit_bias import logit_biases
from lensflow.models.tokenizer import PromptTokenizer
from lensflow.schema.backbone import PlainPrompt, Resources
from lensflow.schema.decoding import Decoding
from lensflow.schema.extraction import Extraction
from lensflow.schema.parsing import parse
from lensflow.schema.stages import Answering
from lensflow.stages import train
from lensflow.stages.answer import Answerer, Asked, Cell, Session, Speaker
from lensflow.storage.atomic import write_jsonl
from lensflow.storage.cache import read_entry
from lensflow.storage.verified import read_json, read_jsonl
from tests import tiny

PROMPT = PlainPrompt(format="plain", template="Q: {prompt}\nA:")


def random_edit(seed: int = 0, rank: int = 2) -> StateEdit:
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(tiny.WIDTH, rank, generator=generator)).Q
    return StateEdit(torch.randn(tiny.WIDTH, generator=generator), basis)


# --- The file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "intervention",
    [
        Intervention(),
        Intervention(shifts={"zh": torch.arange(3.0), "sw": torch.ones(3)}),
        Intervention(removed=torch.eye(3)[:, :2]),
        Intervention(instructions={"zh": "请用中文回答。"}, place="after"),
    ],
)
def test_what_is_written_is_read(tmp_path, intervention):
    interventions.write(intervention, tmp_path / "delta.safetensors")
    path = tmp_path / INTERVENTION
    read = interventions.load(path)
    for language in ("en", "zh", "sw"):
        assert read.identity(language) == intervention.identity(language)
        assert read.instruct(language, "x") == intervention.instruct(language, "x")
    assert (read.width, read.place) == (intervention.width, intervention.place)
    first = path.read_bytes()
    interventions.write(intervention, tmp_path / "delta.safetensors")
    assert path.read_bytes() == first


def test_a_file_that_cannot_be_read(tmp_path):
    path = tmp_path / INTERVENTION
    with pytest.raises(LensflowError, match=rf"^{path}: no such file; train the method again$"):
        interventions.load(path)
    path.write_bytes(b"x")
    with pytest.raises(LensflowError, match=rf"^{path}: cannot be read \(.*\); delete it and run again$"):
        interventions.load(path)
    for told in ('{"spoken": {}}', "[]", "3"):  # as other versions, or strangers, may have it
        save_file({}, path, metadata={"told": told})
        with pytest.raises(LensflowError, match=rf"^{path}: cannot be read \(.*\); delete it and run again$"):
            interventions.load(path)


@pytest.mark.parametrize(
    ("settings", "tensors", "message"),
    [
        ({"operation": "multiply"}, {"vector": torch.ones(3)}, "an edit 'multiply' of 'all' after block 0 is unknown"),
        ({"operation": "add", "positions": "some"}, {"vector": torch.ones(3)}, "an edit 'add' of 'some' after block 0"),
        ({"operation": "add", "layer": -1}, {"vector": torch.ones(3)}, "an edit 'add' of 'all' after block -1 is"),
        ({"operation": "add"}, {"basis": torch.eye(3)}, "an edit 'add' needs vector, no more"),
        ({"operation": "replace"}, {"vector": torch.ones(3)}, "an edit 'replace' needs basis and vector, no more"),
    ],
)
def test_an_edit_of_a_stranger_that_cannot_be_applied(tmp_path, settings, tensors, message):
    told = {"blocks": {"block.zh.zh.0": {"layer": 0} | settings}}
    path = tmp_path / INTERVENTION
    named = {f"block.zh.zh.0.{name}": tensor for name, tensor in tensors.items()}
    save_file(named, path, metadata={"told": json.dumps(told)})
    with pytest.raises(LensflowError, match=rf"^{path}: cannot be read \({message}.*\); delete it and run again$"):
        interventions.load(path)


def test_tensors_of_different_models(tmp_path):
    path = tmp_path / INTERVENTION
    save_file({"shift.zh": torch.ones(3), "shift.sw": torch.ones(4)}, path)
    with pytest.raises(LensflowError, match=r"tensors of different models: 3 and 4 dimensions"):
        interventions.load(path)


def test_an_edit_is_computed_in_float32_and_keeps_the_precision():
    edit, states = random_edit(), torch.randn(2, 5, tiny.WIDTH)
    basis = edit.removed.double()
    expected = states.double() - states.double() @ basis @ basis.T + edit.shift
    assert torch.allclose(edit(states).double(), expected, atol=1e-5)
    low = states.bfloat16()
    assert edit(low).dtype == torch.bfloat16
    assert torch.equal(edit(low), edit(low.float()).bfloat16())


# --- What the engine computes: head(h - R Rᵀh + s), for every family --------------------------------------------------


class Naive:
    """The equation, from the weights of the output layer."""

    def __init__(self, folder, edit):
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.weight, self.edit, self.config = self.model.get_output_embeddings().weight, edit, self.model.config

    @torch.no_grad()
    def logits(self, ids):
        states = self.model.base_model(torch.tensor([ids])).last_hidden_state[0].double()
        basis = self.edit.removed.double()
        logits = (states - states @ basis @ basis.T + self.edit.shift.double()) @ self.weight.double().T
        match self.config.model_type:
            case "cohere":
                return logits * self.config.logit_scale
            case "granite":
                return logits / self.config.logits_scaling
            case "gemma2":
                return torch.tanh(logits / self.config.final_logit_softcapping) * self.config.final_logit_softcapping
        return logits

    def answer(self, prompt, length):
        ids = list(prompt)
        while len(ids) < len(prompt) + length and (len(ids) == len(prompt) or ids[-1] != 2):
            ids.append(int(self.logits(ids)[-1].argmax()))
        return ids[len(prompt) :]


@pytest.mark.parametrize("family", [*tiny.FAMILIES, *tiny.HEADS])
def test_the_engine_computes_the_equation(checkpoint, family):
    folder, edit = checkpoint(family), random_edit()
    tokenizer = PromptTokenizer(folder, PROMPT)
    engine, naive = TransformersEngine(folder, "float32", tokenizer, batch_size=3), Naive(folder, edit)
    prompts = tiny.random_sequences(7, seed=1)
    requests = list(zip(prompts, tiny.random_sequences(7, seed=2, longest=4), strict=True))
    untouched = engine.loglikelihoods(requests)
    with engine.edited(edit):
        answers = [answer.text for answer in engine.generate(prompts, Decoding(max_new_tokens=5))]
        scores = [score for score, _ in engine.loglikelihoods(requests)]
        rows = likelihood.read_prompts(engine.model, prompts, [[True] * len(prompt) for prompt in prompts], None)
    assert answers == [tokenizer.decode(naive.answer(prompt, 5)) for prompt in prompts]
    for prompt, (context, continuation), score, row in zip(prompts, requests, scores, rows, strict=True):
        logp = naive.logits(context + continuation).log_softmax(-1)
        rest = range(len(context), len(context) + len(continuation))
        assert score == pytest.approx(sum(float(logp[i - 1, (context + continuation)[i]]) for i in rest), abs=1e-3)
        logp = naive.logits(prompt).log_softmax(-1)
        assert row["nll"] == pytest.approx(-sum(float(logp[i - 1, prompt[i]]) for i in range(1, len(prompt))), abs=1e-3)
    assert max(abs(a - b) for (a, _), b in zip(untouched, scores, strict=True)) > 0.1
    with engine.edited(None):
        assert engine.loglikelihoods(requests) == untouched


@pytest.mark.parametrize("family", [*tiny.FAMILIES, *tiny.HEADS])
def test_steering_is_a_bias_on_the_logits(checkpoint, family):
    """But where they are capped."""
    folder, shifts = checkpoint(family), {"zh": 0.01 * torch.randn(tiny.WIDTH), "sw": torch.zeros(tiny.WIDTH)}
    biases = logit_biases(folder, shifts)
    if family == "gemma2":
        assert biases == {}
        return
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    scale = {"cohere": 0.25, "granite": 0.25}.get(family, 1.0)
    expected = scale * model.get_output_embeddings().weight.detach() @ shifts["zh"]
    assert torch.allclose(biases["zh"], expected, rtol=1e-4, atol=1e-7)
    assert biases["zh"].dtype == torch.float32
    assert not biases["sw"].any()
    assert logit_biases(folder, {}) == {}


# --- What the methods write -------------------------------------------------------------------------------------------


@pytest.fixture
def build(stages, tmp_path):
    """Run the stage `train` for a method on a tiny backbone; return the folder of the run."""

    def run(method, name="run", family="llama"):
        files = stages(family)
        manifest = tmp_path / "backbone" / "manifest.json"
        if not manifest.is_file():
            tiny.backbone(files.checkpoint, manifest)
        output = tmp_path / "tiny" / "trio" / name / "seed0" / "delta.safetensors"
        this = parse(AnyMethod, method)
        hidden = StateFiles(Extraction(), files.subspaces["post_norm"], files.states) if this.needs_states else None
        setting = files.setting("post_norm")
        train.train_measured(Run(this, setting, 0, PROMPT, manifest, files.texts, output, hidden))
        return output.parent

    return run


STEER = {"kind": "logit_bias", "lambda": {"zh": 0.5, "sw": 2.0}, "lambda_unit": "state_norm"}
TEMPLATE = {"kind": "prompt", "place": "after"}
TEXTS = {"kind": "prompt", "instruction": {"zh": "请用中文回答。", "sw": "Jibu kwa Kiswahili.", "en": "x"}}


@pytest.mark.parametrize("method", [STEER, {"kind": "lsar"}, TEMPLATE, TEXTS])
def test_nothing_is_trained(build, method):
    folder = build(method)
    assert load_file(folder / "delta.safetensors") == {}
    assert load_file(folder / "dev_states.safetensors") == {}
    assert read_jsonl(folder / "history.jsonl") == []
    took = read_json(folder / "cost.json")
    assert took["tokens"] == took["trained_parameters"] == 0
    assert took["seconds"] < 5


def test_a_method_that_changes_weights_has_an_empty_intervention(build):
    folder = build({"kind": "lens", "layers": 1})
    build({"kind": "lsar"}, "other")
    empty = interventions.load(folder / INTERVENTION)
    assert all(empty.identity(language) == {} and empty.instruct(language, "x") == "x" for language in tiny.LANGUAGES)


@pytest.mark.parametrize("unit", ["absolute", "state_norm"])
def test_steering_is_lenss_push(build, stages, unit):
    method = STEER | {"lambda_unit": unit}
    written = interventions.load(build(method) / INTERVENTION)
    subspaces = language_subspaces.load(stages("llama").subspaces["post_norm"], stages("llama").setting("post_norm"))
    lens = parse(Lens, method | {"kind": "lens"})
    expected = objective(lens, subspaces, ("zh", "sw")).shifts
    assert written.shifts.keys() == expected.keys() == {"zh", "sw"}
    for language, strength in (("zh", 0.5), ("sw", 2.0)):
        assert torch.equal(written.shifts[language], expected[language])
        index = tiny.LANGUAGES.index(language)
        length = subspaces.norms if unit == "state_norm" else subspaces.directions.norm(dim=-1)
        assert float(written.shifts[language].norm()) == pytest.approx(strength * float(length[-1, index]), rel=1e-5)
    assert written.edit("en") is None and written.edit("fr") is None


def test_controls_of_steering(build):
    def shifts(name, **keys):
        folder = build({"kind": "logit_bias", "direction": name} | keys, name + str(keys.get("draw", "")))
        return interventions.load(folder / INTERVENTION).shifts

    own, negative, deranged, common = map(shifts, ("own", "negative", "deranged", "common"))
    assert torch.equal(negative["zh"], -own["zh"])
    assert torch.equal(deranged["zh"], own["sw"]) and torch.equal(deranged["sw"], own["zh"])
    assert torch.cosine_similarity(common["zh"], common["sw"], dim=0) > 0.999
    for name in ("rotated", "covariance", "common"):
        one, other = shifts(name), shifts(name, draw=3)
        for language in ("zh", "sw"):
            assert float(one[language].norm()) == pytest.approx(float(own[language].norm()), rel=1e-4)
            assert torch.allclose(one[language], other[language]) == (name == "common")


def test_lsar_removes_what_tells_languages_apart(build, stages):
    written = interventions.load(build({"kind": "lsar"}) / INTERVENTION)
    setting = stages("llama").setting("post_norm")
    means = language_subspaces.load(stages("llama").subspaces["post_norm"], setting).means[-1]
    assert (means[0] - means[1]).norm() > 0.1
    for language in ("en", "zh", "sw", "fr"):
        left = written.edit(language)(means)
        assert torch.allclose(left, left[:1].expand_as(left), atol=1e-5)
        assert left.norm() > 0.1


def test_instructions(build):
    template, own = (interventions.load(build(m, m["kind"]) / INTERVENTION) for m in (TEMPLATE, TEXTS))
    assert template.instruct("zh", "雨是什么？") == "雨是什么？\nAnswer in Chinese."
    assert own.instruct("zh", "雨是什么？") == "请用中文回答。\n雨是什么？"
    for written in (template, own):
        assert written.instruct("en", "What is rain?") == "What is rain?"
        assert written.edit("zh") is None


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"kind": "logit_bias", "lambda": -1.0}, "must be greater than or equal to 0"),
        ({"kind": "logit_bias", "lr": 1.0}, "unknown key 'lr'"),
        ({"kind": "lsar", "lambda": 1.0}, "unknown key 'lambda'"),
        (
            {"kind": "prompt", "instruction": "Answer."},
            "mine.instruction: must contain {language_name}, or be a mapping",
        ),
        ({"kind": "prompt", "instruction": {"zh": 3}}, "mine.instruction.zh: must be text"),
        ({"kind": "prompt", "place": "behind"}, "mine.place: must be 'before' or 'after', not 'behind'"),
    ],
)
def test_refused_keys(method, message):
    with pytest.raises(LensflowError) as error:
        parse(dict[str, AnyMethod], {"mine": method}, "config: methods")
    assert message in str(error.value)


# --- What evaluation makes of it --------------------------------------------------------------------------------------

BENCHMARKS = {
    "generation": {"kind": "generation", "max_new_tokens": 4},
    "likelihood": {"kind": "likelihood"},
    "chat": {"kind": "lm_eval", "chat": True},
    "plain": {"kind": "lm_eval"},
    "mt": {"kind": "mt_bench", "judge": {"model": "x"}, "max_new_tokens": 4},
}
TASK = """
task: capitals
output_type: multiple_choice
doc_to_text: question
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - metric: acc
"""


class Recorder:
    """In the place of an engine: takes down what it is asked, and under which edit."""

    def __init__(self, tokenizer):
        self.tokenizer, self.asked, self.edits, self.now = tokenizer, [], [], None

    @contextmanager
    def edited(self, edit):
        self.now = edit
        yield
        self.now = None

    def _note(self, prompts):
        self.asked += [self.tokenizer.decode(prompt) for prompt in prompts]
        self.edits += [self.now] * len(prompts)

    def generate(self, prompts, decoding):
        self._note(prompts)
        return [Answer("ok", (5,), cut=False)] * len(prompts)

    def loglikelihoods(self, requests):
        self._note([context for context, _ in requests])
        return [(-1.0, False)] * len(requests)


STAGE = {"prompt": PROMPT.canonical(), "evaluation": {"engine": "hf"}}


@dataclass(frozen=True)
class Evaluated:
    """The backbone under an intervention."""

    answerer: Answerer
    intervention: Intervention

    def asked(self, cell: Cell) -> Asked:
        return self.answerer.asked(cell, self.speaker(cell))

    def speaker(self, cell: Cell) -> Speaker:
        return Speaker(self.answerer.session, None, self.intervention, cell.language)

    def answers(self, cell: Cell) -> list[dict[str, Any]]:
        asked = self.asked(cell)
        self.answerer.answer(asked, self.speaker(cell))
        return read_entry(layout.entry(self.answerer.cache, asked.key))["answers"]


@pytest.fixture
def evaluator(checkpoint, tmp_path):
    """Build a tiny backbone that answers under an intervention; return what it is asked in each cell, and its cells."""
    manifest = tiny.backbone(checkpoint("llama"), tmp_path / "evaluated" / "manifest.json")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "capitals.yaml").write_text(TASK)
    dataset = {"path": "x/y", "columns": ["question"]}
    items = {"question": "Italy?", "choices": ["Rome", "Oslo"], "answer": 0}
    turns = {"turns": ["Hello", "Again"], "category": "math", "reference": []}
    for language in ("en", "zh"):
        rows = [{"id": "1", "split": "test", "prompt": f"{language}?"}]
        write_jsonl(tmp_path / "corpora" / "embedded" / f"{language}.jsonl", rows)
        for name in ("chat", "plain", "mt"):
            item = {"id": "1", "split": "items", "item": turns if name == "mt" else items}
            write_jsonl(tmp_path / "items" / name / f"{language}.jsonl", [item])

    def of(intervention):
        interventions.write(intervention, tmp_path / "delta.safetensors")
        read = interventions.load(tmp_path / INTERVENTION)
        config = Answering.model_validate(STAGE | {"cells": [], "checkpoints": {}})
        session = Session(manifest, config, Resources())
        folders = Folders(tmp_path / "corpora", tmp_path / "items", (tmp_path,))
        answering = Evaluated(Answerer(session, folders, tmp_path / "cache"), read)
        cells = {}
        for name, entry in BENCHMARKS.items():
            if entry["kind"] in ("lm_eval", "mt_bench"):
                entry = entry | {"dataset": dataset, "languages": {"en": "en", "zh": "zh"}}
            if entry["kind"] == "lm_eval":
                entry |= {"task": "tasks/capitals"}
            for language in ("en", "zh"):
                cells[name, language] = Cell(name, parse(AnyBenchmark, entry), language)
        return answering, cells

    return of


INTERVENTIONS = {
    "none": Intervention(),
    "steer": Intervention(shifts={"zh": torch.ones(tiny.WIDTH)}),
    "another λ": Intervention(shifts={"zh": 2 * torch.ones(tiny.WIDTH)}),
    "lsar": Intervention(removed=torch.eye(tiny.WIDTH)[:, :2]),
    "prompt": Intervention(instructions={"zh": "用中文。"}),
    "after": Intervention(instructions={"zh": "用中文。"}, place="after"),
}


def test_which_cells_are_others(evaluator):
    def digests(intervention):
        one, cells = evaluator(intervention)
        return {place: one.asked(cell).key for place, cell in cells.items()}

    base = digests(Intervention())
    found = {name: digests(intervention) for name, intervention in INTERVENTIONS.items()}
    changed = {name: {place for place in base if of[place] != base[place]} for name, of in found.items()}
    everything, chinese = set(base), {place for place in base if place[1] == "zh"}
    told = {(name, "zh") for name in ("generation", "chat", "mt")}
    expected = {"none": set(), "steer": chinese, "another λ": chinese, "lsar": everything}
    assert changed == expected | {"prompt": told, "after": told}
    for place in told:
        assert len({of[place] for of in (base, *found.values())}) == len(INTERVENTIONS)
    assert found["none"] == base  # an instruction is among the tokens of a request, not beside them


def test_cells_are_shared_where_nothing_is_done(evaluator, tmp_path):
    """By the command line: a language that is left alone is not answered again."""
    evaluator(Intervention())
    entry = {"name": "likelihood", "benchmark": BENCHMARKS["likelihood"], "languages": ["en", "zh"]}
    manifest = str(tmp_path / "evaluated" / "manifest.json")

    def cells(method):
        run = tmp_path / "tiny" / "trio" / method / "seed0"
        run.mkdir(parents=True)
        if method != layout.BASE:
            save_file({}, run / layout.DELTA)
            interventions.write(INTERVENTIONS[method], run / layout.DELTA)
        stage = STAGE | {"cells": [entry], "checkpoints": {f"tiny/trio/{method}/seed0": [0]}}
        folders = {"--corpora": "corpora", "--items": "items", "--cache": "cache"}
        arguments = [part for key, name in folders.items() for part in (key, str(tmp_path / name))]
        arguments += ["--backbone", manifest, "--runs", str(run)]
        assert main.main(["answer", "--config", json.dumps(stage), *arguments]) == 0
        return [cell["cell"] for cell in read_json(run / layout.ANSWERS)["cells"]]

    base = cells(layout.BASE)
    for name, changed in (("none", 0), ("prompt", 0), ("steer", 1), ("another λ", 1), ("lsar", 2)):
        computed = len(list((tmp_path / "cache").rglob("*.json")))
        again = cells(name)
        assert len(list((tmp_path / "cache").rglob("*.json"))) == computed + changed, name
        if name != "lsar":
            assert again[0] == base[0], name


def test_an_identity_is_kept_with_its_cell(evaluator):
    one, cells = evaluator(INTERVENTIONS["steer"])
    assert "intervention" not in one.asked(cells["mt", "en"]).identity
    assert one.asked(cells["mt", "zh"]).identity["intervention"].keys() == {"shift"}
    told, _ = evaluator(INTERVENTIONS["prompt"])
    assert "intervention" not in told.asked(cells["mt", "zh"]).identity
    one.answers(cells["likelihood", "zh"])
    asked = one.asked(cells["likelihood", "zh"])
    assert read_entry(layout.entry(one.answerer.cache, asked.key))["identity"] == asked.identity


@pytest.mark.parametrize("name", ["steer", "lsar", "prompt", "after"])
def test_what_the_engine_is_asked(evaluator, name):
    def run(intervention, language, benchmark):
        one, cells = evaluator(intervention)
        session, cell = one.answerer.session, cells[benchmark, language]
        recorder = Recorder(session.tokenizer)
        session._engines["hf"], session._delta["hf"] = recorder, None
        one.answerer._ask(cell, one.speaker(cell))
        return recorder

    line = {"prompt": "用中文。\n{}", "after": "{}\n用中文。"}.get(name, "{}")
    chinese, italy = line.format("zh?"), line.format("Italy?")
    first, second = f"Q: {line.format('Hello')}\nA:", f" ok\n\nQ: {line.format('Again')}\nA:"
    asked = {"generation": [f"Q: {chinese}\nA:"], "chat": [f"Q: {italy}\nA:"] * 2, "plain": ["Italy?"] * 2}
    asked["mt"] = [first, first + second]
    for benchmark, expected in asked.items():
        recorder = run(INTERVENTIONS[name], "zh", benchmark)
        assert [text.strip() for text in recorder.asked] == expected, benchmark
        assert all((edit is not None) == (name in ("steer", "lsar")) for edit in recorder.edits)
        kept = run(INTERVENTIONS[name], "en", benchmark)
        assert kept.asked == run(Intervention(), "en", benchmark).asked
        assert all((edit is not None) == (name == "lsar") for edit in kept.edits)


def test_held_out_likelihood_is_of_the_edited_states(evaluator):
    def nll(intervention):
        one, cells = evaluator(intervention)
        (row,) = one.answers(cells["likelihood", "zh"])
        return row["nll"]

    assert nll(INTERVENTIONS["prompt"]) == nll(Intervention())
    assert abs(nll(INTERVENTIONS["steer"]) - nll(Intervention())) > 1e-3
    assert abs(nll(INTERVENTIONS["lsar"]) - nll(Intervention())) > 1e-3


def test_an_intervention_of_another_backbone(evaluator, tmp_path, capsys):
    evaluator(Intervention())
    run, manifest = tmp_path / "tiny" / "trio" / "steer" / "seed0", tmp_path / "evaluated" / "manifest.json"
    run.mkdir(parents=True)
    save_file({}, run / layout.DELTA)
    arguments = ["--backbone", str(manifest), "--runs", str(run), "--cache", str(tmp_path / "cache")]
    arguments += ["--corpora", str(tmp_path / "corpora"), "--items", str(tmp_path / "items")]
    stage = json.dumps(STAGE | {"cells": [], "checkpoints": {"tiny/trio/steer/seed0": []}})
    message = r"intervention\.safetensors: changes states of 7 dimensions, .* has states of 32; it belongs to another"
    for wrong in (Intervention(shifts={"zh": torch.ones(7)}), Intervention(removed=torch.eye(7)[:, :2])):
        interventions.write(wrong, run / layout.DELTA)
        assert main.main(["answer", "--config", stage, *arguments]) == 2
        assert re.search(message, capsys.readouterr().err)
        assert not (run / layout.ANSWERS).exists()


# --- What is taken home -----------------------------------------------------------------------------------------------


def export(folder, tmp_path):
    """Run `lensflow export` for a run that `build` made; return the new folder and its model card."""
    method, setting = {"kind": folder.parent.name}, {"central": "en", "languages": list(tiny.LANGUAGES)}
    setting |= {"probing": "prompts", "training": "prompts"}
    config = {"method": method, "setting": setting, "seed": 0, "prompt": PROMPT.canonical()}
    (folder / "config.json").write_text(json.dumps(config))
    home, manifest = tmp_path / "home", tmp_path / "backbone" / "manifest.json"
    arguments = ["--backbone", str(manifest), "--delta", str(folder / "delta.safetensors"), str(home)]
    assert main.main(["export", *arguments]) == 0
    assert str(tmp_path) not in (home / "README.md").read_text()  # where files lie is nobody's business
    return home, ModelCard.load(home / "README.md").text


def texts_of(answers):
    return [answer.text for answer in answers]


def code_of(card, word):
    """The Python code of a card that has a word in it."""
    (found,) = (code for code in re.findall(r"```python\n(.*?)```", card, re.DOTALL) if word in code)
    return found


def test_the_lines_of_an_exported_steering(build, tmp_path):
    folder = build(STEER, "steer")
    home, card = export(folder, tmp_path)
    written = interventions.load(folder / INTERVENTION)
    tokenizer = PromptTokenizer(home, PROMPT)
    engine, prompts = TransformersEngine(home, "float32", tokenizer), tiny.random_sequences(5, seed=3)
    plain = engine.generate(prompts, Decoding(max_new_tokens=6))
    with engine.edited(written.edit("sw")):  # the language that the lines are written for
        expected = engine.generate(prompts, Decoding(max_new_tokens=6))
    assert texts_of(expected) != texts_of(plain)

    names = {"folder": str(home)}
    exec(code_of(card, "LogitsProcessorList"), names)
    for prompt, answer in zip(prompts, texts_of(expected), strict=True):
        given = {"max_new_tokens": 6, "do_sample": False, "logits_processor": names["steered"]}
        output = names["model"].generate(torch.tensor([prompt]), **given)
        assert tokenizer.decode(output[0, len(prompt) :].tolist()) == answer

    assert "All weights are the backbone's." in card and "corpus `prompts` for the subspaces" in card
    assert "**This folder alone answers as the untouched backbone.**" in card
    assert 'Apply it as\n"How to load it" says, to answers in sw, zh.' in card
    names = {path.name for path in (home / "intervention").iterdir()}
    assert names == {"intervention.safetensors", "logit_bias.zh.safetensors", "logit_bias.sw.safetensors"}
    (bias,) = load_file(home / "intervention" / "logit_bias.sw.safetensors").values()
    assert (bias.shape, bias.dtype) == ((tiny.VOCABULARY,), torch.float32)


def test_a_capped_model_is_exported_without_a_bias(build, tmp_path):
    home, card = export(build({"kind": "logit_bias"}, "steer", "gemma2"), tmp_path)
    assert {path.name for path in (home / "intervention").iterdir()} == {"intervention.safetensors"}
    assert (
        "This model's logits are not linear in these states, so a bias on the logits does not have the same effect."
        in card
    )
    assert "logit_bias" not in card


def test_the_lines_of_an_exported_lsar(build, tmp_path):
    folder = build({"kind": "lsar"}, "lsar")
    home, card = export(folder, tmp_path)
    names, ids = {"folder": str(home), "question": "a"}, tiny.random_sequences(1, seed=4)[0]
    exec(code_of(card, "lensflow.serving.hf"), names)
    edit = interventions.load(folder / INTERVENTION).edit("zh")
    naive = Naive(home, StateEdit(torch.zeros(tiny.WIDTH), edit.removed))
    assert torch.allclose(names["model"](torch.tensor([ids])).logits[0].double(), naive.logits(ids), atol=1e-4)
    assert "logit_bias" not in card


def test_the_card_of_an_exported_prompt(build, tmp_path):
    home, card = export(build(TEMPLATE, "prompt"), tmp_path)
    assert "on its own line, after the prompt" in card
    assert "- sw: Answer in Swahili." in card
    assert not (home / "intervention").exists()


def test_an_export_from_the_runs_own_folder(build, tmp_path, monkeypatch):
    folder = build(TEMPLATE, "prompt")
    _, card = export(folder, tmp_path)
    monkeypatch.chdir(folder)
    arguments = ["--backbone", str(tmp_path / "backbone" / "manifest.json"), "--delta", "delta.safetensors"]
    assert main.main(["export", *arguments, str(tmp_path / "again")]) == 0
    assert ModelCard.load(tmp_path / "again" / "README.md").text == card


def test_a_run_without_its_intervention_is_not_exported(build, tmp_path, capsys):
    folder = build(STEER, "steer")
    (folder / INTERVENTION).unlink()
    manifest, delta = tmp_path / "backbone" / "manifest.json", folder / "delta.safetensors"
    assert main.main(["export", "--backbone", str(manifest), "--delta", str(delta), str(tmp_path / "home")]) == 2
    assert "intervention.safetensors: no such file; train the method again" in capsys.readouterr().err
