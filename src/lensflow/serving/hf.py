"""An exported method in transformers, outside of the pipeline.

from lensflow.serving.hf import load

model, tokenizer = load("my-model", language="sw")

Afterwards, `model.generate` and everything that calls it, such as transformers' pipelines, answer as the method does.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lensflow.artifacts import exported
from lensflow.artifacts.checkpoint import SMALL_FILES
from lensflow.artifacts.exported import Exported
from lensflow.artifacts.interventions import StateEdit
from lensflow.artifacts.layout import DELTA
from lensflow.artifacts.weights import WeightFiles
from lensflow.errors import LensflowError
from lensflow.models.conversion import Conversion
from lensflow.models.engines import edits
from lensflow.models.engines.gate import FamilyMask
from lensflow.models.engines.hf import BehindGate, InScript, index_of, shown_to, states_of, with_states
from lensflow.models.engines.script_mask import ScriptMask
from lensflow.models.loading import decoder_of, layers_of
from lensflow.models.tokenizer import PromptTokenizer
from lensflow.schema.backbone import Prompt
from lensflow.schema.parsing import parse

if TYPE_CHECKING:
    from transformers import PreTrainedModel  # takes seconds to import


def load(
    place: str | Path,
    language: str | None = None,
    source: str | None = None,
    backbone: str | Path | None = None,
    **given: Any,
) -> tuple[Any, Any]:
    """Load an exported method: its backbone, its changed weights, and what it does while the model answers.

    Args:
        place: folder that `lensflow export` wrote, or owner/name of one on the hub.
        language: wanted language of the answers; None applies only the changed weights.
        source: language of the prompts; None if it is the same.
        backbone: folder of the backbone, if `place` has no weights and the backbone is not on the hub.
        given: further arguments of transformers' `from_pretrained`, such as `dtype` and `device_map`.

    Returns:
        transformers' model and tokenizer.

    Raises:
        LensflowError: there is no such method, the method does not know the language, or it belongs to another
            backbone.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = exported.read(place)
    folder = _backbone(found, backbone)
    model = AutoModelForCausalLM.from_pretrained(folder, **given).eval()
    if not found.is_whole and (found.folder / DELTA).is_file():
        changed = load_file(found.folder / DELTA)
        weights = model.state_dict()
        for name, tensor in Conversion(model, WeightFiles(folder)).from_checkpoint(changed).items():
            if weights[name].shape != tensor.shape:
                raise LensflowError(f"{place}: tensor '{name}' has another shape than in {folder}; give its backbone")
            weights[name].copy_(tensor)
    if language is not None:
        _apply(model, found, language, source, folder)
    return model, AutoTokenizer.from_pretrained(folder)


def apply(model: Any, place: str | Path, language: str, source: str | None = None) -> Callable[[], None]:
    """Let a loaded model answer as an exported method does; the weights do not change.

    Args:
        model: the method's backbone, loaded with transformers.
        place, language, source: as in `load`.

    Returns:
        A function that removes the method. Afterwards, another language can be applied.

    Raises:
        LensflowError: as in `load`; or a method is already applied, or an edit does not change the states as it should.
    """
    found = exported.read(place)
    return _apply(model, found, language, source, found.folder if found.is_whole else None)


def _backbone(found: Exported, given: str | Path | None) -> Path:
    """Return the folder from which weights are loaded."""
    if found.is_whole:
        return found.folder
    if given is not None:
        return Path(given)
    origin = found.content["backbone"]["source"]
    if origin.get("kind") != "hub":
        raise LensflowError(
            f"{found.folder}: its backbone is not on the hub; give the folder of its weights (backbone)"
        )
    return exported.local(origin["name"], [*SMALL_FILES, "*.safetensors"], origin["revision"])


def _apply(
    model: "PreTrainedModel", found: Exported, language: str, source: str | None, backbone: Path | None
) -> Callable[[], None]:
    if "generate" in vars(model):
        raise LensflowError("apply: the model has a method already; undo that one first")
    edit = found.intervention.edit(found.known(language), found.known(source or language))
    decoder = decoder_of(model)
    shape = (decoder.config.hidden_size, decoder.config.num_hidden_layers)
    wanted = tuple(found.content["backbone"][name] for name in ("hidden_size", "layers"))
    if shape != wanted:
        raise LensflowError(
            f"{found.folder}: is for {wanted[1]} blocks and states of {wanted[0]} dimensions, the model has {shape[1]} "
            f"and {shape[0]}; load the method's own backbone"
        )
    with ExitStack() as started:  # undone if the test of an edit fails
        if edit is not None:
            mask = gate = None
            if edit.script is not None or edit.gate is not None:
                tokenizer = _tokenizer(found, backbone or _backbone(found, None))
                mask = None if edit.script is None else ScriptMask(tokenizer, edit.script)
                gate = None if edit.gate is None else FamilyMask(tokenizer, edit.gate)
            _Applied(model, edit, mask, gate, started)
        return started.pop_all().close


def _tokenizer(found: Exported, backbone: Path) -> PromptTokenizer:
    return PromptTokenizer(backbone, parse(Prompt, found.content["prompt"], str(found.folder / exported.NAME)))


class _Applied:
    """An edit in a model: hooks on its blocks and its final norm, and a `generate` that knows where prompts end.

    Args:
        model: the transformers model.
        edit: the edit of its states.
        mask: the mask of the script that may be generated; None for any script.
        gate: a gate that restricts the generated tokens to families of scripts; None for no restriction.
        undo: collects what removes the edit.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        edit: StateEdit,
        mask: ScriptMask | None,
        gate: FamilyMask | None,
        undo: ExitStack,
    ) -> None:
        self._generate, self._mask, self._gate = model.generate, mask, gate
        self._settings = model.generation_config
        self._prompts: list[int] = []  # lengths of the prompts that are continued; none: nothing is generated
        self._places = edits.Places()
        model.generate = self.generate
        undo.callback(delattr, model, "generate")
        decoder = decoder_of(model)
        if edit.shift is not None or edit.removed is not None:

            def after_norm(decoder: nn.Module, args: Any, output: Any) -> None:
                output.last_hidden_state = edit(output.last_hidden_state)

            undo.enter_context(decoder.register_forward_hook(after_norm))
        if gate is not None:
            undo.enter_context(shown_to(gate, model))
        if edit.blocks:
            undo.enter_context(decoder.register_forward_pre_hook(self._locate, with_kwargs=True))
            layers = layers_of(decoder)
            for handle in edits.change(layers, edit.blocks, self._places, states_of, with_states):
                undo.enter_context(handle)
            self._check(decoder, edit, layers)

    def _check(self, decoder: "PreTrainedModel", edit: StateEdit, layers: nn.ModuleList) -> None:
        recorded: list[edits.Recorded] = []
        self._prompts = [3]  # and two tokens that count as generated
        with ExitStack() as recorders, torch.inference_mode():
            for handle in edits.record(layers, edit.blocks, self._places, states_of, recorded):
                recorders.enter_context(handle)
            decoder(input_ids=torch.arange(3, 8, device=decoder.device)[None], use_cache=False)
        self._prompts = []
        edits.check(edit.blocks, recorded, "hf")

    def _locate(self, decoder: nn.Module, args: Any, kwargs: Any) -> None:
        ids = args[0] if args else kwargs["input_ids"]
        self._places.index = index_of(ids, kwargs)
        lengths = self._prompts or [edits.WHOLE]
        copies = len(ids) // len(lengths)  # beams, or several answers to a prompt
        prompt = torch.tensor(lengths, device=ids.device).repeat_interleave(copies)
        self._places.prompt = prompt[:, None]

    def generate(self, inputs: Tensor | None = None, *args: Any, **given: Any) -> Any:
        """Generate as the model does; `given` holds the arguments of transformers."""
        ids = given.get("input_ids") if inputs is None else inputs
        if ids is None:
            raise LensflowError("generate: give input_ids; prompts of other kinds are not edited")
        mask = given.get("attention_mask")
        self._prompts = (torch.ones_like(ids) if mask is None else mask).sum(1).tolist()
        processors: list[Any] = []
        if self._gate is not None:
            processors.append(BehindGate(self._gate, ids.shape[1], *self._sampling(given)))
        if self._mask is not None:
            processors.append(InScript(self._mask, ids.shape[1]))
        if processors:
            given["logits_processor"] = [*(given.get("logits_processor") or ()), *processors]
        try:
            return self._generate(inputs, *args, **given)
        finally:
            self._prompts = []

    def _sampling(self, given: Mapping[str, Any]) -> tuple[float, float]:
        """Return temperature and top-p of the generation; temperature 0 is greedy."""
        settings = given.get("generation_config") or self._settings
        samples, temperature, top_p = (
            given.get(name, getattr(settings, name)) for name in ("do_sample", "temperature", "top_p")
        )
        return (1.0 if temperature is None else temperature) if samples else 0.0, 1.0 if top_p is None else top_p
