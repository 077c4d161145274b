"""Peak memory of extraction and training for a backbone that is larger than memory.

Writes a randomly initialised checkpoint of the shape of Llama-3-8B (bfloat16, one shard a layer), runs the stages of
the command line on it, each in a process of its own, and compares their peak resident memory, mapped files included,
with a limit: 3 GB for extraction layer by layer, 10 GB for training the top two layers (float32 weights, AdamW). With
`--gpus 1` the stages run on a GPU: how much of its memory they take is read from nvidia-smi, the host's has no limit.

At full size it needs about 20 GB of disk (30 GB where training takes longer than a minute and so keeps a checkpoint of
itself) and many minutes. Small: `python performance/stream.py --layers 4 --hidden 512`.
"""

import argparse
import json
import multiprocessing
import shutil
import sys
from importlib.resources import files as package_files
from pathlib import Path

from lensflow.errors import LensflowError
from lensflow.storage.atomic import write_json, write_text
from lensflow.storage.verified import read_json
from measuring import device_name, spawn

# Nothing here may import torch: a process starts with the peak of the one that it is forked from.
LANGUAGES = ("en", "zh")
LIMITS = {"extract_hidden_states": 3.0, "train": 10.0}  # GB
VOCABULARY, HEAD = 128_256, 128
WEIGHTS = "model.safetensors.index.json"  # written last


def shape(layers: int, hidden: int) -> dict[str, object]:
    """Return the configuration of Llama-3-8B (layers 32, hidden 4096), or the same at another size."""
    return {
        "model_type": "llama",
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": hidden * 7 // 2,
        "num_attention_heads": hidden // HEAD,
        "num_key_value_heads": hidden // HEAD // 4,
        "head_dim": HEAD,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 8192,
        "rope_theta": 500_000.0,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    }


def disk_bytes(layers: int, hidden: int) -> int:
    """Bytes of a checkpoint in bfloat16, and of training's float32 delta and checkpoint of itself (twice: replaced)."""
    layer = hidden * hidden * (2 + 2 / 4) + 3 * hidden * (hidden * 7 // 2)
    return int(2 * (layers * layer + 2 * VOCABULARY * hidden) + 4 * 2 * layer * (1 + 2 * 3))


def write_checkpoint(folder: Path, layers: int, hidden: int, device: str = "cpu") -> None:
    """Write a random checkpoint, one shard a layer, and a byte-level BPE tokenizer of the embedded corpus."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import ByteLevelBPETokenizer
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    config = AutoConfig.for_model(**shape(layers, hidden), dtype="bfloat16", bos_token_id=0, eos_token_id=0)
    config.architectures = ["LlamaForCausalLM"]
    with torch.device("meta"):
        shapes = {name: t.shape for name, t in AutoModelForCausalLM.from_config(config).state_dict().items()}
    shards: dict[str, list[str]] = {}
    for name in shapes:
        shards.setdefault(".".join(name.split(".")[:3]), []).append(name)
    generator = torch.Generator(device).manual_seed(0)
    location: dict[str, str] = {}
    total = 0
    for number, names in enumerate(shards.values(), start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {name: torch.ones(shapes[name], dtype=torch.bfloat16, device=device) for name in names}
        for tensor in tensors.values():
            if tensor.ndim > 1:
                tensor.normal_(0, config.initializer_range, generator=generator)
        save_file(tensors, folder / file, metadata={"format": "pt"})
        location |= dict.fromkeys(names, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
        del tensors, tensor
    config.save_pretrained(folder)
    tokenizer = ByteLevelBPETokenizer()
    corpus = Path(str(package_files("lensflow.data"))) / "corpus"
    tokenizer.train([str(path) for path in corpus.glob("*.jsonl")], VOCABULARY, special_tokens=["<s>"])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer, bos_token="<s>").save_pretrained(folder)
    write_json(folder / WEIGHTS, {"metadata": {"total_size": total}, "weight_map": location})


def stages(folder: Path, gpus: int) -> list[tuple[str, list[str]]]:
    """Return name and arguments of each stage, in order."""
    manifest, corpus = folder / "backbone" / "manifest.json", folder / "data"
    texts = {language: str(corpus / f"{language}.jsonl") for language in LANGUAGES}
    states = {language: str(folder / "hidden_states" / f"{language}.safetensors") for language in LANGUAGES}
    setting = {"central": LANGUAGES[0], "languages": list(LANGUAGES)}
    source = {"kind": "folder", "path": str((folder / "checkpoint").resolve())}
    prompt = {"format": "plain"}
    prepare = {"backbone": {"source": source, "license": "none", "prompt": prompt}}
    extraction = {"memory": "stream", "trainable_layers": 2}
    extract = {"prompt": prompt, "extraction": extraction}
    train = extract | {"method": {"kind": "lens", "layers": 2}, "setting": setting, "seed": 0}
    subspaces = str(folder / "subspaces.safetensors")
    all_files = ["--states", *states.values(), "--texts", *texts.values()]
    backbone = ["--backbone", str(manifest), "--gpus", str(gpus)]
    delta = str(folder / "lens" / "seed0" / "delta.safetensors")
    return [
        ("prepare_backbone", ["--config", json.dumps(prepare), "--output", str(manifest)]),
        *(
            ("pair_data", ["--config", json.dumps({"path": "embedded", "language": language}), "--output", path])
            for language, path in texts.items()
        ),
        (
            "extract_hidden_states",
            ["--config", json.dumps(extract), *backbone, "--texts", *texts.values(), "--outputs", *states.values()],
        ),
        ("fit_subspaces", ["--config", json.dumps({"setting": setting}), *all_files, "--output", subspaces]),
        ("train", ["--config", json.dumps(train), *backbone, "--subspaces", subspaces, *all_files, "--output", delta]),
    ]


def main() -> None:
    """Run the benchmark; the exit code is 1 if a stage needs more than its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=32, help="at least 2 (default: 32)")
    parser.add_argument("--hidden", type=int, default=4096, help="a multiple of 512 (default: 4096)")
    parser.add_argument("--gpus", type=int, choices=(0, 1), default=0, help="GPUs that extraction and training run on")
    parser.add_argument("--folder", type=Path, default=Path("performance/out/stream"), help="for everything it writes")
    args = parser.parse_args()
    if args.layers < 2 or args.hidden < 512 or args.hidden % 512:
        parser.error("--layers must be at least 2, --hidden a multiple of 512")
    device = device_name(args.gpus)
    folder: Path = args.folder / f"{args.layers}x{args.hidden}"
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint"
    if not (checkpoint / WEIGHTS).is_file():
        needed, free = disk_bytes(args.layers, args.hidden) / 1e9, shutil.disk_usage(folder).free / 1e9
        print(f"{folder}: needs up to {needed:.1f} GB, {free:.1f} GB free; delete it afterwards", flush=True)
        if free < needed:
            sys.exit(f"{folder}: too little space; free some or choose another --folder")
        writer = multiprocessing.get_context("spawn").Process(
            target=write_checkpoint, args=(checkpoint, args.layers, args.hidden, "cuda" if args.gpus else "cpu")
        )
        writer.start()
        writer.join()
        if writer.exitcode:
            sys.exit("the checkpoint could not be written")
    size = read_json(checkpoint / WEIGHTS)["metadata"]["total_size"] / 1e9
    rows = [("stage", "weights_gb", "peak_rss_gb", "limit_gb", "peak_gpu_gb", "seconds", "device")]
    failed = False
    for name, arguments in stages(folder, args.gpus):
        measured = spawn(["-m", "lensflow.cli", name.replace("_", "-"), *arguments], quiet=True)
        peak, on_gpu = measured.megabytes * 2**20 / 1e9, measured.gpu_megabytes * 2**20 / 1e9
        limit = None if args.gpus else LIMITS.get(name)
        failed |= limit is not None and peak > limit
        numbers = (f"{peak:.2f}", f"{limit:.0f}" if limit else "", f"{on_gpu:.2f}" if on_gpu else "")
        rows.append((name, f"{size:.2f}", *numbers, f"{measured.seconds:.0f}", device))
    markdown = [f"| {' | '.join(row)} |" for row in rows]
    markdown.insert(1, "|---" + "|---:" * (len(rows[0]) - 1) + "|")
    write_text(folder / "memory.csv", "".join(",".join(row) + "\n" for row in rows))
    write_text(folder / "memory.md", "\n".join(markdown) + "\n")
    print("\n".join(markdown))
    sys.exit(int(failed))


if __name__ == "__main__":
    try:
        main()
    except LensflowError as error:
        sys.exit(f"error: {error}")
