"""A copy of the workflow that can be changed and run without any model."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from lensflow.presentation import table_list

REPOSITORY = Path(__file__).parents[2]
COPIED = ("src", "workflow", "config", "envs", "profiles")

# Stands in for the command line: writes every file that a stage promises, and nothing else.
FAKE_LENSFLOW = """\
command=$1 config=$3
if [ "$command" = answer ]; then
  while [ "$1" != --runs ]; do shift; done
  shift
  while [ "$1" != --corpora ]; do [ -e "$1/answers.json" ] || : > "$1/answers.json"; shift; done
  exit
fi
if [ "$command" = extract-hidden-states ]; then
  while [ "$1" != --outputs ]; do shift; done
  shift
  for file in "$@"; do [ -e "$file" ] || : > "$file"; done
  exit
fi
while [ "$1" != --output ]; do shift; done
folder=$(dirname "$2")
case $command in
  fetch-items | pair-data) : > "$2" && : > "${2%.jsonl}.source.json" ;;
  make-figures) mkdir -p "$2" ;;
  make-table) mkdir -p "$2" && for name in TABLES; do : > "$2/$name"; done ;;
  train) for file in delta dev_states intervention; do : > "$folder/$file.safetensors"; done
    for file in config.json cost.json history.jsonl; do : > "$folder/$file"; done ;;
  collect-scores) for name in scores comparisons versus claims sweeps; do : > "$folder/$name.csv"; done ;;
  resolve-config) printf '%s' "$config" > "$2" ;;
  *) : > "$2" ;;
esac
""".replace("TABLES", " ".join(table_list.files()))


class Workspace:
    """A copy of the workflow in its own folder, with a tiny backbone `tiny` in `model/`.

    Attributes:
        root: the folder.
        programs: a folder in it whose programs stand in for those of the machine.
        environment: variables that its commands run with.
    """

    def __init__(self, root: Path) -> None:
        self.root = root / "workspace"
        self.root.mkdir()
        for name in COPIED:
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(REPOSITORY / name, self.root / name, ignore=ignored)
        shutil.copy(REPOSITORY / "Snakefile", self.root)
        write_checkpoint(self.root / "model")
        self.programs = self.root / "bin"
        self.programs.mkdir()
        self.write_program("lensflow", FAKE_LENSFLOW)
        self.environment = os.environ | {
            "PATH": f"{self.programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.root / "src"),
            # Compiled modules are kept for the next start even where the surroundings forbid it: twice as fast.
            "PYTHONPYCACHEPREFIX": str(root / "pycache"),
            "PYTHONDONTWRITEBYTECODE": "",
            "XDG_CACHE_HOME": str(root / "cache"),
        }

    def write_program(self, name: str, script: str) -> None:
        """Let a shell script stand in for a program."""
        program = self.programs / name
        program.write_text(f"#!/bin/sh\n{script}")
        program.chmod(0o755)

    def before_stages(self, script: str) -> None:
        """Let the fake command line run a shell script first, with the arguments of the stage."""
        self.write_program("lensflow", script + FAKE_LENSFLOW)

    def write_config(self, config: dict) -> Path:
        path = self.root / "config" / "test.yaml"
        path.write_text(json.dumps(config))  # JSON is YAML
        return path

    def snakemake(self, config: dict, *arguments: str) -> subprocess.CompletedProcess:
        """Run snakemake as a user would."""
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--workflow-profile", "none"]
        command += ["--configfile", str(self.write_config(config)), *arguments]
        return subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True, check=False)


def write_checkpoint(folder: Path) -> None:
    """Write what looks like a checkpoint to all checks that read no weights."""
    folder.mkdir()
    words = ["</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    sizes = {"hidden_size": 2, "intermediate_size": 2, "vocab_size": len(words), "tie_word_embeddings": True}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 2}
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 4} | sizes | heads
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    parts = [f"self_attn.{kind}_proj" for kind in "qkvo"] + [f"mlp.{kind}_proj" for kind in ("gate", "up", "down")]
    layers = [f"model.layers.{layer}." for layer in range(4)]
    tensors = {f"{layer}{part}.weight": np.zeros((2, 2), np.float32) for layer in layers for part in parts}
    norms = [f"{layer}{name}" for layer in layers for name in ("input_layernorm", "post_attention_layernorm")]
    tensors |= {f"{name}.weight": np.zeros(2, np.float32) for name in (*norms, "model.norm")}
    save_file(
        tensors | {"model.embed_tokens.weight": np.eye(len(words), 2, dtype=np.float32)}, folder / "model.safetensors"
    )


def demo_config() -> dict:
    """Two settings of two languages, three methods, one tiny backbone."""
    return {
        "backbones": {
            "tiny": {
                "source": {"kind": "folder", "path": "model"},
                "license": "CC0-1.0",
                "prompt": {"format": "plain"},
                "resources": {"disk_gb": 1e-6},
            }
        },
        "settings": {
            "en-zh": {"central": "en", "languages": ["en", "zh"]},
            "en-sw": {"central": "en", "languages": ["en", "sw"]},
        },
        "methods": {
            "base": {"kind": "base"},
            "lens-a": {"kind": "lens", "lr": 1e-5, "weights": {"pull": 2.0, "push": 1.0}},
            "lens-b": {"kind": "lens", "lr": 1e-4, "weights": {"pull": 2.0, "push": 1.0}},
        },
        "runs": [
            {
                "backbones": ["tiny"],
                "settings": ["en-zh", "en-sw"],
                "methods": ["base", "lens-a", "lens-b"],
                "benchmarks": ["generation", "cldr"],
            }
        ],
    }
