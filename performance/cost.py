"""What the stages cost on the paper's backbones, from first principles: writes docs/cost.md.

    python performance/cost.py

Arithmetic alone: nothing is loaded and nothing is run. Parameters come from the dimensions in each model's config.json,
texts and tokens from the settings of `config/paper.yaml`, every text as long as its corpus allows. The tests hold the
formulas against real counts on tiny models, and the page holds them against measured peaks (docs/benchmarks/peaks.csv).
"""

import argparse
import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lensflow.errors import LensflowError
from lensflow.methods.base import FineTuning, Lora
from lensflow.methods.lens.config import Lens
from lensflow.methods.sft import Sft
from lensflow.schema.backbone import HubSource
from lensflow.schema.setting import Setting
from lensflow.storage.atomic import write_text
from lensflow.workflow.experiment import Config, read

ROOT = Path(__file__).parents[1]
PROCESS = 0.5e9  # bytes: Python with torch and transformers, as measured
CUDA = 1.0e9  # bytes of a GPU: CUDA itself, workspaces, graphs; an allowance
SIZE = 2  # bytes of a number of the paper's backbones: bfloat16
MARGIN = 1.2  # of what fine-tuning is computed to need, for a GPU to be enough
STREAMED_BATCH = 2048  # extraction.batch_tokens that streaming was measured with; the default of 512 needs less
GPUS = (24, 40, 48, 80)  # GB
PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (0, ""))
TOKENS = 1000  # that evaluation is reckoned for
NF4 = 1 / 2 + 1 / 64 + 4 / (64 * 256)  # bytes: 4 bits; a scale of 8 bits for 64 numbers; one of 32 bits for 256 scales


@dataclass(frozen=True)
class Shape:
    """The dimensions of a decoder with gated feed-forward layers and without biases.

    Attributes:
        layers: L.
        width: d, of the states.
        inner: of the feed-forward layers.
        heads: query heads.
        kv_heads: key and value heads.
        head: dimensions of a head.
        vocabulary: rows of the embeddings.
        tied: whether the output layer is the embeddings.
        norms: norms of d numbers in a layer.
        head_norms: norms of `head` numbers in a layer.
    """

    layers: int
    width: int
    inner: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int
    tied: bool = False
    norms: int = 2
    head_norms: int = 0

    @property
    def attended(self) -> int:
        """Numbers in all query heads of a token."""
        return self.heads * self.head

    @property
    def keys(self) -> int:
        """Numbers in all keys of a token; as many in its values."""
        return self.kv_heads * self.head

    @property
    def matrices(self) -> int:
        """Parameters in a layer's matrices: queries and output, keys and values, feed-forward."""
        return self.width * (2 * self.attended + 2 * self.keys + 3 * self.inner)

    @property
    def layer(self) -> int:
        """Parameters of a layer."""
        return self.matrices + self.norms * self.width + self.head_norms * self.head

    @property
    def embeddings(self) -> int:
        """Parameters of the embeddings."""
        return self.vocabulary * self.width

    @property
    def decoder(self) -> int:
        """Parameters without the output layer."""
        return self.embeddings + self.layers * self.layer + self.width

    @property
    def parameters(self) -> int:
        """Parameters of the whole model, each counted once."""
        return self.decoder + (0 if self.tied else self.embeddings)


LLAMA_8B = Shape(layers=32, width=4096, inner=14336, heads=32, kv_heads=8, head=128, vocabulary=128256)
QWEN3 = Shape(
    layers=28,
    width=1024,
    inner=3072,
    heads=16,
    kv_heads=8,
    head=128,
    vocabulary=151936,
    tied=True,
    head_norms=2,
)
GEMMA_270M = Shape(
    layers=18,
    width=640,
    inner=2048,
    heads=4,
    kv_heads=1,
    head=256,
    vocabulary=262144,
    tied=True,
    norms=4,
    head_norms=2,
)
SHAPES = {
    "llama-3-8b-instruct": LLAMA_8B,
    "llama-3.1-8b-instruct": LLAMA_8B,
    "phi-3.5-mini-instruct": Shape(layers=32, width=3072, inner=8192, heads=32, kv_heads=32, head=96, vocabulary=32064),
    "gemma-3-270m": GEMMA_270M,
    "smollm2-135m-instruct": Shape(
        layers=30, width=576, inner=1536, heads=9, kv_heads=3, head=64, vocabulary=49152, tied=True
    ),
    "qwen3-0.6b": QWEN3,
    "qwen3-1.7b": replace(QWEN3, width=2048, inner=6144),
    "qwen3-4b": replace(QWEN3, layers=36, width=2560, inner=9728, heads=32),
    "qwen3-8b": replace(QWEN3, layers=36, width=4096, inner=12288, heads=32, tied=False),
    "gemma-3-270m-it": GEMMA_270M,
    "gemma-3-1b-it": replace(GEMMA_270M, layers=26, width=1152, inner=6912),
    # Of its language model; the vision tower and what links the two have 419,816,304 parameters more.
    "gemma-3-4b-it": replace(GEMMA_270M, layers=34, width=2560, inner=10240, heads=8, kv_heads=4, vocabulary=262208),
    "llama-3.2-1b-instruct": replace(LLAMA_8B, layers=16, width=2048, inner=8192, head=64, tied=True),
    "llama-3.2-3b-instruct": replace(LLAMA_8B, layers=28, width=3072, inner=8192, heads=24, tied=True),
    "smollm3-3b": replace(LLAMA_8B, layers=36, width=2048, inner=11008, heads=16, kv_heads=4, tied=True),
    "phi-4-mini-instruct": replace(LLAMA_8B, width=3072, inner=8192, heads=24, vocabulary=200064, tied=True),
    "mistral-7b-instruct-v0.3": replace(LLAMA_8B, vocabulary=32768),
    "aya-expanse-8b": replace(LLAMA_8B, vocabulary=256000, tied=True, norms=1),
}


# --- Formulas ---------------------------------------------------------------------------------------------------------


def forward_flops(shape: Shape, lengths: Iterable[int]) -> int:
    """FLOPs of texts of these lengths through all layers, without the output layer.

    A matrix takes 2 FLOPs a parameter and token; scores and values of attention 4·T² for each number in the heads (a
    kernel that leaves out what the causal mask hides does half of that).
    """
    lengths = list(lengths)
    return shape.layers * (
        2 * shape.matrices * sum(lengths) + 4 * shape.attended * sum(length**2 for length in lengths)
    )


def states_bytes(shape: Shape, texts: int, tokens: int, size: int) -> int:
    """Bytes that `extract_hidden_states` writes for one language.

    Args:
        shape: of the backbone.
        texts: N.
        tokens: of all texts together, 0 where nothing trains on the corpus.
        size: bytes of a number in the backbone's precision.
    """
    return size * shape.width * (texts * (shape.layers + 1) + tokens) + 8 * texts


def extraction_activations(shape: Shape, batch_tokens: int, size: int, kept: int) -> int:
    """Bytes of a batch: the states of all tokens after `kept` layers, and the widest layer's inputs and outputs."""
    return size * batch_tokens * (kept * shape.width + 3 * shape.inner + 2 * shape.width)


def resident_memory(shape: Shape, batch_tokens: int, size: int) -> int:
    """Bytes to extract with the whole decoder in memory."""
    return size * shape.decoder + extraction_activations(shape, batch_tokens, size, shape.layers)


def stream_memory(shape: Shape, texts: int, tokens: int, batch_tokens: int, size: int) -> int:
    """Bytes to extract with one layer in memory: the layer, a batch, and a language's states (twice while written)."""
    states = size * shape.width * tokens + states_bytes(shape, texts, tokens, size)
    return size * shape.layer + 2 * states + extraction_activations(shape, batch_tokens, size, 1)


def stream_gpu_memory(shape: Shape, batch_tokens: int, size: int) -> int:
    """Bytes of the GPU then: a layer and a batch; states go back to the host."""
    return size * shape.layer + extraction_activations(shape, batch_tokens, size, 1)


def subspaces_bytes(shape: Shape, languages: int, rank: int) -> int:
    """Bytes that `fit_subspaces` writes: M_a, M_s, and of each language δ, mean and norm, in float32."""
    return 4 * shape.layers * (shape.width * (1 + rank + 2 * languages) + languages)


def fit_memory(shape: Shape, texts: int) -> int:
    """Bytes of `fit_subspaces`: one language's states in float64, twice."""
    return 2 * 8 * shape.layers * texts * shape.width


def training_flops(shape: Shape, layers: int, tokens: int, rows: int) -> int:
    """FLOPs of one step of Lens, forward and backward.

    A matrix takes 2 FLOPs a parameter and token forward and 4 backward, attention three times its forward pass. The
    lower layers run all tokens of the batch, packed into one sequence; the top one makes keys and values of all (and
    queries, which are dropped), and runs the rest on the rows that the loss needs.

    Args:
        shape: of the backbone.
        layers: that train.
        tokens: of the batch, all texts together.
        rows: tokens whose states at the top enter the loss.
    """
    lower = 6 * shape.matrices * tokens + 12 * shape.attended * tokens**2
    keys = shape.width * 2 * shape.keys
    top = 2 * shape.width * shape.attended * tokens + 6 * keys * tokens
    top += 2 * keys * rows + 6 * (shape.matrices - keys) * rows + 12 * shape.attended * tokens * rows
    return (layers - 1) * lower + top


def training_activations(shape: Shape, layers: int, tokens: int, rows: int, size: int) -> int:
    """Bytes that a step of Lens keeps for its backward pass, about."""
    of_token = 4 * shape.inner + 7 * shape.width + 4 * shape.attended + 6 * shape.keys
    return size * ((layers - 1) * tokens + rows) * of_token


def training_memory(shape: Shape, layers: int, tokens: int, rows: int, size: int) -> int:
    """Bytes to train: weights, gradients and AdamW's two moments in float32, activations.

    With `precision: mixed` the layers' own copy in the backbone's precision (`size` bytes a number) comes on top.
    """
    of_parameter = 4 + 4 + 8 + (0 if size == 4 else size)
    return of_parameter * layers * shape.layer + training_activations(shape, layers, tokens, rows, size)


def frozen_bytes(shape: Shape, kept: str) -> float:
    """Bytes of the whole backbone below adapters, with `frozen_weights` as the key says."""
    if kept != "nf4":
        return (4 if kept == "float32" else SIZE) * shape.parameters
    in_four_bits = shape.layers * shape.matrices
    return SIZE * (shape.parameters - in_four_bits) + NF4 * in_four_bits


def adapter_parameters(shape: Shape, rank: int) -> int:
    """Parameters of adapters on every matrix of every layer."""
    inputs_and_outputs = 2 * (shape.width + shape.attended) + 2 * (shape.width + shape.keys)
    return shape.layers * rank * (inputs_and_outputs + 3 * (shape.width + shape.inner))


def adapted_activations(shape: Shape, rank: int, kept: str) -> int:
    """Bytes that a layer keeps of a token for its backward pass through adapters, with dropout before each.

    With float32 weights in float32, else in bfloat16: some is kept in float32 there, too.
    """
    if kept == "float32":
        return 4 * (5 * shape.inner + 12 * shape.width + 4 * shape.attended + 2 * shape.keys + 7 * rank + 2)
    return 13 * shape.inner + 40 * shape.width + 10 * shape.attended + 5 * shape.keys + 16 * rank


def tuning_memory(shape: Shape, tokens: int, rank: int, kept: str, checkpointing: bool, gpus: int = 1) -> float:
    """Bytes of each GPU while adapters train.

    The peak is where the logits are (in bfloat16, in float32, and their softmax or gradient) or, with gradient
    checkpointing, where the activations of one layer are there again. Several GPUs share a batch: each has the whole
    backbone and the adapters, and a copy of their gradients to be summed.

    Args:
        shape: of the backbone.
        tokens: of a batch, of which all count in the loss.
        rank: of the adapters.
        kept: `frozen_weights`; "float32" is computed in float32, all others in bfloat16.
        checkpointing: `gradient_checkpointing`.
        gpus: that share the batch.
    """
    tokens = math.ceil(tokens / gpus)
    adapters = (4 + 4 + 8 + (4 if gpus > 1 else 0)) * adapter_parameters(shape, rank)
    of_layer = tokens * adapted_activations(shape, rank, kept)
    logits = 10 * shape.vocabulary * tokens
    if checkpointing:
        kept_of_layers = shape.layers * tokens * shape.width * (4 if kept == "float32" else SIZE)
        activations = kept_of_layers + max(logits, of_layer)
    else:
        activations = shape.layers * of_layer + logits
    return frozen_bytes(shape, kept) + adapters + activations


def cache_bytes(shape: Shape, size: int) -> int:
    """Bytes of a token's keys and values while answers are generated."""
    return 2 * shape.layers * shape.keys * size


def scored_flops(shape: Shape) -> int:
    """FLOPs of a token in evaluation, the output layer included and attention left out."""
    return 2 * (shape.layers * shape.matrices + shape.embeddings)


def gpu_share(shape: Shape, gpu: float, both: bool) -> tuple[float, float]:
    """The share of a GPU's memory that vLLM can take, and the tokens whose keys and values then fit.

    Args:
        shape: of the backbone.
        gpu: bytes of the GPU.
        both: whether the other engine is there, too, with its weights, a batch of 8192 tokens and 128 rows of logits.

    Returns:
        The share, in steps of 0.05, and the tokens; below zero where the weights do not fit.
    """
    other = SIZE * shape.parameters + 8192 * cache_bytes(shape, SIZE) + 128 * shape.vocabulary * (4 + SIZE)
    share = math.floor(20 * (1 - (CUDA + (other if both else 0)) / gpu)) / 20
    return share, (share * gpu - SIZE * shape.parameters - CUDA) / cache_bytes(shape, SIZE)


# --- The paper's settings ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Texts:
    """What is read of a corpus in one language: N texts, train and dev, each as long as the configuration allows."""

    count: int
    tokens: int  # of a text
    train: int

    @property
    def total(self) -> int:
        """Tokens of all texts."""
        return self.count * self.tokens


def texts_of(config: Config, corpus: str) -> Texts:
    """Texts of a corpus in one language.

    Raises:
        LensflowError: it is not a data set, whose size is known from the configuration alone.
    """
    entry = config.corpora[corpus]
    if (source := entry.dataset) is None:
        raise LensflowError(f"corpora.{corpus}: not a data set; its size is not in the configuration")
    return Texts(source.train + source.dev, entry.max_tokens or config.extraction.max_tokens, source.train)


@dataclass(frozen=True)
class Step:
    """The largest batch of Lens, and how many make a training."""

    tokens: int
    rows: int
    steps: int


def step_of(method: Lens, setting: Setting, texts: Texts) -> Step:
    """Count what one batch of a training holds."""
    train, targets = method.examples or texts.train, len(setting.targets)
    of_unit, units = (targets, train) if method.batch_of == "texts" else (1, train * targets)
    central_rows = texts.tokens if method.retain_on == "mean" else 1
    return Step(
        method.batch_size * (1 + of_unit) * texts.tokens,
        method.batch_size * (central_rows + of_unit),
        math.ceil(units / method.batch_size) * method.most_epochs,
    )


@dataclass(frozen=True)
class Job:
    """A row of a backbone's table; FLOPs, bytes and peaks of one job."""

    stage: str
    count: int
    flops: float
    read: float
    written: float
    host: float
    gpu: float = 0
    streamed: bool = False  # stands for another row where extraction.memory is stream


def jobs(config: Config, backbone: str) -> list[Job]:
    """What a backbone's runs are made of, but for evaluation."""
    shape, extraction = SHAPES[backbone], config.extraction
    weights = SIZE * shape.parameters
    runs = [run for run in config.runs if backbone in run.backbones]
    settings = {name: config.settings[name] for run in runs for name in run.settings}
    languages: dict[str, set[str]] = {}
    for setting in settings.values():
        for corpus in (setting.probing, setting.training):
            languages.setdefault(corpus, set()).update(setting.languages)
    found = [Job("prepare_backbone", 1, 0, weights, weights, PROCESS)]
    trained_on = {setting.training for setting in settings.values()}
    for corpus, codes in languages.items():
        texts = texts_of(config, corpus)
        flops = len(codes) * forward_flops(shape, [texts.tokens] * texts.count)
        written = len(codes) * states_bytes(shape, texts.count, texts.total if corpus in trained_on else 0, SIZE)
        whole = resident_memory(shape, min(extraction.batch_tokens, texts.total), SIZE)
        batch = min(STREAMED_BATCH, texts.total)
        layerwise = stream_memory(shape, texts.count, texts.total, batch, SIZE)
        on_gpu = stream_gpu_memory(shape, batch, SIZE) + CUDA
        stage, layers = f"extract_hidden_states, {corpus}", SIZE * shape.layers * shape.layer
        found.append(Job(stage, 1, flops, weights, written, weights + PROCESS, whole + CUDA))
        memory, stage = layerwise + PROCESS, f"{stage}, `memory: stream`"
        found.append(Job(stage, 1, flops, layers, written, memory, on_gpu, streamed=True))
    for name, setting in settings.items():
        probing, texts, count = (
            texts_of(config, setting.probing),
            texts_of(config, setting.training),
            len(setting.languages),
        )
        read = count * states_bytes(shape, probing.count, 0, SIZE)
        means = 3 * shape.layers * count * probing.train * shape.width
        written = subspaces_bytes(shape, count, setting.rank or count - 1)
        found.append(Job(f"fit_subspaces, {name}", 1, means, read, written, fit_memory(shape, probing.train) + PROCESS))
        states = count * states_bytes(shape, texts.count, texts.total, SIZE)
        for method_name in dict.fromkeys(method for run in runs if name in run.settings for method in run.methods):
            method = config.methods[method_name]
            if isinstance(method, Lens):
                step, trained = step_of(method, setting, texts), method.layers * shape.layer
                flops = step.steps * training_flops(shape, method.layers, step.tokens, step.rows)
                size = SIZE if method.precision == "mixed" else 4
                memory = training_memory(shape, method.layers, step.tokens, step.rows, size)
                read = states + 2 * SIZE * trained
                stage = f"train, {name}, {method_name}"
                found.append(Job(stage, 1, flops, read, 4 * trained, memory + PROCESS, memory + CUDA))
    return found


# --- The page ---------------------------------------------------------------------------------------------------------


def quantity(number: float, unit: str) -> str:
    """Write a number of bytes or FLOPs; nothing for none."""
    if not number:
        return ""
    factor, prefix = next(entry for entry in PREFIXES if number >= entry[0])
    return f"{number / factor:.{1 if number < 100 * factor else 0}f} {prefix}{unit}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Write a table whose first column is text."""
    lines = [f"| {' | '.join(header)} |", "|---" + "|---:" * (len(header) - 1) + "|"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


@dataclass(frozen=True)
class Section:
    """Backbones of one shape and what their runs are made of."""

    names: list[str]
    shape: Shape
    jobs: list[Job]

    @property
    def name(self) -> str:
        """All of their names."""
        return ", ".join(self.names)


def sections(config: Config) -> list[Section]:
    """Put backbones together that cost the same.

    Raises:
        LensflowError: a backbone's dimensions are not known.
    """
    found: list[Section] = []
    for backbone in dict.fromkeys(backbone for run in config.runs for backbone in run.backbones):
        if backbone not in SHAPES:
            raise LensflowError(f"backbones.{backbone}: its dimensions are not in performance/cost.py; add them")
        section = Section([backbone], SHAPES[backbone], jobs(config, backbone))
        same = next((s for s in found if (s.shape, s.jobs) == (section.shape, section.jobs)), section)
        if same is section:
            found.append(section)
        else:
            same.names.append(backbone)
    return found


def of_the_catalog(config: Config) -> Config:
    """Return the first of the runs with the hub's backbones that no run names."""
    named = {backbone for run in config.runs for backbone in run.backbones}
    others = [
        name for name, entry in config.backbones.items() if isinstance(entry.source, HubSource) and name not in named
    ]
    return config.model_copy(update={"runs": (config.runs[0].model_copy(update={"backbones": tuple(others)}),)})


def of_section(section: Section) -> list[str]:
    """Write what the stages take."""
    shape, weights = section.shape, SIZE * section.shape.parameters
    trainings = sum(job.stage.startswith("train") for job in section.jobs)
    more = (
        Job(
            f"answer, {TOKENS} tokens of each checkpoint",
            1,
            (trainings + 1) * TOKENS * scored_flops(shape),
            weights,
            0,
            weights + PROCESS,
        ),
    )
    rows = [
        [job.stage, str(job.count), quantity(job.flops, "FLOP")]
        + [quantity(number, "B") for number in (job.read, job.written, job.host, job.gpu)]
        for job in (*section.jobs, *more)
    ]
    return [
        f"## {section.name}",
        "",
        f"{shape.parameters:,} parameters, {shape.layer:,} of them in each of {shape.layers} layers. "
        "The columns are for one job:",
        "",
        *table(("stage", "jobs", "FLOPs", "read", "written", "host memory", "GPU memory"), rows),
    ]


def node(section: Section) -> Sequence[str]:
    """Say what to book: the largest peaks of any job, and disk for everything at once."""
    extractions = [job for job in section.jobs if job.stage.startswith("extract")]
    trainings = [job for job in section.jobs if job.stage.startswith("train")]
    whole = [job for job in section.jobs if not job.streamed]
    streamed = [job for job in section.jobs if job.streamed or job not in extractions]
    disk = sum(job.count * job.written for job in whole)
    disk += max(6 * job.written for job in trainings)  # of a delta: weights and moments, twice
    streams = [job for job in extractions if job.streamed]
    peaks = [max(job.gpu for job in jobs) for jobs in (extractions, streams, trainings)]
    peaks += [max(job.host for job in jobs) for jobs in (whole, streamed)]
    return section.name, *(quantity(number, "B") for number in (*peaks, disk))


def shares(section: Section) -> Iterable[Sequence[str]]:
    """Say what share of a GPU vLLM can take, and how many tokens then fit."""
    for engine, both in (("auto", True), ("vllm", False)):
        found = [gpu_share(section.shape, gpu * 1e9, both) for gpu in GPUS]
        cells = [f"{share:.2f} ({tokens / 1000:.0f} k)" if tokens > 0 else "too small" for share, tokens in found]
        yield f"{section.name}: `{engine}`", *cells


WAYS = (("float32", False), ("bfloat16", False), ("bfloat16", True), ("nf4", True))


def tuning(name: str, shape: Shape, method: FineTuning, rank: int) -> Sequence[str]:
    """Say what fine-tuning takes of a GPU in each of the ways, what two GPUs share, and which GPU is enough."""
    batch = method.batch_size * method.max_tokens
    peaks = [tuning_memory(shape, batch, rank, *way) + CUDA for way in WAYS]
    shared = tuning_memory(shape, batch, rank, *WAYS[-1], gpus=2) + CUDA
    enough = [next((f"{gpu}" for gpu in GPUS if gpu * 1e9 > MARGIN * peak), "–") for peak in (peaks[2], peaks[3])]
    host = 4 * shape.parameters + PROCESS
    return name, *(quantity(number, "B") for number in (*peaks, shared, host)), *enough


def measured(path: Path) -> Iterable[tuple[str, str, float, float, str]]:
    """Backbone, stage, computed and measured peak in bytes, and what measured it."""
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            shape, size, stage = SHAPES[row["backbone"]], int(row["bytes"]), row["stage"]
            texts, tokens = int(row["texts"]), int(row["tokens"])
            batch, on_gpu = min(STREAMED_BATCH, tokens), row["device"] == "gpu"
            what = f"{stage}, {texts} texts, {tokens} tokens"
            if stage == "extract_hidden_states":
                what += f", `{row['memory']}`"
                if row["memory"] == "resident":
                    computed = resident_memory(shape, batch, size)
                elif on_gpu:
                    computed = stream_gpu_memory(shape, batch, size)
                else:
                    computed = stream_memory(shape, texts, tokens, batch, size)
            elif stage == "fit_subspaces":
                computed = fit_memory(shape, texts)
            else:  # two layers on batches of 8 pairs of texts, of which the last tokens' states count
                computed = training_memory(shape, 2, 16 * tokens // texts, 16, size)
            what, computed = (f"{what}, GPU", computed + CUDA) if on_gpu else (what, computed + PROCESS)
            yield row["backbone"], what, computed, float(row["peak_gb"]) * 1e9, row["source"]


HEAD = """# What a run costs

This page lists what "{title}" costs. `python performance/cost.py` computes it from the models' dimensions and the
configuration. Only the last table has measurements. GB are 10⁹ bytes.

## What to request
"""

BOOKING = """Measured peaks are up to {excess:.1f} times the computed ones, and with `stream` up to {streamed:.1f}
times (see the last table). Request that much more memory. Without a GPU, the GPU columns count as host memory. The
disk column covers all results at once, including the saved state of a training.

The next table is for evaluation on one GPU. It lists the share of the GPU's memory that vLLM can take
(`resources.gpu_memory`), and in brackets the number of tokens of prompts and answers that then fit. With `engine:
auto`, transformers also loads the weights. If a GPU is too small, use `engine: hf`, or `engine: vllm` on more GPUs
(`resources.gpus`).
"""

OTHERS = """## Other backbones of the catalog

This section has the same tables for the hub's other backbones in `config/catalog/backbones.yaml`, only with the
setting {setting}. Their `mem_gb` in the catalog is 1.2 times the host memory of evaluation in float32 (4 bytes per
parameter).
"""

TUNING = """## Fine-tuning

This table gives the computed GPU memory for adapters of rank {rank} (`sft`, `cpt`, `qalign`), with batches of
{examples} examples of {tokens} tokens. All tokens count in the loss. The columns name `frozen_weights`; + means
`gradient_checkpointing`. "Two GPUs" is the memory of each of two GPUs that share the batch of the column before.
"Merge" is the host memory at the end, when the adapters are merged into the backbone in float32. The last columns
name the smallest GPU of {gpus} GB that has a fifth more memory than computed. We measured no peak of fine-tuning on
a GPU; tests compare the formulas with tiny models.
"""

FORMULAS = """## Formulas

The symbols are: L layers of width d; m parameters in the matrices of a layer; N texts of T tokens; b bytes per number
(bfloat16: 2).

| of | formula |
|---|---|
| matrices of a layer, m | d (2 · heads · head + 2 · kv_heads · head + 3 · inner) |
| parameters | L (m + norms) + d + vocabulary · d (twice if the output layer is not tied to the embeddings) |
| FLOPs of a forward pass | L (2 m N T + 4 · heads · head · N T²) |
| FLOPs of a training step, each layer below the top one | 6 m S + 12 · heads · head · S², for S tokens in a batch |
| FLOPs of a training step, the top layer | the same for the M tokens that the loss needs, but all keys and values |
| hidden states of a language | b d (N (L + 1) + N T) + 8 N bytes; without N T if no method trains on the corpus |
| memory of extraction, `resident` | b bytes per parameter, and every layer's states of one batch |
| memory of extraction, `stream` | b bytes per parameter of one layer, and twice one language's token states |
| memory of training | 16 bytes per trained parameter (float32 weight, gradient, two moments), activations |
| … with `precision: mixed` | b more bytes per trained parameter |
| frozen weights | 4 or 2 bytes per parameter; `nf4`: 0.516 bytes for the L m in matrices, 2 for the others |
| adapters of rank r, parameters | L r (2 (d + heads · head) + 2 (d + kv_heads · head) + 3 (d + inner)) |
| adapters, memory | 16 bytes per parameter, 20 with several GPUs |
| activations per token and layer | bytes in bfloat16: 13 inner + 40 d + 10 heads · head + 5 kv_heads · head + 16 r |
| … in float32 | 20 inner + 48 d + 16 heads · head + 8 kv_heads · head + 28 r + 8 |
| … with gradient checkpointing | b d bytes, and the larger of: activations of one layer, logits |
| logits | 10 bytes per vocabulary entry and counted token |
| delta | 4 bytes per trained parameter; a training longer than a minute saves 12 more, or 24 while they are replaced |
| evaluation | 2 FLOPs per parameter and token; 2 L · kv_heads · head · b bytes per token in vLLM's cache |

In addition, we allow 0.5 GB for each process and 1 GB for each GPU. We assume that every text is as long as
`max_tokens` allows. The time is the FLOPs divided by the FLOP/s of the device, which `performance/method.py`
measures. It is never less than the time for reading the files.
"""


def page(config: Config, peaks: Path) -> str:
    """Write the page."""
    found, rows = sections(config), list(measured(peaks))
    excess = {way: max(row[3] / row[2] for row in rows if ("stream" in row[1]) == way) for way in (True, False)}
    booked = ("backbone", "GPU to extract", "… with `stream`", "GPU to train", "host memory", "… with `stream`", "disk")
    evaluated = ("evaluation", *(f"{gpu} GB" for gpu in GPUS))
    others = sections(of_the_catalog(config))
    lines = [
        HEAD.format(title=config.title),
        *table(booked, map(node, found)),
        BOOKING.format(excess=excess[False], streamed=excess[True]),
        *table(evaluated, (row for section in found for row in shares(section))),
        OTHERS.format(setting=config.runs[0].settings[0]),
        *table(booked, map(node, others)),
        *table(evaluated, (row for section in others for row in shares(section))),
    ]
    method = Sft(kind="sft")
    rank = Lora().rank
    tuned = (
        "backbone",
        "float32",
        "bfloat16",
        "bfloat16 +",
        "nf4 +",
        "two GPUs",
        "merge",
        "GPU, bfloat16 +",
        "GPU, nf4 +",
    )
    texts = {"rank": rank, "examples": method.batch_size, "tokens": method.max_tokens}
    lines += [
        TUNING.format(**texts, gpus=", ".join(map(str, GPUS))),
        *table(tuned, (tuning(section.name, section.shape, method, rank) for section in (*found, *others))),
        FORMULAS,
        *(line for section in found for line in of_section(section)),
        "## Computed and measured peaks",
        "",
    ]
    header = ("backbone", "stage", "computed", "measured", "by")
    lines += table(header, ([*row[:2], *(quantity(number, "B") for number in row[2:4]), row[4]] for row in rows))
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Write the page."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--output", type=Path, default=ROOT / "docs/cost.md")
    args = options.parse_args()
    write_text(args.output, page(read([ROOT / "config/paper.yaml"], ROOT), ROOT / "docs/benchmarks/peaks.csv"))


if __name__ == "__main__":
    main()
