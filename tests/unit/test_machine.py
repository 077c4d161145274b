"""What a run asks of this machine: room for two engines on a GPU, and a processor that computes in bfloat16."""

import re
from types import SimpleNamespace

import pytest

from lensflow.artifacts.layout import NO_SETTING, Place
from lensflow.benchmarks.registry import AnyBenchmark
from lensflow.schema.backbone import Backbone
from lensflow.schema.parsing import parse
from lensflow.workflow.machine import hints, instructions

HUB = {"kind": "hub", "name": "some/model", "revision": "0123456789" * 4}


def planned(root, resources, engine, dtype, benchmarks):
    """What `hints` reads of a plan of one backbone."""
    backbone = parse(
        Backbone,
        {"source": HUB, "license": "none", "prompt": {"format": "plain"}, "resources": {"disk_gb": 16.1, **resources}},
    )
    kinds = {"answers": {"kind": "generation", "max_new_tokens": 8}, "held-out": {"kind": "likelihood"}}
    config = SimpleNamespace(
        backbones={"b": backbone},
        benchmarks={name: parse(AnyBenchmark, kind) for name, kind in kinds.items()},
        evaluation=SimpleNamespace(engine=engine, dtype=dtype),
    )
    checkpoints = {Place("b", NO_SETTING, "base", 0): {name: ["en"] for name in benchmarks}}
    return SimpleNamespace(backbones=["b"], config=config, root=root, checkpoints=checkpoints)


@pytest.mark.parametrize(
    ("resources", "engine", "benchmarks", "gpu_gb", "said"),
    [
        ({"gpus": 1}, "auto", ["answers", "held-out"], None, "vLLM takes 0.9 of the GPU, .* set it to 0.5 or less"),
        ({"gpus": 1}, "auto", ["answers", "held-out"], 24.0, "vLLM takes 0.9 of a GPU of 24 GB, .* set it to 0.2 or"),
        ({"gpus": 1}, "vllm", ["answers", "held-out"], 24.0, "set it to 0.2 or less, or evaluation.engine: hf"),
        ({"gpus": 1, "gpu_memory": 0.2}, "auto", ["answers", "held-out"], 24.0, None),
        ({"gpus": 1}, "hf", ["answers", "held-out"], 24.0, None),
        ({"gpus": 1}, "auto", ["answers"], 24.0, None),
        ({"gpus": 0}, "auto", ["answers", "held-out"], 24.0, None),
    ],
)
def test_check_says_what_share_of_a_gpu_leaves_room_for_both_engines(
    tmp_path, resources, engine, benchmarks, gpu_gb, said
):
    found = hints(planned(tmp_path, resources, engine, "float32", benchmarks), gpu_gb, None)
    assert len(found) == (said is not None)
    if said is not None:
        assert re.match(rf"backbones.b.resources.gpu_memory: .*{said}", found[0])


X86, X86_BF16, ARM, ARM_BF16 = "fpu avx avx2 fma", "fpu avx2 avx512f avx512bw", "fp asimd", "fp asimd bf16"


@pytest.mark.parametrize(
    ("flags", "dtype", "engine", "gpus", "said"),
    [
        (f"flags\t\t: {X86}", "bfloat16", "auto", 0, True),
        (f"Features\t: {ARM}", "bfloat16", "vllm", 0, True),
        (f"flags\t\t: {X86_BF16}", "bfloat16", "auto", 0, False),
        (f"Features\t: {ARM_BF16}", "bfloat16", "auto", 0, False),
        (f"flags\t\t: {X86}", "float32", "auto", 0, False),
        (f"flags\t\t: {X86}", "bfloat16", "hf", 0, False),  # only vLLM was measured
        (f"flags\t\t: {X86}", "bfloat16", "auto", 1, False),
        ("unknown: 1", "bfloat16", "auto", 0, False),
        (None, "bfloat16", "auto", 0, False),
    ],
)
def test_check_says_that_a_processor_answers_slowly_in_bfloat16(tmp_path, flags, dtype, engine, gpus, said):
    cpuinfo = tmp_path / "cpuinfo"
    if flags is not None:
        cpuinfo.write_text(f"processor\t: 0\n{flags}\nbogomips\t: 1\n\nprocessor\t: 1\n{flags}\n")
    found = hints(planned(tmp_path, {"gpus": gpus}, engine, dtype, ["answers"]), None, instructions(cpuinfo))
    assert [line.partition(":")[0] for line in found] == ["evaluation.dtype"] * said
