"""Which causal-LM families of transformers work, measured on tiny random checkpoints (docs/families.md).

Every model type of transformers' causal-LM mapping is built with 4 layers, taken through the steps that Lensflow takes,
and each step is compared with transformers itself. A family runs in a process of its own with a time limit; finished
ones are read from the work folder, so that a run that was stopped goes on.

python -m performance.families WORK [--only NAME ...] [--jobs 2] [--seconds 240] [--page docs/families.md]
"""

import argparse
import json
import multiprocessing
import os
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import peft  # noqa: F401 - here, so that the processes of families need not
import torch
from tests import tiny
from torch import Tensor

from lensflow.artifacts.export import export
from lensflow.artifacts.states import save
from lensflow.artifacts.texts import read_texts
from lensflow.errors import LensflowError
from lensflow.methods.finetuning import Example, fine_tune
from lensflow.methods.lens.config import Lens
from lensflow.methods.lens.training import train as train_lens
from lensflow.methods.sft import Sft
from lensflow.models.engines.hf import TransformersEngine
from lensflow.models.engines.process import prepare_process
from lensflow.models.loading import decoder_of, import_transformers, layers_of, load_decoder
from lensflow.models.streaming import StreamedDecoder
from lensflow.models.tokenizer import PromptTokenizer
from lensflow.schema.backbone import PlainPrompt
from lensflow.schema.decoding import Decoding
from lensflow.schema.extraction import Extraction
from lensflow.stages import extract_hidden_states, fit_subspaces
from lensflow.stages.extract_hidden_states import Sequences, tokenize
from lensflow.storage.atomic import write_jsonl

STEPS = ("prepare", "resident", "stream", "lens", "export", "sft lora", "sft full", "generate", "likelihood", "choices")
OK, REFUSED, WRONG, CRASH, SKIPPED = "ok", "refused", "WRONG", "CRASH", "–"
ORDER = (CRASH, WRONG, "TIME", "not built", REFUSED, OK, SKIPPED)  # worst first
TOLERANCE = 1e-3  # relative error of states; logits and losses are compared absolutely
LAYERS, TRAINED = 4, 2
PROMPT = PlainPrompt(format="plain", template="{prompt}")  # last tokens differ: a convolution sees no more
VOCABULARY = 320
# Sizes of tiny models, by the keys that configurations give them.
SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "emb_dim", "word_embed_proj_dim", "embedding_size"), 64),
    **dict.fromkeys(("lru_width", "attention_hidden_size", "input_embedding_size", "output_embedding_size"), 64),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "dff", "dim_ff", "ffn_hidden_size", "d_inner"), 96),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim", "feed_forward_size", "dense_intermediate_size"), 96),
    **dict.fromkeys(("intermediate_size_mlp", "shared_intermediate_size"), 96),
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size", "shared_expert_intermediate_size"), 32),
    "moe_shared_expert_intermediate_size": 32,
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), LAYERS),
    **dict.fromkeys(("encoder_layers", "num_decoder_layers", "num_encoder_layers", "num_blocks"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "decoder_attention_heads", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "num_encoder_attention_heads", "num_decoder_attention_heads"), 4),
    **dict.fromkeys(("attention_heads", "swa_num_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads", "num_query_groups"), 2),
    "num_global_key_value_heads": 2,
    **dict.fromkeys(("head_dim", "kv_channels", "d_head", "dim_head", "swa_head_dim", "attention_head_size"), 16),
    **dict.fromkeys(("global_head_dim", "attention_head_dim"), 16),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "context_length"), 512),
    **dict.fromkeys(("max_target_positions", "max_source_positions", "model_max_length"), 512),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "num_experts_per_token"), 2),
    **dict.fromkeys(("n_group", "topk_group", "num_expert_group", "n_shared_experts", "num_shared_experts"), 1),
    **dict.fromkeys(("moe_num_shared_experts", "first_k_dense_replace", "num_dense_layers"), 1),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank"), 32),
    **dict.fromkeys(("qk_rope_head_dim", "index_head_dim", "rotary_dim"), 16),
    **dict.fromkeys(("qk_nope_head_dim", "v_head_dim"), 16),
    "qk_head_dim": 32,
    "index_n_heads": 2,
    "index_topk": 64,
    **dict.fromkeys(("sliding_window", "sliding_window_size", "attention_window_size", "window_size"), 8),
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "n_mamba_heads"), 4),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "mamba_headdim"), 32),
    **dict.fromkeys(("mamba_n_groups", "n_groups", "mamba_ngroups"), 1),
    **dict.fromkeys(("mamba_chunk_size", "chunk_size"), 16),
    **dict.fromkeys(("mamba_dt_rank", "time_step_rank"), 8),
    "mamba_d_ssm": 128,
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads", "linear_num_heads"), 2),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"), 16),
    "hidden_size_per_layer_input": 8,
    "query_pre_attn_scalar": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# What the sizes alone do not make a valid configuration of.
_MLA = {"head_dim": 16, "num_key_value_heads": 4, "qk_head_dim": 32}
_MIXED = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]}
_LINEAR = {"layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention"]}
OVERRIDES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite"), _MLA),
    **dict.fromkeys(("glm_moe_dsa", "minicpm3", "youtu", "longcat_flash"), _MLA),
    **dict.fromkeys(("gemma2", "gemma3_text", "cohere2", "olmo3", "gpt_oss", "vaultgemma", "exaone4"), _MIXED),
    **dict.fromkeys(("qwen3_5_text", "qwen3_5_moe_text", "qwen3_next", "olmo_hybrid", "granitemoehybrid"), _LINEAR),
    "gemma4_text": _MIXED,
    "cohere_compass_text": {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [3, 3, 2]}
        }
    },
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "n_group": 1, "topk_group": 1},
    "gemma3n_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 0,
        "activation_sparsity_pattern": [0.0] * LAYERS,
        "intermediate_size": [96] * LAYERS,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "attention_layers": ["global", "local"] * 2},
    **{key: {"head_dim": 16} for key in ("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral")},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 4, "head_dim": 32},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 16},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 64,
        "indexer_compress_ratio": 4,
    },
    "zamba": {"layers_block_type": ["linear_attention", "hybrid"] * 2, "attention_hidden_size": 128},
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "hybrid_layer_ids": [1, 3],
        "num_key_value_heads": 4,
        "attention_head_dim": 32,
        "attention_hidden_size": 128,
        "n_mamba_heads": 4,
        "mamba_headdim": 32,
        "num_mem_blocks": 1,
    },
    "zaya": {"num_experts_per_tok": 1, "layer_types": ["hybrid"] * LAYERS, "router_hidden_size": 16},
    "reformer": {"is_decoder": True, "axial_pos_embds_dim": [32, 32]},
    "bamba": {"attn_layer_indices": [1, 3]},
    "kimi_linear": {**_MLA, **_LINEAR},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "deepseek_v2": {**_MLA, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "xmod": {"default_language": "en_XX"},
}


def shrink(config: Any, **more: Any) -> dict[str, Any]:
    """Return the keys of a family's default configuration that make it tiny."""
    default = config()
    keys: dict[str, Any] = {}
    for key, value in default.to_dict().items():
        own = getattr(default, key, None) if key.endswith("_config") else None
        if hasattr(own, "to_dict"):
            keys[key] = shrink(type(own), **OVERRIDES.get(own.model_type, {}))
        elif key in SIZES and not isinstance(value, list | dict) and (value is not None or key.endswith("token_id")):
            keys[key] = SIZES[key]
    return keys | more


def build(family: str, folder: Path) -> None:
    """Write a tiny random checkpoint of a family, with a tokenizer that knows every byte."""
    transformers = import_transformers()
    cls = transformers.CONFIG_MAPPING[family]
    config = cls(**shrink(cls, **OVERRIDES.get(family, {})))
    model = transformers.AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():  # large enough that attention is far from uniform
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise / 6 if parameter.ndim > 1 else parameter + noise / 10)
    model.save_pretrained(folder, max_shard_size="100KB")
    tiny._tokenizer().save_pretrained(folder)


class WrongError(Exception):
    """A step gave something else than transformers does."""


def close(what: str, found: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    """Compare two tensors by the largest difference of a row, relative to the row's length."""
    if found.shape != expected.shape:
        raise WrongError(f"{what}: shape {tuple(found.shape)}, transformers' {tuple(expected.shape)}")
    norms = expected.float().norm(dim=-1).clamp(min=1e-6)
    error = ((found.float() - expected.float()).norm(dim=-1) / norms).max()
    if not error < tolerance:
        raise WrongError(f"{what}: relative error {float(error):.1e}")


def equal(what: str, found: float, expected: float, tolerance: float = 3e-4) -> None:
    """Compare two numbers."""
    if not abs(found - expected) < tolerance * max(1.0, abs(expected)):
        raise WrongError(f"{what}: {found:.4f}, each example alone {expected:.4f}")


class Reference:
    """Transformers itself, one text at a time."""

    def __init__(self, checkpoint: Path) -> None:
        auto = import_transformers().AutoModelForCausalLM
        try:
            self.model = auto.from_pretrained(checkpoint, dtype=torch.float32).eval()
        except ValueError:
            self.model = auto.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="eager").eval()

    @torch.inference_mode()
    def states(self, ids: list[int]) -> tuple[Tensor, Tensor]:
        """Return the last token's states after each layer (depth, d), and after the final norm (d,)."""
        decoder = decoder_of(self.model)
        kept: list[Tensor] = []
        handles = [
            layer.register_forward_hook(lambda m, a, out: kept.append(out[0] if isinstance(out, tuple | list) else out))
            for layer in layers_of(decoder)
        ]
        output = decoder(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state
        for handle in handles:
            handle.remove()
        return torch.stack([states[0, -1] for states in kept]), output[0, -1]

    @torch.inference_mode()
    def logits(self, ids: list[int]) -> Tensor:
        """Return the logits of a text (T, V)."""
        logits: Tensor = self.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
        return logits

    def logp(self, context: list[int], continuation: list[int]) -> float:
        """Return the log-probability of a continuation."""
        logp = self.logits([*context, *continuation])[len(context) - 1 : -1].log_softmax(-1)
        return float(logp.gather(1, torch.tensor(continuation)[:, None]).double().sum())

    def loss(self, examples: list[Example]) -> float:
        """Return the mean loss over the tokens that count in some examples."""
        total, count = 0.0, 0
        for example in examples:
            logp = self.logits(list(example.ids))[:-1].log_softmax(-1)
            own = logp.gather(1, torch.tensor(example.ids[1:])[:, None])[:, 0]
            flags = torch.tensor(example.counted[1:])
            total, count = total - float(own[flags].double().sum()), count + int(flags.sum())
        return total / count

    def greedy(self, ids: list[int], tokens: int, ends: set[int]) -> list[int]:
        """Return an answer without a cache."""
        said: list[int] = []
        while len(said) < tokens and not (said and said[-1] in ends):
            said.append(int(self.logits([*ids, *said])[-1].argmax()))
        return said


@dataclass
class Family:
    """One family's walk through the steps."""

    name: str
    work: Path
    notes: dict[str, str] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)

    def run(self) -> dict[str, Any]:
        """Run all steps; what needs a step that failed is skipped."""
        source = self.work / "source"
        try:
            build(self.name, source)
        except Exception as error:
            return {"worst": "not built", "steps": {}, "notes": {"build": one_line(error)}}
        if self._step("prepare", lambda: self._prepare(source)):
            self._texts()
            resident = self._step("resident", self._resident)
            self._step("stream", self._stream, needs=resident)
            trained = self._step("lens", self._lens, needs=resident)
            self._step("export", lambda: self._export("lens"), needs=trained)
            self._step("sft lora", lambda: self._sft("lora"))
            self._step("sft full", lambda: self._sft("full"))
            self._step("generate", self._generate)
            self._step("likelihood", self._likelihood)
            self._step("choices", self._choices)
        for step in STEPS:
            self.results.setdefault(step, SKIPPED)
        worst = next(kind for kind in ORDER if kind in self.results.values())
        return {"worst": worst, "steps": self.results, "notes": self.notes}

    def _step(self, name: str, action: Callable[[], None], needs: bool = True) -> bool:
        if not needs:
            return False
        started = time.monotonic()
        try:
            action()
        except LensflowError as error:
            self.results[name], self.notes[name] = REFUSED, str(error)
        except WrongError as error:
            self.results[name], self.notes[name] = WRONG, str(error)
        except Exception as error:
            self.results[name], self.notes[name] = CRASH, one_line(error)
        else:
            self.results[name] = OK
        if os.environ.get("VERBOSE"):
            print(name, self.results[name], self.notes.get(name, ""), f"{time.monotonic() - started:.1f}s", flush=True)
        return self.results[name] == OK

    def _prepare(self, source: Path) -> None:
        from lensflow.models.skeleton import check_decoder
        from lensflow.models.usable import check_numbers, check_tensors

        self.manifest = tiny.backbone(source, self.work / "backbone" / "manifest.json")
        self.folder = self.manifest.parent
        check_decoder(self.folder)
        check_tensors(self.folder)
        check_numbers(self.folder)
        self.reference = Reference(self.folder)
        self.tokenizer = PromptTokenizer(self.folder, PROMPT)

    def _texts(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.texts = {language: self.work / "texts" / f"{language}.jsonl" for language in tiny.LANGUAGES}
        for code, path in self.texts.items():
            rows = []
            for index in range(8):
                words = "".join(chr(97 + int(n)) for n in torch.randint(0, 26, (4 + 3 * index,), generator=generator))
                split = "dev" if index in (2, 7) else "train"
                rows.append({"id": f"t{index}", "split": split, "prompt": f"{code} {words}", "answer": words[::-1]})
            write_jsonl(path, rows)
        self.extraction = Extraction(trainable_layers=TRAINED, batch_tokens=128)

    def _sequences(self, language: str) -> Sequences:
        return tokenize(self.tokenizer, language, read_texts(self.texts[language], ["train", "dev"]), self.extraction)

    def _resident(self) -> None:
        decoder = load_decoder(self.folder)
        self.states = {}
        for language in tiny.LANGUAGES:
            sequences = self._sequences(language)
            scratch = self.work / "scratch" / language
            scratch.mkdir(parents=True)
            found = extract_hidden_states.extract(decoder, sequences, self.extraction, scratch)
            self.states[language] = self.work / "states" / f"{language}.safetensors"
            save(self.states[language], found, sequences.names)
            if language == "en":
                self.extracted = found
                for index, ids in enumerate(sequences.ids):
                    layers, top = self.reference.states(ids)
                    close("layers", found.layers[:, index], layers)
                    close("post_norm", found.post_norm[index], top)

    def _stream(self) -> None:
        sequences = self._sequences("en")
        decoder = StreamedDecoder(self.folder, sequences.ids)
        scratch = self.work / "scratch" / "stream"
        scratch.mkdir(parents=True)
        found = next(extract_hidden_states.stream(decoder, [sequences], self.extraction, [scratch]))
        close("layers", found.layers, self.extracted.layers)
        close("post_norm", found.post_norm, self.extracted.post_norm)
        close("tokens", found.tokens, self.extracted.tokens)

    def _given(self, method: Any, name: str) -> Any:
        subspaces = self.work / "subspaces.safetensors"
        stages = tiny.Stages(self.folder, {}, getattr(self, "states", {}), self.texts, {"post_norm": subspaces})
        output = self.work / name / "method" / "seed0" / "delta.safetensors"
        output.parent.mkdir(parents=True)
        return replace(stages.run(method, output, extraction=self.extraction), prompt=PROMPT)

    def _lens(self) -> None:
        from lensflow.models.skeleton import check_trainable

        check_trainable(self.folder, TRAINED)
        method = Lens.model_validate({"kind": "lens", "lr": 1e-2, "batch_size": 4, "layers": TRAINED, "epochs": 1})
        run = self._given(method, "lens")
        fit_subspaces.fit(run.setting, self.states, self.texts, run.hidden.subspaces)
        train_lens(run)
        from safetensors.torch import load_file

        dev = load_file(run.output.with_name("dev_states.safetensors"))
        model = self._exported("lens")
        texts = read_texts(self.texts["en"], ["train", "dev"])
        ids = [s for s, text in zip(self._sequences("en").ids, texts, strict=True) if text.split == "dev"]
        states = torch.stack([model.states(one)[1] for one in ids])
        close("states after training", dev["after.en"], states)
        if torch.allclose(dev["after.en"], dev["before.en"]):
            raise WrongError("nothing was trained")

    def _exported(self, name: str) -> Reference:
        folder = self.work / name / "exported"
        export(self.manifest, self.work / name / "method" / "seed0" / "delta.safetensors", folder / "manifest.json")
        return Reference(folder)

    def _export(self, name: str) -> None:
        from safetensors.torch import load_file

        engine = self._engine()
        engine.swap(load_file(self.work / name / "method" / "seed0" / "delta.safetensors"))
        model = Reference(self.work / name / "exported")
        for ids in self._sequences("en").ids[:3]:
            with torch.inference_mode():
                found = engine.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
            close("logits of swapped weights", found, model.logits(ids))

    def _sft(self, kind: str) -> None:
        from lensflow.methods.finetuning import answered

        keys = {"kind": "sft", "epochs": 1, "batch_size": 4, "lr": 2e-3, "max_tokens": 256}
        method = Sft.model_validate(keys | ({} if kind == "lora" else {"lora": None}))
        run = self._given(method, f"sft-{kind}")
        examples = []
        for line in self.texts["en"].read_text().splitlines():
            row = json.loads(line)
            examples.append((row["split"], answered(self.tokenizer, row["id"], row["prompt"], row["answer"])))
        train = [example for split, example in examples if split == "train"]
        dev = [example for split, example in examples if split == "dev"]
        fine_tune(run, train, dev)
        history = [json.loads(line) for line in run.output.with_name("history.jsonl").read_text().splitlines()]
        losses = [row["loss"] for row in history if row["split"] == "dev"]
        equal("dev loss before", losses[0], self.reference.loss(dev))
        equal("dev loss after", losses[-1], self._exported(f"sft-{kind}").loss(dev))
        if abs(losses[0] - losses[-1]) < 1e-5:
            raise WrongError("nothing was trained")

    def _engine(self) -> TransformersEngine:
        return TransformersEngine(self.folder, "float32", self.tokenizer)

    def _generate(self) -> None:
        prompts = [self.tokenizer.encode("abcdefghijklmnop"[:n]) for n in (1, 3, 4, 6, 7, 7, 9, 11)]
        engine = self._engine()
        answers = engine.generate(prompts, Decoding(max_new_tokens=6))
        different = 0
        for prompt, answer in zip(prompts, answers, strict=True):
            different += list(answer.ids) != self.reference.greedy(prompt, 6, engine._eos)
        if different:
            raise WrongError(f"{different} of {len(prompts)} answers are not those to the prompt alone")

    def _likelihood(self) -> None:
        prompts = [self.tokenizer.encode(text) for text in ("abc", "the quick brown fox", "zzz yyy")]
        rows = self._engine().read(prompts, [[True] * len(ids) for ids in prompts], None)
        for ids, row in zip(prompts, rows, strict=True):
            equal("nll", row["nll"], -self.reference.logp(ids[:1], ids[1:]))

    def _choices(self) -> None:
        contexts = [self.tokenizer.encode("abcdefghijklmnopqrstuvwxyz"[:n]) for n in (2, 9, 20)]
        choices = [[70, 80], [90, 91, 92, 93], [100], [120, 121, 122]]
        shared = [(context, choice) for context in contexts for choice in choices]
        single = [(context, choices[index]) for index, context in enumerate(contexts)]
        engine = self._engine()
        for requests in (shared, single):
            for (context, choice), (found, _) in zip(requests, engine.loglikelihoods(requests), strict=True):
                equal("log-likelihoods", found, self.reference.logp(context, choice))


def one_line(error: BaseException) -> str:
    """Say what went wrong, and where."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/lensflow/" in f.filename]
    last = traceback.extract_tb(error.__traceback__)[-1]
    places = [*(frames[-1:]), last]
    where = "; ".join(f"{'/'.join(Path(f.filename).parts[-2:])}:{f.lineno}" for f in places)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]} [{where}]"


def _child(name: str, work: Path) -> None:
    torch.set_num_threads(1)
    result = Family(name, work).run()
    (work / "result.json").write_text(json.dumps(result, indent=1))


def measure(name: str, work: Path, seconds: float) -> dict[str, Any]:
    """Run a family in a process of its own; a result that is there already is read."""
    import shutil

    folder = (work / name).resolve()
    if not (folder / "result.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        process = multiprocessing.get_context("fork").Process(target=_quiet_child, args=(name, folder))
        process.start()
        process.join(seconds)
        if process.is_alive():
            process.kill()
            process.join()
        if not (folder / "result.json").is_file():
            kind = "TIME" if process.exitcode == -9 else CRASH
            return {"worst": kind, "steps": {}, "notes": {"process": f"exit code {process.exitcode}"}}
        for part in folder.iterdir():
            if part.is_dir():
                shutil.rmtree(part)
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def _quiet_child(name: str, work: Path) -> None:
    if not os.environ.get("VERBOSE"):
        with (work / "log").open("w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
    _child(name, work)


def page(results: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of docs/families.md."""
    transformers = import_transformers()
    worst = Counter(result["worst"] for result in results.values())
    yield "# Families of language models"
    yield ""
    yield "This page lists which model families work; `performance/families.py` wrote it. We make a tiny random"
    yield f"checkpoint of 4 layers in float32 for each of the {len(results)} causal-LM model types of transformers"
    yield f"{transformers.__version__}. It goes through the steps below on a CPU. Each step is compared with"
    yield "transformers itself, one text at a time. A family has the status of its worst step. If a family is"
    yield "refused, `lensflow check` or the stage says so in one line."
    yield ""
    yield ", ".join(f"{worst[kind]} {kind}" for kind in reversed(ORDER) if worst[kind]) + "."
    yield ""
    kinds = [kind for kind in (OK, REFUSED, WRONG, CRASH, SKIPPED) if kind]
    yield f"| step | {' | '.join(kinds)} |"
    yield f"|---|{'---:|' * len(kinds)}"
    for step in STEPS:
        counts = Counter(result["steps"].get(step, SKIPPED) for result in results.values())
        yield f"| {step} | {' | '.join(str(counts[kind]) for kind in kinds)} |"
    yield ""
    yield f"| family | worst | {' | '.join(STEPS)} |"
    yield f"|---|---|{'---|' * len(STEPS)}"
    for name, result in sorted(results.items()):
        yield f"| {name} | {result['worst']} | {' | '.join(result['steps'].get(s, SKIPPED) for s in STEPS)} |"
    yield ""
    yield "## What was said"
    yield ""
    for name, result in sorted(results.items()):
        said: dict[str, list[str]] = {}
        for step, note in result["notes"].items():
            said.setdefault(note, []).append(step)
        for note, steps in said.items():
            yield f"- **{name}**, {', '.join(steps)}: {note.replace('|', '/')}"


def main() -> None:
    """Measure, and write the page if one is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--page", type=Path)
    given = parser.parse_args()
    prepare_process()
    import_transformers()
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    names = given.only or list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    results: dict[str, dict[str, Any]] = {}

    def one(name: str) -> None:
        results[name] = result = measure(name, given.work, given.seconds)
        print(
            f"{name:28} {result['worst']:10} {' | '.join(f'{k}: {v}' for k, v in result['notes'].items())[:400]}",
            flush=True,
        )

    with ThreadPoolExecutor(given.jobs) as pool:
        list(pool.map(one, names))
    print(", ".join(f"{count} {kind}" for kind, count in Counter(r["worst"] for r in results.values()).most_common()))
    if given.page:
        given.page.write_text("\n".join(page(results)).replace(str(given.work.resolve()), "WORK") + "\n")


if __name__ == "__main__":
    main()
