"""Multiple-choice benchmarks, run by lm-eval on whichever engine is at hand."""

from typing import Any

import datasets
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from lensflow.data.cldr import Question
from lensflow.engines import Engine
from lensflow.prompts import PromptTokenizer


class EngineLM(TemplateLM):  # type: ignore[misc]
    """An lm-eval model on top of an engine: lm-eval builds the requests, the engine answers them.

    Args:
        engine: computes log-likelihoods.
        tokenizer: of the backbone.
    """

    def __init__(self, engine: Engine, tokenizer: PromptTokenizer) -> None:
        super().__init__()
        self._engine, self._tokenizer = engine, tokenizer

    @property
    def eot_token_id(self) -> int:
        """Return the token that stands for an empty context; no task here has one."""
        raise ValueError("a task with an empty context is not supported")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Return the token ids of a text, with BOS if the backbone's tokenizer adds it."""
        return list(self._tokenizer.tokenizer.encode(string, add_special_tokens=add_special_tokens is not False).ids)

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        return self._engine.loglikelihoods([(context, continuation) for _, context, continuation in requests])

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Refuse: no task here asks for it."""
        raise ValueError("tasks of type loglikelihood_rolling are not supported")

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Refuse: answers are generated outside lm-eval."""
        raise ValueError("tasks of type generate_until are not supported")


def task_config(questions: list[Question], template: str) -> dict[str, Any]:
    """Return lm-eval's task for a list of questions.

    Args:
        questions: of one language.
        template: of the prompt, with `{prompt}` where the question goes; the choices are scored behind it, after one
            space, as in lm-eval's own multiple-choice tasks.
    """
    rows = [{"id": q.id, "question": q.question, "choices": list(q.choices), "answer": q.answer} for q in questions]
    return {
        "task": "lensflow_multiple_choice",
        "custom_dataset": lambda **_: {"test": datasets.Dataset.from_list(rows)},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": template.replace("{prompt}", "{{question}}"),
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "target_delimiter": " ",
        "metric_list": [{"metric": "acc"}],
    }


def multiple_choice(engine: Engine, tokenizer: PromptTokenizer, questions: list[Question], template: str) -> list[Any]:
    """Rank the choices of questions by log-likelihood.

    Returns:
        One sample a question: id, question, choices, log-likelihoods, chosen and right answer.
    """
    loaded = TaskManager(include_defaults=False).load([task_config(questions, template)])
    results = evaluate(EngineLM(engine, tokenizer), loaded, bootstrap_iters=0, log_samples=True)
    samples = []
    for sample in sorted(results["samples"]["lensflow_multiple_choice"], key=lambda s: s["doc_id"]):
        doc = sample["doc"]
        scores = [float(response[0]) for response in sample["filtered_resps"]]
        chosen = max(range(len(scores)), key=scores.__getitem__)
        samples.append(
            {
                "id": doc["id"],
                "question": doc["question"],
                "choices": doc["choices"],
                "loglikelihoods": scores,
                "chosen": chosen,
                "answer": doc["answer"],
                "correct": bool(sample["acc"]),
            }
        )
    return samples
