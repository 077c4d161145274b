"""Entries of the catalog score each item as `lm_eval --model hf` does, on our own stand-ins for the hub's data sets."""

import logging
from pathlib import Path
from typing import Any

import pytest

from lensflow.benchmarks.base import FromDataset
from lensflow.benchmarks.lm_eval import files
from lensflow.benchmarks.lm_eval.kind import Task
from lensflow.errors import LensflowError
from lensflow.models.engines.hf import TransformersEngine
from lensflow.models.tokenizer import PromptTokenizer
from lensflow.schema.backbone import PlainPrompt
from lensflow.stages.fetch_items import fetched
from lensflow.workflow.experiment import read
from lensflow.workflow.plan import Plan
from tests.unit.test_cases_data import hub_set
from tests.unit.test_harness import Asker

ROOT = Path(__file__).parents[2]
ENTRIES = read([], ROOT).benchmarks
CATALOG = {name: entry for name, entry in ENTRIES.items() if isinstance(entry, Task)}


def options(n: int, **more: Any) -> dict[str, Any]:
    letters = {f"option_{letter}": f"{letter}{n} {word}" for letter, word in zip("abcd", WORDS, strict=True)}
    return {"question": f" Which {n}? ", **letters} | more


ANSWERED = {"text": ["树"], "answer_start": [0]}
WORDS = ("tree", "stone", "bird", "sea")
CATEGORIES = ("math", "law")


def reasoned(n: int) -> dict[str, Any]:
    """A row of MMLU-ProX, with two choices, and the reasoning that examples show."""
    choices = {f"option_{place}": WORDS[place] if place < 2 else None for place in range(10)}
    row = {"question_id": n, "question": f"{n}?", "answer": "AB"[n % 2], "category": CATEGORIES[n % 2], **choices}
    return row | {"cot_content": f"A: {n}. Jibu ni (A)."}


# Benchmark, language -> split and rows as the hub has them, and the tasks of lm-eval whose items they are.
STAND_INS: dict[tuple[str, str], tuple[dict[str, list[dict[str, Any]]], list[str]]] = {
    ("include", "fr"): (
        {"test": [options(n, answer=n % 4, domain=("STEM", "Arts & Humanities")[n % 2]) for n in range(6)]},
        [f"include/default/French/include_base_44_french_{domain}" for domain in ("stem", "arts_humanities")],
    ),
    ("include", "he"): (
        {"test": [options(n, answer=n % 4, domain="Driving License") for n in range(3)]},
        ["include/default/Hebrew/include_base_44_hebrew_driving_license"],
    ),
    ("global-mmlu", "sw"): (
        {
            "test": [
                options(n, sample_id=f"s/{n}", answer="ABCD"[n % 4], subject=("virology", "anatomy")[n % 2])
                for n in range(6)
            ],
            "dev": [options(9, sample_id="d", answer="A", subject="virology")],
        },
        [f"global_mmlu/full/sw/global_mmlu_full_sw_{subject}" for subject in ("virology", "anatomy")],
    ),
    ("global-mmlu-lite", "ko"): (
        {
            "test": [
                options(n, sample_id=f"k/{n}", answer="ABCD"[n % 4], subject_category=("STEM", "Business")[n % 2])
                for n in range(6)
            ],
            "dev": [options(9, sample_id="d", answer="A", subject_category="STEM")],
        },
        [f"global_mmlu/default/ko/global_mmlu_ko_{category}" for category in ("stem", "business")],
    ),
    ("mmlu-prox-math", "sw"): (
        {"test": [reasoned(n) for n in range(6)], "validation": [reasoned(n) for n in range(10, 24)]},
        ["mmlu_prox/sw/mmlu_prox_sw_math"],
    ),
    ("xnli", "sw"): (
        {"validation": [{"premise": f"Mti {n}", "hypothesis": f"Jiwe {n}", "label": n % 3} for n in range(6)]}
        | {"train": [{"premise": "Mto", "hypothesis": "Maji", "label": 0}]},
        ["xnli/xnli_sw"],
    ),
    ("xquad", "zh"): (
        {
            "validation": [
                {
                    "id": f"q{n}",
                    "context": f"树{n}",
                    "question": f"{n}？",
                    "answers": {"text": ["树"], "answer_start": [0]},
                }
                for n in range(4)
            ]
        },
        ["xquad/xquad_zh"],
    ),
    ("multiblimp", "de"): (
        {"train": [{"sen": f"Der Baum {n} steht.", "wrong_sen": f"Der Baum {n} stehen."} for n in range(6)]},
        ["multiblimp/multiblimp_deu"],
    ),
}
SHORT = {"generation_kwargs": {"until": ["\n\n"], "do_sample": False, "temperature": 0.0, "max_gen_toks": 6}}


@pytest.fixture(scope="module")
def folder(checkpoint) -> Path:
    return checkpoint("llama")


@pytest.fixture(scope="module")
def asker(folder) -> Asker:
    tokenizer = PromptTokenizer(folder, PlainPrompt(format="plain", template="Q: {prompt}\nA:"))
    engine = TransformersEngine(folder, "float32", tokenizer)
    return Asker(tokenizer, engine.generate, engine.loglikelihoods)


@pytest.fixture(scope="module")
def lm(folder) -> Any:
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=1, add_bos_token=True)


def of_lm_eval(lm: Any, name: str, root: Path, config: str, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What lm-eval's own task gives for each row of a data set below a folder: metric or "metric,filter" -> value."""
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks._yaml_loader import load_yaml

    loaded = load_yaml(files.task_file(name, [])) | settings
    loaded = {key: value for key, value in loaded.items() if key not in ("tag", "group")}
    loaded |= {"dataset_path": str(root), "dataset_name": config}
    task = ConfigurableTask(config=loaded)
    results = evaluate(lm, {name.rpartition("/")[2]: task}, bootstrap_iters=0, log_samples=True)
    found: dict[str, dict[str, Any]] = {}
    for logged in results["samples"][name.rpartition("/")[2]]:
        values = {metric: logged[metric] for metric in logged["metrics"]}
        named = {f"{metric},{logged['filter']}": value for metric, value in values.items()}
        asked = {"responses": logged["resps"], "prompt": logged["arguments"]}
        found.setdefault(str(logged["doc"]), {}).update(values | named | asked)
    return found


@pytest.mark.parametrize(("name", "language"), STAND_INS, ids=[" ".join(place) for place in STAND_INS])
def test_each_item_scores_as_in_lm_eval(tmp_path, asker, lm, name, language):
    splits, tasks = STAND_INS[name, language]
    benchmark = CATALOG[name]
    entry = benchmark.languages[language]
    for split, rows in splits.items():
        hub_set(tmp_path, f"{benchmark.dataset.path}/{split}", split, **{entry.config: rows})
    joined = tmp_path / benchmark.dataset.path
    card = "".join(f"  - split: {split}\n    path: {split}/{entry.config}/{split}.jsonl\n" for split in splits)
    (joined / "README.md").write_text(f"---\nconfigs:\n- config_name: {entry.config}\n  data_files:\n{card}---\n")

    settings = SHORT if "mmlu-prox" in name or name == "xquad" else {}
    settings = settings | ({"num_fewshot": 2} if "num_fewshot" in benchmark.overrides else {})  # it has 512 positions
    benchmark = benchmark.model_copy(update={"overrides": benchmark.overrides | settings})
    found = fetched(name, benchmark.dataset, language, entry.config, tmp_path)
    rows = benchmark.ask(asker, found.items, found.fewshot, language, [])
    samples = benchmark.samples(rows, found.items, language, [])

    expected: dict[str, dict[str, Any]] = {}
    for task in tasks:
        expected |= of_lm_eval(lm, task, joined, entry.config, settings)
    assert len(samples) == len(found.items) == len(expected) > 2
    for sample, item in zip(samples, found.items.values(), strict=True):
        theirs = expected[str(item)]
        for metric, wanted in benchmark.metrics.items():
            assert sample[metric] == theirs[wanted], (sample, theirs)
        contexts = [request[0] for request in theirs["prompt"]]
        assert set(sample["prompt"]) == set(contexts)
        for ours, other in zip(sample["responses"], theirs["responses"], strict=True):
            if isinstance(other[0], str):
                assert ours == other
            else:
                assert ours[0][0] == pytest.approx(other[0][0], abs=1e-4)
    if not settings and name != "multiblimp":  # whose shorter sentence is always the right one here
        assert 0 < sum(sample["accuracy"] for sample in samples) < len(samples)  # not all of them alike


def test_every_entry_passes_the_checks_without_items():
    """In each of its languages, as the first part of `lensflow check`."""
    benchmarks = [{name: list(entry.languages)} for name, entry in ENTRIES.items() if isinstance(entry, FromDataset)]
    run = {"backbones": ["smollm2-135m-instruct"], "settings": ["en-zh"], "methods": ["base"], "benchmarks": benchmarks}
    plan = Plan(read([], ROOT, {"runs": [run]}), ROOT, ROOT)
    assert set(CATALOG) < set(plan.benchmarks)


def test_rows_that_have_a_value(tmp_path):
    dataset = CATALOG["mmlu-prox-law"].dataset.model_copy(update={"fewshot_split": None})
    hub_set(tmp_path, "li-lab/MMLU-ProX", "test", sw=[reasoned(n) for n in range(5)])
    assert list(fetched("law", dataset, "sw", "sw", tmp_path).items) == ["1", "3"]
    with pytest.raises(LensflowError, match=r"the split has no row with category: history; correct where or fill it"):
        fetched("x", dataset.model_copy(update={"where": {"category": "history"}}), "sw", "sw", tmp_path)
    with pytest.raises(LensflowError, match=r"no column 'kind'"):
        fetched("x", dataset.model_copy(update={"where": {"kind": "law"}}), "sw", "sw", tmp_path)
