"""Edits of blocks as llama.cpp control vectors, if each edit adds a constant vector after blocks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lensflow.artifacts.interventions import ANY, Intervention

Pair = tuple[str, str]


def control_vectors(intervention: Intervention) -> dict[Pair, dict[int, Tensor]]:
    """Return the vectors that an intervention adds after blocks, for pairs of languages where it does nothing else.

    llama.cpp adds a vector to every token, and has no vector for the first block.

    Returns:
        Language of the prompt, language of the answer -> number of the block -> (d,) float32, with the strength
        included.
    """
    found = {}
    for pair, edits in intervention.blocks.items():
        edit = intervention.edit(pair[1], pair[0])
        assert edit is not None
        alone = edit.shift is None and edit.removed is None and edit.script is None and edit.gate is None
        constant = all(
            one.operation == "add" and one.positions == "all" and not one.restore_norm and one.layer > 0
            for one in edits
        )
        if pair != ANY and edits and alone and constant:
            vectors: dict[int, Tensor] = {}
            for one in edits:
                assert one.vector is not None
                added = one.strength * one.vector.float()
                vectors[one.layer] = vectors[one.layer] + added if one.layer in vectors else added
            found[pair] = vectors
    return found


def name_of(pair: Pair) -> str:
    """Return the name of the file for a prompt in one language and an answer in another."""
    return f"control_vector.{pair[0]}.{pair[1]}.gguf"


def write(vectors: Mapping[Pair, Mapping[int, Tensor]], manifest: Mapping[str, Any], folder: Path) -> None:
    """Write the result of `control_vectors`, one GGUF file per pair, in the format of llama.cpp's cvector-generator.

    Args:
        vectors: the result of `control_vectors`.
        manifest: manifest of the backbone.
        folder: the folder for the files.
    """
    from gguf import GGUFWriter

    for pair, layers in vectors.items():
        writer = GGUFWriter(folder / name_of(pair), "controlvector")
        writer.add_string("controlvector.model_hint", manifest["model_type"])
        writer.add_uint32("controlvector.layer_count", manifest["layers"])
        for layer, vector in sorted(layers.items()):
            writer.add_tensor(f"direction.{layer}", vector.contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
