"""lm-eval's tasks: examples apart from the items, right answers that are choices, empty contexts, corpus metrics."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lensflow.benchmarks.lm_eval import model
from lensflow.benchmarks.lm_eval.decoding import decoding
from lensflow.benchmarks.lm_eval.files import read_task
from lensflow.benchmarks.lm_eval.kind import Task
from lensflow.benchmarks.lm_eval.tasks import LoadedTask, NoChoiceError, place_of
from lensflow.errors import LensflowError
from lensflow.models.tokenizer import PromptTokenizer
from lensflow.schema.backbone import ChatPrompt, PlainPrompt
from lensflow.schema.parsing import parse
from lensflow.stages.score import measure

CHOOSE = """
task: rivers
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - metric: acc
"""
TRANSLATE = """
task: rivers
output_type: generate_until
doc_to_text: "{{en}} ="
doc_to_target: "{{sw}}"
metric_list:
  - metric: chrf
  - metric: bleu
  - metric: ter
  - metric: f1
"""
RIVERS = ["Nile", "Rhine", "Amazon"]


def items(*answers: Any) -> dict[str, dict[str, Any]]:
    return {
        f"id-{n}": {"question": f"Longest {n}?", "choices": RIVERS, "answer": answer}
        for n, answer in enumerate(answers)
    }


@pytest.fixture
def project(tmp_path):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/rivers.yaml").write_text(CHOOSE)
    return tmp_path


def task_of(**changes: Any) -> Task:
    entry = {
        "kind": "lm_eval",
        "task": "tasks/rivers",
        "dataset": {"path": "x/y", "columns": ["question"]},
        "languages": {"en": "en", "zh": "zh"},
    }
    return parse(Task, entry | changes)


def scored(task: Task, project: Path, of: dict[str, Any], best: int) -> list[float]:
    """Accuracies of a model that likes the choice at one position best."""
    rows = [
        {"item": id_, "request": "loglikelihood", "prompt": "", "logprob": -abs(place - best), "greedy": False}
        for id_, item in of.items()
        for place in range(len(item["choices"]))
    ]
    return [sample["accuracy"] for sample in task.samples(rows, of, "en", [project])]


# --- Right answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [1, 1.0, "1", "B", "b", "(B)", "B.", "Rhine", " rhine "])
def test_an_answer_is_a_position_a_letter_or_the_text_of_a_choice(answer):
    assert place_of(answer, RIVERS) == 1
    assert place_of([answer, "Nile"], RIVERS) == [1, 0]


def test_the_text_comes_before_the_letter_and_the_number():
    assert place_of("B", ["B", "A"]) == 0
    assert place_of("1", ["3", "1", "2"]) == 1


@pytest.mark.parametrize("target", ["answer", '"{{answer}}"', '"{{ answer }}"'])
def test_digits_are_the_text_of_a_choice_in_a_template_too(project, target):
    """lm-eval takes what a template shows for a position, and would find the next choice right."""
    (project / "tasks/rivers.yaml").write_text(CHOOSE.replace("doc_to_target: answer", f"doc_to_target: {target}"))
    of = {f"id-{n}": item | {"choices": ["1", "2", "3"]} for n, item in enumerate(items("2", "1").values())}
    task_of().check_items(of, {}, "en", [project])
    assert scored(task_of(), project, of, best=1) == [1.0, 0.0]


def test_a_template_that_computes_gives_a_position(project):
    target = '"{{ labels.index(answer) }}"'
    (project / "tasks/rivers.yaml").write_text(CHOOSE.replace("doc_to_target: answer", f"doc_to_target: {target}"))
    of = {"id": items("x")["id-0"] | {"choices": ["1", "2", "3"], "labels": ["y", "z", "x"]}}
    assert scored(task_of(), project, of, best=2) == [1.0]


def test_items_that_are_all_one_question_are_refused(project):
    """A column that nobody named in the template: every item is the same, and some answers are right."""
    (project / "tasks/rivers.yaml").write_text(CHOOSE.replace("{{question}}", "Which is longest?"))
    with pytest.raises(LensflowError, match="all 2 items are asked 'Which is longest"):
        task_of().check_items(items(0, 1), {}, "en", [project])
    other = items(0)["id-0"] | {"choices": ["Ob", "Po"]}
    task_of().check_items(items(0) | {"other": other}, {}, "en", [project])


def test_a_choice_without_a_right_answer_is_refused(project):
    with pytest.raises(LensflowError, match="item 'id-0': it has no right answer; correct doc_to_target or the item"):
        task_of().check_items(items([], []), {}, "en", [project])
    (project / "tasks/rivers.yaml").write_text(CHOOSE.replace("doc_to_target: answer\n", ""))
    with pytest.raises(LensflowError, match=r"^rivers\.yaml: doc_to_target is missing; name the column of the right"):
        task_of().check("en", [project])


@pytest.mark.parametrize("answer", [3, -1, 0.5, float("nan"), "D", "", "Danube", "AB", None, "²", True])
def test_an_answer_that_is_no_choice(answer):
    with pytest.raises(NoChoiceError, match="names none of the choices 'Nile', 'Rhine', 'Amazon'"):
        place_of(answer, RIVERS)


@pytest.mark.parametrize("answers", [(1, 0), ("B", "A"), ("Rhine", "Nile")])
def test_accuracy_is_the_same_however_the_answer_is_written(project, answers):
    assert scored(task_of(), project, items(*answers), best=1) == [1.0, 0.0]


@pytest.mark.parametrize("answers", [("A", "E"), (0, 3), ("Nile", "Danube")])
def test_an_item_without_a_right_answer_is_refused_before_a_model_runs(project, answers):
    asker = SimpleNamespace()  # asked nothing
    wanted = r"^task rivers\.yaml, item 'id-1': the right answer .* names none of the choices .*; correct doc_to_target"
    for call in (
        lambda task, of: task.check_items(of, {}, "en", [project]),
        lambda task, of: LoadedTask(task, **task._loading(of, {}, "en", [project])).ask(asker),
    ):
        with pytest.raises(LensflowError, match=wanted):
            call(task_of(), items(*answers))
    with pytest.raises(LensflowError, match=r"^task rivers\.yaml, item 'id-0': "):
        task_of().check_items(items(answers[1], answers[0]), {}, "en", [project])


def test_letters_and_numbers_in_one_column_are_refused(project):
    """ARC has A to D, and in some items 1 to 4, where 1 is the first choice: as a position it would be the second."""
    message = r"^task rivers\.yaml: the right answer of item 'id-0' is a letter, that of item 'id-1' a number"
    with pytest.raises(LensflowError, match=message):
        task_of().check_items(items("A", "1"), {}, "en", [project])
    task_of().check_items(items("A", "Rhine"), {}, "en", [project])
    task_of().check_items(items("0", "1"), {}, "en", [project])


def test_true_and_false_are_texts_and_no_positions():
    """To Python True is 1, and the second choice here is False."""
    assert place_of(True, ["True", "False"]) == 0
    assert place_of(False, ["true", "false"]) == 1


@pytest.mark.parametrize("form", [int, float, str])
def test_answers_that_count_from_one_are_refused(project, form):
    """One is out of range, or none of many is the first choice."""
    task = task_of()
    with pytest.raises(LensflowError, match="it may be a position from 0; these seem to count from 1, a letter"):
        task.check_items(items(form(1), form(3)), {}, "en", [project])
    with pytest.raises(LensflowError, match="of 40 right answers, all numbers, none is 0, the first choice; they seem"):
        task.check_items(items(*[form(1 + n % 2) for n in range(40)]), {}, "en", [project])
    task.check_items(items(*[form(n % 3) for n in range(40)]), {}, "en", [project])
    task.check_items(items(form(1), form(2)), {}, "en", [project])  # too few to tell


@pytest.mark.parametrize("choices", [[], ["Nile", "", "Rhine"], ["Nile", " "], ["Nile", None]])
def test_a_choice_that_is_empty_is_refused(project, choices):
    item = {"question": "Longest?", "choices": choices, "answer": 0}
    with pytest.raises(LensflowError, match=r"item 'id': (a choice is empty|there are no choices); correct"):
        task_of().check_items({"id": item}, {}, "en", [project])


def test_the_right_answer_is_the_first_choice_with_its_text(project):
    """lm-eval takes the first of equal choices for what the model says."""
    assert place_of(1, ["Nile", "Nile", "Rhine"]) == 0
    twice = {"id": {"question": "Longest?", "choices": ["Nile", "Nile", "Rhine"], "answer": 1}}
    assert scored(task_of(), project, twice, best=0) == [1.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"choices": ["Nile"]}, "it has a single choice, which is always right"),
        ({"choices": {"text": RIVERS, "label": ["A", "B", "C"]}}, "its choices are a dictionary of text, label"),
        ({"choices": [1, 2, 3]}, "its choice 1 is not text"),
        ({"question": {"stem": "Longest?"}}, "doc_to_text shows a dictionary, {'stem': 'Longest"),
        ({"question": ["Longest?"]}, "doc_to_text shows a list, "),
        ({"question": None}, "doc_to_text shows nothing, None"),
    ],
)
def test_what_is_no_text_is_neither_asked_nor_chosen(project, changes, message):
    item = {"question": "Longest?", "choices": RIVERS, "answer": 0}
    task_of().check_items({"id": item}, {}, "en", [project])
    with pytest.raises(LensflowError, match=rf"^task rivers\.yaml, item 'id': {re.escape(message)}"):
        task_of().check_items({"id": item | changes}, {}, "en", [project])


FREE = """
task: rivers
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"]}
metric_list:
  - metric: exact_match
"""


@pytest.mark.parametrize(
    ("overrides", "answers", "message"),
    [
        (
            {"doc_to_text": "question:"},
            (0, 1),
            r"all 2 items are asked 'question:'; name a column in doc_to_text",
        ),
        (
            {"doc_to_text": "{question}:"},
            (0, 1),
            r"item 'id-0': doc_to_text has '\{question\}' in single braces, which is no column; write \{\{question\}\}",
        ),
        ({"generation_kwargs": {"until": ["\n", ""]}}, (0, 1), "generation_kwargs: '' for 'stop': .* at least 1"),
        ({}, ({"text": ["Nile"]}, {"text": ["Rhine"]}), "doc_to_target shows a dictionary, {'text'"),
        ({}, (["Nile"], []), "item 'id-1': the right answer is empty; fill it or remove the item"),
    ],
)
def test_a_task_that_no_answer_could_fit_is_refused(project, overrides, answers, message):
    (project / "tasks/rivers.yaml").write_text(FREE)
    task = task_of(overrides=overrides, metrics={"exact": "exact_match"})
    with pytest.raises(LensflowError, match=message):
        task.check_items(items(*answers), {}, "en", [project])
    task_of(metrics={"exact": "exact_match"}).check_items(items(["Nile"], ["Rhine", "Rhein"]), {}, "en", [project])


def test_choices_that_are_one_text_are_refused(project):
    """A list that was written into a CSV file: each of its letters would be a choice."""
    item = {"question": "Longest?", "choices": "['Nile', 'Rhine']", "answer": 0}
    with pytest.raises(LensflowError, match=r"its choices are one text, \"\['Nile', 'Rhine'\]\", not a list; correct"):
        task_of().check_items({"id": item}, {}, "en", [project])


@pytest.mark.parametrize("answer", ["", "  "])
def test_an_empty_right_answer_is_refused(project, answer):
    (project / "tasks/rivers.yaml").write_text(TRANSLATE)
    task = task_of(metrics={"m": "chrf"})
    task.check_items(SENTENCES, {}, "en", [project])
    with pytest.raises(LensflowError, match="item '1': the right answer is empty; fill it"):
        task.check_items({"1": SENTENCES["1"] | {"sw": answer}}, {}, "en", [project])


def test_a_column_of_two_types_is_refused(project):
    with pytest.raises(LensflowError, match=r"^task rivers\.yaml: .*; give each column one type$"):
        task_of().check_items(items(1, "B"), {}, "en", [project])


# --- Examples ---------------------------------------------------------------------------------------------------------


def shots(number: int, answer: Any = 0) -> dict[str, dict[str, Any]]:
    return {str(n): {"question": f"Example {n}?", "choices": RIVERS, "answer": answer} for n in range(number)}


def test_examples_are_not_drawn_from_the_items(project):
    task = task_of(overrides={"num_fewshot": 2})
    with pytest.raises(LensflowError, match=r"^overrides\.num_fewshot: 2 examples would come from the evaluated items"):
        task.check("en", [project])
    apart = {"path": "x/y", "columns": ["question"], "fewshot_split": "train"}
    task_of(overrides={"num_fewshot": 2}, dataset=apart).check("en", [project])
    samples = {"num_fewshot": 2, "fewshot_config": {"sampler": "first_n", "samples": list(shots(2).values())}}
    task_of(overrides=samples).check("en", [project])
    with pytest.raises(LensflowError, match=r"num_fewshot: 3 is more than the 2 samples; lower it"):
        task_of(overrides=samples | {"num_fewshot": 3}).check("en", [project])
    task_of(overrides={"num_fewshot": 0}).check("en", [project])
    only_in_english = {"en": {"config": "en", "overrides": {"num_fewshot": 1}}, "zh": "zh"}
    task_of(languages=only_in_english).check("zh", [project])
    with pytest.raises(LensflowError, match="1 examples would come from the evaluated items"):
        task_of(languages=only_in_english).check("en", [project])


@pytest.mark.parametrize("key", ["fewshot_split", "test_split", "training_split", "validation_split"])
def test_overrides_cannot_say_where_items_come_from(project, key):
    with pytest.raises(LensflowError, match=rf"^overrides\.{key}: dataset already says where items and examples come"):
        task_of(overrides={key: "items"}).check("en", [project])
    with pytest.raises(LensflowError, match=r"^overrides\.fewshot_config\.split: "):
        task_of(overrides={"fewshot_config": {"split": "items"}}).check("en", [project])


def test_an_example_of_ones_own_that_is_an_evaluated_item(project):
    sample = items(0)["id-0"] | {"question": " longest 0? ", "language_name": "English"}
    task = task_of(overrides={"num_fewshot": 1, "fewshot_config": {"sampler": "first_n", "samples": [sample]}})
    with pytest.raises(LensflowError, match=r"example 1 of num_fewshot is the evaluated item 'id-0'; remove it"):
        task.check_items(items(0), {}, "en", [project])


def test_too_few_examples(project):
    task = task_of(overrides={"num_fewshot": 3})
    with pytest.raises(LensflowError, match=r"^overrides\.num_fewshot: 3 is more than the 2 examples; lower it$"):
        task.check_items(items(0), shots(2), "en", [project])


def test_a_letter_in_an_example_shows_its_choice(project, asked):
    task = task_of(overrides={"num_fewshot": 1})
    task.ask(asked, items("A"), shots(1, "C"), "en", [project])
    (context, *_), *_ = asked.pairs
    assert asked.tokenizer.decode(context) == "Example 0? Amazon\n\nLongest 0?"


# --- Contexts ---------------------------------------------------------------------------------------------------------


class Asked:
    """Takes down pairs of context and continuation."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = PromptTokenizer(folder, PlainPrompt(format="plain"))
        self.pairs: list[tuple[list[int], list[int]]] = []

    def loglikelihoods(self, requests: list[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        self.pairs += requests
        return [(0.0, False)] * len(requests)


@pytest.fixture
def asked(checkpoint):
    return Asked(checkpoint("llama"))


def test_an_empty_context_is_the_beginning_of_sequence(project, asked):
    (project / "tasks/rivers.yaml").write_text(CHOOSE.replace("{{question}}", ""))
    rows = task_of().ask(asked, items(0), {}, "en", [project])
    assert [context for context, _ in asked.pairs] == [[1]] * 3  # <bos>
    assert [asked.tokenizer.decode(continuation) for _, continuation in asked.pairs] == [
        f" {river}" for river in RIVERS
    ]
    assert all(1 not in continuation for _, continuation in asked.pairs)
    assert [row["prompt"] for row in rows] == [""] * 3


def test_without_bos_it_is_the_end_of_sequence(asked, monkeypatch):
    monkeypatch.setattr("lensflow.models.tokenizer.special_tokens", lambda _: {"eos_token": "<eos>"})
    assert model.asking(asked, chat=False).prefix_token_id == asked.tokenizer.eos == 2


# --- Metrics of a corpus ----------------------------------------------------------------------------------------------

SENTENCES = {
    "1": {"en": "a", "sw": "Ndege wanaimba asubuhi na mapema."},
    "2": {"en": "b", "sw": "Ziwa limetulia sana leo."},
}


def translated(project: Path, metric: str, language: str = "en") -> list[float]:
    (project / "tasks/rivers.yaml").write_text(TRANSLATE)
    said = SENTENCES["1"]["sw"]
    rows = [{"item": id_, "request": "generate_until", "prompt": id_, "answer": said} for id_ in SENTENCES]
    return [sample["m"] for sample in task_of(metrics={"m": metric}).samples(rows, SENTENCES, language, [project])]


@pytest.mark.parametrize(("metric", "right"), [("chrf", 100.0), ("bleu", 100.0), ("ter", 0.0)])
def test_a_sentence_has_a_score_of_its_own(project, metric, right):
    first, second = translated(project, metric)
    assert first == pytest.approx(right)
    assert second < 60 if right else second > 60


def test_a_task_with_the_name_of_one_of_our_metrics_has_it_once(project):
    """Both the task and our own benchmarks of translations measure chrF."""
    (project / "tasks/rivers.yaml").write_text(TRANSLATE)
    task = task_of(metrics={"chrf": "chrf"})
    rows = [
        {"item": id_, "request": "generate_until", "prompt": "", "answer": item["sw"]}
        for id_, item in SENTENCES.items()
    ]
    _, scores = measure(task.samples(rows, SENTENCES, "en", [project]), task, "en")
    (chrf,) = [found for found in scores if found["metric"] == "chrf"]
    assert chrf["items"] == pytest.approx([100.0] * len(SENTENCES))


def test_sentence_scores_are_sacrebleus(project):
    import sacrebleu

    said, wanted = SENTENCES["1"]["sw"], [SENTENCES["2"]["sw"]]
    assert translated(project, "chrf")[1] == pytest.approx(sacrebleu.sentence_chrf(said, wanted).score)
    assert translated(project, "bleu")[1] == pytest.approx(sacrebleu.sentence_bleu(said, wanted).score)


@pytest.mark.parametrize(
    ("metric", "language", "message"),
    [
        ("f1", "en", r"^metrics\.m: 'f1' has no score for a single item, which intervals and tests need; use another$"),
        ("bleu", "zh", r"^metrics\.m: 'bleu' counts words, and 'zh' puts no space between them; use chrf$"),
        ("rouge", "en", r"^metrics\.m: the task has no metric 'rouge'; it has chrf, bleu, ter, f1$"),
    ],
)
def test_a_metric_that_no_item_has_is_refused_before_anything_runs(project, metric, language, message):
    (project / "tasks/rivers.yaml").write_text(TRANSLATE)
    with pytest.raises(LensflowError, match=message):
        task_of(metrics={"m": metric}).check(language, [project])
    for fine in ("chrf", "chrf,none", "ter" if language == "en" else "chrf"):
        task_of(metrics={"m": fine}).check(language, [project])


# --- Task files -------------------------------------------------------------------------------------------------------


def test_a_task_has_the_keys_of_what_it_includes(project):
    folder = project / "tasks"
    (folder / "base_yaml").write_text("num_fewshot: 4\ntask: base\n")
    (folder / "more.yaml").write_text("include: base_yaml\ntask: more\ndoc_to_text: !function utils.text\n")
    assert read_task(folder / "more.yaml") == {
        "include": "base_yaml",
        "task": "more",
        "num_fewshot": 4,
        "doc_to_text": "utils.text",
    }
    (folder / "base_yaml").write_text("include: more.yaml\n")
    with pytest.raises(LensflowError, match="includes itself; remove the include"):
        read_task(folder / "more.yaml")


def test_the_catalogs_tasks_pass(project):
    from lensflow.workflow.experiment import read

    root = Path(__file__).parents[2]
    for benchmark in read([], root).benchmarks.values():
        if isinstance(benchmark, Task):
            for language in benchmark.languages:
                benchmark.check(language, [root])


# --- What a task's file says is done, or refused ----------------------------------------------------------------------

FREELY = """
task: rivers
output_type: generate_until
doc_to_text: "Q: {{question}}"
doc_to_target: "{{answer}}"
metric_list:
  - metric: exact_match
"""


def asked_in(project: Path, asked: Any, text: str, task: Task, functions: str = "") -> list[Any]:
    """Rows of a task whose file and functions have these texts."""
    (project / "tasks/rivers.yaml").write_text(text)
    (project / "tasks/functions.py").write_text(functions)
    task.check("en", [project])
    return task.ask(asked, items(0, 1, 2), {}, "en", [project])


def test_the_files_own_number_of_examples_is_shown(project, asked):
    samples = "fewshot_config: {samples: [{question: Which, choices: [Oder, Elbe], answer: 1}]}\n"
    rows = asked_in(project, asked, f"{CHOOSE}num_fewshot: 1\n{samples}", task_of())
    assert rows[0]["prompt"] == "Which Elbe\n\nLongest 0?"
    none = asked_in(project, asked, f"{CHOOSE}num_fewshot: 1\n{samples}", task_of(overrides={"num_fewshot": 0}))
    assert none[0]["prompt"] == "Longest 0?"


def test_the_files_own_number_of_examples_needs_a_split(project):
    (project / "tasks/rivers.yaml").write_text(CHOOSE + "num_fewshot: 2\n")
    with pytest.raises(
        LensflowError,
        match=r"^rivers\.yaml: num_fewshot: 2 examples would come from the evaluated .* overrides\.num_fewshot: 0$",
    ):
        task_of().check("en", [project])
    assert task_of(overrides={"num_fewshot": 3}).shots("en", [project]) == 3
    assert task_of().shots("en", [project]) == 2


@pytest.mark.parametrize(
    ("function", "kept"),
    [
        ("rows.filter(lambda row: row['answer'] != 0)", ["id-1", "id-2"]),
        ("rows.select([2, 0, 1])", ["id-2", "id-0", "id-1"]),
        ("rows.map(lambda row: {'question': row['question'].upper()})", ["id-0", "id-1", "id-2"]),
        ("rows.remove_columns('lensflow_id')", ["id-0", "id-1", "id-2"]),
    ],
)
def test_an_answer_belongs_to_its_item_whatever_a_tasks_function_drops(project, asked, function, kept):
    text = CHOOSE + "process_docs: !function functions.process\n"
    functions = f"def process(rows):\n    return {function}\n"
    rows = asked_in(project, asked, text, task_of(functions=True), functions)
    assert list(dict.fromkeys(row["item"] for row in rows)) == kept
    wanted = {f"id-{n}": f"longest {n}?" for n in range(3)}
    assert all(row["prompt"].lower() == wanted[row["item"]] for row in rows)


def test_a_function_that_changes_everything_is_refused(project, asked):
    text = CHOOSE + "process_docs: !function functions.process\n"
    functions = "def process(rows):\n    return rows.select([1]).remove_columns('lensflow_id')\n"
    with pytest.raises(
        LensflowError, match=r"^task rivers\.yaml: process_docs makes 1 items of 3, .*; keep the columns"
    ):
        asked_in(project, asked, text, task_of(functions=True), functions)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("num_beams: 4", "'num_beams' is not supported; remove it"),
        ("repetition_penalty: 1.2", "'repetition_penalty' is not supported; remove it"),
        ("do_sample: true, top_k: 5", "'top_k' is not supported; remove it"),
        ("until: ['']", "'' for 'stop': String should have at least 1 character; correct it"),
    ],
)
def test_what_would_be_ignored_of_generation_is_refused(project, settings, message):
    (project / "tasks/rivers.yaml").write_text(f"{FREELY}generation_kwargs: {{{settings}}}\n")
    with pytest.raises(LensflowError, match=rf"^rivers\.yaml: generation_kwargs: {re.escape(message)}$"):
        task_of(metrics={"right": "exact_match"}).check("en", [project])


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"num_beams": 1, "repetition_penalty": 1.0, "top_k": 50, "max_tokens": 7}, (7, 0.0)),
        ({"temperature": 0.5}, (256, 0.5)),
        ({"temperature": 0.5, "do_sample": False, "max_completion_tokens": 3}, (3, 0.0)),
        ({"do_sample": True}, (256, 1.0)),
    ],
)
def test_generation_is_what_it_is_in_lm_eval(settings, wanted):
    found = decoding(settings)
    assert (found.max_new_tokens, found.temperature) == wanted


def test_an_answer_goes_on_from_where_its_task_begins_it(checkpoint, project):
    """The answer begins in its own turn. Before, the beginning was in a turn that had already ended."""
    template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}[end]{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    folder = project / "model"
    shutil.copytree(checkpoint("llama"), folder)
    (folder / "chat_template.jinja").write_text(template)
    tokenizer = PromptTokenizer(folder, ChatPrompt(format="chat"))
    asker = SimpleNamespace(
        tokenizer=tokenizer, instruct=str, loglikelihoods=lambda requests: [(0.0, False)] * len(requests)
    )
    (project / "tasks/rivers.yaml").write_text(CHOOSE + "gen_prefix: It is\n")
    rows = task_of(chat=True).ask(asker, items(0), {}, "en", [project])
    assert rows[0]["prompt"] == "[user]Longest 0?[end][assistant]It is"


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"answer": -1}, "example 1 of num_fewshot: the right answer -1 names none of the choices"),
        ({"answer": None}, "example 1 of num_fewshot: the right answer None names none of the choices"),
        ({"answer": "C", "choices": ["Oder", "Elbe"]}, "example 1 of num_fewshot: the right answer 'C' names none"),
        ({"answer": "1"}, "the right answer of item 'id-0' is a letter, that of example 1 of num_fewshot a number"),
    ],
)
def test_examples_have_right_answers_too(project, example, message):
    task = task_of(
        overrides={"num_fewshot": 1}, dataset={"path": "x/y", "columns": ["question"], "fewshot_split": "train"}
    )
    fewshot = {"0": {"question": "Which?", "choices": RIVERS} | example}
    with pytest.raises(LensflowError, match=rf"^task rivers\.yaml(: |, ){re.escape(message)}"):
        task.check_items(items("A", "B"), fewshot, "en", [project])


def test_a_question_of_empty_columns_is_refused(project):
    asked = items(0, 1)
    asked["id-1"]["question"] = " \u200b"
    with pytest.raises(
        LensflowError, match=r"^task rivers\.yaml, item 'id-1': doc_to_text shows nothing but empty col"
    ):
        task_of().check_items(asked, {}, "en", [project])


def test_a_filter_that_the_task_lacks_is_refused_before_anything_runs(project):
    (project / "tasks/rivers.yaml").write_text(
        f"{FREELY}filter_list: [{{name: last, filter: [{{function: take_first}}]}}]\n"
    )
    task_of(metrics={"right": "exact_match,last"}).check("en", [project])
    with pytest.raises(LensflowError, match=r"^metrics\.right: the task has no filter 'strict'; it has last$"):
        task_of(metrics={"right": "exact_match,strict"}).check("en", [project])
