"""Fine-tuning of the whole network on texts by HF's Trainer, with peft's adapters or on all weights.

The methods sft, cpt, qalign, midalign and sdrrl share this module. If a training is killed, it starts again from the
beginning: the Trainer's own checkpoints are pickles, and Lensflow neither writes nor reads pickles.
"""

import logging
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from peft import LoraConfig, get_peft_model
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TrainingArguments, set_seed
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.trainer_callback import ProgressCallback

from lensflow.artifacts import deltas
from lensflow.artifacts.checkpoint import positions
from lensflow.errors import LensflowError
from lensflow.methods import sharing
from lensflow.methods.base import FineTuning, Lora, Run, Trained, resampled
from lensflow.models.loading import DTYPES, decoder_of, device_of, layers_of, may_pack
from lensflow.models.skeleton import Skeleton, check_not_shared
from lensflow.models.tokenizer import PromptTokenizer
from lensflow.storage.atomic import write_jsonl
from lensflow.storage.journal import used
from lensflow.storage.verified import read_jsonl

F = TypeVar("F", bound=FineTuning)
LOG = logging.getLogger(__name__)
NAMED = 10  # most examples that the log names of those that are left out
IGNORED = -100  # label of a token that the loss does not count; torch's cross-entropy has it as default


@torch.inference_mode()
def _is_linear(module: nn.Linear) -> bool:
    """Return whether the input and output of a layer have its nominal sizes. Routers and grouped layers may differ."""
    weight = module.weight
    try:
        output = module(torch.zeros(2, module.in_features, dtype=weight.dtype, device=weight.device))
    except RuntimeError:
        return False
    return isinstance(output, Tensor) and output.shape == (2, module.out_features)


def adapters_of(lora: Lora, model: Any) -> LoraConfig:
    """Return peft's configuration of adapters for every linear layer of a model's text decoder.

    peft cannot put dropout on experts that transformers has fused. It also cannot put adapters on weights that Mamba's
    kernel reads directly.
    """

    def config(dropout: float) -> LoraConfig:
        return LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=dropout,
            target_modules="all-linear",
            exclude_modules=left_out or None,
            task_type="CAUSAL_LM",
        )

    parts = {name: module for name, module in model.named_modules() if name}
    (decoder,) = (name for name, module in parts.items() if module is decoder_of(model))
    check_not_shared(model, decoder)
    linear = {name: module for name, module in parts.items() if isinstance(module, nn.Linear)}
    head = model.get_output_embeddings()
    left_out = [name for name, module in linear.items() if not name.startswith(decoder) and module is not head]
    left_out += [name for name, module in linear.items() if not _is_linear(module)]
    left_out += [
        f"{name}.out_proj" for name, module in parts.items() if hasattr(module, "A_log") and hasattr(module, "D")
    ]
    converted = config(0.0)
    convert_peft_config_for_transformers(converted, model, get_model_conversion_mapping(model))
    if lora.dropout and converted.target_parameters:
        LOG.warning(
            "model type '%s': adapters of fused experts have no dropout; lora.dropout is 0", model.config.model_type
        )
        return config(0.0)
    return config(lora.dropout)


@dataclass(frozen=True)
class Example:
    """A text to train on.

    Attributes:
        name: the language and id of its item.
        ids: T token ids.
        counted: T flags, one per token: whether the loss counts the token.
    """

    name: str
    ids: Sequence[int]
    counted: Sequence[bool]


def tokenizer_of(run: Run[F]) -> PromptTokenizer:
    """Return the tokenizer of a run's backbone, in its own prompt format."""
    return PromptTokenizer(run.backbone.parent, run.prompt)


def rows_of(run: Run[F], language: str, split: str, key: str = "prompt") -> list[Mapping[str, Any]]:
    """Return the items of one language and split in the file's order; in the train split, the first `examples` of them.

    Args:
        run: the training.
        language: the language of the items.
        split: the split of the items.
        key: a key that each returned item must have.

    Raises:
        LensflowError: the train split has no such item, or fewer than `examples`.
    """
    numbered = enumerate(read_jsonl(run.texts[language]), start=1)
    rows = {line: row for line, row in numbered if row["split"] == split and key in row}
    wanted = run.method.examples if split == "train" else None
    if split == "train" and len(rows) < (wanted or 1):
        raise LensflowError(
            f"{run.texts[language]}: {len(rows)} items with {key} in the train split, {wanted or 1} needed; "
            "lower examples, or add some"
        )
    lines = list(rows)[:wanted]
    used(run.texts[language], lines)
    if split == "train" and run.method.resample:
        lines = resampled(lines, run.seed)
    return [rows[line] for line in lines]


def pairs_of(
    run: Run[F], language: str, split: str, key: str = "prompt"
) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Return the items of `rows_of`, each with the same item in the central language before it."""
    rows, path = rows_of(run, language, split, key), run.texts[run.setting.central]
    central = {row["id"]: (line, row) for line, row in enumerate(read_jsonl(path), start=1)}
    used(path, [central[row["id"]][0] for row in rows])
    return [(central[row["id"]][1], row) for row in rows]


def answered(tokenizer: PromptTokenizer, name: str, prompt: str, answer: str) -> Example:
    """Make an example of a prompt in the backbone's format and its answer; the loss counts only the answer."""
    return Example(name, *tokenizer.encode_answered(prompt, answer))


def plain(tokenizer: PromptTokenizer, name: str, text: str) -> Example:
    """Make an example of a text outside of any prompt format; the loss counts all of it."""
    ids = tokenizer.encode_plain(text)
    return Example(name, ids, [True] * len(ids))


def cut(examples: Sequence[Example], max_tokens: int, needed: bool = True) -> list[Example]:
    """Cut the end off examples that are longer than `max_tokens`; leave out examples that have no counted token left.

    Args:
        examples: the examples; the log names the ones that are left out.
        max_tokens: the longest example.
        needed: whether it is an error if no example is left.

    Raises:
        LensflowError: no example is left.
    """
    shortened = [replace(e, ids=e.ids[:max_tokens], counted=e.counted[:max_tokens]) for e in examples]
    kept = [example for example in shortened if any(example.counted[1:])]
    if left_out := [example.name for example in shortened if not any(example.counted[1:])]:
        if needed and not kept:
            raise LensflowError(f"{left_out[0]}: nothing to learn within max_tokens ({max_tokens}); raise it")
        LOG.warning(
            "%d of %d examples are left out, whose prompts are longer than max_tokens (%d): %s",
            *(len(left_out), len(examples), max_tokens, ", ".join(left_out[:NAMED])),
        )
    return kept


def packed(examples: Sequence[Example]) -> dict[str, Tensor]:
    """Lay n examples end to end, without pads: `input_ids`, `position_ids` and `labels`, each (1, sum of T)."""
    ids, labels = _ids_and_labels(examples)
    # Positions that start again tell transformers where an example begins; `packs` says whether it masks the others.
    positions = [torch.arange(len(tokens)) for tokens in ids]
    return {
        "input_ids": torch.cat(ids)[None],
        "position_ids": torch.cat(positions)[None],
        "labels": torch.cat(labels)[None],
    }


def padded(examples: Sequence[Example]) -> dict[str, Tensor]:
    """Stack n examples as rows, padded on the right: `input_ids` and `labels`, each (n, longest T)."""
    ids, labels = _ids_and_labels(examples)
    return {
        "input_ids": nn.utils.rnn.pad_sequence(ids, batch_first=True),
        "labels": nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    }


def _ids_and_labels(examples: Sequence[Example]) -> tuple[list[Tensor], list[Tensor]]:
    ids = [torch.tensor(example.ids) for example in examples]
    # The first token of each is predicted by none.
    counted = [torch.tensor([False, *example.counted[1:]]) for example in examples]
    return ids, [tokens.where(flags, IGNORED) for tokens, flags in zip(ids, counted, strict=True)]


def share_of(examples: Sequence[Example]) -> Sequence[Example]:
    """Return this process's share of a batch.

    All shares have the same size; the last example may be one that does not count.
    """
    rank, count = sharing.place()
    mine = examples[rank::count]
    if len(mine) * count < len(examples):
        return [*mine, replace(examples[0], counted=[False] * len(examples[0].counted))]
    return mine


@torch.inference_mode()
def packs(model: Any) -> bool:
    """Return whether an example gives the same logits when it is packed behind another one as when it is alone.

    The comparison allows for rounding, which in bfloat16 changes the third digit.
    """
    near = 1e-3 if model.dtype == torch.float32 else 5e-2
    if not may_pack(decoder_of(model).config):
        return False
    vocabulary, generator = model.get_input_embeddings().num_embeddings, torch.Generator().manual_seed(0)
    one, other = (torch.randint(vocabulary, (length,), generator=generator).tolist() for length in (37, 61))
    both = packed([Example("", ids, [True] * len(ids)) for ids in (one, other)])
    ids, positions = (both[key].to(model.device) for key in ("input_ids", "position_ids"))
    try:
        together = model(ids, position_ids=positions, use_cache=False).logits[0, len(one) :]
    except (ValueError, TypeError, RuntimeError):  # no such argument, or a shape that does not fit
        return False
    alone = model(ids[:, len(one) :], use_cache=False).logits[0]
    return bool(((together - alone).norm(dim=1) < near * alone.norm(dim=1)).all())


class _Progress(ProgressCallback):  # type: ignore[misc]
    """The Trainer's progress bar without a line per step; training stops if the loss is not finite."""

    def __init__(self, label: str) -> None:
        super().__init__()
        self.label = label

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None:  # the first process's alone
            self.training_bar.set_description(self.label)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not all(math.isfinite(logs.get(name, 0)) for name in ("loss", "grad_norm")):
            raise LensflowError(f"step {state.global_step}: the loss or its gradient is not finite; lower lr")


class Loss(nn.Module):
    """A language model's loss that computes the output layer only for the tokens that count.

    With a vocabulary of 262 k, the output layer is most of the work of a small model, and most tokens of a batch belong
    to prompts.

    Args:
        model: the model that trains, with or without adapters.
        blocks: the model's blocks, for losses that read their states.
    """

    def __init__(self, model: Any, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, labels: Tensor, **positions: Tensor) -> dict[str, Tensor]:
        """Return the mean loss over the tokens of (n, T) `labels` that are not `IGNORED`, as the Trainer computes
        it."""
        following = labels[:, 1:]
        counted = following != IGNORED
        with self.model.get_output_embeddings().register_forward_pre_hook(
            lambda head, args: (args[0][:, :-1][counted],)
        ):
            logits = self.model(input_ids, use_cache=False, **positions).logits
        if sharing.place()[1] > 1:
            total = cross_entropy(logits.float(), following[counted], reduction="sum")
            return {"loss": sharing.mean(total, int(counted.sum()))}
        return {"loss": cross_entropy(logits.float(), following[counted])}


def fine_tune(
    run: Run[F],
    train: Sequence[Example],
    dev: Sequence[Example],
    loss: Callable[[Any, nn.ModuleList], nn.Module] = Loss,
    more: Callable[[Any], dict[str, Tensor]] = lambda examples: {},
) -> Trained:
    """Train on examples and write the delta and the history.

    The loss of a batch is the mean over its tokens that count. The history records it at every step. If there are dev
    examples, their loss is recorded before training and after every epoch, as a mean over batches.

    Args:
        run: the training.
        train: the examples to train on.
        dev: the examples whose loss is recorded; may be empty.
        loss: the loss of the model and its blocks, called with a batch: see `packed` and `padded`.
        more: further tensors that the loss needs from a batch's examples.

    Raises:
        LensflowError: an example has no token to learn; the loss or its gradient is not finite; the checkpoint and the
            model use different tensor names; or the run was given a GPU but the machine has none.
    """
    if run.method.gpus == 1:
        return tune(run, train, dev, loss, more)
    if loss is not Loss:  # the other processes would train with this one
        raise LensflowError(f"gpus: {run.method.gpus} GPUs cannot share a loss of the method's own; drop this key")
    if run.gpus != run.method.gpus:
        raise LensflowError(f"--gpus {run.gpus}: the method's gpus is {run.method.gpus}; give as many")
    return sharing.together(run.gpus, tune, run, train, dev)


def tune(
    run: Run[F],
    train: Sequence[Example],
    dev: Sequence[Example],
    loss: Callable[[Any, nn.ModuleList], nn.Module] = Loss,
    more: Callable[[Any], dict[str, Tensor]] = lambda examples: {},
) -> Trained:
    """Do the work of `fine_tune` in this process, which may be one of several processes that share the batches."""
    config, checkpoint, device = run.method, run.backbone.parent, device_of(run.gpus)
    if device.type == "cuda":
        device = torch.device("cuda", sharing.place()[0])
    config.check_installed()
    given = len(train) + len(dev)
    most = min(config.max_tokens, positions(checkpoint) or config.max_tokens)
    train, dev = cut(train, most), cut(dev, most, needed=False)
    skeleton = Skeleton(checkpoint, torch.float32)
    if odd := skeleton.missing():
        raise LensflowError(
            f"model type '{skeleton.model.config.model_type}': the checkpoint has no tensor '{odd[0]}'; "
            "this family is not supported"
        )
    adapters = None if config.lora is None else adapters_of(config.lora, skeleton.model)
    model = loaded(config, skeleton, adapters, checkpoint, device)
    set_seed(run.seed)  # of the adapters' first values
    collate, blocks = packed if packs(model) else padded, layers_of(decoder_of(model))
    if adapters is not None:
        model = get_peft_model(model, adapters)
    if config.layers is not None:
        config.check_depth(len(blocks))
        model.requires_grad_(False)
        blocks[-config.layers :].requires_grad_(True)
    if config.gradient_checkpointing:
        if not model.supports_gradient_checkpointing:
            raise LensflowError(
                f"model type '{model.config.model_type}': transformers cannot compute its activations again; "
                "set gradient_checkpointing: false"
            )
        model.gradient_checkpointing_enable({"use_reentrant": False})
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    with tempfile.TemporaryDirectory() as unused:
        trainer = sharing.SharingTrainer(
            loss(model, blocks),
            _arguments(run, unused, bool(dev), device),
            lambda examples: collate(share_of(examples)) | more(examples),
            list(train),
            list(dev) or None,
        )
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(_Progress(run.output.parent.parent.name))
        trainer.train()
    tokens = sum(len(example.ids) for example in train) * config.epochs
    trained = Trained(tokens, parameters, left_out=given - len(train) - len(dev))
    if not trainer.is_world_process_zero():
        return trained
    if config.frozen_weights != "float32":
        adapted = {name: p.detach().cpu() for name, p in model.named_parameters() if p.requires_grad}
        model = get_peft_model(_from_pretrained(skeleton, checkpoint, torch.float32), adapters)
        model.load_state_dict(adapted, strict=False)
    if adapters is not None:
        model = model.merge_and_unload()
    deltas.write(skeleton.conversion.to_checkpoint(model.state_dict()), checkpoint, run.output)
    write_jsonl(run.output.parent / "history.jsonl", _history(trainer.state.log_history))
    return trained


def loaded(
    config: FineTuning, skeleton: Skeleton, adapters: LoraConfig | None, checkpoint: Path, device: torch.device
) -> Any:
    """Load the backbone with its frozen weights in the method's format: `nf4` in the layers that get adapters."""
    if config.frozen_weights != "nf4":
        return _from_pretrained(skeleton, checkpoint, DTYPES[config.frozen_weights])
    head = skeleton.model.get_output_embeddings()
    whole = [name for name, module in skeleton.model.named_modules() if module is head]
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=DTYPES[config.precision],
        llm_int8_skip_modules=[*whole, *((adapters and adapters.exclude_modules) or ())],
    )
    more = {"quantization_config": quantization, "device_map": {"": device}}
    model = _from_pretrained(skeleton, checkpoint, DTYPES[config.precision], **more)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):  # on some CPUs evaluation would round the weights again
            module.support_avx512bf16_for_cpu = False
    return model


def _from_pretrained(skeleton: Skeleton, checkpoint: Path, dtype: torch.dtype, **more: Any) -> Any:
    attention = skeleton.model.config._attn_implementation
    return AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype, attn_implementation=attention, **more)


def _arguments(run: Run[F], folder: str, has_dev: bool, device: torch.device) -> TrainingArguments:
    config, on_gpu = run.method, device.type == "cuda"
    arguments = TrainingArguments(
        output_dir=folder,
        save_strategy="no",
        seed=run.seed,
        full_determinism=on_gpu,  # on a CPU the bits are equal without it
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
        bf16=config.precision == "bfloat16",
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        num_train_epochs=config.epochs,
        learning_rate=config.lr,
        # HF's plain "constant" would ignore the warm-up.
        lr_scheduler_type="constant_with_warmup" if config.schedule == "constant" else config.schedule,
        warmup_steps=config.warmup,  # below 1: a share of the steps
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        logging_steps=1,
        logging_nan_inf_filter=False,
        eval_strategy="epoch" if has_dev else "no",
        eval_on_start=has_dev,
        prediction_loss_only=True,  # logits of all dev tokens are gigabytes
        remove_unused_columns=False,
        label_names=["labels"],
        average_tokens_across_devices=False,  # the loss does
        report_to="none",
        disable_tqdm=False,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several would multiply the batch
    return arguments


def _history(log: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """Convert the Trainer's log to the form of Lens's history."""
    history: list[dict[str, Any]] = []
    for row in log:
        place = {"step": row["step"], "epoch": round(row["epoch"], 4)}
        if "loss" in row:
            numbers = {"loss": row["loss"], "lr": row["learning_rate"], "grad_norm": row["grad_norm"]}
            history.append(place | {"split": "train"} | numbers)
        elif "eval_loss" in row:
            history.append(place | {"split": "dev", "loss": row["eval_loss"]})
    return history
