"""Decoder stacks without their output layer, whole or only the top layers, for any family that transformers knows.

Nothing here is a list of families: layers are found in the model's structure, and a stack of the top layers is the
model's own class with a shorter configuration, so that masks, rotary embeddings and layer types stay the family's.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from lensflow.config import Attention, Pooling
from lensflow.errors import LensflowError
from lensflow.files import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel  # takes seconds to import

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_LAYER = re.compile(r"^(?P<stem>.*\blayers\.)(?P<index>\d+)\.(?P<rest>.+)$")


CPU = torch.device("cpu")


def device_of(gpus: int) -> torch.device:
    """Return the device of a stage that was given so many GPUs.

    Raises:
        LensflowError: it was given one, and there is none.
    """
    if gpus and not torch.cuda.is_available():
        raise LensflowError(f"--gpus {gpus}: this machine has no CUDA device that torch can use; set resources.gpus: 0")
    return torch.device("cuda") if gpus else CPU


def import_transformers() -> Any:
    """Import transformers without scikit-learn and SciPy, which it would load: a second and 100 MB of every stage.

    It needs them for assisted generation and for losses of object detection.
    """
    import transformers.utils

    transformers.utils.is_sklearn_available = transformers.utils.is_scipy_available = lambda: False
    return transformers


def load_decoder(
    checkpoint: Path, dtype: torch.dtype | None = None, device: torch.device = CPU, attention: Attention = "sdpa"
) -> "PreTrainedModel":
    """Load a checkpoint's decoder (embeddings, layers, final norm), frozen and without its output layer.

    Args:
        checkpoint: folder of the checkpoint.
        dtype: of the weights in memory; None for the checkpoint's own.
        device: that it runs on.
        attention: transformers' implementation.

    Raises:
        LensflowError: the family has no stack of decoder layers that can be found.
    """
    model = import_transformers().AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=dtype or "auto", attn_implementation=attention
    )
    decoder = model.base_model
    decoder.requires_grad_(False).eval()
    layers_of(decoder)
    return decoder.to(device)


def layers_of(decoder: "PreTrainedModel") -> nn.ModuleList:
    """Return the decoder layers: the one list of modules that is as long as the configuration says.

    Raises:
        LensflowError: there is not exactly one such list.
    """
    depth = decoder.config.num_hidden_layers
    found = [m for m in decoder.children() if isinstance(m, nn.ModuleList) and len(m) == depth]
    if len(found) != 1:
        raise LensflowError(
            f"model type '{decoder.config.model_type}': no single stack of {depth} decoder layers; "
            "this family is not supported"
        )
    return found[0]


class WeightFiles:
    """The tensors of a sharded safetensors checkpoint, read one at a time.

    Where there is an index, only it counts: some repositories hold a second copy of the weights under other names.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.location: dict[str, Path] = {}
        index = checkpoint / "model.safetensors.index.json"
        if index.is_file():
            self.location = {name: checkpoint / file for name, file in read_json(index)["weight_map"].items()}
            return
        for path in sorted(checkpoint.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                self.location.update(dict.fromkeys(file.keys(), path))

    def read(self, name: str) -> Tensor:
        """Read one tensor, memory-mapped."""
        with safe_open(self.location[name], framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor

    def top_layers(self, depth: int, count: int) -> dict[str, str]:
        """Map the names of the top `count` of `depth` layers, numbered from 0 as in a shorter stack, to their own.

        Example: with depth 18 and count 2, `layers.0.mlp.up_proj.weight` -> `model.layers.16.mlp.up_proj.weight`.
        """
        names = {}
        for name in self.location:
            match = _LAYER.match(name)
            if match and int(match["index"]) >= depth - count:
                names[f"layers.{int(match['index']) - depth + count}.{match['rest']}"] = name
        return names

    def final_norm(self) -> dict[str, str]:
        """Map the names of the final norm in a decoder to their own."""
        stems = {match["stem"] for name in self.location if (match := _LAYER.match(name))}
        found = {}
        for stem in stems:
            prefix = stem.removesuffix("layers.")
            for name in self.location:
                rest = name.removeprefix(prefix)
                if name.startswith(prefix) and "norm" in rest and not rest.startswith(("layers.", "embed")):
                    found[rest] = name
        return found


def load_top_layers(
    checkpoint: Path, count: int, dtype: torch.dtype, device: torch.device = CPU, attention: Attention = "sdpa"
) -> tuple["PreTrainedModel", dict[str, str]]:
    """Build a decoder of only the top `count` layers and the final norm; nothing else is read.

    It is called with `inputs_embeds`, the states that enter its first layer.

    Args:
        checkpoint: folder of the backbone.
        count: number of layers.
        dtype: of the weights in memory.
        device: that it runs on.
        attention: transformers' implementation.

    Returns:
        The decoder, its final norm frozen, and the checkpoint's name of every parameter of its layers.

    Raises:
        LensflowError: the checkpoint's tensors do not fit the family's decoder.
    """
    transformers = import_transformers()
    from transformers.initialization import no_init_weights

    config = transformers.AutoConfig.from_pretrained(checkpoint)
    depth = config.num_hidden_layers
    if not 1 <= count <= depth:
        raise LensflowError(f"layers: {count} of a model that has {depth}; choose between 1 and {depth}")
    config.num_hidden_layers = count
    if getattr(config, "layer_types", None):
        config.layer_types = list(config.layer_types[depth - count :])
    config.vocab_size, config.pad_token_id = 1, None  # the embeddings are not used
    with no_init_weights():  # random ones of a large model take many seconds
        decoder = transformers.AutoModel.from_config(config, dtype=dtype, attn_implementation=attention)
    files = WeightFiles(checkpoint)
    names = files.top_layers(depth, count)
    state = {short: files.read(name).to(dtype) for short, name in {**names, **files.final_norm()}.items()}
    result = decoder.load_state_dict(state, strict=False)
    missing = [name for name in result.missing_keys if not name.startswith("embed")]
    if missing or result.unexpected_keys:
        odd = (missing + result.unexpected_keys)[0]
        family = config.model_type
        raise LensflowError(f"model type '{family}': tensor '{odd}' does not fit; this family is not supported")
    decoder.requires_grad_(False).eval()  # no dropout: the states must be those that were cached
    layers_of(decoder).requires_grad_(True)
    return decoder.to(device), names


class StreamedDecoder:
    """A checkpoint's decoder that never holds more than one layer; for backbones larger than memory.

    It is the family's own model without weights. A forward pass skips every layer but one, so that masks, rotary
    embeddings and whatever depends on a layer's index stay the family's.

    Args:
        checkpoint: folder of the backbone, whose shards are read as they are needed.
        sequences: token ids of all texts that it will run; only these rows of the embeddings are read.
        device: that it runs on.
        dtype: of a layer's weights in memory; None for the checkpoint's own.
        attention: transformers' implementation.

    Raises:
        LensflowError: the checkpoint's tensors do not fit the family's decoder.
    """

    def __init__(
        self,
        checkpoint: Path,
        sequences: Sequence[Sequence[int]],
        device: torch.device = CPU,
        dtype: torch.dtype | None = None,
        attention: Attention = "sdpa",
    ) -> None:
        from accelerate import init_empty_weights

        transformers = import_transformers()

        config = transformers.AutoConfig.from_pretrained(checkpoint)
        self._files, self.device = WeightFiles(checkpoint), device
        self.dtype: torch.dtype = dtype or config.dtype or self._files.read(next(iter(self._files.location))).dtype
        with init_empty_weights(include_buffers=False):  # buffers are small, and computed rather than read
            model = transformers.AutoModel.from_config(config, dtype=self.dtype, attn_implementation=attention)
        self.module: PreTrainedModel = model.requires_grad_(False).eval()
        self._layers = layers_of(self.module)
        embedding = model.get_input_embeddings()
        used = torch.tensor(sorted({token for ids in sequences for token in ids}))
        (stack,) = (name for name, child in self.module.named_children() if child is self._layers)
        (table,) = (f"{name}.weight" for name, child in self.module.named_modules() if child is embedding)
        prefixes = [name.removesuffix(table) for name in self._files.location if name.endswith(table)]
        if len(prefixes) != 1:
            raise self._unfit(f"{len(prefixes)} tensors are called '{table}'")
        self._stem = f"{prefixes[0]}{stack}."
        weights = {
            name: self._read(prefixes[0] + name, meta.shape)
            for name, meta in self.module.state_dict().items()
            if not name.startswith(f"{stack}.")
        }
        rows = weights.pop(table)[used]
        weights = {name: tensor.to(device, self.dtype) for name, tensor in weights.items()}
        self.module.load_state_dict(weights, strict=False, assign=True)
        for module in self.module.modules():  # not `.to`: the layers have no weights that could be moved
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(device))
        embedding.weight = nn.Parameter(rows.to(device, self.dtype), requires_grad=False)
        used = used.to(device)
        embedding.padding_idx = None  # a row of the whole table, which says only where there is no gradient
        # Only here, since a model may use the ids for more. That of pads, 0, gives the first row where it is not used.
        embedding.register_forward_pre_hook(lambda module, args: (torch.searchsorted(used, args[0]), *args[1:]))

    def _unfit(self, reason: str) -> LensflowError:
        family = self.module.config.model_type
        return LensflowError(f"model type '{family}': {reason}; set extraction.memory: resident")

    def _read(self, name: str, shape: torch.Size) -> Tensor:
        tensor = self._files.read(name) if name in self._files.location else None
        if tensor is None or tensor.shape != shape:
            raise self._unfit(f"tensor '{name}' is missing or has another shape")
        return tensor

    @contextmanager
    def only(self, index: int) -> Iterator[None]:
        """Hold one layer, which `run` can run in this context.

        Raises:
            LensflowError: the checkpoint's tensors are not those of the layer.
        """
        layer = self._layers[index]
        weights = {
            name: self._read(f"{self._stem}{index}.{name}", meta.shape).to(self.device, self.dtype)
            for name, meta in layer.state_dict().items()
        }
        layer.load_state_dict(weights, assign=True)
        others = [other for other in self._layers if other is not layer]
        for other in others:
            other.forward = _skip
        try:
            yield
        finally:
            for other in others:
                del other.forward
            layer.to("meta")

    def run(self, index: int, ids: Tensor, entering: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Run the layer that is held.

        Args:
            index: of the layer.
            ids: (n, T) token ids.
            entering: (n, T, d) states that enter the layer; None for the embeddings of `ids`.

        Returns:
            States that entered it, states that leave it and, for the top layer, those after the final norm; (n, T, d)
            on the CPU.
        """

        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if entering is None:
                return None
            moved = entering.to(self.device)
            return ((moved, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": moved})

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, tuple):  # which `_skip` would have to imitate
                raise self._unfit("layers return more than their states")

        layer = self._layers[index]
        handles = [layer.register_forward_pre_hook(enter, with_kwargs=True), layer.register_forward_hook(leave)]
        try:
            with tap_layers(self.module, [index], [index]) as states:
                output: Tensor = self.module(input_ids=ids.to(self.device), use_cache=False).last_hidden_state
        finally:
            for handle in handles:
                handle.remove()
        return states["in", index].cpu(), states["out", index].cpu(), output.cpu()


def _skip(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    """Stand in for the forward pass of a layer."""
    return hidden_states


@contextmanager
def tap_layers(
    decoder: "PreTrainedModel", entering: Sequence[int], leaving: Sequence[int]
) -> Iterator[dict[Any, Tensor]]:
    """Collect states during a forward pass.

    Args:
        decoder: the decoder.
        entering: layers whose input is kept, under the key ("in", layer).
        leaving: layers whose output is kept, under the key ("out", layer).

    Yields:
        A dictionary that holds the states, each (batch, tokens, d), after a forward pass.
    """
    states: dict[Any, Tensor] = {}
    layers = layers_of(decoder)

    def keep_input(index: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            states["in", index] = args[0] if args else kwargs["hidden_states"]

        return layers[index].register_forward_pre_hook(hook, with_kwargs=True)

    def keep_output(index: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            states["out", index] = output[0] if isinstance(output, tuple) else output

        return layers[index].register_forward_hook(hook)

    handles = [keep_input(index) for index in entering] + [keep_output(index) for index in leaving]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


class _Interrupted(Exception):  # noqa: N818 - not an error
    """The keys and values are there; the rest of the layer is not wanted."""


class _KeysAndValues:
    """In the place of a key-value cache: takes those of all tokens, then gives them to whoever asks with other ones."""

    kept: tuple[Tensor, Tensor] | None = None

    def update(self, keys: Tensor, values: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        if self.kept is None:
            self.kept = keys, values
            raise _Interrupted
        return self.kept


@contextmanager
def only_rows(decoder: "PreTrainedModel", rows: Tensor) -> Iterator[None]:
    """Let the top layer compute only some tokens of one packed sequence, from all tokens' keys and values.

    The layer runs twice: on all tokens up to where it hands its keys and values to the cache, then on the chosen ones.
    States and gradients are those of a full pass, at a fraction of the layer's cost where few are chosen.

    Args:
        decoder: its output in this context is (1, M, d), not (1, S, d).
        rows: (M,) positions in the packed sequence.
    """

    def pick(value: Any) -> Any:
        """(1, S, ...) -> (1, M, ...), also in tuples such as the rotary embedding's."""
        if isinstance(value, tuple):
            return tuple(map(pick, value))
        return value[:, rows] if isinstance(value, Tensor) else value

    def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        kwargs["past_key_values"] = cache = _KeysAndValues()
        with suppress(_Interrupted):
            layer.forward(*args, **kwargs)
        if cache.kept is None:
            raise LensflowError("the top layer has no keys and values; this model family is not supported")
        mask, tokens = kwargs.pop("attention_mask"), cache.kept[0].shape[2]
        if mask is None:  # a single text: plainly causal
            mask = torch.ones(1, 1, tokens, tokens, dtype=torch.bool, device=rows.device).tril()
        return pick(args), {name: pick(value) for name, value in kwargs.items()} | {"attention_mask": mask[:, :, rows]}

    handle = layers_of(decoder)[-1].register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def pad(sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Pad token ids on the right.

    With causal attention no real token sees a pad on its right, so its states do not depend on the batch and no mask
    is needed.

    Returns:
        ids (n, T) and lengths (n,), both int64.
    """
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    ids = torch.zeros(len(sequences), int(lengths.max()), dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
    return ids, lengths


def last_token(states: Tensor, lengths: Tensor) -> Tensor:
    """Pick the last real token of right-padded states: (n, T, d), (n,) -> (n, d)."""
    return states[torch.arange(len(states), device=states.device), lengths.to(states.device) - 1]


def pool(states: Tensor, lengths: Tensor, pooling: Pooling) -> Tensor:
    """The state of each of n right-padded texts: its last real token's, or the mean over its real tokens.

    Args:
        states: (n, T, d).
        lengths: (n,).
        pooling: `last` or `mean`; the mean is taken in float32.

    Returns:
        (n, d), in the dtype of `states`.
    """
    if pooling == "last":
        return last_token(states, lengths)
    pads = torch.arange(states.shape[1], device=states.device) >= lengths.to(states.device)[:, None]
    sums = states.masked_fill(pads[..., None], 0).sum(dim=1, dtype=torch.float32)
    return (sums / lengths.to(states.device)[:, None]).to(states.dtype)


def batches_by_length(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Group indices so that each batch holds texts of like length and at most `batch_tokens` padded tokens.

    Longest first, so that running out of memory shows at once.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
