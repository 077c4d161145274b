"""An exported method in `vllm serve`: a plugin of vLLM (entry point `vllm.general_plugins`).

vllm serve my-model --enforce-eager

A request names the language of its answer, `"vllm_xargs": {"language": "sw"}`, and `source` if the prompt is in another
language. Offline, these are `SamplingParams(extra_args=...)`. A request that names no language gets the server's
default (`--additional-config '{"lensflow": {"language": "sw"}}'`), or else the unchanged weights. Requests in different
languages run in one batch.

Two classes of vLLM 0.32 are extended: the one that checks requests before the engine, and the one that starts a worker.
Models without `lensflow.json` do not change.
"""

import hashlib
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from lensflow.artifacts import exported
from lensflow.artifacts.exported import Exported
from lensflow.artifacts.interventions import BlockEdit, StateEdit
from lensflow.artifacts.layout import DELTA
from lensflow.errors import LensflowError
from lensflow.models.engines.edits import layers_in
from lensflow.models.engines.script_mask import ScriptMask
from lensflow.models.engines.vllm import stack_of, states_of, with_states
from lensflow.models.tokenizer import PromptTokenizer
from lensflow.schema.backbone import Prompt
from lensflow.schema.parsing import parse
from lensflow.storage.digests import canonical_json

LOG = logging.getLogger("vllm.lensflow")
KEY = "lensflow"  # in vLLM's additional configuration


def register() -> None:
    """Extend vLLM; vLLM calls this function in each of its processes."""
    from vllm.v1.engine.input_processor import InputProcessor
    from vllm.v1.worker.worker_base import WorkerWrapperBase

    if hasattr(InputProcessor, KEY):
        return
    start, process, initialize = (
        InputProcessor.__init__,
        InputProcessor.process_inputs,
        WorkerWrapperBase.initialize_from_config,
    )

    def start_checked(self: Any, vllm_config: Any, *args: Any, **given: Any) -> None:
        self.lensflow = _method(vllm_config)
        if self.lensflow is not None:
            _check(vllm_config, self.lensflow)
        start(self, vllm_config, *args, **given)

    def process_told(self: Any, *args: Any, **given: Any) -> Any:
        request = process(self, *args, **given)
        if self.lensflow is not None and request.sampling_params is not None:
            _tell(request, self.lensflow, _options(self.vllm_config))
        return request

    def initialize_and_attach(self: Any, *args: Any, **given: Any) -> None:
        initialize(self, *args, **given)
        found = _method(self.vllm_config)
        if found is not None:
            _Attached(self.worker.model_runner, found)

    InputProcessor.lensflow = None
    InputProcessor.__init__, InputProcessor.process_inputs = start_checked, process_told
    WorkerWrapperBase.initialize_from_config = initialize_and_attach


class Script(AdapterLogitsProcessor):  # type: ignore[misc]
    """Restricts generation to the script of the wanted language, for methods that do so.

    Tell vLLM to use it with `--logits-processors lensflow.serving.vllm:Script`.
    """

    def __init__(self, vllm_config: Any, *args: Any) -> None:
        super().__init__(vllm_config, *args)
        self._found, self._masks = _method(vllm_config), dict[str, ScriptMask]()
        model = vllm_config.model_config
        self._backbone, self._revision = model.model, model.revision

    def is_argmax_invariant(self) -> bool:
        """Return whether the likeliest token stays the same."""
        return False

    def new_req_logits_processor(self, params: Any) -> Any:
        """Return the function that changes the logits of a request; None if nothing changes them."""
        language: str = (params.extra_args or {}).get("language", "")
        if self._found is None or language not in self._found.intervention.constrained:
            return None
        mask = self._mask(self._found, language)

        def restrict(output_ids: list[int], logits: Tensor) -> Tensor:
            mask.apply(logits, output_ids)
            return logits

        return restrict

    def _mask(self, found: Exported, language: str) -> ScriptMask:
        if language not in self._masks:
            folder = exported.local(self._backbone, ["*.json", "*.jinja"], self._revision)
            prompt = parse(Prompt, found.content["prompt"], str(found.folder / exported.NAME))
            self._masks[language] = ScriptMask(PromptTokenizer(folder, prompt), language)
        return self._masks[language]


def _options(vllm_config: Any) -> dict[str, str]:
    """Return the settings of the server: `method`, if it lies elsewhere than the model, and the default `language`."""
    given = vllm_config.additional_config
    found: dict[str, str] = given.get(KEY, {}) if isinstance(given, dict) else {}
    return found


def _method(vllm_config: Any) -> Exported | None:
    """Return the method that a model is served with; None for other models."""
    model = vllm_config.model_config.model
    place = _options(vllm_config).get("method", model)
    if place == model and not (Path(model) / exported.NAME).is_file():
        return None
    found = exported.read(place)
    acts = found.intervention.width is not None or found.intervention.constrained
    return found if acts or not found.is_whole else None


def _check(vllm_config: Any, found: Exported) -> None:
    """Check that vLLM can serve a method.

    Raises:
        LensflowError: vLLM cannot serve the method.
    """
    where, intervention, model = f"{found.folder}: ", found.intervention, vllm_config.model_config
    if not found.is_whole and (found.folder / DELTA).is_file():
        raise LensflowError(f"{where}has weights of its own; export it without --reference to serve it")
    wanted = {"hidden_size": model.get_hidden_size(), "layers": model.get_total_num_hidden_layers()}
    if any(found.content["backbone"][name] != value for name, value in wanted.items()):
        raise LensflowError(f"{where}belongs to another backbone than {model.model}; serve its own")
    if (language := _options(vllm_config).get("language")) is not None:
        found.known(language)
    if intervention.gate is not None:
        raise LensflowError(f"{where}has a gate, which vllm serve does not apply; use lensflow.serving.hf")
    if intervention.constrained and "lensflow.serving.vllm:Script" not in (model.logits_processors or ()):
        raise LensflowError(f"{where}restricts scripts; add --logits-processors lensflow.serving.vllm:Script")
    if intervention.width is None:
        return
    if not model.enforce_eager:
        raise LensflowError(f"{where}edits of states do not reach compiled graphs; add --enforce-eager")
    if vllm_config.use_v2_model_runner:
        raise LensflowError(f"{where}vLLM's second model runner is not supported; set VLLM_USE_V2_MODEL_RUNNER=0")
    parallel = vllm_config.parallel_config
    if parallel.pipeline_parallel_size > 1 or vllm_config.speculative_config is not None:
        raise LensflowError(f"{where}needs --pipeline-parallel-size 1 and no speculative decoding")


def _tell(request: Any, found: Exported, options: dict[str, str]) -> None:
    """Give a request the default language, and its own part of the prefix cache, which only equal edits share.

    Raises:
        VLLMValidationError: the method does not know the language; the server then answers with status 400.
    """
    from vllm.exceptions import VLLMValidationError

    params = request.sampling_params
    extra = {"language": options["language"]} if "language" in options else {}
    params.extra_args = extra = extra | (params.extra_args or {})
    if "language" not in extra:
        return
    try:
        language = found.known(extra["language"])
        source = found.known(extra.get("source", language))
    except LensflowError as error:
        raise VLLMValidationError(str(error)) from None
    blocks = found.intervention.identity(language, source).get("blocks")
    if blocks is not None:
        salted = canonical_json([request.cache_salt, blocks])
        request.cache_salt = hashlib.sha256(salted.encode()).hexdigest()


class _Attached:
    """The edits of a method in a worker's model: the tokens of each request change as its language requires.

    Args:
        runner: vLLM's model runner with a loaded model.
        found: the method.

    Raises:
        LensflowError: the model has no single stack of blocks.
    """

    def __init__(self, runner: Any, found: Exported) -> None:
        self._runner, self._intervention = runner, found.intervention
        self._rows: list[tuple[StateEdit, Tensor]] = []  # edits of the running pass, and the tokens that they change
        self._index = self._prompt = torch.empty(0)
        model, intervention = runner.get_model(), found.intervention
        if intervention.width is None:
            return
        model.register_forward_pre_hook(self._locate, with_kwargs=True)
        stack = stack_of(model)
        for layer in layers_in([edit for edits in intervention.blocks.values() for edit in edits]):
            stack[layer].register_forward_hook(self._hook_of(layer))
        if intervention.shifts or intervention.removed is not None:
            model.register_forward_hook(self._after_norm)
        LOG.info("Lensflow: %s (%s) is applied by request", found.folder, found.content["method"])

    def _locate(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Note which tokens of a pass belong to which edit."""
        batch, requests = self._runner.input_batch, self._runner.requests
        starts = self._runner.query_start_loc.np[: batch.num_reqs + 1].tolist()
        self._index = kwargs["positions"] if "positions" in kwargs else args[1]
        self._prompt = torch.zeros_like(self._index, dtype=torch.long)
        self._rows = []
        tokens: dict[tuple[str, str], list[int]] = {}
        for number, name in enumerate(batch.req_ids[: batch.num_reqs]):
            self._prompt[starts[number] : starts[number + 1]] = int(batch.num_prompt_tokens[number])
            params = requests[name].sampling_params
            extra = (None if params is None else params.extra_args) or {}
            if "language" in extra:
                pair = (extra.get("source", extra["language"]), extra["language"])
                tokens.setdefault(pair, []).extend(range(starts[number], starts[number + 1]))
        for (source, language), rows in tokens.items():
            edit = self._intervention.edit(language, source)
            if edit is not None:
                self._rows.append((edit, torch.tensor(rows, device=self._index.device)))

    def _hook_of(self, layer: int) -> Any:
        def change(edit: BlockEdit, states: Tensor, rows: Tensor) -> None:
            states[rows] = edit(states[rows], self._index[rows], self._prompt[rows])

        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            wanted = [(b, rows) for edit, rows in self._rows for b in edit.blocks if b.layer == layer]
            if not wanted:
                return None
            states = states_of(output).clone()
            for block, rows in wanted:
                change(block, states, rows)
            return with_states(output, states)

        return hook

    def _after_norm(self, module: nn.Module, args: Any, states: Tensor) -> Tensor | None:
        if not self._rows:
            return None
        states = states.clone()
        for edit, rows in self._rows:
            states[rows] = edit(states[rows])
        return states
