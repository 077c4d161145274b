"""By how much results differ with threads, batches and engines: python performance/determinism.py MANIFEST [TEXTS]

MANIFEST belongs to a prepared backbone, such as results/smollm2-135m-instruct/backbone/manifest.json; it is prompted by
its chat template if it has one. Prints one line a comparison: how many numbers are the same bits, and the largest
difference, relative to the root mean square for tensors, and in nats for log-likelihoods. What is in
docs/determinism.md was measured with it.
"""

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from lensflow.artifacts import texts as texts_module
from lensflow.cli import main as main_module
from lensflow.models.engines.hf import TransformersEngine
from lensflow.models.tokenizer import PromptTokenizer
from lensflow.schema.backbone import Prompt, Resources
from lensflow.schema.parsing import parse
from lensflow.stages import pair_data
from lensflow.storage.atomic import write_jsonl
from lensflow.storage.verified import read_jsonl

LANGUAGES = ("en", "zh")
SETTING = {"central": "en", "languages": list(LANGUAGES)}
METHOD = {"kind": "lens", "lr": 1e-4, "batch_size": 2, "warmup": 0.0}
Requests = list[tuple[list[int], list[int]]]


def stage(command: str, config: Mapping[str, Any], *arguments: object) -> None:
    """Run a stage."""
    if code := main_module.main([command, "--config", json.dumps(config), *map(str, arguments)]):
        sys.exit(code)


def prompt(manifest: Path) -> dict[str, str]:
    """The prompt format of a backbone."""
    return {"format": "chat" if (manifest.parent / "chat_template.jinja").is_file() else "plain"}


def states(manifest: Path, texts: Mapping[str, Path], folder: Path, batch_tokens: int = 512) -> dict[str, Path]:
    """Extract the states of all texts."""
    found = {code: folder / "states" / f"{code}.safetensors" for code in texts}
    extraction = {"trainable_layers": 2, "batch_tokens": batch_tokens}
    config = {"prompt": prompt(manifest), "extraction": extraction}
    files = ("--texts", *texts.values(), "--outputs", *found.values())
    stage("extract-hidden-states", config, "--backbone", manifest, *files)
    return found


def delta(manifest: Path, texts: Mapping[str, Path], found: Mapping[str, Path], folder: Path) -> Path:
    """Fit the subspaces and train."""
    files = ("--states", *found.values(), "--texts", *texts.values())
    subspaces, output = folder / "subspaces.safetensors", folder / "tiny/duo/lens/seed0/delta.safetensors"
    stage("fit-subspaces", {"setting": SETTING}, *files, "--output", subspaces)
    config = {"method": METHOD, "setting": SETTING, "extraction": {"trainable_layers": 2}, "seed": 0}
    config["prompt"] = prompt(manifest)
    stage("train", config, *files, "--backbone", manifest, "--subspaces", subspaces, "--output", output)
    return output


def tensors(name: str, one: Path, other: Path) -> None:
    """Print how the tensors of two files differ."""
    first, second = load_file(one), load_file(other)
    same = total = 0
    largest = 0.0
    for key, tensor in first.items():
        if tensor.is_floating_point():
            a, b = tensor.double(), second[key].double()
            same, total = same + int((a == b).sum()), total + a.numel()
            largest = max(largest, float((a - b).abs().max() / a.square().mean().sqrt()))
    print(
        f"{name}: {same / total:.2%} the same bits, largest difference {largest:.1e} of the root mean square",
        flush=True,
    )


def scores(name: str, one: list[tuple[float, bool]], other: list[tuple[float, bool]]) -> None:
    """Print how the log-likelihoods of two runs differ."""
    differences = [abs(a - b) for (a, _), (b, _) in zip(one, other, strict=True)]
    same = sum(difference == 0 for difference in differences)
    print(f"{name}: {same} of {len(one)} the same bits, largest difference {max(differences):.1e} nats", flush=True)


def main() -> None:
    """Measure everything."""
    manifest, count = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 12
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        texts = {code: folder / f"{code}.jsonl" for code in LANGUAGES}
        for code, path in texts.items():
            pair_data.pair_data(texts_module.folder("embedded", Path()), code, path)
            rows = read_jsonl(path)
            wanted = {"train": count, "dev": 2, "test": count}
            write_jsonl(path, [r for split, n in wanted.items() for r in [x for x in rows if x["split"] == split][:n]])
        torch.set_num_threads(1)
        first = states(manifest, texts, folder / "a")
        trained = delta(manifest, texts, first, folder / "a")
        alone = states(manifest, texts, folder / "b", batch_tokens=1)
        torch.set_num_threads(2)
        second = states(manifest, texts, folder / "c")
        tensors("states, 1 and 2 threads", first["zh"], second["zh"])
        tensors("states, in batches and text by text", first["zh"], alone["zh"])
        tensors("delta, 1 and 2 threads", trained, delta(manifest, texts, first, folder / "d"))

        tokenizer = PromptTokenizer(manifest.parent, parse(Prompt, prompt(manifest)))
        requests: Requests = []
        for text in texts_module.read_texts(texts["zh"], ["test"]):
            ids = tokenizer.encode(text.prompt)
            requests.append((ids[: len(ids) // 2], ids[len(ids) // 2 :]))
        together = {}
        for dtype in ("float32", "bfloat16"):
            engine = TransformersEngine(manifest.parent, dtype, tokenizer)
            together[dtype] = engine.loglikelihoods(requests)
            scores(f"log-likelihood, {dtype}, again", together[dtype], engine.loglikelihoods(requests))
            one_by_one = [engine.loglikelihoods([request])[0] for request in requests]
            scores(f"log-likelihood, {dtype}, in a batch and one by one", together[dtype], one_by_one)
            torch.set_num_threads(1)
            scores(f"log-likelihood, {dtype}, 1 and 2 threads", engine.loglikelihoods(requests), together[dtype])
            torch.set_num_threads(2)
        from lensflow.models.engines.vllm import VllmEngine

        for dtype, of_transformers in together.items():
            vllm = VllmEngine(manifest.parent, dtype, tokenizer, 512, Resources())
            of_vllm = vllm.loglikelihoods(requests)
            scores(f"log-likelihood, {dtype}, transformers and vLLM", of_transformers, of_vllm)
            scores(f"log-likelihood, {dtype}, vLLM again", of_vllm, vllm.loglikelihoods(requests))
            vllm.close()


if __name__ == "__main__":
    main()
