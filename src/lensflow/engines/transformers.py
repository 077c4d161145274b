"""The Hugging Face transformers engine."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from lensflow.engines import end_token_ids, finish, last_line, load_tokenizer, prepare_process
from lensflow.errors import LensflowError

# Rows of logits that exist at a time (128 rows of 262 k fp32 numbers are 134 MB), and tokens in the key-value cache.
_MAX_ROWS = 128
_MAX_TOKENS = 8192


class TransformersEngine:
    """A checkpoint run by transformers. Memory on top of the weights stays below about 1 GB for a 270M model.

    Args:
        checkpoint: folder with config, weights and tokenizer.
        dtype: "float32" or "bfloat16".
        device: "cpu" or "cuda".
        batch_size: most sequences that generate at a time.

    Raises:
        LensflowError: the checkpoint does not load.
    """

    def __init__(self, checkpoint: Path, dtype: str, device: str = "cpu", batch_size: int = 32) -> None:
        prepare_process()
        from transformers import AutoModelForCausalLM

        self._tokenizer = load_tokenizer(checkpoint)
        try:
            self._model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype).to(device).eval()
        except Exception as error:
            raise LensflowError(f"{checkpoint}: transformers cannot load it ({last_line(error)})") from error
        self._batch_size = batch_size

    @torch.inference_mode()
    def generate(self, prompts: list[list[int]], max_new_tokens: int, stop: list[str]) -> list[str]:
        """See `Engine.generate`. Left-padded batches of prompts of similar length."""
        from transformers import GenerationConfig

        ends = end_token_ids(self._tokenizer, self._model.generation_config.eos_token_id, stop)
        # A fresh configuration: a checkpoint's own may sample or penalise repetition.
        greedy = GenerationConfig(
            do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=ends or None, pad_token_id=ends[0] if ends else 0
        )
        answers = [""] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]), reverse=True)
        with tqdm(total=len(prompts), desc="generate", unit="prompt", disable=len(prompts) < 100) as bar:
            for start in range(0, len(order), self._batch_size):
                batch = order[start : start + self._batch_size]
                ids, mask = self._pad([prompts[i] for i in batch], left=True)
                output = self._model.generate(ids, attention_mask=mask, generation_config=greedy)
                for i, tokens in zip(batch, output[:, ids.shape[1] :].tolist(), strict=True):
                    length = next((n for n, token in enumerate(tokens, start=1) if token in set(ends)), len(tokens))
                    answers[i] = finish(self._tokenizer, tokens[:length], stop)
                bar.update(len(batch))
        return answers

    @torch.inference_mode()
    def loglikelihoods(self, requests: list[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """See `Engine.loglikelihoods`. A context that several requests of a batch share is read once."""
        scores = [(0.0, True)] * len(requests)
        with tqdm(total=len(requests), desc="score", unit="request", disable=len(requests) < 100) as bar:
            for batch in _batches(requests):
                for i, score in zip(batch, self._score([requests[i] for i in batch]), strict=True):
                    scores[i] = score
                bar.update(len(batch))
        return scores

    def close(self) -> None:
        """See `Engine.close`."""
        del self._model

    def _score(self, requests: list[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        contexts = list(dict.fromkeys(tuple(context) for context, _ in requests))
        position = {context: i for i, context in enumerate(contexts)}
        owner = torch.tensor([position[tuple(context)] for context, _ in requests], device=self._model.device)

        # The contexts' last logits predict the first token of each continuation …
        ids, mask = self._pad([list(context) for context in contexts], left=True)
        output = self._model(
            ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0), logits_to_keep=1, use_cache=True
        )
        targets, real = self._pad([continuation for _, continuation in requests], left=False)
        logp, best = _token_scores(output.logits[owner], targets[:, :1])
        if targets.shape[1] > 1:
            # … and each of its tokens but the last predicts the next, on the contexts' expanded cache.
            cache = output.past_key_values
            cache.batch_select_indices(owner)
            lengths = mask.sum(1)[owner, None]
            output = self._model(
                targets[:, :-1],
                attention_mask=torch.cat([mask[owner], real[:, :-1]], dim=1),
                position_ids=lengths + torch.arange(targets.shape[1] - 1, device=targets.device),
                past_key_values=cache,
            )
            more_logp, more_best = _token_scores(output.logits, targets[:, 1:])
            logp, best = torch.cat([logp, more_logp], dim=1), torch.cat([best, more_best], dim=1)
        real = real.bool()
        sums = logp.masked_fill(~real, 0.0).sum(1).tolist()
        return list(zip(sums, (best | ~real).all(1).tolist(), strict=True))

    def _pad(self, rows: list[list[int]], *, left: bool) -> tuple[Tensor, Tensor]:
        """Padded ids and their mask, both (rows, longest) int64."""
        width = max(map(len, rows))
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            columns = slice(width - len(row), width) if left else slice(len(row))
            ids[i, columns], mask[i, columns] = torch.tensor(row), 1
        return ids.to(self._model.device), mask.to(self._model.device)


def _token_scores(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each target (rows, n) under logits (rows, n, vocabulary), and whether none is more probable."""
    logits = logits.float()
    chosen = logits.gather(2, targets[..., None])[..., 0]
    return chosen - logits.logsumexp(2), chosen >= logits.amax(2)


def _batches(requests: list[tuple[list[int], list[int]]]) -> Iterator[list[int]]:
    """Indices of requests in batches: equal contexts side by side, similar lengths together, longest first."""
    key: Any = lambda i: (len(requests[i][0]), requests[i][0], len(requests[i][1]))  # noqa: E731
    batch: list[int] = []
    longest_context = longest = 0
    for i in sorted(range(len(requests)), key=key, reverse=True):
        context, continuation = requests[i]
        longest_context, longest = max(longest_context, len(context)), max(longest, len(continuation))
        size = len(batch) + 1
        if batch and (size * longest > _MAX_ROWS or size * (longest_context + longest) > _MAX_TOKENS):
            yield batch
            batch, longest_context, longest = [], len(context), len(continuation)
        batch.append(i)
    if batch:
        yield batch
