"""Hidden states of texts (stage `extract_hidden_states`).

One pass through the backbone without its output layer gives two results. Probing needs every layer's state of each
text. Training needs the states of all tokens at the input of the trained layers.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from lensflow.artifacts.checkpoint import verify, verifying
from lensflow.artifacts.states import HiddenStates, save
from lensflow.artifacts.texts import Text, read_texts
from lensflow.errors import LensflowError
from lensflow.models.batching import batches_by_length, pad, pool
from lensflow.models.loading import DTYPES, device_of, layers_of, load_decoder
from lensflow.models.streaming import StreamedDecoder
from lensflow.models.taps import tap_layers
from lensflow.models.tokenizer import PromptTokenizer
from lensflow.provenance.code import code_digest
from lensflow.provenance.records import is_finished, recording
from lensflow.schema.extraction import Extraction
from lensflow.schema.stages import Extracting
from lensflow.storage import parts
from lensflow.storage.atomic import scratch_folder
from lensflow.storage.journal import used
from lensflow.storage.verified import read_manifest

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Sequences:
    """The tokenised texts of one language.

    Attributes:
        language: the code of the language.
        names: N ids, for messages.
        ids: N lists of token ids.
    """

    language: str
    names: list[str]
    ids: list[list[int]]


@torch.inference_mode()
def extract(decoder: "PreTrainedModel", texts: Sequences, extraction: Extraction, scratch: Path) -> HiddenStates:
    """Run texts through a frozen decoder.

    Equivalent code for one text: `model(ids, output_hidden_states=True).hidden_states[1:]`, at the last token or, with
    `pooling: mean`, averaged over the tokens.

    Args:
        decoder: a decoder from `load_decoder`.
        texts: the texts of one language.
        extraction: pooling, number of trainable layers, size of a batch.
        scratch: folder that keeps the states of each batch. States that a killed run left there are not computed again.

    Raises:
        LensflowError: a state is NaN or infinite; the message names language, text and layer.
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


class _Streamed:
    """Runs the texts of one language through the layers. Between two layers, all their states are only in a file.

    Attributes:
        done: number of finished layers.
    """

    def __init__(self, decoder: StreamedDecoder, texts: Sequences, extraction: Extraction, scratch: Path) -> None:
        self.decoder, self.texts, self.extraction = decoder, texts, extraction
        self.path = scratch / "layers.safetensors"
        finished = parts.read(self.path)
        self.done = 0 if finished is None else int(finished[0]["done"])

    def _tensors(self) -> tuple[HiddenStates, Tensor]:
        """Return the result so far, and the states of all tokens after the last finished layer, in the order of
        `tokens`."""
        depth, width = len(layers_of(self.decoder.module)), self.decoder.module.config.hidden_size
        states = _empty(depth, self.texts, width, self.extraction.trainable_layers, self.decoder.dtype)
        if not self.done:
            return states, torch.empty(int(states.lengths.sum()), width, dtype=self.decoder.dtype)
        kept = load_file(self.path)  # which this process has checked or written
        return HiddenStates(kept["layers"], kept["post_norm"], kept["tokens"], states.lengths), kept["between"]

    def run(self, layer: int) -> None:
        """Run the texts through the layer that the decoder has loaded."""
        states, between = self._tensors()
        rows, depth = _token_rows(states.lengths), len(states.layers)
        for batch in batches_by_length(states.lengths.tolist(), self.extraction.batch_tokens):
            ids, lengths = pad([self.texts.ids[index] for index in batch])
            here = torch.cat([rows[index] for index in batch])
            before = nn.utils.rnn.pad_sequence([between[rows[index]] for index in batch], batch_first=True)
            entering, leaving, output = self.decoder.run(layer, ids, before if layer else None)
            if layer == depth - self.extraction.trainable_layers:
                states.tokens[here] = _real_tokens(entering, lengths)
            between[here] = _real_tokens(leaving, lengths)
            states.layers[layer, batch] = pool(leaving, lengths, self.extraction.pooling)
            if layer == depth - 1:
                states.post_norm[batch] = pool(output, lengths, self.extraction.pooling)
        kept = {"between": between, "layers": states.layers, "post_norm": states.post_norm, "tokens": states.tokens}
        self.done = layer + 1
        parts.write(self.path, kept | {"done": torch.tensor(self.done)})

    def result(self) -> HiddenStates:
        """Return the states after all layers."""
        states, _ = self._tensors()
        _check_finite(states.layers, self.texts)
        return states


@torch.inference_mode()
def stream(
    decoder: StreamedDecoder, texts: Sequence[Sequences], extraction: Extraction, scratch: Sequence[Path]
) -> Iterator[HiddenStates]:
    """Run the texts of several languages through a frozen decoder.

    All texts pass one layer before the next layer is read.

    The results have the same bits as `extract`. Memory holds one layer and the states of one language's tokens.

    Args:
        decoder: a decoder made for these texts.
        texts: the texts of each language.
        extraction: as in `extract`.
        scratch: one folder per language with the states after the last finished layer. If a run is killed, the next run
            continues from there.

    Raises:
        LensflowError: a state is NaN or infinite; the message names language, text and layer.
    """
    languages = [_Streamed(decoder, one, extraction, own) for one, own in zip(texts, scratch, strict=True)]
    first, depth = min(language.done for language in languages), len(layers_of(decoder.module))
    with tqdm(total=depth, initial=first, desc="layers", unit="layer", mininterval=1) as progress:
        for layer in range(first, depth):
            with decoder.only(layer):
                for language in languages:
                    if language.done == layer:
                        language.run(layer)
            progress.update(1)
    for language in languages:
        yield language.result()


def _empty(depth: int, texts: Sequences, width: int, trainable: int, dtype: torch.dtype) -> HiddenStates:
    """Allocate tensors for the states of texts."""
    if trainable > depth:
        raise LensflowError(
            f"extraction.trainable_layers: {trainable} is more than the model's {depth} layers; lower it"
        )
    lengths = torch.tensor([len(ids) for ids in texts.ids])
    return HiddenStates(
        torch.zeros(depth, len(texts.ids), width, dtype=dtype),
        torch.zeros(len(texts.ids), width, dtype=dtype),
        torch.zeros(int(lengths.sum()) if trainable else 0, width, dtype=dtype),
        lengths,
    )


def _token_rows(lengths: Tensor) -> list[Tensor]:
    """The rows of `tokens` that belong to each text: (N,) -> N row numbers (length,)."""
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
    """Return prompts as token ids, truncated as the configuration says."""
    most, side = extraction.max_tokens, extraction.truncation_side
    ids = [tokenizer.shortened(text.prompt, most, side) for text in texts]
    return Sequences(language, [text.id for text in texts], ids)


def run(config: Extracting, *, backbone: Path, texts: Sequence[Path], gpus: int, outputs: Sequence[Path]) -> None:
    """Run the texts of all missing languages through the frozen backbone, which is loaded once.

    A language is finished if the record of its output names this configuration, this code and these inputs. Each
    language has its own record. After a killed run, the next run continues at the point where the killed run stopped.

    Args:
        config: prompt and extraction.
        backbone: manifest of the backbone's checkpoint.
        texts: `{language}.jsonl` of the corpus, for each language.
        gpus: 1 to run on a GPU.
        outputs: `{language}.safetensors`, in the order of `texts`.
    """
    code, content = code_digest(__name__), config.canonical()
    missing = [
        (path, output)
        for path, output in zip(texts, outputs, strict=True)
        if not is_finished(output, code, content, (backbone, path))
    ]
    if not missing:
        return
    kept = [read_texts(path, ["train", "dev"]) for path, _ in missing]
    try:
        tokenizer = PromptTokenizer(backbone.parent, config.prompt)
    except Exception:
        verify(backbone)  # a damaged file is named; all of them are verified before anything is computed
        raise
    sequences = [
        tokenize(tokenizer, path.stem, of_language, config.extraction)
        for (path, _), of_language in zip(missing, kept, strict=True)
    ]
    with ExitStack() as unfinished:
        # Snakemake removes the outputs of a job that fails: what they are made of stays until the last one is there.
        manifest = read_manifest(backbone)
        scratch = [
            unfinished.enter_context(scratch_folder(output, [content, vars(one), manifest["files"], code]))
            for (_, output), one in zip(missing, sequences, strict=True)
        ]
        found = _computed(config.extraction, backbone, gpus, sequences, scratch)
        for (path, output), of_language, one in zip(missing, kept, sequences, strict=True):
            given = {"backbone": backbone, "texts": path, "output": output}
            with recording("extract_hidden_states", code, content, given):
                used(path, [text.line for text in of_language])
                save(output, next(found), one.names)


def _computed(
    extraction: Extraction, backbone: Path, gpus: int, texts: Sequence[Sequences], scratch: Sequence[Path]
) -> Iterator[HiddenStates]:
    """Load the backbone and yield the states of each language. The time of the first language includes the loading."""
    folder, device, attention = backbone.parent, device_of(gpus), extraction.attention
    dtype = DTYPES[extraction.dtype] if extraction.dtype else None
    if extraction.memory == "stream":
        with verifying(backbone):
            streamed = StreamedDecoder(folder, [ids for one in texts for ids in one.ids], device, dtype, attention)
        yield from stream(streamed, texts, extraction, scratch)
    else:
        with verifying(backbone):
            decoder = load_decoder(folder, dtype, device, attention)
        for one, own in zip(texts, scratch, strict=True):
            yield extract(decoder, one, extraction, own)
