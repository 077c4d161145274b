"""lm-eval's tasks and task files of one's own, on a tiny random model."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from lensflow.benchmarks.lm_eval import files, model
from lensflow.benchmarks.lm_eval.kind import Task
from lensflow.errors import LensflowError
from lensflow.models.engines.hf import TransformersEngine
from lensflow.models.engines.protocol import Answer
from lensflow.models.tokenizer import PromptTokenizer
from lensflow.schema.backbone import ChatPrompt, PlainPrompt
from lensflow.schema.dataset import LanguageEntry
from lensflow.schema.decoding import Decoding

OWN = """
task: capitals
output_type: multiple_choice
doc_to_text: "{{prefix}} {{question}} ({{language_name}})"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - metric: acc
"""
ITEMS = {
    f"id-{index}": {"question": question, "choices": ["Rome", "Oslo", "Lima"], "answer": index}
    for index, question in enumerate(("Italy?", "Norway?", "Peru?"))
}
ROOT = Path(__file__).parents[2]


def task_of(**changes: Any) -> Task:
    entry = {
        "kind": "lm_eval",
        "task": "tasks/capitals",
        "dataset": {"path": "x/y", "columns": ["question"]},
        "languages": {"en": "en"},
        "variables": {"prefix": "Capital of"},
    }
    return Task.model_validate(entry | changes)


@pytest.fixture
def project(tmp_path):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "capitals.yaml").write_text(OWN)
    return tmp_path


def run_of(task: Task, project: Path, asker: Any, fewshot: Any = None) -> list[dict[str, Any]]:
    """Ask, store the answers as JSON does, and have them scored."""
    rows = task.ask(asker, ITEMS, fewshot or {}, "en", [project])
    return task.samples(json.loads(json.dumps(rows)), ITEMS, "en", [project])


@pytest.fixture(scope="module")
def engine(checkpoint):
    folder = checkpoint("llama")
    tokenizer = PromptTokenizer(folder, PlainPrompt(format="plain", template="Q: {prompt}\nA:"))
    return TransformersEngine(folder, "float32", tokenizer), tokenizer, folder


@dataclass(frozen=True)
class Asker:
    """A checkpoint that answers; by default it cannot."""

    tokenizer: PromptTokenizer
    generate: Callable[..., list[Answer]] = lambda *_: []
    loglikelihoods: Callable[..., list[tuple[float, bool]]] = lambda _: []
    instruct: Callable[[str], str] = str


def asker_of(engine: Any, **changes: Any) -> Asker:
    running, tokenizer, _ = engine
    return Asker(tokenizer, **{"generate": running.generate, "loglikelihoods": running.loglikelihoods} | changes)


@pytest.mark.parametrize("chat", [False, True])
def test_accuracy_is_that_of_the_naive_computation(engine, project, chat):
    samples = run_of(task_of(chat=chat), project, asker_of(engine))
    _, tokenizer, folder = engine
    naive = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert [sample["id"] for sample in samples] == list(ITEMS)
    for sample, item in zip(samples, ITEMS.values(), strict=True):
        prompt = f"Capital of {item['question']} (English)"
        prompt = f"Q: {prompt}\nA:" if chat else prompt
        scores = []
        for choice in item["choices"]:
            context, whole = (tokenizer.tokenizer.encode(text).ids for text in (prompt, f"{prompt} {choice}"))
            with torch.no_grad():
                logp = naive(torch.tensor([whole])).logits[0].log_softmax(-1)
            scores.append(sum(float(logp[i - 1, whole[i]]) for i in range(len(context), len(whole))))
        assert [logp for ((logp, _),) in sample["responses"]] == pytest.approx(scores, abs=1e-4)
        assert sample["accuracy"] == float(scores.index(max(scores)) == item["answer"])


def test_examples_stand_before_the_question(engine, project):
    shot = {"question": "Chile?", "choices": ["Rome", "Oslo", "Santiago"], "answer": 2}
    shot |= {"prefix": "Capital of", "language_name": "English"}
    task = task_of(overrides={"num_fewshot": 1, "fewshot_config": {"sampler": "first_n", "samples": [shot]}})
    for this, fewshot in ((task_of(overrides={"num_fewshot": 1}), {"shot": shot}), (task, None)):
        prompt = run_of(this, project, asker_of(engine), fewshot)[0]["prompt"][0]
        assert prompt == "Capital of Chile? (English) Santiago\n\nCapital of Italy? (English)"


def test_generated_answers_are_matched(engine, project):
    generate = OWN.replace("multiple_choice", "generate_until").replace("doc_to_choice: choices\n", "")
    generate = generate.replace("answer\nmetric", '"{{choices[answer]}}"\nmetric').replace("acc", "exact_match")
    generate += "generation_kwargs: {until: ['zz'], max_gen_toks: 3}\n"
    (project / "tasks" / "capitals.yaml").write_text(generate)
    seen = []

    def answer(prompts: list[list[int]], decoding: Decoding) -> list[Answer]:
        seen.append(decoding)
        return [Answer("Rome", (7, 8), cut=True)] * len(prompts)

    task, asker = task_of(metrics={"accuracy": "exact_match"}), asker_of(engine, generate=answer)
    rows = task.ask(asker, ITEMS, {}, "en", [project])
    assert rows[0] == {
        "item": "id-0",
        "request": "generate_until",
        "prompt": "Capital of Italy? (English)",
        "answer": "Rome",
        "tokens": [7, 8],
        "cut": True,
    }
    samples = task.samples(rows, ITEMS, "en", [project])
    assert [sample["accuracy"] for sample in samples] == [1.0, 0.0, 0.0]
    assert seen == [Decoding(max_new_tokens=3, stop=("zz",))]


def test_a_chat_template_brings_its_own_special_tokens(checkpoint, tmp_path):
    folder = checkpoint("llama")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text((folder / name).read_text())
    template = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
    (tmp_path / "chat_template.jinja").write_text(template)
    tokenizer = PromptTokenizer(tmp_path, ChatPrompt(format="chat", system="Be brief."))
    lm = model.asking(Asker(tokenizer), chat=True)
    rendered = lm.apply_chat_template([{"role": "user", "content": "Hi"}])
    assert rendered == "<bos>[system]Be brief.[user]Hi[assistant]"
    ids = lm.tok_encode(rendered)
    assert ids.count(1) == 1 and ids[0] == 1
    assert model.asking(Asker(tokenizer), chat=False).tok_encode("Hi")[0] == 1


def test_an_instruction_stands_with_the_question(engine, project):
    """Not with the examples before it; and nowhere in a task without chat."""
    shot = {"question": "Chile?", "choices": ["Rome", "Oslo", "Santiago"], "answer": 2}
    asked, asker = {}, asker_of(engine, instruct="Be brief. {}".format)
    for chat in (True, False):
        task = task_of(overrides={"num_fewshot": 1}, chat=chat)
        asked[chat] = run_of(task, project, asker, fewshot={"shot": shot})[0]["prompt"][0]
    assert asked[True].count("Be brief.") == 1 and "Be brief." not in asked[False]
    history = [
        {"role": "user", "content": "Chile?"},
        {"role": "assistant", "content": "Santiago"},
        {"role": "user", "content": "Italy?"},
        {"role": "assistant", "content": "The capital is"},
    ]
    rendered = model.asking(asker, chat=False).apply_chat_template(history)
    assert rendered == "Q: Chile?\nA: Santiago\n\nQ: Be brief. Italy?\nA: The capital is\n\n"


def test_the_projects_task_files_come_before_lm_evals_own(project):
    assert files.task_file("xcopa/xcopa_zh", [project, ROOT]).parts[-3:] == ("tasks", "xcopa", "default_zh.yaml")
    (project / "xcopa").mkdir()
    (project / "xcopa" / "mine.yaml").write_text("task: 'xcopa_zh'\n")
    assert files.task_file("xcopa/xcopa_zh", [project, ROOT]) == project / "xcopa" / "mine.yaml"


def test_every_task_of_the_catalog_exists():
    from lensflow.workflow.experiment import read

    for name, benchmark in read([], ROOT).benchmarks.items():
        if isinstance(benchmark, Task):
            for language, entry in benchmark.languages.items():
                assert files.task_file(files.task_name(benchmark.task, entry), [ROOT]).is_file(), (name, language)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("nowhere/capitals", r"^task nowhere/capitals: no folder nowhere, neither here nor among lm-eval's tasks$"),
        ("tasks/capitols", r"^task tasks/capitols: no file in .*tasks defines a task of this name; name another"),
        ("xcopa/xcopa_fr", r"^task xcopa/xcopa_fr: no file in .*xcopa defines a task of this name; name another"),
    ],
)
def test_a_task_that_is_not_there(project, task, message):
    with pytest.raises(LensflowError, match=message):
        files.task_file(task, [project])


def test_the_digest_covers_included_files_and_functions(project):
    folder = project / "tasks"
    (folder / "base_yaml").write_text("output_type: multiple_choice\n")
    (folder / "utils.py").write_text("def text(doc): return doc['question']\n")
    (folder / "more.yaml").write_text("include: base_yaml\ntask: more\ndoc_to_text: !function utils.text\n")
    digests = {files.file_digest(folder / "more.yaml")}
    for name in ("base_yaml", "utils.py", "more.yaml"):
        (folder / name).write_text((folder / name).read_text() + "# changed\n")
        digests.add(files.file_digest(folder / "more.yaml"))
    assert len(digests) == 4
    (folder / "other.yaml").write_text("task: other\n")
    assert files.file_digest(folder / "more.yaml") in digests


def test_a_task_may_include_several_files(project):
    folder = project / "tasks"
    (folder / "base_yaml").write_text("output_type: multiple_choice\n")
    (folder / "other_yaml").write_text("num_fewshot: 0\n")
    for listed in ("[base_yaml, other_yaml]", "\n  - base_yaml\n  - other_yaml"):
        path = folder / "more.yaml"
        path.write_text(f"include: {listed}\ntask: more\n")
        files.check_file(path, functions=False)
        before = files.file_digest(path)
        (folder / "other_yaml").write_text((folder / "other_yaml").read_text() + "# changed\n")
        assert files.file_digest(path) != before


@pytest.mark.parametrize(
    ("edit", "changes", "message"),
    [
        (("{{question}}", "{{frage}}"), {}, r"^task capitals\.yaml: .*'frage' is undefined.*; check its columns"),
        (("doc_to_target: answer", "doc_to_target: 7.5"), {}, r"^task capitals\.yaml: .*; check its columns"),
        (("", ""), {"metrics": {"accuracy": "f1"}}, r"^task capitals\.yaml: no metric 'f1'; it gives acc"),
        (
            ("", ""),
            {"metrics": {"accuracy": "acc,strict"}},
            r"^task capitals\.yaml: no filter gives 'acc,strict'; corr",
        ),
    ],
)
def test_mistakes_in_a_task(engine, project, edit, changes, message):
    (project / "tasks" / "capitals.yaml").write_text(OWN.replace(*edit))
    with pytest.raises(LensflowError, match=message) as caught:
        run_of(task_of(**changes), project, asker_of(engine))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, Decoding(max_new_tokens=256)),
        ({"until": "\n", "max_gen_toks": 5}, Decoding(max_new_tokens=5, stop=("\n",))),
        ({"until": ["a", "b"], "do_sample": False, "temperature": 0.7}, Decoding(max_new_tokens=256, stop=("a", "b"))),
        (
            {"do_sample": True, "temperature": 0.7, "top_p": 0.9},
            Decoding(max_new_tokens=256, temperature=0.7, top_p=0.9),
        ),
    ],
)
def test_lm_evals_generation_settings(settings, wanted):
    assert model.decoding(settings) == wanted


def test_the_language_has_its_own_task_and_variables(project):
    task = task_of(languages={"en": {"config": "en", "task": "other/{code}_x"}, "ar": {"config": "arb"}})
    assert files.task_name(task.task, task.languages["en"]) == "other/en_x"
    assert files.task_name("t/{code}", LanguageEntry(config="jp")) == "t/jp"


def test_stored_answers_are_scored_without_the_model(engine, project):
    """The order of lm-eval's requests is that of the stored rows, so a row in another place changes the scores."""
    task = task_of()
    rows = task.ask(asker_of(engine), ITEMS, {}, "en", [project])
    best = [row | {"logprob": -float(number % 3 != number // 3)} for number, row in enumerate(rows)]  # the right one
    assert [sample["accuracy"] for sample in task.samples(best, ITEMS, "en", [project])] == [1.0, 1.0, 1.0]
    moved = [*best[3:], *best[:3]]
    assert [sample["accuracy"] for sample in task.samples(moved, ITEMS, "en", [project])] != [1.0, 1.0, 1.0]


def test_the_same_examples_for_every_checkpoint_and_run(engine, project):
    """Case 38: which examples stand before a question depends on the seed alone, not on what was drawn before."""
    shots = {str(n): {"question": f"Land {n}?", "choices": ["A", "B", f"C{n}"], "answer": 2} for n in range(20)}

    def prompts(seed: int) -> list[str]:
        random.random()  # another state of the generator that lm-eval's own entry point seeds
        task = task_of(overrides={"num_fewshot": 3}, fewshot_seed=seed)
        return [row["prompt"] for row in task.ask(asker_of(engine), ITEMS, shots, "en", [project])]

    assert prompts(1) == prompts(1)
    assert prompts(1) != prompts(2)
    assert prompts(1)[0].count("Land") == 3
