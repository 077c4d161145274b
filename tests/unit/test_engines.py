"""Engines against the plain equations, on a random Llama of a few thousand parameters."""

import builtins
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from lensflow.artifacts.interventions import StateEdit
from lensflow.errors import LensflowError
from lensflow.models.engines.ends import end_token_ids, eos_token_ids, finish
from lensflow.models.engines.hf import TransformersEngine
from lensflow.models.engines.protocol import Answer, Engine
from lensflow.models.engines.vllm import VllmEngine
from lensflow.models.tokenizer import PromptTokenizer
from lensflow.schema.backbone import PlainPrompt, Resources
from lensflow.schema.decoding import Decoding

SIZE = 40
EOS = 1


def decoding(max_new_tokens: int, stop: list[str] | None = None, **sampling: float) -> Decoding:
    return Decoding(max_new_tokens=max_new_tokens, stop=tuple(stop or ()), **sampling)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    pieces = ["<bos>", "<eos>", "\n", "x\n", "Q:", *(chr(ord("A") + i) for i in range(SIZE - 5))]
    tokenizer = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="A"))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<bos>", "<eos>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=SIZE,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=EOS,
        initializer_range=0.15,  # large enough for peaked, prompt-dependent distributions
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Path) -> PromptTokenizer:
    return PromptTokenizer(checkpoint, PlainPrompt(format="plain", template="{prompt}"))


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def engine(checkpoint: Path, tokenizer: PromptTokenizer) -> TransformersEngine:
    return TransformersEngine(checkpoint, "float32", tokenizer, batch_size=4)


@pytest.fixture
def vllm_on_a_gpu(monkeypatch) -> list[dict[str, Any]]:
    """In the place of vLLM, on a machine with a GPU: what its engine is started with."""
    started: list[dict[str, Any]] = []
    library = ModuleType("vllm")
    library.LLM = lambda checkpoint, **keys: started.append(keys)
    library.ModelRegistry = SimpleNamespace(models={})
    processors = ModuleType("vllm.v1.sample.logits_processor")
    processors.AdapterLogitsProcessor = object
    monkeypatch.setitem(sys.modules, "vllm", library)
    monkeypatch.setitem(sys.modules, processors.__name__, processors)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return started


@pytest.mark.parametrize(("gpus", "backend"), [(1, "uni"), (4, "mp")])
def test_vllm_is_spread_over_the_gpus_of_a_backbone(checkpoint, tokenizer, vllm_on_a_gpu, gpus, backend):
    VllmEngine(checkpoint, "bfloat16", tokenizer, 64, Resources(gpus=gpus, gpu_memory=0.5))
    (keys,) = vllm_on_a_gpu
    assert (keys["tensor_parallel_size"], keys["distributed_executor_backend"]) == (gpus, backend)
    assert keys["gpu_memory_utilization"] == 0.5
    assert "enforce_eager" not in keys


def test_vllm_takes_no_gpu_that_it_was_not_given(checkpoint, tokenizer, vllm_on_a_gpu):
    message = r"^vllm would use a GPU, but the backbone's resources\.gpus is 0; set it to 1, or evaluation\.engine: hf$"
    with pytest.raises(LensflowError, match=message):
        VllmEngine(checkpoint, "bfloat16", tokenizer, 64, Resources())
    assert vllm_on_a_gpu == []


def test_plain_attention_scores_alike(checkpoint, tokenizer, engine, model):
    plain = TransformersEngine(checkpoint, "float32", tokenizer, attention="eager")
    assert (plain.model.config._attn_implementation, engine.model.config._attn_implementation) == ("eager", "sdpa")
    requests = requests_of(model, 3)
    scores, wanted = ([score for score, _ in each.loglikelihoods(requests)] for each in (plain, engine))
    assert scores == pytest.approx(wanted, rel=1e-4)


def random_ids(generator: torch.Generator, low: int, high: int) -> list[int]:
    length = int(torch.randint(low, high, (), generator=generator))
    return [0, *torch.randint(2, SIZE, (length,), generator=generator).tolist()]


def prompts_of(seed: int, n: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [random_ids(generator, 0, 12) for _ in range(n)]


def requests_of(model: Any, seed: int) -> list[tuple[list[int], list[int]]]:
    """Shared, repeated and single contexts; random continuations, and greedy ones."""
    generator = torch.Generator().manual_seed(seed)
    contexts = [random_ids(generator, 0, 12) for _ in range(12)]
    requests = [(c, random_ids(generator, 0, 6)[i % 2 :] or [5]) for i, c in enumerate(contexts * 4)]
    requests += [(c, naive_tokens(model, c, 1 + i % 3, set())) for i, c in enumerate(contexts)]
    return [requests[i] for i in torch.randperm(len(requests), generator=generator).tolist()]


@torch.inference_mode()
def naive_score(model: Any, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    ids = torch.tensor([context + continuation])
    logp = model(ids).logits[0].double().log_softmax(-1)[len(context) - 1 : -1]
    chosen = logp[torch.arange(len(continuation)), continuation]
    return float(chosen.sum()), logp.argmax(-1).tolist() == continuation


@torch.inference_mode()
def naive_tokens(model: Any, prompt: list[int], n: int, ends: set[int]) -> list[int]:
    answer: list[int] = []
    while len(answer) < n and not (answer and answer[-1] in ends):
        answer.append(int(model(torch.tensor([prompt + answer])).logits[0, -1].argmax()))
    return answer


def naive_answer(model: Any, tokenizer: PromptTokenizer, prompt: list[int], n: int, stop: list[str]) -> str:
    """Cut the text that an unstopped model writes."""
    text = tokenizer.decode(naive_tokens(model, prompt, n, {EOS}))
    return min((text.split(string)[0] for string in stop), key=len, default=text)


class Edited:
    """The model with its states changed before the output layer, by the equation."""

    def __init__(self, model: Any, edit: StateEdit) -> None:
        self.model, self.edit = model, edit

    def __call__(self, ids: torch.Tensor) -> Any:
        states = self.model.model(ids).last_hidden_state
        removed = states @ self.edit.removed @ self.edit.removed.T
        return SimpleNamespace(logits=self.model.lm_head(states - removed + self.edit.shift))


def random_edit() -> StateEdit:
    generator = torch.Generator().manual_seed(5)
    return StateEdit(
        torch.randn(64, generator=generator) / 2, torch.linalg.qr(torch.randn(64, 9, generator=generator)).Q
    )


def check(engine: Engine, model: Any, tokenizer: PromptTokenizer, tolerance: float) -> None:
    requests = requests_of(model, seed=0)
    expected = [naive_score(model, *request) for request in requests]
    assert {best for _, best in expected} == {True, False}
    actual = engine.loglikelihoods(requests)
    assert [logp for logp, _ in actual] == pytest.approx([logp for logp, _ in expected], abs=tolerance)
    assert [best for _, best in actual] == [best for _, best in expected]
    prompts = prompts_of(seed=1, n=30)
    plain = [naive_answer(model, tokenizer, p, 10, []) for p in prompts]
    assert texts(engine.generate(prompts, decoding(10))) == plain
    letters = [text[3] for text in plain if len(text) > 5]
    stop = ["\n", max(letters, key=letters.count), plain[0][1:3]]  # the last one is spread over two tokens
    stopped = [naive_answer(model, tokenizer, p, 10, stop) for p in prompts]
    assert stopped != plain
    ended = engine.generate(prompts, decoding(10, stop))
    assert texts(ended) == stopped
    for answer, text, whole in zip(ended, stopped, plain, strict=True):  # at the stop string, and not cut off there
        assert text == whole or (not answer.cut and len(tokenizer.decode(list(answer.ids))) <= len(text) + 3)
    assert sum(text != whole and stop[-1] in whole[len(text) :][:2] for text, whole in zip(stopped, plain, strict=True))
    for answer, prompt in zip(engine.generate(prompts, decoding(10)), prompts, strict=True):
        wanted = naive_tokens(model, prompt, 10, {EOS})
        assert answer.ids == tuple(wanted) and answer.cut == (wanted[-1] != EOS)


def texts(answers: list[Answer]) -> list[str]:
    return [answer.text for answer in answers]


BOTH_WAYS = pytest.mark.parametrize("shared", [0.0, 1e9], ids=["whole", "shared contexts"])


@BOTH_WAYS
def test_transformers_engine_against_naive_loops(
    engine: TransformersEngine, model: Any, tokenizer: PromptTokenizer, monkeypatch: pytest.MonkeyPatch, shared: float
) -> None:
    monkeypatch.setattr("lensflow.models.engines.hf._SHARED", shared)
    check(engine, model, tokenizer, 1e-5)
    with engine.edited(random_edit()):
        check(engine, Edited(model, random_edit()), tokenizer, 1e-5)
    with pytest.raises(AssertionError):
        check(engine, Edited(model, random_edit()), tokenizer, 1e-5)


def test_contexts_are_read_once_where_that_saves_much(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []
    for way in ("_score_whole", "_score_shared"):
        original = getattr(TransformersEngine, way)

        def record(self: Any, requests: Any, way: str = way, original: Any = original) -> Any:
            called.append(way)
            return original(self, requests)

        monkeypatch.setattr(TransformersEngine, way, record)
    choices = [[5], [6], [7, 8], [9]]
    engine.loglikelihoods([([0, *range(2, 22)], choice) for choice in choices])
    engine.loglikelihoods([([0, 2, 3 + i], choice) for i, choice in enumerate(choices)])
    assert called == ["_score_shared", "_score_whole"]


@BOTH_WAYS
def test_batches_do_not_matter(
    engine: TransformersEngine, model: Any, monkeypatch: pytest.MonkeyPatch, shared: float
) -> None:
    monkeypatch.setattr("lensflow.models.engines.hf._SHARED", shared)
    requests, prompts = requests_of(model, seed=2), prompts_of(seed=3, n=9)
    scores, answers = engine.loglikelihoods(requests), engine.generate(prompts, decoding(6))
    assert engine.generate(prompts[::-1], decoding(6))[::-1] == answers
    assert [engine.generate([p], decoding(6))[0] for p in prompts] == answers
    for name, value in (("_MAX_ROWS", 7), ("_MAX_TOKENS", 20), ("_MAX_ROWS", 1), ("_WHOLE_TOKENS", 20)):
        monkeypatch.setattr(f"lensflow.models.engines.hf.{name}", value)
        again = engine.loglikelihoods(requests)
        assert [logp for logp, _ in again] == pytest.approx([logp for logp, _ in scores], abs=1e-5)
        assert [best for _, best in again] == [best for _, best in scores]


def test_nothing_to_do(engine: TransformersEngine) -> None:
    assert engine.generate([], decoding(4, ["\n"])) == []
    assert engine.loglikelihoods([]) == []


def test_end_tokens(checkpoint: Path, tokenizer: PromptTokenizer) -> None:
    assert end_token_ids(eos_token_ids(checkpoint, tokenizer), tokenizer.vocabulary, ["\n", "Q"]) == [1, 2, 3, 4, 21]
    assert end_token_ids({EOS}, tokenizer.vocabulary, []) == [EOS]


@pytest.mark.parametrize(
    ("content", "expected"), [({"eos_token_id": [1, 106]}, {1, 106}), ({"eos_token_id": 2}, {2}), ({}, {9})]
)
def test_eos_token_ids_prefers_the_generation_config(tmp_path: Path, content: Any, expected: set[int]) -> None:
    none = SimpleNamespace(end_tokens=set())
    (tmp_path / "config.json").write_text('{"eos_token_id": 9}')
    assert eos_token_ids(tmp_path, none) == {9}
    (tmp_path / "generation_config.json").write_text(json.dumps(content))
    assert eos_token_ids(tmp_path, none) == expected


def test_what_is_longer_than_the_model_was_made_for_is_refused(engine):
    """Its 128 positions; behind them rotary embeddings go on, without a word and with another meaning."""
    message = r"^a prompt and its answer of 129 tokens exceed the 128 positions of the model; lower max_new_tokens"
    with pytest.raises(LensflowError, match=message):
        engine.generate([[5] * 100], decoding(29))
    with pytest.raises(LensflowError, match=message):
        engine.loglikelihoods([([5] * 120, [6] * 9), ([5], [6])])
    with pytest.raises(LensflowError, match=message):
        engine.read([[5] * 129], [[True] * 129], None)
    assert len(engine.loglikelihoods([([5] * 120, [6] * 8)])) == 1


def test_a_checkpoints_own_way_of_generating_changes_nothing(checkpoint, tokenizer, engine, tmp_path):
    """Qwen2.5 has a penalty on repetition there, which vLLM does not apply."""
    for path in checkpoint.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "generation_config.json").unlink()
    own = {"eos_token_id": EOS, "repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "min_new_tokens": 9}
    (tmp_path / "generation_config.json").write_text(json.dumps(own))
    penalised = TransformersEngine(tmp_path, "float32", tokenizer)
    prompts = prompts_of(seed=7, n=4)
    assert texts(penalised.generate(prompts, decoding(12))) == texts(engine.generate(prompts, decoding(12)))


def test_finish_cuts_at_the_earliest_stop() -> None:
    assert finish("one Q: two\n", decoding(8, ["\n", "Q:"])) == "one "
    assert finish("one", decoding(8, ["\n"])) == "one"


def test_a_checkpoint_without_weights_is_named(checkpoint: Path, tokenizer: PromptTokenizer, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
    with pytest.raises(LensflowError, match=rf"^{tmp_path}/tokenizer_config.json: no such file"):
        TransformersEngine(tmp_path, "float32", tokenizer)


def test_vllm_is_not_installed(checkpoint: Path, tokenizer: PromptTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_vllm(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "vllm":
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_vllm)
    with pytest.raises(LensflowError, match=r"^engine: vllm is not installed; run make setup or set engine: hf$"):
        VllmEngine(checkpoint, "float32", tokenizer, 64, Resources())


@pytest.mark.slow
def test_vllm_engine_against_naive_loops(checkpoint: Path, model: Any, tokenizer: PromptTokenizer) -> None:
    engine = VllmEngine(checkpoint, "float32", tokenizer, 64, Resources())
    try:
        check(engine, model, tokenizer, 1e-4)
        with engine.edited(random_edit()):
            check(engine, Edited(model, random_edit()), tokenizer, 1e-4)
        check(engine, model, tokenizer, 1e-4)
        with pytest.raises(
            LensflowError, match=r"^evaluation\.max_model_len: 64 .* of 70 tokens; raise it, or lower max_new_tokens"
        ):
            engine.generate([[0] * 60], decoding(10))
    finally:
        engine.close()
    with pytest.raises(LensflowError, match=rf"^{checkpoint}: vllm does not start \(.+\)$"):
        VllmEngine(checkpoint, "float32", tokenizer, 100_000, Resources())


def changed(model: Any) -> dict[str, torch.Tensor]:
    """Another last layer, under the checkpoint's names."""
    generator = torch.Generator().manual_seed(9)
    last = {name: tensor for name, tensor in model.state_dict().items() if ".layers.1." in name}
    return {name: tensor + torch.randn(tensor.shape, generator=generator) / 5 for name, tensor in last.items()}


def check_swaps(engine: Engine, checkpoint: Path, model: Any, tokenizer: PromptTokenizer, tolerance: float) -> None:
    """Swap to other weights and back; also the scores of the backbone are the very same bits again."""
    requests, prompts = requests_of(model, seed=4), prompts_of(seed=5, n=20)

    def said() -> Any:
        return engine.generate(prompts, decoding(10)), engine.loglikelihoods(requests)

    before = said()
    trained = changed(model)
    engine.swap(trained)
    assert said()[0] != before[0] and said()[1] != before[1]
    other = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    assert other.load_state_dict(trained, strict=False).unexpected_keys == []
    check(engine, other, tokenizer, tolerance)
    engine.swap({name: model.state_dict()[name] for name in trained})
    assert said() == before


def test_transformers_swaps_weights_and_back(
    checkpoint: Path, model: Any, tokenizer: PromptTokenizer, engine: TransformersEngine
) -> None:
    check_swaps(engine, checkpoint, model, tokenizer, 1e-5)
    with pytest.raises(LensflowError, match=r"^tensor 'no\.such' is not in the model that transformers loads"):
        engine.swap({"no.such": torch.zeros(2)})


@pytest.mark.slow
def test_vllm_swaps_weights_and_back(checkpoint: Path, model: Any, tokenizer: PromptTokenizer) -> None:
    engine = VllmEngine(checkpoint, "float32", tokenizer, 64, Resources())
    try:
        check_swaps(engine, checkpoint, model, tokenizer, 1e-4)
    finally:
        engine.close()
