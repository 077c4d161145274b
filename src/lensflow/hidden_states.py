"""Hidden states of texts (stage `extract_hidden_states`).

One pass over the backbone without its output layer gives both what probing needs (every layer's state of the last
real token) and what training needs (all tokens' states where they enter the trained layers).
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from lensflow.config import Extraction
from lensflow.corpora import Text
from lensflow.decoders import StreamedDecoder, batches_by_length, last_token, layers_of, pad, tap_layers
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
    decoder: nn.Module,
    sequences: list[list[int]],
    trainable: int,
    batch_tokens: int,
    names: list[str],
    language: str,
    scratch: Path,
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
        scratch: folder that keeps the states of each batch; those that a killed run left there are not computed again.

    Raises:
        LensflowError: a state is NaN or infinite; names language, text and layer.
    """
    depth = len(layers_of(decoder))
    parameter = next(decoder.parameters())
    states = _empty(depth, sequences, int(decoder.config.hidden_size), trainable, parameter.dtype)  # type: ignore[union-attr, arg-type]
    rows = _token_rows(states.lengths)
    first = depth - trainable
    with tqdm(total=len(sequences), desc=f"{language} texts", unit="text", mininterval=1) as progress:
        for number, batch in enumerate(batches_by_length(states.lengths.tolist(), batch_tokens)):
            part = scratch / f"{number}.safetensors"
            if not part.is_file():
                ids, lengths = pad([sequences[index] for index in batch])
                with tap_layers(decoder, [first] if trainable else [], range(depth)) as tapped:
                    output = decoder(input_ids=ids.to(parameter.device), use_cache=False).last_hidden_state
                tensors = {
                    "last": torch.stack([last_token(tapped["out", layer], lengths) for layer in range(depth)]).cpu(),
                    "last_post_norm": last_token(output, lengths).cpu(),
                }
                if trainable:
                    tensors["tokens"] = _real_tokens(tapped["in", first].cpu(), lengths)
                with atomic_path(part) as temporary:
                    save_file(tensors, temporary)
            finished = _read(part)
            states.last[:, batch] = finished["last"]
            states.last_post_norm[batch] = finished["last_post_norm"]
            if trainable:
                states.tokens[torch.cat([rows[index] for index in batch])] = finished["tokens"]
            progress.update(len(batch))
    _check_finite(states.last, names, language)
    return states


@torch.inference_mode()
def stream(
    decoder: StreamedDecoder,
    sequences: list[list[int]],
    trainable: int,
    batch_tokens: int,
    names: list[str],
    language: str,
    scratch: Path,
) -> HiddenStates:
    """Run texts through a frozen decoder, all of them through one layer before the next one is read.

    The result is that of `extract`, bit by bit; in memory are one layer, the states of all tokens and the result.

    Args:
        decoder: made for these texts.
        sequences: as in `extract`, and so are the next four.
        trainable: number of top layers whose input is kept for all tokens; 0 for none.
        batch_tokens: padded tokens a forward pass.
        names: N ids of the texts, for messages.
        language: of the texts, for messages and the progress bar.
        scratch: folder that keeps the states after the last finished layer, where a killed run is taken up again.

    Raises:
        LensflowError: a state is NaN or infinite; names language, text and layer.
    """
    depth, width = len(layers_of(decoder.module)), int(decoder.module.config.hidden_size)  # type: ignore[union-attr, arg-type]
    states = _empty(depth, sequences, width, trainable, decoder.dtype)
    rows = _token_rows(states.lengths)
    between = torch.empty(int(states.lengths.sum()), width, dtype=decoder.dtype)  # all tokens' states, as in `tokens`
    kept = {"between": between, "last": states.last, "last_post_norm": states.last_post_norm, "tokens": states.tokens}
    done, path = 0, scratch / "layers.safetensors"
    if path.is_file():
        finished = _read(path)
        done = int(finished["done"])
        for key, tensor in kept.items():
            tensor.copy_(finished[key])
    batches = batches_by_length(states.lengths.tolist(), batch_tokens)
    with tqdm(total=depth, initial=done, desc=f"{language} layers", unit="layer", mininterval=1) as progress:
        for layer in range(done, depth):
            with decoder.only(layer):
                for batch in batches:
                    ids, lengths = pad([sequences[index] for index in batch])
                    here = torch.cat([rows[index] for index in batch])
                    before = nn.utils.rnn.pad_sequence([between[rows[index]] for index in batch], batch_first=True)
                    entering, leaving, output = decoder.run(layer, ids, before if layer else None)
                    if layer == depth - trainable:
                        states.tokens[here] = _real_tokens(entering, lengths)
                    between[here] = _real_tokens(leaving, lengths)
                    if layer == depth - 1:
                        states.last_post_norm[batch] = last_token(output, lengths)
            states.last[layer] = between[torch.stack([row[-1] for row in rows])]
            with atomic_path(path) as temporary:
                save_file(kept | {"done": torch.tensor(layer + 1)}, temporary)
            progress.update(1)
    _check_finite(states.last, names, language)
    return states


def _empty(depth: int, sequences: list[list[int]], width: int, trainable: int, dtype: torch.dtype) -> HiddenStates:
    """Room for the states of texts."""
    if trainable > depth:
        raise LensflowError(f"extraction.trainable_layers: {trainable} of a model that has {depth}; lower it")
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    return HiddenStates(
        torch.zeros(depth, len(sequences), width, dtype=dtype),
        torch.zeros(len(sequences), width, dtype=dtype),
        torch.zeros(int(lengths.sum()) if trainable else 0, width, dtype=dtype),
        lengths,
    )


def _token_rows(lengths: Tensor) -> list[Tensor]:
    """Where each text's tokens stand in `tokens`: (N,) -> N row numbers (length,)."""
    return list(torch.split(torch.arange(int(lengths.sum())), lengths.tolist()))


def _real_tokens(states: Tensor, lengths: Tensor) -> Tensor:
    """Drop the pads on the right: (n, T, d), (n,) -> (sum of lengths, d)."""
    return states[torch.arange(states.shape[1]) < lengths[:, None]]


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
    tensors = _read(path)
    return HiddenStates(*(tensors[key] for key in ("last", "last_post_norm", "tokens", "lengths")))


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return dict(load_file(path))
    except Exception as error:  # safetensors raises its own error type for a damaged file
        raise LensflowError(f"{path}: cannot be read ({error}); delete it and run again") from None
