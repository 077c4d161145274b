"""The stages on a GPU: the CPU's results, within rounding, and in less memory than the backbone takes.

In float32 the two differ by the order of sums alone (torch leaves TF32 off in matrix products unless asked), in
bfloat16 by roundings of 2⁻⁸ that add up over the layers. tests/unit/test_agreement.py compares on a CPU in this way.

`performance/gpu.sh OUT rehearsal` runs these tests without a GPU, CPU against CPU: does every one of them run?
"""

import gc
import importlib
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lensflow.methods.base import Run
from lensflow.methods.lens import training
from lensflow.methods.registry import AnyMethod
from lensflow.models.loading import CPU, load_decoder
from lensflow.models.tokenizer import PromptTokenizer
from lensflow.schema.backbone import PlainPrompt, Resources
from lensflow.schema.decoding import Decoding
from lensflow.schema.parsing import parse
from lensflow.schema.setting import Setting
from lensflow.stages.train import train_measured
from lensflow.storage.atomic import write_jsonl
from lensflow.storage.verified import read_json, read_jsonl
from tests import agreement, tiny

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).parents[2]
GPUS = int(torch.cuda.is_available())  # 0 in a rehearsal
GPU = torch.device("cuda" if GPUS else "cpu")
DEVICE = torch.cuda.get_device_name() if GPUS else f"{os.cpu_count()} cores"
needs_gpu = pytest.mark.skipif(not GPUS, reason="a limit of the GPU's memory cannot be rehearsed without one")
GEMMA, SMOLLM = "gemma-3-270m", "smollm2-135m-instruct"
DTYPES = [torch.float32, torch.bfloat16]
NEAR = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
CAP = 256 * 2**20  # bytes
SEQUENCES = tiny.random_sequences(11, seed=5, longest=17)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_states_are_the_cpus(checkpoint, family, dtype, stream):
    folder = checkpoint(family, dtype)
    here, there = (agreement.states(folder, SEQUENCES, device, stream) for device in (GPU, CPU))
    assert agreement.distance(here, there) < NEAR[dtype]


@pytest.mark.parametrize("stream", [False, True])
def test_states_of_gemma_are_the_cpus(embedded, stream):
    folder = embedded(GEMMA).parent
    here, there = (agreement.states(folder, SEQUENCES, device, stream) for device in (GPU, CPU))
    assert agreement.distance(here, there) < 1e-3  # 18 layers


@pytest.fixture(params=[*tiny.FAMILIES, GEMMA])
def ran(request, stages, embedded, tmp_path):
    if request.param == GEMMA:
        return tiny.run_stages(embedded(GEMMA).parent, tmp_path, agreement.EXTRACTION)
    return stages(request.param)


def test_losses_and_gradients_are_the_cpus(ran):
    here, there = (agreement.first_step(ran, agreement.lens(), device) for device in (GPU, CPU))
    assert agreement.distance(here[0], there[0]) < 1e-3
    assert agreement.distance(here[1], there[1]) < 1e-3


def test_deltas_are_the_cpus(ran, tmp_path):
    """AdamW's first steps go by the sign of a gradient: where one is next to nothing, its sign is rounding."""
    (ours, here), (losses, there) = (
        agreement.trained(ran, agreement.lens(lr=1e-4), device, tmp_path) for device in (GPU, CPU)
    )
    assert ours == pytest.approx(losses, rel=1e-2)
    assert agreement.distance(here, there) < 0.1


def test_mixed_precision_trains_to_the_cpus_losses(stages, tmp_path):
    ran, method = stages("llama", torch.bfloat16), agreement.lens(precision="mixed")
    ours, losses = (agreement.trained(ran, method, device, tmp_path)[0] for device in (GPU, CPU))
    assert ours == pytest.approx(losses, rel=0.1)


def test_a_killed_training_goes_on_to_the_same_end(stages, tmp_path, monkeypatch):
    ran, method = stages("llama"), agreement.lens()
    _, whole = agreement.trained(ran, method, GPU, tmp_path / "whole")
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    steps, step = [], training.LensTrainer._train_step

    def killed(trainer, batch):
        steps.append(batch)
        if len(steps) == 3:
            raise KeyboardInterrupt
        step(trainer, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training.LensTrainer, "_train_step", killed)
        agreement.trained(ran, method, GPU, tmp_path / "killed")
    _, resumed = agreement.trained(ran, method, GPU, tmp_path / "killed")
    assert agreement.distance(resumed, whole) < 1e-5


@contextmanager
def capped(limit):
    """Let torch take so many bytes of the GPU."""

    def collect():
        gc.collect()
        torch.cuda.empty_cache()

    collect()
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(0).total_memory)
    torch.cuda.reset_peak_memory_stats()
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        collect()


@needs_gpu
def test_streaming_stays_below_a_cap_that_the_whole_backbone_exceeds(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "performance")
    importlib.import_module("stream").write_checkpoint(tmp_path, layers=16, hidden=1024)
    with capped(CAP), pytest.raises(torch.OutOfMemoryError):
        load_decoder(tmp_path, device=GPU)
    with capped(CAP):
        streamed = agreement.states(tmp_path, SEQUENCES, GPU, stream=True)
        assert torch.cuda.max_memory_reserved() <= CAP
    whole = agreement.states(tmp_path, SEQUENCES, GPU, stream=False)
    assert torch.cuda.max_memory_reserved() > CAP
    assert agreement.distance(streamed, whole) < 1e-3


def test_answers_and_log_likelihoods_are_the_cpus(checkpoint):
    """Of a random model, whose greedy choices are close: only the first of them is compared."""
    from lensflow.models.engines.hf import TransformersEngine

    folder = checkpoint("llama")
    tokenizer = PromptTokenizer(folder, PlainPrompt(format="plain"))
    prompts = [tokenizer.encode(text) for text in ("Rain falls", "2 + 2", "猫は", "Mbwa")]
    requests = [(prompt, tokenizer.encode_plain(rest)) for prompt in prompts for rest in (" the clouds.", " 4")]
    found = []
    for device in (GPU.type, "cpu"):
        engine = TransformersEngine(folder, "float32", tokenizer, device)
        assert engine.model.device.type == device
        answers = engine.generate(prompts, Decoding(max_new_tokens=1))
        found.append((answers, [score for score, _ in engine.loglikelihoods(requests)]))
        engine.close()
    (ours, here), (answers, there) = found
    assert ours == answers
    assert here == pytest.approx(there, rel=1e-4)


@pytest.mark.parametrize("frozen_weights", ["float32", "nf4"])
@pytest.mark.parametrize("lora", [None, {"dropout": 0.0}])
def test_fine_tuning_has_the_cpus_losses(checkpoint, tmp_path, lora, frozen_weights):
    if frozen_weights == "nf4":
        pytest.importorskip("bitsandbytes")
        if lora is None:
            pytest.skip("no adapters to be on top of 4 bits")
    manifest = tiny.backbone(checkpoint("llama"), tmp_path / "backbone" / "manifest.json")
    rows = [{"id": str(i), "split": "train", "prompt": f"{i}?", "answer": f"It is {7 * i}."} for i in range(9)]
    texts = {language: tmp_path / f"{language}.jsonl" for language in tiny.LANGUAGES}
    for path in texts.values():
        write_jsonl(path, rows)
    keys = {"kind": "sft", "lr": 1e-2, "batch_size": 4, "epochs": 2, "warmup": 0.0, "lora": lora}
    keys["frozen_weights"] = frozen_weights
    setting = Setting.model_validate({"central": "en", "languages": list(tiny.LANGUAGES)})
    losses = []
    for gpus, device, folder in ((GPUS, GPU.type, "there"), (0, "cpu", "here")):
        output = tmp_path / folder / "sft" / "seed0" / "delta.safetensors"
        train_measured(
            Run(parse(AnyMethod, keys), setting, 0, PlainPrompt(format="plain"), manifest, texts, output, gpus=gpus)
        )
        assert read_json(output.with_name("cost.json"))["device"] == device
        losses.append([row["loss"] for row in read_jsonl(output.with_name("history.jsonl"))])
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
    assert losses[0][-1] < losses[0][0]


PAIRS = [
    ("Rain falls from", " the clouds."),
    ("2 + 2 =", " 4"),
    ("猫は", "動物です。"),
    ("Mbwa ni", " mnyama wa nyumbani."),
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_vllm_and_transformers_score_alike(embedded, dtype):
    """Per token; vLLM's attention kernels round more than float32 does, so that this is no test of bits."""
    pytest.importorskip("vllm")
    from lensflow.models.engines.hf import TransformersEngine
    from lensflow.models.engines.vllm import VllmEngine

    folder = embedded(SMOLLM).parent
    tokenizer = PromptTokenizer(folder, PlainPrompt(format="plain"))
    requests = [(tokenizer.encode_plain(context), tokenizer.encode_plain(rest)) for context, rest in PAIRS]
    scores = []
    for start in (
        lambda: VllmEngine(folder, dtype, tokenizer, 512, Resources(gpus=GPUS, gpu_memory=0.5)),
        lambda: TransformersEngine(folder, dtype, tokenizer, GPU.type),
    ):
        engine = start()
        scores.append([score for score, _ in engine.loglikelihoods(requests)])
        engine.close()
    for ours, reference, (_, rest) in zip(*scores, requests, strict=True):
        assert ours / len(rest) == pytest.approx(reference / len(rest), abs=0.05 if dtype == "float32" else 0.2)
        assert reference / len(rest) < -0.5


def test_vllm_swaps_weights_and_back(embedded):
    """The engine with swapped weights scores as transformers does with the same ones, and then as before."""
    pytest.importorskip("vllm")
    from lensflow.models.engines.hf import TransformersEngine
    from lensflow.models.engines.vllm import VllmEngine

    folder = embedded(SMOLLM).parent
    tokenizer = PromptTokenizer(folder, PlainPrompt(format="plain"))
    requests = [(tokenizer.encode_plain(context), tokenizer.encode_plain(rest)) for context, rest in PAIRS]
    files = sorted(folder.glob("*.safetensors"))
    own = {name: tensor for file in files for name, tensor in load_file(file).items() if ".layers.29." in name}
    generator = torch.Generator().manual_seed(9)
    other = {name: tensor + torch.randn(tensor.shape, generator=generator) / 10 for name, tensor in own.items()}
    per_token = []
    for start in (
        lambda: VllmEngine(folder, "float32", tokenizer, 512, Resources(gpus=GPUS, gpu_memory=0.5)),
        lambda: TransformersEngine(folder, "float32", tokenizer, GPU.type),
    ):
        engine = start()
        for changed in ({}, other, own):
            if changed:
                engine.swap(changed)
            scores = [score for score, _ in engine.loglikelihoods(requests)]
            per_token.append([score / len(rest) for score, (_, rest) in zip(scores, requests, strict=True)])
        engine.close()
    before, swapped, back, *reference = per_token
    assert min(abs(one - two) for one, two in zip(before, swapped, strict=True)) > 0.1
    assert back == pytest.approx(before, abs=1e-3)
    assert [before, swapped, back] == [pytest.approx(scores, abs=0.05) for scores in reference]


def test_the_benchmark_of_the_method_runs_and_names_the_gpu(embedded, tmp_path):
    command = ["performance/method.py", "--gpus", GPUS, "--backbone", embedded(SMOLLM), "--out", tmp_path]
    command += ["--pairs", "16", "--epochs", "1", "--dtypes", "bfloat16"]
    done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert DEVICE in done.stdout
    loss = next(line for line in done.stdout.splitlines() if "check: mean loss" in line).split("|")
    assert float(loss[4]) == pytest.approx(float(loss[5]), rel=0.1)


def test_the_benchmark_of_streaming_runs_and_names_the_gpu(tmp_path):
    command = ["performance/stream.py", "--gpus", GPUS, "--layers", "4", "--hidden", "512", "--folder", tmp_path]
    done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"| {DEVICE} |") == 6  # stages
