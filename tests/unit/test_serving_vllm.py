"""An exported method in vLLM by its plugin: requests in several languages, in one batch, answer as in transformers."""

import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lensflow.artifacts import interventions
from lensflow.artifacts.interventions import ANY, BlockEdit, Gate, Intervention
from lensflow.errors import LensflowError
from lensflow.models.engines.hf import TransformersEngine
from lensflow.models.engines.process import prepare_process
from lensflow.models.tokenizer import PromptTokenizer
from lensflow.presentation.exporting import export
from lensflow.schema.backbone import PlainPrompt
from lensflow.schema.decoding import Decoding
from lensflow.storage.atomic import write_json
from tests import tiny

pytest.importorskip("vllm", reason="vLLM is not installed")
PROMPT = PlainPrompt(format="plain", template="{prompt}")
generator = torch.Generator().manual_seed(11)
VECTOR, OTHER, THIRD = torch.randn(3, tiny.WIDTH, generator=generator)
BASIS = torch.linalg.qr(torch.randn(tiny.WIDTH, 2, generator=generator)).Q
INTERVENTION = Intervention(
    blocks={
        ("sw", "sw"): [BlockEdit(1, "add", VECTOR, strength=0.7, positions="generated")],
        ("en", "sw"): [BlockEdit(1, "add", OTHER, strength=0.7, positions="prompt")],
        ANY: [BlockEdit(n, "remove", basis=BASIS, restore_norm=True, positions="but_first") for n in (0, 2)],
    },
    shifts={"zh": THIRD},
    constrained=("zh",),
)
PAIRS = [(None, None), ("sw", None), ("sw", "en"), ("zh", None), ("en", None)]
PROMPTS = [prompt * 5 for prompt in tiny.random_sequences(6, seed=1)]  # some fill blocks of the prefix cache
SMALL: dict[str, Any] = {
    "dtype": "float32",
    "max_model_len": 128,
    "max_num_batched_tokens": 32,  # long prompts are read in parts
    "block_size": 32,
    "kv_cache_memory_bytes": 1 << 26,
    "skip_tokenizer_init": True,
    "distributed_executor_backend": "uni",
    "disable_log_stats": True,
}
SCRIPT = ["lensflow.serving.vllm:Script"]


def home_of(folder: Path, intervention: Intervention) -> Path:
    source, delta = folder / "source", folder / "tiny" / "trio" / "mine" / "seed0" / "delta.safetensors"
    if not source.exists():
        tiny.save_checkpoint("llama", source, head=32)
    manifest = tiny.backbone(source, folder / "backbone" / "manifest.json")
    delta.parent.mkdir(parents=True, exist_ok=True)
    save_file({}, delta)
    interventions.write(intervention, delta)
    setting = {"central": "en", "languages": list(tiny.LANGUAGES), "probing": "prompts", "training": "prompts"}
    config = {"method": {"kind": "mine"}, "setting": setting, "seed": 0, "prompt": PROMPT.canonical()}
    write_json(delta.with_name("config.json"), config)
    shutil.rmtree(folder / "home", ignore_errors=True)
    export(manifest, delta, folder / "home")
    return folder / "home"


@pytest.fixture(scope="module", autouse=True)
def plugin() -> None:
    """Do what vLLM does with the entry point of the installed package."""
    prepare_process()
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    module, name = project["entry-points"]["vllm.general_plugins"]["lensflow"].split(":")
    for _ in range(2):  # vLLM may do it again
        getattr(importlib.import_module(module), name)()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Any]]:
    from vllm import LLM
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    home = home_of(tmp_path_factory.mktemp("served"), INTERVENTION)
    llm = LLM(str(home), enforce_eager=True, logits_processors=SCRIPT, **SMALL)
    yield home, llm
    llm.llm_engine.engine_core.shutdown()
    del llm
    cleanup_dist_env_and_memory()


def ask(llm: Any, prompt: list[int], language: str | None, source: str | None) -> tuple[dict[str, Any], Any]:
    from vllm import SamplingParams

    told = {"language": language, "source": source}
    extra = {name: value for name, value in told.items() if value is not None}
    params = SamplingParams(temperature=0, max_tokens=6, extra_args=extra or None, detokenize=False)
    params.stop_token_ids = [2]
    return {"prompt_token_ids": prompt}, params


def test_languages_in_one_batch(served):
    home, llm = served
    tokenizer = PromptTokenizer(home, PROMPT)
    engine, expected = TransformersEngine(home, "float32", tokenizer), {}
    for pair in PAIRS:
        with engine.edited(INTERVENTION.edit(*pair) if pair[0] else None):
            expected[pair] = [list(answer.ids) for answer in engine.generate(PROMPTS, Decoding(max_new_tokens=6))]
    assert len({str(answers) for answers in expected.values()}) == len(PAIRS)
    asked = [(pair, n) for n in range(len(PROMPTS)) for pair in PAIRS]
    for _ in range(2):  # the second time from the prefix cache
        prompts, params = zip(*(ask(llm, PROMPTS[n], *pair) for pair, n in asked), strict=True)
        outputs = llm.generate(list(prompts), list(params), use_tqdm=False)
        for (pair, n), output in zip(asked, outputs, strict=True):
            assert list(output.outputs[0].token_ids) == expected[pair][n], (pair, n)
    assert any(output.num_cached_tokens for output in outputs)


@pytest.mark.slow
def test_the_server_answers_over_http(served, tmp_path):
    """In a process of its own, which finds the plugin by its entry point; languages by request."""
    home, _ = served
    names = {point.name for point in entry_points(group="vllm.general_plugins")}
    if "lensflow" not in names:
        pytest.skip("lensflow is not installed, so vLLM finds no entry point of it")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(home), "--enforce-eager"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", "128"]
    command += ["--block-size", "32", "--logits-processors", *SCRIPT]
    log = tmp_path / "log.txt"
    with log.open("w") as output:
        server = subprocess.Popen(
            command, stdout=output, stderr=output, env=os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1"}, cwd=tmp_path
        )

    def post(**body: Any) -> dict[str, Any]:
        given = {"model": str(home), "max_tokens": 6, "temperature": 0, "return_token_ids": True, "stop_token_ids": [2]}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/completions",
            json.dumps(given | body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    try:
        started = time.monotonic()
        while "Application startup complete" not in log.read_text():
            assert server.poll() is None and time.monotonic() < started + 900, log.read_text()[-2000:]
            time.sleep(1)
        tokenizer = PromptTokenizer(home, PROMPT)
        engine, found = TransformersEngine(home, "float32", tokenizer), []
        for pair in PAIRS:
            with engine.edited(INTERVENTION.edit(*pair) if pair[0] else None):
                (expected,) = engine.generate([PROMPTS[1]], Decoding(max_new_tokens=6))
            told = {name: value for name, value in zip(("language", "source"), pair, strict=True) if value is not None}
            (choice,) = post(prompt=PROMPTS[1], **({"vllm_xargs": told} if told else {}))["choices"]
            found.append(choice["token_ids"])
            assert found[-1] == list(expected.ids), pair
        assert len({str(ids) for ids in found}) > 2
        with pytest.raises(urllib.error.HTTPError) as error:
            post(prompt=PROMPTS[1], vllm_xargs={"language": "fr"})
        assert error.value.code == 400 and b"does not know language 'fr'" in error.value.read()
    finally:
        server.terminate()
        server.wait(60)


def test_an_unknown_language_is_refused_and_the_server_goes_on(served):
    _, llm = served
    from vllm.exceptions import VLLMValidationError

    for pair in (("fr", None), ("sw", "fr")):
        prompt, params = ask(llm, PROMPTS[0], *pair)
        with pytest.raises(VLLMValidationError, match="does not know language 'fr'; name one of en, zh, sw"):
            llm.generate([prompt], [params], use_tqdm=False)
    assert llm.generate([ask(llm, PROMPTS[0], "sw", None)[0]], use_tqdm=False)


def test_the_servers_default_language(served):
    """In the place of a second engine: what a request is told, by the same function."""
    _, llm = served
    processor = llm.llm_engine.input_processor
    processor.vllm_config.additional_config["lensflow"] = {"language": "sw"}
    try:
        prompt, params = ask(llm, PROMPTS[1], None, None)
        (default,) = llm.generate([prompt], [params], use_tqdm=False)
    finally:
        del processor.vllm_config.additional_config["lensflow"]
    (told,) = llm.generate(*([one] for one in ask(llm, PROMPTS[1], "sw", None)), use_tqdm=False)
    (plain,) = llm.generate([prompt], [params], use_tqdm=False)
    assert default.outputs[0].token_ids == told.outputs[0].token_ids != plain.outputs[0].token_ids


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"enforce_eager": False}, "edits of states do not reach compiled graphs; add --enforce-eager"),
        ({"logits_processors": None}, "restricts scripts; add --logits-processors lensflow.serving.vllm:Script"),
        ({"gate": Gate(torch.zeros(tiny.WIDTH, tiny.WIDTH), BASIS.T)}, "has a gate, which vllm serve does not apply"),
        ({"runner": True}, "vLLM's second model runner is not supported; set VLLM_USE_V2_MODEL_RUNNER=0"),
        ({"stages": 2}, "needs --pipeline-parallel-size 1 and no speculative decoding"),
        ({"layers": 5}, "belongs to another backbone than"),
        ({"language": "fr"}, "does not know language 'fr'; name one of en, zh, sw"),
    ],
)
def test_a_server_that_would_not_apply_the_method_does_not_start(tmp_path, change, message):
    """Checked in front of the engine, before anything is loaded: with a stand-in for vLLM's configuration."""
    from vllm.v1.engine.input_processor import InputProcessor

    home = home_of(tmp_path, replace(INTERVENTION, gate=change.get("gate")))
    given = {"enforce_eager": True, "logits_processors": SCRIPT, "runner": False, "stages": 1, "layers": tiny.LAYERS}
    given |= {"language": "sw"} | change
    model = SimpleNamespace(
        model=str(home),
        enforce_eager=given["enforce_eager"],
        logits_processors=given["logits_processors"],
        get_hidden_size=lambda: tiny.WIDTH,
        get_total_num_hidden_layers=lambda: given["layers"],
    )
    config = SimpleNamespace(
        model_config=model,
        additional_config={"lensflow": {"language": given["language"]}},
        use_v2_model_runner=given["runner"],
        parallel_config=SimpleNamespace(pipeline_parallel_size=given["stages"]),
        speculative_config=None,
    )
    with pytest.raises(LensflowError, match=message):
        InputProcessor(config)
