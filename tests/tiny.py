"""Tiny random models of several families, and the files that the stages before training write for them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from lensflow.artifacts.states import save
from lensflow.methods.base import Run, StateFiles
from lensflow.models.loading import load_decoder
from lensflow.schema.backbone import Backbone, PlainPrompt
from lensflow.schema.extraction import Extraction
from lensflow.schema.setting import Setting
from lensflow.stages import extract_hidden_states, fit_subspaces
from lensflow.stages.prepare_backbone import prepare_backbone
from lensflow.storage.atomic import write_jsonl

LAYERS, WIDTH = 4, 32
SPECIAL = ("<pad>", "<bos>", "<eos>")
VOCABULARY = len(SPECIAL) + 256
LANGUAGES = ("en", "zh", "sw")
# What makes a family different: window and layer types, tied embeddings, fused projections, dropout, head norms.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "tie_word_embeddings": False},
    "gemma3": {
        "model_type": "gemma3_text",
        "sliding_window": 6,
        "layer_types": ["sliding_attention", "full_attention", "full_attention", "sliding_attention"],
        "query_pre_attn_scalar": 16,
        "tie_word_embeddings": True,
    },
    "phi3": {"model_type": "phi3", "resid_pdrop": 0.1, "attention_dropout": 0.1, "tie_word_embeddings": False},
    "qwen3": {"model_type": "qwen3", "tie_word_embeddings": True},
    "mistral": {"model_type": "mistral", "sliding_window": 6, "tie_word_embeddings": False},
}
# Families whose logits are not W_U h: capped, multiplied, divided.
HEADS: dict[str, dict[str, Any]] = {
    "gemma2": {
        "model_type": "gemma2",
        "sliding_window": 6,
        "query_pre_attn_scalar": 16,
        "final_logit_softcapping": 2.0,
        "tie_word_embeddings": True,
    },
    "cohere": {"model_type": "cohere", "logit_scale": 0.25, "tie_word_embeddings": True},
    "granite": {"model_type": "granite", "logits_scaling": 4.0, "tie_word_embeddings": False},
}
# Scaled rotary embeddings, as configurations on the hub write them. Phi's change where a text is longer than the
# original length, which no text of the tests is; that of Phi-3.5 is 4096 tokens.
ROPES: dict[str, dict[str, Any]] = {
    "llama-3.1": {
        "model_type": "llama",
        "tie_word_embeddings": False,
        "rope_theta": 500_000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8,
        },
    },
    "phi-3.5": {
        "model_type": "phi3",
        "tie_word_embeddings": False,
        "original_max_position_embeddings": 32,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.5, 2.0, 3.0], "long_factor": [2.0, 4.0, 6.0, 9.0]},
    },
}


def save_checkpoint(family: str, folder: Path, dtype: torch.dtype = torch.float32, head: int = 16) -> None:
    """Write a random checkpoint in many shards, with a tokenizer that knows every byte; vLLM wants a `head` of 32."""
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    head_dim = {} if family in ("phi3", "phi-3.5", "cohere", "granite") else {"head_dim": head}
    config = AutoConfig.for_model(
        **(FAMILIES | HEADS | ROPES)[family] | special | head_dim,
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
    )
    generator = torch.Generator().manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():  # large enough that attention is far from uniform
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise / 4 if parameter.ndim > 1 else parameter + noise / 10)
    model.to(dtype).save_pretrained(folder, max_shard_size="20KB")
    _tokenizer().save_pretrained(folder)


def _tokenizer() -> PreTrainedTokenizerFast:
    words = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")


def backbone(source: Path, output: Path) -> Path:
    """Run the stage `prepare_backbone` on a checkpoint folder; return the manifest."""
    config = {
        "source": {"kind": "folder", "path": str(source)},
        "license": "none",
        "prompt": {"format": "plain"},
    }
    prepare_backbone(Backbone.model_validate(config), Path(), output)
    return output


def random_sequences(count: int, seed: int, longest: int = 14) -> list[list[int]]:
    """Token ids of texts of 1 to `longest` tokens."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (count,), generator=generator).tolist()
    return [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


@dataclass(frozen=True)
class Stages:
    """What the stages before training wrote for the languages of `LANGUAGES`."""

    checkpoint: Path
    sequences: Mapping[str, list[list[int]]]
    states: dict[str, Path]
    texts: dict[str, Path]
    subspaces: dict[str, Path]

    def setting(self, space: str) -> Setting:
        return Setting.model_validate({"central": "en", "languages": list(LANGUAGES), "space": space})

    def run(self, method: Any, output: Path, *, space: str = "post_norm", seed: int = 0, **changes: Any) -> Run[Any]:
        """What a method's `train` is given; `extraction` says what `run_stages` was told."""
        extraction = changes.pop("extraction", Extraction(trainable_layers=2))
        given = StateFiles(extraction, self.subspaces[space], self.states)
        prompt, backbone = PlainPrompt(format="plain"), self.checkpoint / "manifest.json"
        return Run(method, self.setting(space), seed, prompt, backbone, self.texts, output, given, **changes)


def run_stages(checkpoint: Path, folder: Path, extraction: Extraction, train: int = 13, dev: int = 3) -> Stages:
    """Write texts, hidden states and, for both spaces, subspaces."""
    decoder = load_decoder(checkpoint)
    ids = [f"text-{index}" for index in range(train + dev)]
    splits = ["train"] * train + ["dev"] * dev
    stages = Stages(
        checkpoint,
        {language: random_sequences(len(ids), seed) for seed, language in enumerate(LANGUAGES)},
        {language: folder / "states" / f"{language}.safetensors" for language in LANGUAGES},
        {language: folder / "texts" / f"{language}.jsonl" for language in LANGUAGES},
        {space: folder / f"{space}.safetensors" for space in ("post_norm", "pre_norm")},
    )
    for language, sequences in stages.sequences.items():
        rows = [{"id": i, "split": split, "prompt": i} for i, split in zip(ids, splits, strict=True)]
        write_jsonl(stages.texts[language], rows)
        scratch = folder / "scratch" / language
        scratch.mkdir(parents=True)
        texts = extract_hidden_states.Sequences(language, ids, sequences)
        states = extract_hidden_states.extract(decoder, texts, extraction, scratch)
        save(stages.states[language], states, ids)
    for space, path in stages.subspaces.items():
        fit_subspaces.fit(stages.setting(space), stages.states, stages.texts, path)
    return stages
