"""The published procedure (github.com/circle-hit/Lens, commit 2ffa3f0), written plainly, for SmolLM2 in ChatML.

Each function names the lines that it follows. What the code leaves to DeepSpeed and HF's Trainer is written out:
float32 masters, AdamW, the cosine schedule, clipping.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import get_scheduler

PROBING_BATCH, PROBING_TOKENS, TRAINING_TOKENS = 50, 64, 128
# As dataset_llama3.py, 24-27, writes Llama's prompt: by hand, with an empty system message.
SYSTEM_FORMAT = "<|im_start|>system\n{content}<|im_end|>\n"
USER_FORMAT = "<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"


def probing_batch(tokenizer: Any, texts: Sequence[str]) -> Any:
    """Tokenise probing texts, padded on the tokenizer's own side (Probing/probe.py, 37-42 and 60)."""
    rendered = [
        tokenizer.apply_chat_template(
            [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": text.strip()}],
            tokenize=False,
            add_generation_prompt=True,
        )
        for text in texts
    ]
    return tokenizer(rendered, return_tensors="pt", padding=True, truncation=True, max_length=PROBING_TOKENS)


def training_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Tokenise training texts (Manipulation/src/dataset_llama3.py, 188, and collator.py, 68-70)."""
    prompts = [SYSTEM_FORMAT.format(content="") + USER_FORMAT.format(content=text) for text in texts]
    return [tokenizer(prompt, add_special_tokens=False)["input_ids"][:TRAINING_TOKENS] for prompt in prompts]


@torch.no_grad()
def hidden_states(model: Any, batch: Any) -> Tensor:
    """Return the states at position -1 after each layer, (L, N, d) (Probing/probe.py, 63-96)."""
    count = len(batch.input_ids)
    size = min(PROBING_BATCH, count)
    found = []
    for start in range(0, count // size * size, size):
        rows = slice(start, start + size)
        output = model(
            input_ids=batch.input_ids[rows], attention_mask=batch.attention_mask[rows], output_hidden_states=True
        )
        found.append(torch.stack(output.hidden_states[1:])[:, :, -1, :])
    return torch.cat(found, dim=1)


def build_aligner(rank: int, embeddings: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return M_a (d,) and M_s (d, r) of one layer from states (N, d) of each language (Probing/utils.py, 20-38)."""
    means = {language: np.mean(states, axis=0) for language, states in embeddings.items()}
    matrix = np.stack(list(means.values())).T
    count = matrix.shape[1]
    center = matrix @ np.ones(count) / count
    left, strengths, right = np.linalg.svd(matrix - center.reshape(-1, 1) @ np.ones((1, count)))
    specific, gamma = left[:, :rank], right.T[:, :rank] @ np.diag(strengths[:rank])
    best = center.reshape(-1, 1) @ np.ones((1, count)) + specific @ gamma.T
    shared = np.linalg.pinv(best).T @ np.ones(count)
    shared /= (shared**2).sum()
    left, _, _ = np.linalg.svd(best - shared.reshape(-1, 1) @ np.ones((1, count)))
    return shared, left[:, :rank]


def projection(states: Tensor, basis: Tensor) -> Tensor:
    """Project states (N, d) on the rows of a basis (r, d) (Probing/utils.py, 40-44; trainer_lens.py, 84-89)."""
    basis = basis / torch.linalg.norm(basis, dim=1, keepdim=True)
    return states @ basis.T @ basis


@dataclass(frozen=True)
class Spaces:
    """Subspaces of every layer, and the directions at the top.

    `agnostic` (L, d) and `specific` (L, r, d), float64; `directions` maps each language to δ (d,).
    """

    agnostic: Tensor
    specific: Tensor
    directions: dict[str, Tensor]


def probe(states: Mapping[str, Tensor]) -> Spaces:
    """Return subspaces and directions from states (L, N, d), central language first (Probing/probe.py, 98-137)."""
    depth, rank = next(iter(states.values())).shape[0], len(states) - 1
    fitted = [build_aligner(rank, {code: one[layer].numpy() for code, one in states.items()}) for layer in range(depth)]
    agnostic = torch.stack([torch.tensor(shared) for shared, _ in fitted])
    specific = torch.stack([torch.tensor(basis.T) for _, basis in fitted])
    top = {code: projection(one[-1], specific[-1].to(one.dtype)).mean(dim=0) for code, one in states.items()}
    central = next(iter(top.values()))
    return Spaces(agnostic, specific, {code: mean - central for code, mean in top.items()})


@dataclass(frozen=True)
class Training:
    """What training gives: the loss of each step, and the trained tensors in float32 by name."""

    losses: list[float]
    weights: dict[str, Tensor]


def train(
    policy: Any,
    reference: Any,
    ids: Mapping[str, list[list[int]]],
    spaces: Spaces,
    order: Sequence[int],
    layers: int = 2,
) -> Training:
    """Train the top layers for one epoch on texts in an order (trainer_lens.py, 100-148, and run_manipulation.sh).

    Args:
        policy: the model that trains, whose dtype is that of the computation.
        reference: the untouched model.
        ids: token ids of each language's texts; the first language is central.
        spaces: from `probe`.
        order: of the texts.
        layers: how many top layers train.
    """
    policy.requires_grad_(False)
    names = {name for name, _ in policy.named_parameters()}
    first = policy.config.num_hidden_layers - layers
    names = {name for name in names if "model.layers." in name and int(name.split(".")[2]) >= first}
    trained = {name: parameter.requires_grad_(True) for name, parameter in policy.named_parameters() if name in names}
    masters = {name: nn.Parameter(parameter.detach().float()) for name, parameter in trained.items()}
    decayed = [master for master in masters.values() if master.ndim > 1]
    kept = [master for master in masters.values() if master.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": kept, "weight_decay": 0.0}], lr=1e-5
    )
    accumulated = 8
    steps = math.ceil(len(order) / accumulated)
    schedule = get_scheduler("cosine", optimizer, math.ceil(0.05 * steps), steps)
    mse = nn.MSELoss()
    dtype = policy.dtype
    central, *targets = ids
    specific, agnostic = spaces.specific[-1].to(dtype), spaces.agnostic[-1].unsqueeze(0).to(dtype)

    def top(model: Any, language: str, index: int) -> Tensor:
        states: Tensor = model(input_ids=torch.tensor([ids[language][index]]), output_hidden_states=True).hidden_states[
            -1
        ]
        return states

    losses, sums = [], 0.0
    for place, index in enumerate(order, start=1):
        states = {language: top(policy, language, index) for language in ids}
        with torch.no_grad():
            untouched = {language: top(reference, language, index) for language in ids}
        loss = mse(states[central].mean(dim=1), untouched[central].mean(dim=1))
        for language in targets:
            own = projection(states[language][:, -1, :], specific)
            before = projection(untouched[language][:, -1, :], specific)
            loss = loss + mse(own - before, spaces.directions[language].repeat(1, 1).to(dtype))
        for language in targets:
            loss = loss + mse(
                projection(states[central][:, -1, :], agnostic), projection(states[language][:, -1, :], agnostic)
            )
        size = min(accumulated, len(order) - (place - 1) // accumulated * accumulated)
        (loss / size).backward()
        sums += loss.item() / size
        if place % accumulated == 0 or place == len(order):
            for name, parameter in trained.items():
                assert parameter.grad is not None
                masters[name].grad, parameter.grad = parameter.grad.float(), None
            torch.nn.utils.clip_grad_norm_(masters.values(), 1.0)
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                for name, parameter in trained.items():
                    parameter.copy_(masters[name])
            losses.append(sums)
            sums = 0.0
    return Training(losses, {name: master.detach() for name, master in masters.items()})
