"""lm-eval's tasks and task files of one's own, on a tiny random model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lensflow.models.engines.transformers import TransformersEngine
from transformers import AutoModelForCausalLM

from lensflow.benchmarks import harness
from lensflow.benchmarks.lm_eval import Task
from lensflow.errors import LensflowError
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


def run_of(task: Task, project: Path, items: Any = None, fewshot: Any = None) -> harness.TaskRun:
    path = harness.task_file(harness.task_name(task, task.languages["en"]), [project])
    entry = task.languages["en"]
    return harness.TaskRun(task, entry, path, items or ITEMS, fewshot or {}, {"language_name": "English"})


@pytest.fixture(scope="module")
def engine(checkpoint):
    folder = checkpoint("llama")
    tokenizer = PromptTokenizer(folder, PlainPrompt(format="plain", template="Q: {prompt}\nA:"))
    return TransformersEngine(folder, "float32", tokenizer), tokenizer, folder


def lm_of(engine: Any, chat: bool = False) -> Any:
    model, tokenizer, _ = engine
    return harness.engine_lm(tokenizer, model.loglikelihoods, model.generate, str, chat)


@pytest.mark.parametrize("chat", [False, True])
def test_accuracy_is_that_of_the_naive_computation(engine, project, chat):
    samples = run_of(task_of(chat=chat), project).run(lm_of(engine, chat))
    _, tokenizer, folder = engine
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert [sample["id"] for sample in samples] == list(ITEMS)
    for sample, item in zip(samples, ITEMS.values(), strict=True):
        prompt = f"Capital of {item['question']} (English)"
        prompt = f"Q: {prompt}\nA:" if chat else prompt
        scores = []
        for choice in item["choices"]:
            context, whole = (tokenizer.tokenizer.encode(text).ids for text in (prompt, f"{prompt} {choice}"))
            with torch.no_grad():
                logp = model(torch.tensor([whole])).logits[0].log_softmax(-1)
            scores.append(sum(float(logp[i - 1, whole[i]]) for i in range(len(context), len(whole))))
        assert [logp for ((logp, _),) in sample["responses"]] == pytest.approx(scores, abs=1e-4)
        assert sample["accuracy"] == float(scores.index(max(scores)) == item["answer"])


def test_examples_stand_before_the_question(engine, project):
    shot = {"question": "Chile?", "choices": ["Rome", "Oslo", "Santiago"], "answer": 2}
    task = task_of(overrides={"num_fewshot": 1, "fewshot_config": {"sampler": "first_n", "samples": [shot]}})
    for run in (
        run_of(task_of(overrides={"num_fewshot": 1}), project, fewshot={"shot": shot}),
        run_of(task.model_copy(update={"variables": {"prefix": "Capital of"}}), project, fewshot=None),
    ):
        shot |= {"prefix": "Capital of", "language_name": "English"}
        prompt = run.run(lm_of(engine))[0]["prompt"][0]
        assert prompt == "Capital of Chile? (English) Santiago\n\nCapital of Italy? (English)"


def test_generated_answers_are_matched(engine, project):
    generate = OWN.replace("multiple_choice", "generate_until").replace("doc_to_choice: choices\n", "")
    generate = generate.replace("answer\nmetric", '"{{choices[answer]}}"\nmetric').replace("acc", "exact_match")
    generate += "generation_kwargs: {until: ['zz'], max_gen_toks: 3}\n"
    (project / "tasks" / "capitals.yaml").write_text(generate)
    seen = []

    def answer(prompts: list[list[int]], decoding: Decoding) -> list[str]:
        seen.append(decoding)
        return ["Rome"] * len(prompts)

    model, tokenizer, _ = engine
    lm = harness.engine_lm(tokenizer, model.loglikelihoods, answer, str, False)
    samples = run_of(task_of(metrics={"accuracy": "exact_match"}), project).run(lm)
    assert [sample["accuracy"] for sample in samples] == [1.0, 0.0, 0.0]
    assert seen == [Decoding(max_new_tokens=3, stop=("zz",))]


def test_a_chat_template_brings_its_own_special_tokens(checkpoint, tmp_path):
    folder = checkpoint("llama")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text((folder / name).read_text())
    template = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
    (tmp_path / "chat_template.jinja").write_text(template)
    tokenizer = PromptTokenizer(tmp_path, ChatPrompt(format="chat", system="Be brief."))
    lm = harness.engine_lm(tokenizer, lambda _: [], lambda *_: [], str, chat=True)
    rendered = lm.apply_chat_template([{"role": "user", "content": "Hi"}])
    assert rendered == "<bos>[system]Be brief.[user]Hi[assistant]"
    ids = lm.tok_encode(rendered)
    assert ids.count(1) == 1 and ids[0] == 1
    assert harness.engine_lm(tokenizer, lambda _: [], lambda *_: [], str, chat=False).tok_encode("Hi")[0] == 1


def test_an_instruction_stands_with_the_question(engine, project):
    """Not with the examples before it; and nowhere in a task without chat."""
    shot = {"question": "Chile?", "choices": ["Rome", "Oslo", "Santiago"], "answer": 2}
    model, tokenizer, _ = engine
    asked = {}
    for chat in (True, False):
        task = task_of(overrides={"num_fewshot": 1}, chat=chat)
        lm = harness.engine_lm(tokenizer, model.loglikelihoods, model.generate, "Be brief. {}".format, chat)
        asked[chat] = run_of(task, project, fewshot={"shot": shot}).run(lm)[0]["prompt"][0]
    assert asked[True].count("Be brief.") == 1 and "Be brief." not in asked[False]
    history = [
        {"role": "user", "content": "Chile?"},
        {"role": "assistant", "content": "Santiago"},
        {"role": "user", "content": "Italy?"},
        {"role": "assistant", "content": "The capital is"},
    ]
    rendered = lm.apply_chat_template(history)
    assert rendered == "Q: Chile?\nA: Santiago\n\nQ: Be brief. Italy?\nA: The capital is\n\n"


def test_the_projects_task_files_come_before_lm_evals_own(project):
    assert harness.task_file("xcopa/xcopa_zh", [project, ROOT]).parts[-3:] == ("tasks", "xcopa", "default_zh.yaml")
    (project / "xcopa").mkdir()
    (project / "xcopa" / "mine.yaml").write_text("task: 'xcopa_zh'\n")
    assert harness.task_file("xcopa/xcopa_zh", [project, ROOT]) == project / "xcopa" / "mine.yaml"


def test_every_task_of_the_catalog_exists():
    from lensflow.workflow.experiment import read

    for name, benchmark in read([], ROOT).benchmarks.items():
        if isinstance(benchmark, Task):
            for language, entry in benchmark.languages.items():
                assert harness.task_file(harness.task_name(benchmark, entry), [ROOT]).is_file(), (name, language)


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
        harness.task_file(task, [project])


def test_the_digest_covers_included_files_and_functions(project):
    folder = project / "tasks"
    (folder / "base_yaml").write_text("output_type: multiple_choice\n")
    (folder / "utils.py").write_text("def text(doc): return doc['question']\n")
    (folder / "more.yaml").write_text("include: base_yaml\ntask: more\ndoc_to_text: !function utils.text\n")
    digests = {harness.file_digest(folder / "more.yaml")}
    for name in ("base_yaml", "utils.py", "more.yaml"):
        (folder / name).write_text((folder / name).read_text() + "# changed\n")
        digests.add(harness.file_digest(folder / "more.yaml"))
    assert len(digests) == 4
    (folder / "other.yaml").write_text("task: other\n")
    assert harness.file_digest(folder / "more.yaml") in digests


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
        run_of(task_of(**changes), project).run(lm_of(engine))
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
    assert harness.decoding(settings) == wanted


def test_the_language_has_its_own_task_and_variables(project):
    task = task_of(languages={"en": {"config": "en", "task": "other/{code}_x"}, "ar": {"config": "arb"}})
    assert harness.task_name(task, task.languages["en"]) == "other/en_x"
    assert harness.task_name(task_of(task="t/{code}"), LanguageEntry(config="jp")) == "t/jp"
