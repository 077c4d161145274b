"""One stage on two devices: what it gives there, and how far apart that is."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from lensflow.artifacts import language_subspaces
from lensflow.methods.lens import training
from lensflow.methods.lens.config import Lens
from lensflow.methods.lens.objective import objective
from lensflow.methods.lens.training import LensTrainer, TopStack, read_cache
from lensflow.models.loading import load_decoder
from lensflow.models.skeleton import load_top_layers
from lensflow.models.streaming import StreamedDecoder
from lensflow.schema.extraction import Extraction
from lensflow.stages import extract_hidden_states
from lensflow.storage.verified import read_jsonl
from tests import tiny

EXTRACTION = Extraction(trainable_layers=2, batch_tokens=64)


def lens(**changes: object) -> Lens:
    """A method whose every term counts."""
    return Lens.model_validate({"kind": "lens", "lr": 1e-3, "batch_size": 4, "retain_on": "mean"} | changes)


def distance(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """The largest ‖a − b‖ / ‖b‖ of tensors of the same names."""
    assert ours.keys() == theirs.keys() != set()
    pairs = [(ours[name].double().cpu(), theirs[name].double().cpu()) for name in ours]
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


def states(checkpoint: Path, sequences: list[list[int]], device: torch.device, stream: bool) -> dict[str, Tensor]:
    """Extract hidden states."""
    texts = extract_hidden_states.Sequences("en", [str(number) for number in range(len(sequences))], sequences)
    with tempfile.TemporaryDirectory() as scratch:
        if stream:
            streamed = StreamedDecoder(checkpoint, sequences, device)
            found = next(extract_hidden_states.stream(streamed, [texts], EXTRACTION, [Path(scratch)]))
        else:
            found = extract_hidden_states.extract(
                load_decoder(checkpoint, device=device), texts, EXTRACTION, Path(scratch)
            )
    assert found.layers.device == found.tokens.device == torch.device("cpu")
    return {name: getattr(found, name) for name in ("layers", "post_norm", "tokens")}


def trainer(stages: tiny.Stages, method: Lens, device: torch.device) -> LensTrainer:
    """Build what the stage `train` builds."""
    setting = stages.setting("post_norm")
    caches = {code: read_cache(stages.states[code], stages.texts[code], "post_norm") for code in setting.languages}
    own = caches["en"].tokens.dtype if method.precision == "mixed" else torch.float32
    top = load_top_layers(stages.checkpoint, EXTRACTION.trainable_layers, own, device)
    target = objective(method, language_subspaces.load(stages.subspaces["post_norm"], setting), setting.targets)
    return LensTrainer(method, setting, 0, TopStack(top, method.layers, "post_norm"), caches, target, "last")


def first_step(stages: tiny.Stages, method: Lens, device: torch.device) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Terms and gradients of the first batch, the former on weights that were moved, or push and retain were 0."""
    one = trainer(stages, method, device)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in one.trained.values():
            noise = torch.randn(weight.shape, generator=generator)
            weight.add_((noise * weight.detach().float().cpu().std() / 10).to(weight))
    terms = one.terms(one.units["train"][: method.batch_size])
    one.objective.loss(terms).backward()
    gradients = {name: weight.grad for name, weight in one.trained.items() if weight.grad is not None}
    return {name: value.detach() for name, value in terms.items()}, gradients


def trained(
    stages: tiny.Stages, method: Lens, device: torch.device, folder: Path
) -> tuple[Sequence[float], dict[str, Tensor]]:
    """Run the stage `train`; give its losses, and how every tensor changed."""
    output = folder / device.type / "seed0" / "delta.safetensors"
    training.train(stages.run(method, output, extraction=EXTRACTION, gpus=int(device.type == "cuda")))
    before = training.deltas.WeightFiles(stages.checkpoint)
    changes = {name: tensor - before.read(name).float() for name, tensor in load_file(output).items()}
    return [row["loss"] for row in read_jsonl(output.parent / "history.jsonl")], changes
