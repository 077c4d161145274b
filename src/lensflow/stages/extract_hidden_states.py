"""Hidden states of texts (stage `extract_hidden_states`).

One pass over the backbone without its output layer gives both what probing needs (every layer's state of each text) and
what training needs (all tokens' states where they enter the trained layers).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lensflow.artifacts.checkpoint import verifying
from lensflow.artifacts.states import save
from lensflow.artifacts.texts import Text, read_texts
from lensflow.errors import LensflowError
from lensflow.models.batching import batches_by_length, pad, pool
from lensflow.models.loading import DTYPES, device_of, layers_of, load_decoder
from lensflow.models.streaming import StreamedDecoder
from lensflow.models.taps import tap_layers
from lensflow.models.tokenizer import PromptTokenizer, truncate
from lensflow.provenance.code import code_digest
from lensflow.schema.extraction import Extraction
from lensflow.schema.stages import Extracting
from lensflow.storage import parts
from lensflow.storage.atomic import scratch_folder
from lensflow.storage.journal import used

if TYPE_CHECKING:
    from transformers import PreTrainedModel
from lensflow.artifacts.states import HiddenStates


@dataclass(frozen=True)
class Sequences:
    """The tokenised texts of one language.

    Attributes:
        language: their code.
        names: N ids, for messages.
        ids: N lists of token ids.
    """

    language: str
    names: list[str]
    ids: list[list[int]]


@torch.inference_mode()
def extract(decoder: "PreTrainedModel", texts: Sequences, extraction: Extraction, scratch: Path) -> HiddenStates:
    """Run texts through a frozen decoder.

    Naive equivalent: `model(ids, output_hidden_states=True).hidden_states[1:]` of each text alone, at its last token
    or, with `pooling: mean`, averaged over its tokens.

    Args:
        decoder: from `load_decoder`.
        texts: of one language.
        extraction: pooling, number of trainable layers, size of a batch.
        scratch: folder that keeps the states of each batch; those that a killed run left there are not computed again.

    Raises:
        LensflowError: a state is NaN or infinite; names language, text and layer.
    """
    depth, trainable = len(layers_of(decoder)), extraction.trainable_layers
    parameter = next(decoder.parameters())
    states = _empty(depth, texts, decoder.config.hidden_size, trainable, parameter.dtype)
    rows = _token_rows(states.lengths)
    first = depth - trainable
    with tqdm(total=len(texts.ids), desc=f"{texts.language} texts", unit="text", mininterval=1) as progress:
        for number, batch in enumerate(batches_by_length(states.lengths.tolist(), extraction.batch_tokens)):
            part = scratch / f"{number}.safetensors"
            finished = parts.read(part)
            if finished is None:
                ids, lengths = pad([texts.ids[index] for index in batch])
                with tap_layers(decoder, [first] if trainable else [], range(depth)) as tapped:
                    output = decoder(input_ids=ids.to(parameter.device), use_cache=False).last_hidden_state
                pooled = [pool(tapped["out", layer], lengths, extraction.pooling) for layer in range(depth)]
                tensors = {
                    "layers": torch.stack(pooled).cpu(),
                    "post_norm": pool(output, lengths, extraction.pooling).cpu(),
                }
                if trainable:
                    tensors["tokens"] = _real_tokens(tapped["in", first].cpu(), lengths)
                parts.write(part, tensors)
            else:
                tensors, _ = finished
            states.layers[:, batch] = tensors["layers"]
            states.post_norm[batch] = tensors["post_norm"]
            if trainable:
                states.tokens[torch.cat([rows[index] for index in batch])] = tensors["tokens"]
            progress.update(len(batch))
    _check_finite(states.layers, texts)
    return states


@torch.inference_mode()
def stream(decoder: StreamedDecoder, texts: Sequences, extraction: Extraction, scratch: Path) -> HiddenStates:
    """Run texts through a frozen decoder, all of them through one layer before the next one is read.

    The result has the same bits as `extract`. Memory holds one layer, the states of all tokens and the result.

    Args:
        decoder: made for these texts.
        texts: as in `extract`.
        extraction: as in `extract`.
        scratch: folder that keeps the states after the last finished layer, where a killed run is taken up again.

    Raises:
        LensflowError: a state is NaN or infinite; names language, text and layer.
    """
    depth, width = len(layers_of(decoder.module)), decoder.module.config.hidden_size
    states = _empty(depth, texts, width, extraction.trainable_layers, decoder.dtype)
    rows = _token_rows(states.lengths)
    between = torch.empty(int(states.lengths.sum()), width, dtype=decoder.dtype)  # all tokens' states, as in `tokens`
    kept = {"between": between, "layers": states.layers, "post_norm": states.post_norm, "tokens": states.tokens}
    done, path = 0, scratch / "layers.safetensors"
    if (finished := parts.read(path)) is not None:
        tensors, _ = finished
        done = int(tensors["done"])
        for key, tensor in kept.items():
            tensor.copy_(tensors[key])
    batches = batches_by_length(states.lengths.tolist(), extraction.batch_tokens)
    with tqdm(total=depth, initial=done, desc=f"{texts.language} layers", unit="layer", mininterval=1) as progress:
        for layer in range(done, depth):
            with decoder.only(layer):
                for batch in batches:
                    ids, lengths = pad([texts.ids[index] for index in batch])
                    here = torch.cat([rows[index] for index in batch])
                    before = nn.utils.rnn.pad_sequence([between[rows[index]] for index in batch], batch_first=True)
                    entering, leaving, output = decoder.run(layer, ids, before if layer else None)
                    if layer == depth - extraction.trainable_layers:
                        states.tokens[here] = _real_tokens(entering, lengths)
                    between[here] = _real_tokens(leaving, lengths)
                    states.layers[layer, batch] = pool(leaving, lengths, extraction.pooling)
                    if layer == depth - 1:
                        states.post_norm[batch] = pool(output, lengths, extraction.pooling)
            parts.write(path, kept | {"done": torch.tensor(layer + 1)})
            progress.update(1)
    _check_finite(states.layers, texts)
    return states


def _empty(depth: int, texts: Sequences, width: int, trainable: int, dtype: torch.dtype) -> HiddenStates:
    """Room for the states of texts."""
    if trainable > depth:
        raise LensflowError(f"extraction.trainable_layers: {trainable} of a model that has {depth}; lower it")
    lengths = torch.tensor([len(ids) for ids in texts.ids])
    return HiddenStates(
        torch.zeros(depth, len(texts.ids), width, dtype=dtype),
        torch.zeros(len(texts.ids), width, dtype=dtype),
        torch.zeros(int(lengths.sum()) if trainable else 0, width, dtype=dtype),
        lengths,
    )


def _token_rows(lengths: Tensor) -> list[Tensor]:
    """Where each text's tokens stand in `tokens`: (N,) -> N row numbers (length,)."""
    return list(torch.split(torch.arange(int(lengths.sum())), lengths.tolist()))


def _real_tokens(states: Tensor, lengths: Tensor) -> Tensor:
    """Drop the pads on the right: (n, T, d), (n,) -> (sum of lengths, d)."""
    return states[torch.arange(states.shape[1]) < lengths[:, None]]


def _check_finite(layers: Tensor, texts: Sequences) -> None:
    bad = (~layers.isfinite()).any(dim=2).nonzero()
    if len(bad):
        layer, text = bad[0].tolist()
        raise LensflowError(
            f"{texts.language}, text {texts.names[text]}: the state after layer {layer + 1} is not finite; "
            "use float32 or remove the text"
        )


def tokenize(tokenizer: PromptTokenizer, language: str, texts: list[Text], extraction: Extraction) -> Sequences:
    """Return prompts as token ids, shortened as the configuration says."""
    ids = [truncate(tokenizer.encode(text.prompt), extraction.max_tokens, extraction.truncation_side) for text in texts]
    return Sequences(language, [text.id for text in texts], ids)


def run(config: Extracting, *, backbone: Path, texts: Path, gpus: int, output: Path) -> None:
    """Run one language's texts through the frozen backbone; goes on where a killed run stopped.

    Args:
        config: prompt and extraction.
        backbone: manifest of the backbone's checkpoint.
        texts: `{language}.jsonl` of the corpus.
        gpus: 1 to run on a GPU.
        output: `{language}.safetensors`.
    """
    extraction = config.extraction
    kept = read_texts(texts, ["train", "dev"])
    used(texts, [text.line for text in kept])
    device = device_of(gpus)
    with verifying(backbone) as manifest:
        tokenizer = PromptTokenizer(backbone.parent, config.prompt)
        sequences = tokenize(tokenizer, texts.stem, kept, extraction)
        folder, attention = backbone.parent, extraction.attention
        dtype = DTYPES[extraction.dtype] if extraction.dtype else None
        compute: Callable[[Path], HiddenStates]
        if extraction.memory == "stream":
            streamed = StreamedDecoder(folder, sequences.ids, device, dtype, attention)
            compute = functools.partial(stream, streamed, sequences, extraction)
        else:
            decoder = load_decoder(folder, dtype, device, attention)
            compute = functools.partial(extract, decoder, sequences, extraction)
    identity = [config.canonical(), vars(sequences), manifest["files"], code_digest(__name__)]
    with scratch_folder(output, identity) as scratch:
        save(output, compute(scratch), sequences.names)
