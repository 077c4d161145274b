"""Hidden states of texts (stage `extract_hidden_states`).

One pass over the backbone without its output layer gives both what probing needs (every layer's state of the last
real token) and what training needs (all tokens' states where they enter the trained layers).
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from lensflow.config import Extraction
from lensflow.corpora import Text
from lensflow.decoders import batches_by_length, last_token, layers_of, pad, tap_layers
from lensflow.errors import LensflowError
from lensflow.files import atomic_path, canonical_json
from lensflow.prompts import PromptTokenizer, truncate


@dataclass(frozen=True)
class HiddenStates:
    """States of the texts of one language.

    Attributes:
        last: (L, N, d) last real token's state after each layer, before the final norm.
        last_post_norm: (N, d) the top layer's after the final norm (HF's last hidden state).
        tokens: (sum of lengths, d) all tokens' states entering the first of the top `trainable` layers, text after
            text; empty if nothing trains on this corpus.
        lengths: (N,) number of tokens of each text.
    """

    last: Tensor
    last_post_norm: Tensor
    tokens: Tensor
    lengths: Tensor


@torch.inference_mode()
def extract(
    decoder: nn.Module, sequences: list[list[int]], trainable: int, batch_tokens: int, names: list[str], language: str
) -> HiddenStates:
    """Run texts through a frozen decoder.

    Naive equivalent: `model(ids, output_hidden_states=True).hidden_states[1:]` of each text alone, at its last token.

    Args:
        decoder: from `load_decoder`.
        sequences: N lists of token ids.
        trainable: number of top layers whose input is kept for all tokens; 0 for none.
        batch_tokens: padded tokens a forward pass.
        names: N ids of the texts, for messages.
        language: of the texts, for messages and the progress bar.

    Raises:
        LensflowError: a state is NaN or infinite; names language, text and layer.
    """
    depth = len(layers_of(decoder))
    if trainable > depth:
        raise LensflowError(f"extraction.trainable_layers: {trainable} of a model that has {depth}; lower it")
    lengths = [len(sequence) for sequence in sequences]
    starts = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    width = int(decoder.config.hidden_size)  # type: ignore[union-attr, arg-type]
    dtype = next(decoder.parameters()).dtype
    last = torch.empty(depth, len(sequences), width, dtype=dtype)
    last_post_norm = torch.empty(len(sequences), width, dtype=dtype)
    tokens = torch.empty(starts[-1] if trainable else 0, width, dtype=dtype)
    first = depth - trainable
    with tqdm(total=len(sequences), desc=f"{language} texts", unit="text", mininterval=1) as progress:
        for batch in batches_by_length(lengths, batch_tokens):
            ids, batch_lengths = pad([sequences[index] for index in batch])
            device = next(decoder.parameters()).device
            with tap_layers(decoder, [first] if trainable else [], range(depth)) as states:
                output = decoder(input_ids=ids.to(device), use_cache=False).last_hidden_state
            for layer in range(depth):
                last[layer, batch] = last_token(states["out", layer], batch_lengths).cpu()
            last_post_norm[batch] = last_token(output, batch_lengths).cpu()
            if trainable:
                entering = states["in", first].cpu()
                for row, index in enumerate(batch):
                    tokens[starts[index] : starts[index + 1]] = entering[row, : lengths[index]]
            progress.update(len(batch))
    _check_finite(last, names, language)
    return HiddenStates(last, last_post_norm, tokens, torch.tensor(lengths))


def _check_finite(last: Tensor, names: list[str], language: str) -> None:
    bad = (~last.isfinite()).any(dim=2).nonzero()
    if len(bad):
        layer, text = bad[0].tolist()
        raise LensflowError(
            f"{language}, text {names[text]}: the state after layer {layer + 1} is not finite; "
            "use float32 or remove the text"
        )


def tokenize(tokenizer: PromptTokenizer, texts: list[Text], extraction: Extraction) -> list[list[int]]:
    """Return the token ids of prompts, shortened as the configuration says."""
    return [
        truncate(tokenizer.encode(text.prompt), extraction.max_tokens, extraction.truncation_side) for text in texts
    ]


def save(path: Path, states: HiddenStates, names: list[str]) -> None:
    """Write hidden states and the ids of their texts."""
    tensors = {
        "last": states.last,
        "last_post_norm": states.last_post_norm,
        "tokens": states.tokens,
        "lengths": states.lengths,
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"ids": canonical_json(names)})


def load(path: Path) -> HiddenStates:
    """Read hidden states; tensors are memory-mapped.

    Raises:
        LensflowError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return HiddenStates(*(file.get_tensor(key) for key in ("last", "last_post_norm", "tokens", "lengths")))
    except Exception as error:  # safetensors raises its own error type for a damaged file
        raise LensflowError(f"{path}: cannot be read ({error}); delete it and run again") from None
