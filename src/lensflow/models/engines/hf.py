"""The Hugging Face transformers engine."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lensflow.artifacts.checkpoint import positions
from lensflow.artifacts.interventions import StateEdit
from lensflow.errors import LensflowError
from lensflow.models.batching import batches_by_length
from lensflow.models.conversion import Conversion
from lensflow.models.engines import edits
from lensflow.models.engines.ends import Room, end_token_ids, eos_token_ids
from lensflow.models.engines.gate import FamilyMask
from lensflow.models.engines.process import prepare_process
from lensflow.models.engines.protocol import Answer
from lensflow.models.engines.script_mask import ScriptMask
from lensflow.models.likelihood import Counted, Likeliest, Masks, distributions, read_prompts
from lensflow.models.loading import decoder_of, import_transformers, layers_of, load_model, may_pack, one_line
from lensflow.models.skeleton import Skeleton
from lensflow.models.tokenizer import PromptTokenizer
from lensflow.schema.backbone import Resources
from lensflow.schema.decoding import Decoding
from lensflow.schema.evaluation import Evaluation
from lensflow.schema.extraction import Attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel  # takes seconds to import

# Rows of logits that exist at a time (256 rows of 262 k fp32 numbers are 268 MB), and tokens in the key-value cache.
_MAX_ROWS = 256
_MAX_TOKENS = 8192
# Contexts are read once and cached if less than this share of the tokens is left to read: caching costs a second pass,
# and more padding.
_SHARED = 0.6
# Padded tokens of a pass over whole sequences, of which a third or so have logits.
_WHOLE_TOKENS = 512


READS = True  # whole distributions


class TransformersEngine:
    """A checkpoint run by transformers. Memory on top of the weights stays below about 1 GB for a 270M model.

    Args:
        checkpoint: folder with config, weights and tokenizer.
        dtype: "float32" or "bfloat16".
        tokenizer: tokenizer of the checkpoint.
        device: "cpu" or "cuda".
        batch_size: largest number of sequences that are generated together.
        attention: attention implementation of transformers.

    Attributes:
        model: the transformers model, in evaluation mode.

    Raises:
        LensflowError: the checkpoint does not load.
    """

    def __init__(
        self,
        checkpoint: Path,
        dtype: str,
        tokenizer: PromptTokenizer,
        device: str = "cpu",
        batch_size: int = 64,
        attention: Attention = "sdpa",
    ) -> None:
        prepare_process()
        self._tokenizer, self._eos = tokenizer, eos_token_ids(checkpoint, tokenizer)
        self._checkpoint, self._positions = checkpoint, positions(checkpoint)
        self.model = load_model(checkpoint, dtype, attention).to(torch.device(device)).eval()
        # `generate` takes from here what its own settings leave open, such as a penalty on repetition.
        self.model.generation_config = import_transformers().GenerationConfig()
        self._batch_size = batch_size
        self._prompts: list[int] | None = None  # lengths of the running pass's prompts; None: nothing is generated
        self._script: ScriptMask | None = None  # of what is generated
        self._gate: FamilyMask | None = None  # of what is generated
        self._positional = False  # whether an edit tells prompts from what is generated

    @torch.inference_mode()
    def generate(self, prompts: list[list[int]], decoding: Decoding) -> list[Answer]:
        """See `Engine.generate`. Prompts of similar length form left-padded batches.

        Raises:
            LensflowError: a prompt and its answer are longer than the model's positions.
        """
        from transformers import GenerationConfig

        self._check_length(max(map(len, prompts), default=0) + decoding.max_new_tokens)
        stop = decoding.stop
        ends = end_token_ids(self._eos, self._tokenizer.vocabulary if stop else [], stop)
        sampling = {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
        settings = GenerationConfig(
            do_sample=decoding.temperature > 0,
            max_new_tokens=decoding.max_new_tokens,
            eos_token_id=ends or None,
            pad_token_id=ends[0] if ends else 0,
            use_cache=self._caches_tokens,
            **(sampling if decoding.temperature > 0 else {}),
        )
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]), reverse=True)
        batches = [order[start : start + self._batch_size] for start in range(0, len(order), self._batch_size)]
        if len(prompts) > 1 and not self._pads_left:
            batches = [[index] for index in order]
        torch.manual_seed(decoding.seed)
        answers: dict[int, Answer] = {}
        last, room = set(ends), Room(self._tokenizer, decoding)
        with tqdm(total=len(prompts), desc="generate", unit="prompt", disable=len(prompts) < 100) as bar:
            for batch in batches:
                ids, mask = self._pad([prompts[i] for i in batch], left=True)
                self._prompts = [len(prompts[i]) for i in batch]
                processors: list[Any] = [EndWhereOver(room, ids.shape[1], ends)]
                if self._script is not None:
                    processors.insert(0, InScript(self._script, ids.shape[1]))
                if self._gate is not None:
                    processors.insert(0, BehindGate(self._gate, ids.shape[1], decoding.temperature, decoding.top_p))
                output = self.model.generate(
                    ids, attention_mask=mask, generation_config=settings, logits_processor=processors
                )
                for i, tokens in zip(batch, output[:, ids.shape[1] :].tolist(), strict=True):
                    end = next((n for n, token in enumerate(tokens) if token in last), None)
                    said = tuple(tokens if end is None else tokens[: end + 1])
                    answers[i] = room.answer(said, ended=end is not None)
                bar.update(len(batch))
        self._prompts = None
        return [answers[i] for i in range(len(prompts))]

    @torch.inference_mode()
    def loglikelihoods(self, requests: list[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """See `Engine.loglikelihoods`. A context that several requests share is read once if that saves much time.

        Raises:
            LensflowError: a context and its continuation are longer than the model's positions.
        """
        self._check_length(max((len(context) + len(last) for context, last in requests), default=0))
        scores = [(0.0, True)] * len(requests)
        whole = [len(context) + len(continuation) - 1 for context, continuation in requests]
        shared = sum(map(len, {tuple(context) for context, _ in requests})) + sum(len(last) for _, last in requests)
        if shared < _SHARED * sum(whole) and self._caches:
            batches, score = _batches(requests), self._score_shared
        else:
            batches, score = iter(batches_by_length(whole, _WHOLE_TOKENS)), self._score_whole
        with tqdm(total=len(requests), desc="score", unit="request", disable=len(requests) < 100) as bar:
            for batch in batches:
                for i, scored in zip(batch, score([requests[i] for i in batch]), strict=True):
                    scores[i] = scored
                bar.update(len(batch))
        self._prompts = None
        return scores

    def read(
        self, sequences: Sequence[list[int]], counted: Sequence[list[bool]], masks: Masks | None
    ) -> list[dict[str, float]]:
        """See `Engine.read`."""
        self._check_length(max(map(len, sequences), default=0))
        return read_prompts(self.model, sequences, counted, masks)

    def distributions(self, sequences: Counted, candidates: Sequence[Tensor] | None) -> list[Likeliest]:
        """See `Engine.distributions`. The counted tokens form an answer, which begins at the first counted token."""
        if not self._positional:
            return distributions(self.model, sequences, candidates)
        found = []
        for number, (ids, counted) in enumerate(sequences):  # one by one: each has a prompt of its own length
            self._prompts = [counted.index(True) if True in counted else len(ids)]
            given = None if candidates is None else [candidates[number]]
            found += distributions(self.model, [(ids, counted)], given)
        self._prompts = None
        return found

    @torch.inference_mode()
    def swap(self, tensors: Mapping[str, Tensor]) -> None:
        """See `Engine.swap`."""
        weights = self.model.state_dict()
        for name, tensor in self._conversion.from_checkpoint(tensors).items():
            weights[name].copy_(tensor)

    @functools.cached_property
    def _conversion(self) -> Conversion:
        return Skeleton(self._checkpoint, self.model.dtype).conversion

    @contextmanager
    def edited(self, edit: StateEdit | None) -> Iterator[None]:
        """See `Engine.edited`. The edit also acts on other code that runs `model`.

        Raises:
            LensflowError: an edit of a block does not change the states as it should.
        """
        edit = edit or StateEdit()

        def after_norm(decoder: nn.Module, args: Any, output: Any) -> None:
            output.last_hidden_state = edit(output.last_hidden_state)

        with ExitStack() as hooks:
            if edit.shift is not None or edit.removed is not None:
                hooks.enter_context(decoder_of(self.model).register_forward_hook(after_norm))
            if edit.blocks:
                self._change_blocks(edit, hooks)
            if edit.script:
                self._script = ScriptMask(self._tokenizer, edit.script)
                hooks.callback(setattr, self, "_script", None)
            if edit.gate:
                self._gate = FamilyMask(self._tokenizer, edit.gate)
                hooks.enter_context(shown_to(self._gate, self.model))
                hooks.callback(setattr, self, "_gate", None)
            yield

    def _change_blocks(self, edit: StateEdit, hooks: ExitStack) -> None:
        """Hook the edits of blocks, and test them on one prompt."""
        _ = self._pads_left, self._caches  # which are found out on the untouched model
        places, layers = edits.Places(), layers_of(decoder_of(self.model))
        self._positional = any(block.positions in ("prompt", "generated") for block in edit.blocks)
        hooks.callback(setattr, self, "_positional", False)

        def locate(decoder: nn.Module, args: Any, kwargs: Any) -> None:
            ids = args[0] if args else kwargs["input_ids"]
            places.index = index_of(ids, kwargs)
            lengths = [edits.WHOLE] * len(ids) if self._prompts is None else self._prompts
            places.prompt = torch.tensor(lengths, device=ids.device)[:, None]

        hooks.enter_context(decoder_of(self.model).register_forward_pre_hook(locate, with_kwargs=True))
        for handle in edits.change(layers, edit.blocks, places, states_of, with_states):
            hooks.enter_context(handle)
        recorded: list[edits.Recorded] = []
        prompt = self._tokenizer.encode(edits.TEST)
        with ExitStack() as recorders:
            for handle in edits.record(layers, edit.blocks, places, states_of, recorded):
                recorders.enter_context(handle)
            self.loglikelihoods([(prompt, prompt[:3])])
        edits.check(edit.blocks, recorded, "hf")

    @functools.cached_property
    def _caches_tokens(self) -> bool:
        """Whether the second token has the same logits with a key-value cache as without one."""
        prompt = _random_ids(self.model, 5)
        try:
            steps, said = self._try_tokens([prompt], use_cache=True)
        except LensflowError:
            return False
        with torch.inference_mode():
            whole = self.model(torch.tensor([[*prompt, said[0]]], device=steps.device), use_cache=False).logits[0, -1]
        return bool((steps[1] - whole.float()).norm() < self._tolerance * whole.float().norm())

    @functools.cached_property
    def _pads_left(self) -> bool:
        """Whether a left-padded prompt continues as it does alone; two tokens are tried."""
        short, long = _random_ids(self.model, 5), _random_ids(self.model, 17)
        alone, said = self._try_tokens([short], use_cache=self._caches_tokens)
        try:
            padded, said_padded = self._try_tokens([short, long], use_cache=self._caches_tokens)
        except LensflowError:
            return False
        same = len(alone) if said == said_padded else 1  # behind other tokens there are other logits
        return bool(((padded - alone)[:same].norm(dim=1) < self._tolerance * alone[:same].norm(dim=1)).all())

    @torch.inference_mode()
    def _try_tokens(self, prompts: list[list[int]], *, use_cache: bool) -> tuple[Tensor, list[int]]:
        """Generate two tokens; return the first prompt's logits (2, V) and its tokens."""
        from transformers import GenerationConfig

        settings = GenerationConfig(
            min_new_tokens=2,
            max_new_tokens=2,
            pad_token_id=0,
            use_cache=use_cache,
            output_logits=True,
            return_dict_in_generate=True,
        )
        ids, mask = self._pad(prompts, left=True)
        with one_line(self._checkpoint, "generate with"):
            output = self.model.generate(ids, attention_mask=mask, generation_config=settings)
        return torch.stack([step[0] for step in output.logits]).float(), output.sequences[0, -2:].tolist()

    @functools.cached_property
    @torch.inference_mode()
    def _caches(self) -> bool:
        """Whether continuations get the same scores when their shared context is read once; a few examples are
        tried."""
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer

        ids, _ = self._pad([_random_ids(self.model, 3)], left=True)
        contexts = [_random_ids(self.model, length) for length in (5, 17)]
        requests = [(context, _random_ids(self.model, length)) for context in contexts for length in (1, 2, 4)]
        try:
            cache = getattr(self.model(ids, use_cache=True), "past_key_values", None)
            plain = isinstance(cache, DynamicCache) and all(isinstance(layer, DynamicLayer) for layer in cache.layers)
            if not (plain and may_pack(decoder_of(self.model).config)):
                return False
            shared = self._score_shared(requests)
        except (TypeError, ValueError, RuntimeError):  # no such argument, or a shape that does not fit
            return False
        pairs = zip(shared, self._score_whole(requests), strict=True)
        return all(abs(one - other) < self._tolerance * abs(other) for (one, _), (other, _) in pairs)

    @property
    def _tolerance(self) -> float:
        """Relative error that the precision of the weights explains."""
        return 1e-3 if self.model.dtype == torch.float32 else 5e-2

    def _check_length(self, longest: int) -> None:
        if self._positions is not None and longest > self._positions:
            raise LensflowError(
                f"a prompt and its answer of {longest} tokens exceed the {self._positions} positions of the model; "
                "lower max_new_tokens, shorten the prompt or give fewer examples"
            )

    def close(self) -> None:
        """See `Engine.close`."""
        del self.model

    def _score_whole(self, requests: list[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        ids, _ = self._pad([[*context, *continuation[:-1]] for context, continuation in requests], left=False)
        predicts = torch.zeros_like(ids, dtype=torch.bool)
        for row, (context, continuation) in zip(predicts, requests, strict=True):
            row[len(context) - 1 : len(context) + len(continuation) - 1] = True
        self._prompts = [len(context) for context, _ in requests]
        with self.model.get_output_embeddings().register_forward_pre_hook(lambda head, args: (args[0][predicts],)):
            logits = self.model(ids, use_cache=False).logits
        targets = torch.tensor([token for _, continuation in requests for token in continuation], device=ids.device)
        logp, best = _token_scores(logits, torch.arange(len(targets), device=ids.device), targets)
        sizes = [len(continuation) for _, continuation in requests]
        pairs = zip(torch.split(logp, sizes), torch.split(best, sizes), strict=True)
        return [(float(sums.sum(dtype=torch.float64)), bool(highest.all())) for sums, highest in pairs]

    def _score_shared(self, requests: list[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        contexts = list(dict.fromkeys(tuple(context) for context, _ in requests))
        position = {context: i for i, context in enumerate(contexts)}
        owner = torch.tensor([position[tuple(context)] for context, _ in requests], device=self.model.device)

        # The contexts' last logits predict the first token of each continuation …
        ids, mask = self._pad([list(context) for context in contexts], left=True)
        self._prompts = [len(context) for context in contexts]
        output = self.model(
            ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0), logits_to_keep=1, use_cache=True
        )
        targets, real = self._pad([continuation for _, continuation in requests], left=False)
        logp, best = _token_scores(output.logits[:, 0], owner, targets[:, 0])
        logp, best = logp[:, None], best[:, None]
        if (steps := targets.shape[1] - 1) > 0:
            # … and each of its tokens but the last predicts the next, on the contexts' expanded cache.
            cache = output.past_key_values
            cache.batch_select_indices(owner)
            self._prompts = [len(context) for context, _ in requests]
            output = self.model(
                targets[:, :-1],
                attention_mask=torch.cat([mask[owner], real[:, :-1]], dim=1),
                position_ids=mask.sum(1)[owner, None] + torch.arange(steps, device=targets.device),
                past_key_values=cache,
            )
            rows = torch.arange(targets[:, 1:].numel(), device=targets.device)
            more = _token_scores(output.logits.flatten(0, 1), rows, targets[:, 1:].flatten())
            logp = torch.cat([logp, more[0].view(-1, steps)], dim=1)
            best = torch.cat([best, more[1].view(-1, steps)], dim=1)
        padding = real == 0
        sums = logp.masked_fill(padding, 0.0).sum(1, dtype=torch.float64).tolist()
        return list(zip(sums, (best | padding).all(1).tolist(), strict=True))

    def _pad(self, rows: list[list[int]], *, left: bool) -> tuple[Tensor, Tensor]:
        """Padded ids and their mask, both (rows, longest) int64."""
        width = max(map(len, rows))
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            columns = slice(width - len(row), width) if left else slice(len(row))
            ids[i, columns], mask[i, columns] = torch.tensor(row), 1
        return ids.to(self.model.device), mask.to(self.model.device)


def _random_ids(model: Any, length: int) -> list[int]:
    """Token ids for testing a model; the same number always gives the same ids."""
    generator = torch.Generator().manual_seed(length)
    ids: list[int] = torch.randint(model.get_input_embeddings().num_embeddings, (length,), generator=generator).tolist()
    return ids


class InScript:
    """Restricts the generated tokens of all rows to a script.

    Args:
        mask: the mask of the script.
        start: position at which answers begin.
    """

    def __init__(self, mask: ScriptMask, start: int) -> None:
        self._mask, self._start = mask, start

    def __call__(self, ids: Tensor, logits: Tensor) -> Tensor:
        """Change the logits (rows, vocabulary) that follow ids (rows, tokens)."""
        for row, said in zip(logits, ids[:, self._start :].tolist(), strict=True):
            self._mask.apply(row, said)
        return logits


class BehindGate:
    """Restricts the generated tokens of all rows to families of scripts that a gate allows.

    Args:
        mask: the mask of the families.
        start: position at which answers begin.
        temperature: sampling temperature; 0 is greedy.
        top_p: top-p of sampling.
    """

    def __init__(self, mask: FamilyMask, start: int, temperature: float, top_p: float) -> None:
        self._mask, self._start, self._sampling = mask, start, (temperature, top_p)

    def __call__(self, ids: Tensor, logits: Tensor) -> Tensor:
        """Change the logits (rows, vocabulary) that follow ids (rows, tokens)."""
        for row, said in enumerate(ids[:, self._start :].tolist()):
            self._mask.apply(logits[row], row, len(logits), said, *self._sampling)
        return logits


def shown_to(mask: FamilyMask, model: "PreTrainedModel") -> Any:
    """Let a gate read the states that enter a model's output layer; return the handle."""
    return model.get_output_embeddings().register_forward_pre_hook(lambda head, args: mask.read(args[0][:, -1]))


class EndWhereOver:
    """Ends the rows whose answer must end, with the first of the end tokens.

    Args:
        room: decides when an answer must end.
        start: position at which answers begin.
        ends: ids of the end tokens; if there are none, no answer ends early.
    """

    def __init__(self, room: Room, start: int, ends: list[int]) -> None:
        self._room, self._start, self._ends = room, start, ends

    def __call__(self, ids: Tensor, logits: Tensor) -> Tensor:
        """Change the logits (rows, vocabulary) that follow ids (rows, tokens)."""
        if logits[:, 0].isnan().any():  # NaN counts as the largest logit, so the first token would win
            raise LensflowError("the model computes NaN; set evaluation.dtype: float32, or give other weights")
        if self._ends:
            over = [self._room.is_over(row) for row in ids[:, self._start :].tolist()]
            logits[torch.tensor(over, device=logits.device), self._ends[0]] = torch.inf
        return logits


def _token_scores(logits: Tensor, owner: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of n targets under their rows `owner` (n) of logits (rows, vocabulary), and whether each is the
    top token."""
    # log_softmax, though most of it is not needed: on a CPU it takes a fifth of the time of logsumexp.
    logp = logits.float().log_softmax(1)[owner, targets]
    return logp, logits[owner, targets] >= logits.amax(1)[owner]


def _batches(requests: list[tuple[list[int], list[int]]]) -> Iterator[list[int]]:
    """Indices of requests in batches: equal contexts together, similar continuations together, longest first.

    Padding of a continuation passes through the output layer; padding of a context does not. The length of the
    continuation therefore counts more.
    """
    longest_of: dict[tuple[int, ...], int] = {}
    for context, continuation in requests:
        longest_of[tuple(context)] = max(longest_of.get(tuple(context), 0), len(continuation))

    def key(i: int) -> Any:
        context, continuation = requests[i]
        return longest_of[tuple(context)], len(context), context, len(continuation)

    batch: list[int] = []
    longest_context = longest = 0
    for i in sorted(range(len(requests)), key=key, reverse=True):
        context, continuation = requests[i]
        longest_context, longest = max(longest_context, len(context)), max(longest, len(continuation))
        size = len(batch) + 1
        if batch and (size * longest > _MAX_ROWS or size * (longest_context + longest) > _MAX_TOKENS):
            yield batch
            batch, longest_context, longest = [], len(context), len(continuation)
        batch.append(i)
    if batch:
        yield batch


def index_of(ids: Tensor, given: Mapping[str, Any]) -> Tensor:
    """Return the position (rows, T) of each token of a pass in its sequence, from the arguments of the decoder."""
    index: Tensor | None = given.get("position_ids")
    if index is None:
        mask, cache = given.get("attention_mask"), given.get("past_key_values")
        if mask is None:  # no pads
            mask = (
                torch.ones_like(ids) if cache is None else ids.new_ones(len(ids), cache.get_seq_length() + ids.shape[1])
            )
        index = (mask.cumsum(1) - 1)[:, -ids.shape[1] :]
    return index.expand(ids.shape)


def states_of(output: Any) -> Tensor:
    """Return the residual stream (rows, T, d) from the output of a block: a tensor, or the first element of a tuple."""
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states


def with_states(output: Any, states: Tensor) -> Any:
    """Return the output of a block with another residual stream."""
    return (states, *output[1:]) if isinstance(output, tuple) else states


def start(
    checkpoint: Path, tokenizer: PromptTokenizer, evaluation: Evaluation, resources: Resources
) -> TransformersEngine:
    """Start the engine on a checkpoint."""
    device = "cuda" if resources.gpus else "cpu"
    return TransformersEngine(checkpoint, evaluation.dtype, tokenizer, device, attention=evaluation.attention)
