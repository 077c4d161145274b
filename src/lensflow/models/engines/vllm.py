"""The vLLM engine, in this process."""

import functools
import gc
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lensflow.artifacts.checkpoint import positions
from lensflow.artifacts.interventions import BlockEdit, StateEdit
from lensflow.errors import LensflowError
from lensflow.models.engines import edits
from lensflow.models.engines.ends import Room, end_token_ids, eos_token_ids
from lensflow.models.engines.gate import FamilyMask
from lensflow.models.engines.process import last_line, prepare_process
from lensflow.models.engines.protocol import Answer
from lensflow.models.engines.script_mask import ScriptMask
from lensflow.models.likelihood import Counted, Likeliest, Masks
from lensflow.models.tokenizer import PromptTokenizer
from lensflow.schema.backbone import Resources
from lensflow.schema.decoding import Decoding
from lensflow.schema.evaluation import Evaluation
from lensflow.storage.verified import read_json

READS = False  # whole distributions
# Of a log-likelihood where an edit changes nothing. The sum that an edit makes is rounded once more in bfloat16.
_ROUNDING = {"float32": 1e-3, "bfloat16": 0.1}
_GATE: list[FamilyMask] = []  # of the running edit, in the process of a worker, where its model and sampler meet
_KV_CACHE_BYTES = 1 << 29  # on a CPU; vLLM's own default is nearly all of the machine's memory


class VllmEngine:
    """A checkpoint that vLLM runs, on the kind of device that vLLM was built for.

    vLLM's own tokenizer is switched off, because it loads and copies a large tokenizer several times (13 of 20 seconds
    of start-up with Gemma's). This module therefore decodes and stops the answers.

    Args:
        checkpoint: folder with config, weights and tokenizer.
        dtype: "float32" or "bfloat16".
        tokenizer: tokenizer of the checkpoint.
        max_model_len: largest number of tokens of a prompt and its answer together.
        resources: the GPUs over which the tensors are spread, and the share of their memory to use.
        max_num_seqs: largest number of sequences that run together.
        enforce_eager: whether to run without compiled graphs on a GPU, so that blocks can be edited.

    Raises:
        LensflowError: vLLM is not installed, would take a GPU that the stage was not given, or does not start on this
            checkpoint.
    """

    def __init__(
        self,
        checkpoint: Path,
        dtype: str,
        tokenizer: PromptTokenizer,
        max_model_len: int,
        resources: Resources,
        max_num_seqs: int = 128,
        enforce_eager: bool = False,
    ) -> None:
        prepare_process()
        if enforce_eager:
            os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"  # the first one says which tokens are of a prompt
        on_gpu = torch.cuda.is_available()
        if on_gpu and not resources.gpus:
            raise LensflowError(
                "vllm would use a GPU, but the backbone's resources.gpus is 0; set it to 1, or evaluation.engine: hf"
            )
        if not on_gpu:
            # Or the first log-probability would wait for a C++ compiler, which the machine may not even have.
            torch._dynamo.config.disable = True
        # Collecting garbage while thousands of modules load, and looking through them ever after, takes seconds.
        gc.disable()
        try:
            from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
            from vllm import LLM, ModelRegistry
            from vllm.v1.sample.logits_processor import AdapterLogitsProcessor
        except ImportError as error:
            raise LensflowError("engine: vllm is not installed; run make setup or set engine: hf") from error
        finally:
            gc.enable()
        gc.freeze()

        script_mask = functools.cache(partial(ScriptMask, tokenizer))

        class ForceTokens(AdapterLogitsProcessor):  # type: ignore[misc]
            """Forces a request to emit its `extra_args["tokens"]`, or restricts it to a gate or a script and ends it.

            The log-probabilities that vLLM reports are the unforced model's.
            """

            def is_argmax_invariant(self) -> bool:
                return False

            def apply(self, logits: Tensor) -> Tensor:
                for row, act in self.req_info.items():
                    self.row, self.rows = row, len(logits)
                    act(logits[row])
                return logits

            def new_req_logits_processor(self, params: Any) -> Any:
                extra = params.extra_args or {}
                tokens: list[int] = extra.get("tokens", [])

                def force(output_ids: list[int], logits: torch.Tensor) -> torch.Tensor:
                    logits[tokens[len(output_ids)]] = torch.inf
                    return logits

                def end(output_ids: list[int], logits: torch.Tensor) -> torch.Tensor:
                    if "gate" in extra:
                        (gate,) = _GATE
                        gate.apply(logits, self.row, self.rows, output_ids, params.temperature, params.top_p)
                    if script is not None:
                        script.apply(logits, output_ids)
                    if "end" in extra and room.is_over(output_ids):
                        logits[extra["end"]] = torch.inf
                    return logits

                room = Room(tokenizer, Decoding(max_characters=extra.get("room"), stop=tuple(extra.get("stop", ()))))
                script = script_mask(extra["script"]) if "script" in extra else None
                return force if tokens else end if extra else None

        self._compiled = on_gpu and not enforce_eager
        self._rounding = _ROUNDING[dtype]
        on_devices: dict[str, Any] = {
            "tensor_parallel_size": max(1, resources.gpus),
            "gpu_memory_utilization": resources.gpu_memory,
            **({"enforce_eager": True} if enforce_eager else {}),
        }
        on_cpu = {"enforce_eager": True, "max_num_batched_tokens": 512, "kv_cache_memory_bytes": _KV_CACHE_BYTES}
        self._tokenizer, self._eos = tokenizer, eos_token_ids(checkpoint, tokenizer)
        try:
            # vLLM would inspect the class in a process of its own, which imports everything again.
            config = read_json(checkpoint / "config.json")
            named = config.get("architectures") or [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config["model_type"]]]
            for name in named:
                if name in ModelRegistry.models:
                    ModelRegistry.register_model(name, ModelRegistry.models[name].load_model_cls())
            self._llm = LLM(
                str(checkpoint),
                dtype=dtype,
                max_model_len=max_model_len,
                max_num_seqs=max_num_seqs,
                skip_tokenizer_init=True,
                distributed_executor_backend="uni" if resources.gpus < 2 else "mp",
                enable_prefix_caching=True,  # examples before a question are read once
                disable_log_stats=True,
                use_tqdm_on_load=False,
                logits_processors=[ForceTokens],
                **({} if config.get("architectures") else {"hf_overrides": {"architectures": named}}),
                **(on_devices if on_gpu else on_cpu),
            )
        except Exception as error:
            raise LensflowError(f"{checkpoint}: vllm does not start ({last_line(error)})") from error
        self._max_model_len = max_model_len
        self._script: str | None = None  # of what is generated, by its language
        self._gated = False  # whether a gate restricts what is generated

    def generate(self, prompts: list[list[int]], decoding: Decoding) -> list[Answer]:
        """See `Engine.generate`.

        Raises:
            LensflowError: a prompt and its answer exceed `max_model_len`.
        """
        from vllm import SamplingParams

        stop = decoding.stop
        size = self._llm.model_config.get_vocab_size()  # a tokenizer may know more tokens than the model (Gemma)
        vocabulary = self._tokenizer.vocabulary[:size] if stop else []
        ends = end_token_ids(self._eos, vocabulary, stop)
        extra: dict[str, Any] = {} if self._script is None else {"script": self._script}
        if self._gated:
            extra["gate"] = True
        if ends and (decoding.max_characters or stop):
            extra |= {"room": decoding.max_characters, "stop": list(stop), "end": ends[0]}
        params = SamplingParams(
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            seed=decoding.seed,
            max_tokens=decoding.max_new_tokens,
            stop_token_ids=ends,
            extra_args=extra or None,
            detokenize=False,
        )
        said = [tuple(output.token_ids) for output in self._run(prompts, [params] * len(prompts))]
        room = Room(self._tokenizer, decoding)
        return [room.answer(ids, ended=bool(ids) and ids[-1] in ends) for ids in said]

    def loglikelihoods(self, requests: list[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """See `Engine.loglikelihoods`.

        The continuation is forced token by token, so that the output layer runs only on its positions. vLLM's
        `prompt_logprobs` would run it on the context, too.

        Raises:
            LensflowError: a request exceeds `max_model_len`.
        """
        from vllm import SamplingParams

        params = [
            SamplingParams(
                temperature=0,
                max_tokens=len(continuation),
                ignore_eos=True,
                logprobs=1,
                extra_args={"tokens": continuation},
                detokenize=False,
            )
            for _, continuation in requests
        ]
        scores = []
        for output in self._run([context for context, _ in requests], params):
            chosen = [
                logprobs[token].logprob for token, logprobs in zip(output.token_ids, output.logprobs, strict=True)
            ]
            best = [max(entry.logprob for entry in logprobs.values()) for logprobs in output.logprobs]
            scores.append((sum(chosen), chosen == best))
        return scores

    def read(
        self, sequences: Sequence[list[int]], counted: Sequence[list[bool]], masks: Masks | None
    ) -> list[dict[str, float]]:
        """Refuse: vLLM returns a few log-probabilities per token, not whole distributions."""
        raise LensflowError("engine vllm does not read whole distributions; use engine hf for them")

    def distributions(self, sequences: Counted, candidates: Sequence[Tensor] | None) -> list[Likeliest]:
        """Refuse, as `read` does."""
        raise LensflowError("engine vllm does not read whole distributions; use engine hf for them")

    def swap(self, tensors: Mapping[str, Tensor]) -> None:
        """See `Engine.swap`."""
        arguments = {"weights_iterator": iter(list(tensors.items()))}
        try:
            self._llm.collective_rpc("reload_weights", kwargs=arguments)
        except (KeyError, ValueError) as error:
            raise LensflowError(f"vllm does not take the weights of this delta ({last_line(error)})") from error
        self._llm.reset_prefix_cache()

    @contextmanager
    def edited(self, edit: StateEdit | None) -> Iterator[None]:
        """See `Engine.edited`.

        The states after the final norm are changed at the point where they become logits, not after it, because vLLM
        reports log-probabilities from the logits before any logits processor. A head that scales or caps its logits is
        thus followed exactly. Edits of blocks change keys and values, so the prefix cache is emptied before and after
        them.

        Raises:
            LensflowError: an edit of a block does not change the states as it should, or vLLM runs compiled graphs.
        """
        edit = edit or StateEdit()
        with ExitStack() as stack:
            if edit.shift is not None or edit.removed is not None or edit.gate is not None:
                gate = None if edit.gate is None else FamilyMask(self._tokenizer, edit.gate)
                self._llm.apply_model(partial(_edit, edit, gate))
                stack.callback(self._llm.apply_model, _leave)
            self._gated = edit.gate is not None
            stack.callback(setattr, self, "_gated", False)
            if edit.blocks:
                self._change_blocks(edit.blocks, stack)
            self._script = edit.script
            stack.callback(setattr, self, "_script", None)
            yield

    def _change_blocks(self, blocks: tuple[BlockEdit, ...], stack: ExitStack) -> None:
        """Hook edits of blocks in every worker, and test the edits on one prompt."""
        if self._compiled:
            raise LensflowError(
                "edits of blocks do not reach vllm's compiled graphs; set evaluation.enforce_eager: true, or "
                "evaluation.engine: hf"
            )
        prompt = self._tokenizer.encode(edits.TEST)

        def score() -> float:
            self._llm.reset_prefix_cache()
            return self.loglikelihoods([(prompt, prompt[:3])])[0][0]

        def hook(edits_: Sequence[BlockEdit]) -> None:
            self._llm.collective_rpc(_hook, args=(tuple(edits_),))

        stack.callback(self._llm.reset_prefix_cache)
        stack.callback(self._llm.collective_rpc, _unhook)
        # A family whose blocks return something other than (x, residual) is noticed by an edit that changes nothing.
        plain = score()
        hook([BlockEdit(block.layer, "add", torch.zeros(block.width)) for block in blocks])
        if not math.isclose(score(), plain, rel_tol=self._rounding, abs_tol=self._rounding):
            raise LensflowError(
                "vllm's blocks of this model do not return the residual stream; set evaluation.engine: hf"
            )
        self._llm.collective_rpc(_unhook)
        hook(blocks)
        score()
        for recorded in self._llm.collective_rpc(_recorded):
            edits.check(blocks, recorded, "vllm")
        self._llm.reset_prefix_cache()

    def close(self) -> None:
        """See `Engine.close`."""
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        cleanup_dist_env_and_memory()

    def _run(self, prompts: list[list[int]], params: list[Any]) -> list[Any]:
        longest = max((len(p) + s.max_tokens for p, s in zip(prompts, params, strict=True)), default=0)
        if longest > self._max_model_len:
            raise LensflowError(
                f"evaluation.max_model_len: {self._max_model_len} is too short for a prompt and answer of {longest} "
                "tokens; raise it, or lower max_new_tokens if the model has no more positions"
            )
        outputs = self._llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts],
            params,
            use_tqdm=len(prompts) >= 100,
        )
        return [output.outputs[0] for output in outputs]


def _edit(edit: StateEdit, gate: FamilyMask | None, model: Any) -> None:
    """Edit the states from which a vLLM model computes its logits, and let a gate read them; called in the worker."""
    compute = model.compute_logits

    def compute_edited(states: Tensor) -> Any:
        states = edit(states)
        if gate is not None:
            gate.read(states)
        return compute(states)

    model.compute_logits = compute_edited
    _GATE[:] = [] if gate is None else [gate]


def _leave(model: Any) -> None:
    """Undo `_edit`, so that the class's own method is used again."""
    del model.compute_logits


def stack_of(model: Any) -> nn.ModuleList:
    """Return the blocks of a vLLM model.

    Raises:
        LensflowError: the model has no single stack of blocks.
    """
    depth = model.config.num_hidden_layers
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == depth]
    if len(stacks) != 1:
        raise LensflowError(f"vllm's model has no single stack of {depth} blocks; set evaluation.engine: hf")
    return stacks[0]


def _hook(worker: Any, blocks: tuple[BlockEdit, ...]) -> None:
    """Install edits of blocks in a vLLM worker and record the next passes; called in the worker.

    Raises:
        LensflowError: the model has no single stack of blocks.
    """
    model, runner = worker.get_model(), worker.model_runner
    stack = stack_of(model)
    places = edits.Places()

    def locate(module: nn.Module, args: Any, kwargs: Any) -> None:
        count = runner.input_batch.num_reqs
        tokens = torch.from_numpy(runner.query_start_loc.np[: count + 1].copy()).diff()
        positions = kwargs["positions"] if "positions" in kwargs else args[1]
        places.index = positions  # with the pads behind the tokens of the requests, whose prompts have no end
        places.prompt = torch.full_like(positions, edits.WHOLE, dtype=torch.long)
        prompts = torch.from_numpy(runner.input_batch.num_prompt_tokens[:count].copy()).repeat_interleave(tokens)
        places.prompt[: len(prompts)] = prompts.to(places.prompt)

    worker.recorded = []
    worker.handles = [
        model.register_forward_pre_hook(locate, with_kwargs=True),
        *edits.change(stack, blocks, places, states_of, with_states),
        *(recorders := edits.record(stack, blocks, places, states_of, worker.recorded)),
    ]
    worker.recorders = recorders


def _recorded(worker: Any) -> list[edits.Recorded]:
    """Return the recordings of a worker since `_hook`, and stop recording."""
    for handle in worker.recorders:
        handle.remove()
    found: list[edits.Recorded] = list(worker.recorded)
    worker.recorded.clear()
    return found


def _unhook(worker: Any) -> None:
    """Undo `_hook`, if it was called and did not fail."""
    for handle in getattr(worker, "handles", ()):
        handle.remove()
    worker.handles = []


def states_of(output: Any) -> Tensor:
    """Return the residual stream (tokens, d) from the output of a block: (x, residual), which the next norm adds."""
    states: Tensor = output[0] + output[1] if isinstance(output, tuple) else output
    return states


def with_states(output: Any, states: Tensor) -> Any:
    """Return the output of a block with another residual stream."""
    return (torch.zeros_like(states), states, *output[2:]) if isinstance(output, tuple) else states


def start(checkpoint: Path, tokenizer: PromptTokenizer, evaluation: Evaluation, resources: Resources) -> VllmEngine:
    """Start the engine on a checkpoint, with at most the model's number of positions."""
    longest = min(evaluation.max_model_len, positions(checkpoint) or evaluation.max_model_len)
    eager = evaluation.enforce_eager
    return VllmEngine(checkpoint, evaluation.dtype, tokenizer, longest, resources, enforce_eager=eager)
