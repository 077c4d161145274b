"""Time and memory of the method: our stages beside the published procedure, on the same texts in the same precision.

    python performance/method.py --backbone results/gemma-3-270m/backbone/manifest.json

Run it from the repository root on a quiet machine (the full size takes about half an hour on two cores). Both sides
make the choices of `config/published.yaml`. Every stage is a process of its own, timed from its start to its end,
imports and loading of the model included; its peak memory is its maximum resident set, mapped files included.

- Ours: `lensflow extract-hidden-states`, `fit-subspaces`, `train`, with the dev texts that a user's run has, too (an
  eighth of the pairs), which the other side is spared.
- Published: `published_probe` and `published_train` below, one process each with all cores.

With `--gpus 1` both sides run on a GPU; its memory is read from nvidia-smi.
A backbone that the catalog does not have is named in a `--configfile`.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lensflow.artifacts import texts as texts_module
from lensflow.errors import LensflowError
from lensflow.methods.lens.config import Lens
from lensflow.storage.atomic import write_jsonl
from lensflow.storage.verified import read_jsonl
from lensflow.workflow.experiment import Config, read
from measuring import Measured, backbone_of, device_name, markdown, row, say, spawn, verdict, write

# The parent must not import torch: a child's maximum resident set begins with its parent's.
DTYPES = ("float32", "bfloat16")
DEV_SHARE = 8  # one dev text for so many pairs: 20 for 160
PROBING_BATCH = 8  # texts; of the published procedure
FIT_LAYERS, FIT_LANGUAGES, FIT_WIDTH = 33, 7, 4096


# --- The published procedure, in processes of its own -----------------------------------------------------------------


def left_padded(sequences: list[list[int]], device: Any) -> dict[str, Any]:
    """Pad token ids on the left: ids and mask (n, T)."""
    import torch

    width = max(map(len, sequences))
    padded = {
        "input_ids": [[0] * (width - len(ids)) + ids for ids in sequences],
        "attention_mask": [[0] * (width - len(ids)) + [1] * len(ids) for ids in sequences],
    }
    return {name: torch.tensor(rows, device=device) for name, rows in padded.items()}


def whole_model(task: dict[str, Any]) -> Any:
    """Load the model with its output layer."""
    import torch
    from transformers import AutoModelForCausalLM

    from lensflow.models.loading import device_of

    model = AutoModelForCausalLM.from_pretrained(task["checkpoint"], dtype=getattr(torch, task["dtype"]))
    return model.to(device_of(task["gpus"])).eval()  # HF Trainer would switch dropout on; these families have none


def published_probe(task: dict[str, Any]) -> dict[str, Any]:
    """Every text through the whole model, then LSAR with full d×d bases, layer by layer."""
    import torch
    from safetensors.torch import save_file
    from tqdm import tqdm

    model = whole_model(task)
    sequences = read_sequences(task)
    means = []
    with torch.no_grad():
        for language in task["languages"]:
            states = []
            batches = range(0, task["pairs"], PROBING_BATCH)
            for start in tqdm(batches, desc=f"published: probing {language}", mininterval=1):
                stop = min(start + PROBING_BATCH, task["pairs"])
                output = model(
                    **left_padded(sequences[language].ids[start:stop], model.device), output_hidden_states=True
                )
                states.append(torch.stack([layer[:, -1] for layer in output.hidden_states[1:]]).float())
            means.append(torch.cat(states, dim=1).mean(dim=1))
    tensors: dict[str, torch.Tensor] = {}
    stacked = torch.stack(means, dim=2)  # (L, d, K)
    for layer, matrix in enumerate(tqdm(stacked, desc="published: SVDs", mininterval=1)):
        rank = matrix.shape[1] - 1
        mean = matrix.mean(dim=1, keepdim=True)
        left, strengths, right = torch.linalg.svd(matrix - mean, full_matrices=True)
        rebuilt = mean + left[:, :rank] @ torch.diag(strengths[:rank]) @ right[:rank]
        agnostic = torch.linalg.pinv(rebuilt).mT.sum(dim=1, keepdim=True)
        agnostic = agnostic / agnostic.square().sum()
        specific = torch.linalg.svd(rebuilt - agnostic, full_matrices=True)[0][:, :rank]
        tensors |= {f"{layer}.agnostic": agnostic.contiguous(), f"{layer}.specific": specific.contiguous()}
    tensors["means"] = stacked[-1].mT.contiguous()
    save_file(tensors, task["output"])
    return {}


def published_train(task: dict[str, Any]) -> dict[str, Any]:
    """Policy and reference whole, output layer included, for every text; one text a step, eight accumulated.

    A text's languages run one after the other; the optimizer has float32 masters, as DeepSpeed's bfloat16 mode has.
    """
    import torch
    from safetensors.torch import load_file
    from tqdm import tqdm
    from transformers import get_scheduler

    method = Lens.model_validate(task["method"])
    policy, reference = whole_model(task), whole_model(task)
    policy.requires_grad_(False)
    reference.requires_grad_(False)
    for layer in policy.base_model.layers[-method.layers :]:
        layer.requires_grad_(True)
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    central, *targets = task["languages"]
    sequences = read_sequences(task)
    texts = task["pairs"]

    subspaces = load_file(task["subspaces"], device=str(policy.device))
    top = policy.config.num_hidden_layers - 1
    agnostic, specific = subspaces[f"{top}.agnostic"], subspaces[f"{top}.specific"]
    project_agnostic = agnostic @ agnostic.mT / agnostic.square().sum()  # (d, d)
    project_specific = specific @ specific.mT  # (d, d)
    shifts = {
        language: method.strength_of(language) * project_specific @ (mean - subspaces["means"][0])
        for language, mean in zip(targets, subspaces["means"][1:], strict=True)
    }

    masters = [torch.nn.Parameter(parameter.detach().float()) for parameter in trained]
    decayed = [parameter for parameter in masters if parameter.ndim > 1]
    kept = [parameter for parameter in masters if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": method.weight_decay}, {"params": kept, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=method.lr)
    steps = method.epochs * math.ceil(texts / method.batch_size)
    schedule = get_scheduler(method.schedule, optimizer, math.ceil(method.warmup * steps), steps)

    def top(model: Any, language: str, index: int) -> Any:
        ids = torch.tensor([sequences[language].ids[index]], device=model.device)
        return model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0].float()  # (T, d)

    first_epoch = []
    for epoch in range(method.epochs):
        order = torch.randperm(texts, generator=torch.Generator().manual_seed(epoch)).tolist()
        progress = tqdm(order, desc=f"published: epoch {epoch + 1} of {method.epochs}", mininterval=1)
        for step, index in enumerate(progress, start=1):
            states = {language: top(policy, language, index) for language in task["languages"]}
            with torch.no_grad():
                untouched = {language: top(reference, language, index) for language in task["languages"]}
            retain = states[central].mean(dim=0) - untouched[central].mean(dim=0)
            loss = method.weights.retain * retain.square().mean()
            for language in targets:
                push = (states[language][-1] - untouched[language][-1]) @ project_specific - shifts[language]
                pull = (states[language][-1] - states[central][-1]) @ project_agnostic
                loss = loss + method.weights.push * push.square().mean() + method.weights.pull * pull.square().mean()
            (loss / method.batch_size).backward()
            if epoch == 0:
                first_epoch.append(loss.item())
            if step % method.batch_size == 0 or step == len(order):
                for parameter, master in zip(trained, masters, strict=True):
                    master.grad, parameter.grad = parameter.grad.float(), None
                torch.nn.utils.clip_grad_norm_(masters, method.max_grad_norm)
                optimizer.step()
                schedule.step()
                with torch.no_grad():
                    for parameter, master in zip(trained, masters, strict=True):
                        parameter.copy_(master)
    return {"loss": sum(first_epoch) / len(first_epoch)}


# --- Other tasks, in processes of their own ---------------------------------------------------------------------------


def read_sequences(task: dict[str, Any]) -> dict[str, Any]:
    """Every language's `Sequences`, as our stage makes them."""
    from lensflow.models.tokenizer import PromptTokenizer
    from lensflow.schema.backbone import Prompt
    from lensflow.schema.extraction import Extraction
    from lensflow.schema.parsing import parse
    from lensflow.stages.extract_hidden_states import tokenize

    tokenizer = PromptTokenizer(Path(task["checkpoint"]), parse(Prompt, task["prompt"]))
    extraction = Extraction.model_validate(task["extraction"])
    return {
        language: tokenize(tokenizer, language, texts_module.read_texts(Path(path), ["train", "dev"]), extraction)
        for language, path in task["texts"].items()
    }


def convert(task: dict[str, Any]) -> dict[str, Any]:
    """Write the backbone in the precision to be measured (not timed)."""
    import shutil

    from lensflow.schema.backbone import Backbone
    from lensflow.stages.prepare_backbone import prepare_backbone

    source, copy = Path(task["checkpoint"]), Path(task["output"])
    whole_model(task).save_pretrained(copy, max_shard_size="5GB")  # as on the hub
    for path in source.iterdir():
        if (
            path.suffix in (".json", ".jinja")
            and not (copy / path.name).exists()
            and not path.name.startswith(("manifest", "model"))
        ):
            shutil.copy(path, copy)
    backbone = {"source": {"kind": "folder", "path": str(copy)}, "license": ""}
    manifest = Path(task["manifest"])
    prepare_backbone(Backbone.model_validate(backbone | {"prompt": task["prompt"]}), Path(), manifest)
    return {}


def matmul_rate(dtype: Any, device: Any, seconds: float = 2.0, width: int = 4096) -> float:
    """FLOP/s of the best of several large matrix products."""
    import torch

    def multiply() -> None:
        torch.mm(a, b)
        if device.type == "cuda":  # which goes on before the product is there
            torch.cuda.synchronize()

    a, b = torch.randn(2, width, width).to(device, dtype)
    multiply()
    best, begun = math.inf, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        started = time.perf_counter()
        multiply()
        best = min(best, time.perf_counter() - started)
    return 2 * width**3 / best


def extraction_rate(task: dict[str, Any]) -> dict[str, Any]:
    """Texts/s of `extract`, model loaded, and FLOP/s beside the machine's peak, measured before and after."""
    import torch

    from lensflow.models.loading import device_of, load_decoder
    from lensflow.schema.extraction import Extraction
    from lensflow.stages.extract_hidden_states import Sequences, extract

    dtype, device = getattr(torch, task["dtype"]), device_of(task["gpus"])
    peak = matmul_rate(dtype, device)
    decoder = load_decoder(Path(task["checkpoint"]), device=device)
    assert next(decoder.parameters()).dtype == dtype
    languages = read_sequences(task)
    extraction = Extraction.model_validate(task["extraction"])

    def pass_over(texts: Sequences) -> None:
        with tempfile.TemporaryDirectory() as scratch:  # a new one a pass, or its finished batches would be taken over
            extract(decoder, texts, extraction, Path(scratch))

    for texts in languages.values():
        pass_over(Sequences(f"warm-up {texts.language}", texts.names[:4], texts.ids[:4]))
    started = time.perf_counter()
    for texts in languages.values():
        pass_over(texts)
    seconds = time.perf_counter() - started
    peak = max(peak, matmul_rate(dtype, device))

    shape: Any = decoder.config
    lengths = [len(ids) for texts in languages.values() for ids in texts.ids]
    embeddings = sum(p.numel() for name, p in decoder.named_parameters() if "embed" in name)
    weights = sum(p.numel() for p in decoder.parameters()) - embeddings
    width = shape.num_attention_heads * (
        getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    )
    # Scores and values of a causal head: 2 × 2 FLOPs for each of the T(T+1)/2 pairs of tokens. Real tokens only.
    attention = shape.num_hidden_layers * sum(2 * length * (length + 1) * width for length in lengths)
    flops = 2 * weights * sum(lengths) + attention
    return {"texts": len(lengths) / seconds, "rate": flops / seconds, "peak": peak}


def fit_large(task: dict[str, Any]) -> dict[str, Any]:
    """Seconds to fit all layers of a large problem, median of five."""
    import statistics

    import torch

    from lensflow.mathematics.subspaces import directions, fit_subspaces

    means = torch.randn(FIT_LAYERS, FIT_LANGUAGES, FIT_WIDTH, generator=torch.Generator().manual_seed(0))
    times = []
    for _ in range(5):
        started = time.perf_counter()
        directions(means, fit_subspaces(means).specific, 0)
        times.append(time.perf_counter() - started)
    return {"seconds": statistics.median(times)}


TASKS = {task.__name__: task for task in (published_probe, published_train, convert, extraction_rate, fit_large)}


# --- The measurement --------------------------------------------------------------------------------------------------


def run_task(task: Any, **values: Any) -> Measured:
    """Run one of `TASKS`."""
    say(f"{task.__name__} {values.get('dtype', '')}")
    return spawn([__file__, "--task", task.__name__, json.dumps(values, default=str)])


def stage(name: str, config: dict[str, Any], **options: Any) -> Measured:
    """Run one of our stages through the command line."""
    say(f"lensflow {name}")
    arguments: list[str | Path] = ["-m", "lensflow.cli", name, "--config", json.dumps(config)]
    for key, value in options.items():
        arguments += [f"--{key}", *(value if isinstance(value, list) else [value])]
    return spawn(arguments)


def write_texts(config: Config, languages: tuple[str, ...], corpus: str, pairs: int, folder: Path) -> dict[str, Path]:
    """Write the texts of every language: `pairs` to probe with and to train on, then the dev texts.

    The embedded corpus has 120 train texts; dev and test ones fill up. That is right for timing, and for nothing else.
    """
    content = texts_module.read_corpus(texts_module.folder(config.corpora[corpus].path or "", Path()))
    paths = {}
    for language in languages:
        rows = texts_module.in_language(content, language)
        dev = pairs // DEV_SHARE
        if len(rows) < pairs + dev:
            raise LensflowError(
                f"--pairs: {pairs} and {dev} dev texts are more than the {len(rows)} of the corpus; lower it"
            )
        splits = ["train"] * pairs + ["dev"] * dev
        paths[language] = folder / f"{language}.jsonl"
        chosen = [row | {"split": split} for row, split in zip(rows, splits, strict=False)]
        write_jsonl(paths[language], chosen)
    return paths


def measure(args: argparse.Namespace, config: Config, dtype: str, work: Path) -> Iterator[dict[str, Any]]:
    """Measure one precision; yield rows of the table."""
    setting, method, extraction = config.settings[args.setting], config.methods["lens-published"], config.extraction
    assert isinstance(method, Lens)
    prompt = backbone_of(config, args.backbone).prompt.canonical()
    # The published procedure takes the first language as the central one.
    languages = (setting.central, *setting.targets)
    texts = write_texts(config, languages, setting.training, args.pairs, work / "texts")
    manifest = work / dtype / "backbone" / "manifest.json"
    shared: dict[str, Any] = {"dtype": dtype, "prompt": prompt, "gpus": args.gpus}
    copy = work / dtype / "copy"
    run_task(convert, checkpoint=args.backbone.parent, output=copy, manifest=manifest, **shared)
    shared |= {"checkpoint": manifest.parent, "extraction": extraction.canonical(), "texts": texts}

    states = {language: work / dtype / "states" / f"{language}.safetensors" for language in languages}
    extract_config = {"extraction": extraction.canonical(), "prompt": prompt}
    paths = {"backbone": manifest, "texts": list(texts.values()), "outputs": list(states.values())}
    extracted = stage("extract-hidden-states", extract_config, gpus=args.gpus, **paths)
    files = {"states": list(states.values()), "texts": list(texts.values())}
    subspaces = work / dtype / "subspaces.safetensors"
    fitted = stage("fit-subspaces", {"setting": setting.canonical()}, output=subspaces, **files)
    published = shared | {"languages": languages, "pairs": args.pairs}
    probed = run_task(published_probe, output=work / dtype / "published.safetensors", **published)

    ours_before = extracted.seconds + fitted.seconds
    yield row(dtype, "states and subspaces", "s", ours_before, probed.seconds)
    memory = [[extracted, fitted], [probed]]
    targets = {1: 5.0, 10: 20.0}
    for epochs in args.epochs:
        described = "1 epoch" if epochs == 1 else f"{epochs} epochs"
        settings = method.model_copy(update={"epochs": epochs}).canonical()
        output = work / dtype / "run" / f"{epochs}-epochs" / "delta.safetensors"
        stage_config = {"method": settings, "setting": setting.canonical(), "seed": 0}
        stage_config |= extract_config
        files |= {"backbone": manifest, "subspaces": subspaces}
        ours = stage("train", stage_config, gpus=args.gpus, output=output, **files)
        theirs = run_task(
            published_train, subspaces=work / dtype / "published.safetensors", method=settings, **published
        )
        yield row(
            dtype,
            f"{described}, all stages",
            "s",
            ours_before + ours.seconds,
            probed.seconds + theirs.seconds,
            targets.get(epochs),
        )
        yield row(dtype, f"{described}, training alone (states cached)", "s", ours.seconds, theirs.seconds)
        memory[0].append(ours)
        memory[1].append(theirs)
        if epochs == args.epochs[0]:
            history = [line for line in read_jsonl(output.parent / "history.jsonl") if line["split"] == "train"]
            losses = [line["loss"] for line in history if line["epoch"] <= 1]
            yield row(
                dtype, "check: mean loss of the first epoch", "", sum(losses) / len(losses), theirs.result["loss"]
            )
    peaks = [max(part.megabytes for part in parts) for parts in memory]
    yield row(dtype, f"peak {'host ' if args.gpus else ''}memory of any stage", "MB", peaks[0], peaks[1], 1.0)
    if args.gpus:
        peaks = [max(part.gpu_megabytes for part in parts) for parts in memory]
        yield row(dtype, "peak GPU memory of any stage", "MB", peaks[0], peaks[1], 1.0)

    rate = run_task(extraction_rate, **shared).result
    yield row(dtype, "extraction, model loaded", "texts/s", rate["texts"])
    yield row(dtype, "extraction", "GFLOP/s", rate["rate"] / 1e9)
    yield row(dtype, "large matrix product (peak)", "GFLOP/s", rate["peak"] / 1e9)
    share = 100 * rate["rate"] / rate["peak"]
    yield row(dtype, "extraction, share of that peak", "%", share) | {"target": ">= 55 %", "met": verdict(share >= 55)}


def main() -> None:
    """Measure, print and write."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--backbone", type=Path, default=Path("results/gemma-3-270m/backbone/manifest.json"))
    options.add_argument("--configfile", type=Path, action="append", default=[], help="on top of config/published.yaml")
    options.add_argument("--setting", default="en-zh")
    options.add_argument("--pairs", type=int, default=160, help="texts of each language")
    options.add_argument("--epochs", type=int, nargs="+", default=[1, 10])
    options.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    options.add_argument("--gpus", type=int, choices=(0, 1), default=0, help="GPUs that both sides run on")
    options.add_argument("--out", type=Path, default=Path("results/timings"))
    options.add_argument("--task", nargs=2, help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.task:
        name, values = args.task
        print(json.dumps(TASKS[name](json.loads(values))))
        return
    args.backbone = args.backbone.absolute()
    config = read([Path("config/published.yaml"), *args.configfile], Path())
    heading = (
        f"{args.backbone.parent.parent.name}, {args.setting}, {args.pairs} pairs (train, dev and test texts together: "
        f"for timing only), {device_name(args.gpus)}. Ratios: published / ours. Every stage is a process of its own, "
        "timed with imports and loading."
    )
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for dtype in args.dtypes:
            for entry in measure(args, config, dtype, Path(temporary)):
                rows.append(entry)
                write(rows, heading, args.out / "method")  # after every row: an interrupted run leaves what it measured
    seconds = run_task(fit_large).result["seconds"]
    problem = f"fit of all {FIT_LAYERS} layers, d={FIT_WIDTH}, K={FIT_LANGUAGES}"
    rows.append(row("float64", problem, "s", seconds) | {"target": "< 2 s", "met": verdict(seconds < 2)})
    write(rows, heading, args.out / "method")
    print(markdown(rows, heading), end="")


if __name__ == "__main__":
    try:
        main()
    except LensflowError as error:
        sys.exit(f"error: {error}")
