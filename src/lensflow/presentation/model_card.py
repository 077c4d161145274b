"""The model card of an exported checkpoint: what it was made from, how, and how it scored."""

from collections.abc import Mapping
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData
from safetensors import safe_open

from lensflow.artifacts import costs
from lensflow.artifacts.interventions import Intervention
from lensflow.presentation.blocks import LEFT
from lensflow.presentation.legends import NOT_APPLIED_NOTE
from lensflow.storage.integrity import checked
from lensflow.storage.verified import read_json

TEMPLATE = Path(str(files("lensflow"))) / "templates" / "model_card.md.j2"


def model_card(manifest: Mapping[str, Any], delta: Path, intervention: Intervention, *, biased: bool) -> str:
    """Write the card of a backbone with a delta.

    Args:
        manifest: of the backbone.
        delta: what `train` wrote. The run's configuration must lie beside it; its scores, and those of the untouched
            backbone in the same results folder, are taken up where they have been computed.
        intervention: what lies beside the delta.
        biased: whether its shifts are handed on as biases on the logits.

    Raises:
        LensflowError: there is no configuration beside the delta.
    """
    run = delta.parent
    config = read_json(run / "config.json")
    setting, source = config["setting"], manifest["source"]
    with safe_open(checked(delta), framework="pt") as file:
        changed = sorted(file.keys())
    return str(
        ModelCard.from_template(
            ModelCardData(
                language=setting["languages"],
                license="other",
                license_name=manifest["license"],
                library_name="transformers",
                pipeline_tag="text-generation",
                base_model=source.get("name"),
                tags=[config["method"]["kind"], "lensflow"],
            ),
            template_path=str(TEMPLATE),
            name=run.parts[-2] if len(run.parts) > 1 else "lens",
            kind=config["method"]["kind"],
            source=source,
            manifest=manifest,
            setting=setting,
            targets=[language for language in setting["languages"] if language != setting["central"]],
            configuration=yaml.safe_dump(config, allow_unicode=True, sort_keys=False),
            changed=changed,
            intervention=intervention,
            biased=biased,
            scores=_rows(run / "scores.json", run.parents[2] / "none" / "base" / "seed0" / "scores.json"),
            warning=_warning(run / "cost.json"),
            version=version("lensflow"),
        )
    )


def _warning(cost: Path) -> str:
    """What is to be said of a method that was not applied; nothing of others."""
    left = costs.read(cost).get("residual", 0.0) if cost.is_file() else 0.0
    return NOT_APPLIED_NOTE if left > LEFT else ""


def _rows(mine: Path, base: Path) -> list[dict[str, Any]]:
    """One row a score: benchmark, language, metric, and both models' "value [low, high]" and n."""
    if not mine.is_file():
        return []
    reference = _by_place(base) if base.is_file() else {}
    return [
        dict(zip(("benchmark", "language", "metric"), place, strict=True))
        | {"base": _text(reference.get(place)), "mine": _text(score), "n": score["n"]}
        for place, score in _by_place(mine).items()
    ]


def _by_place(path: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    return {
        (cell["benchmark"], cell["language"], score["metric"]): score
        for cell in read_json(path)["cells"]
        for score in cell["scores"]
    }


def _text(score: Mapping[str, Any] | None) -> str:
    if score is None or score["value"] is None:
        return "–"
    interval = "" if score["low"] is None else f" [{score['low']:.3f}, {score['high']:.3f}]"
    return f"{score['value']:.3f}{interval}"
