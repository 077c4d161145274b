"""Mean states per language after every block, for methods that edit the residual stream."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from lensflow.artifacts import states
from lensflow.artifacts.texts import read_texts
from lensflow.errors import LensflowError
from lensflow.methods.base import Run
from lensflow.models.batching import batches_by_length, pad
from lensflow.models.loading import device_of, layers_of, load_decoder
from lensflow.models.taps import tap_layers
from lensflow.models.tokenizer import PromptTokenizer
from lensflow.storage.journal import used

_BATCH_TOKENS = 512


def prompt_means(run: Run[Any]) -> Tensor:
    """Return the mean state of the last prompt token per language after every block, before the final norm.

    The states come from the stage `extract_hidden_states`, so a method that calls this must set `needs_states`.

    Returns:
        (L, K, d) float64, for the K languages of the setting in their order, over the train split.
    """
    assert run.hidden is not None
    means = []
    for language in run.setting.languages:
        texts = read_texts(run.texts[language], ["train"])
        used(run.texts[language], [text.line for text in texts])
        means.append(states.load(run.hidden.states[language]).layers[:, : len(texts)].double().mean(dim=1))
    return torch.stack(means, dim=1)


@dataclass(frozen=True)
class TextStates:
    """The float32 states of N texts of one language, without the first token of each text (usually BOS).

    Attributes:
        sums: (N, L, d), summed over tokens.
        norms: (N, L), the lengths of the states, summed over tokens.
        counts: (N,) tokens.
    """

    sums: Tensor
    norms: Tensor
    counts: Tensor

    @property
    def token_mean(self) -> Tensor:
        """Mean state over all tokens, (L, d) float64."""
        return self.sums.double().sum(0) / self.counts.sum()

    @property
    def text_means(self) -> Tensor:
        """Mean state of each text, (N, L, d) float64."""
        return self.sums.double() / self.counts[:, None, None]

    @property
    def mean_norm(self) -> Tensor:
        """Mean length of the states, (L,) float64."""
        return self.norms.double().sum(0) / self.counts.sum()


@torch.inference_mode()
def text_states(run: Run[Any]) -> Iterator[tuple[str, TextStates]]:
    """Run the train prompts of the training corpus through the backbone, as plain texts without a prompt format.

    Equivalent code for one text: `model(ids, output_hidden_states=True)`, then the states after each block, before the
    final norm, from the second token on.

    Yields:
        The states of each language of the setting.

    Raises:
        LensflowError: a language has no text of at least two tokens.
    """
    tokenizer = PromptTokenizer(run.backbone.parent, run.prompt)
    decoder = load_decoder(run.backbone.parent, torch.float32, device_of(run.gpus))
    depth, width = len(layers_of(decoder)), decoder.config.hidden_size
    for language in run.setting.languages:
        texts = read_texts(run.texts[language], ["train"])
        used(run.texts[language], [text.line for text in texts])
        encoded = [tokenizer.ids_of(tokenizer.literal(text.prompt), add_special_tokens=True) for text in texts]
        encoded = [ids for ids in encoded if len(ids) > 1]
        if not encoded:
            raise LensflowError(f"{run.texts[language]}: no train text of '{language}' has two tokens; add one")
        found = TextStates(
            torch.zeros(len(encoded), depth, width),
            torch.zeros(len(encoded), depth),
            torch.tensor([len(ids) - 1 for ids in encoded]),
        )
        with tqdm(total=len(encoded), desc=f"{language} texts", unit="text", mininterval=1) as progress:
            for batch in batches_by_length([len(ids) for ids in encoded], _BATCH_TOKENS):
                ids, lengths = pad([encoded[index] for index in batch])
                with tap_layers(decoder, [], range(depth)) as tapped:
                    decoder(input_ids=ids.to(decoder.device), use_cache=False)
                places = torch.arange(ids.shape[1])
                counted = ((places > 0) & (places < lengths[:, None]))[..., None]
                for layer in range(depth):
                    kept = tapped["out", layer].float().cpu() * counted
                    found.sums[batch, layer] = kept.sum(1)
                    found.norms[batch, layer] = kept.norm(dim=-1).sum(1)
                progress.update(len(batch))
        yield language, found
