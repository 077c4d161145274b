"""The model card of an exported checkpoint: its sources, its method, and its scores."""

import json
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData
from safetensors import safe_open

from lensflow.artifacts import costs
from lensflow.artifacts.interventions import ANY, Intervention
from lensflow.presentation.blocks import LEFT
from lensflow.presentation.legends import NOT_APPLIED_NOTE
from lensflow.storage.integrity import checked
from lensflow.storage.verified import read_json

TEMPLATE = Path(str(files("lensflow"))) / "templates" / "model_card.md.j2"
# What the hub calls licences (huggingface.co/docs/hub/repositories-licenses); all others are `other`, with a name.
_HUB_LICENSES = (
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m "
    "afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 "
    "cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 "
    "cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 "
    "cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl "
    "gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr "
    "mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr "
    "deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 "
    "grok2-community gemma unknown"
)
HUB_LICENSES = frozenset(_HUB_LICENSES.split())
_OF_MAKERS = {
    "gemma terms of use": "gemma",
    "meta llama 3 community license": "llama3",
    **{f"llama {version} community license": f"llama{version}" for version in ("3.1", "3.2", "3.3")},
}


def model_card(
    manifest: Mapping[str, Any],
    delta: Path,
    intervention: Intervention,
    *,
    biased: bool,
    reference: bool = False,
    vectors: Sequence[str] = (),
) -> str:
    """Write the card of a backbone with a delta.

    Args:
        manifest: manifest of the backbone.
        delta: the file that `train` wrote. The run's configuration must lie beside it. The card includes its scores and
            the untouched backbone's scores if the same results folder has them.
        intervention: the intervention beside the delta.
        biased: whether its shifts are also exported as biases on the logits.
        reference: whether the folder names the backbone instead of holding its weights.
        vectors: names of the control vectors in the folder.

    Raises:
        LensflowError: there is no configuration beside the delta.
    """
    run = delta.absolute().parent
    config = read_json(run / "config.json")
    setting, source = config["setting"], manifest["source"]
    targets = [language for language in setting["languages"] if language != setting["central"]]
    answered = _answered(intervention)
    license_id, license_name = hub_license(manifest["license"])
    with safe_open(checked(delta), framework="pt") as file:
        changed = sorted(file.keys())
    return str(
        ModelCard.from_template(
            ModelCardData(
                language=setting["languages"],
                license=license_id,
                license_name=license_name,
                library_name="transformers",
                pipeline_tag="text-generation",
                base_model=source.get("name"),
                tags=[config["method"]["kind"], "lensflow"],
            ),
            template_path=str(TEMPLATE),
            name=run.parts[-2],
            kind=config["method"]["kind"],
            source=public(source),
            manifest=manifest,
            setting=setting,
            targets=targets,
            configuration=yaml.safe_dump(config, allow_unicode=True, sort_keys=False),
            changed=changed,
            intervention=intervention,
            biased=biased,
            reference=reference,
            vectors=vectors,
            needs_backbone=reference and source.get("kind") != "hub",
            acts=acts(intervention),
            answered=answered,
            example=next((language for language in targets if language in answered), targets[0]),
            tokenised=_tokenised(config["prompt"]),
            scores=_rows(run / "scores.json", run.parents[2] / "none" / "base" / "seed0" / "scores.json"),
            warning=_warning(run / "cost.json"),
            version=version("lensflow"),
        )
    )


def acts(intervention: Intervention) -> bool:
    """Return whether an intervention changes states or restricts tokens while the model answers."""
    return intervention.width is not None or bool(intervention.constrained)


def _tokenised(prompt: Mapping[str, Any]) -> str:
    """Return the Python expression that turns `question` into token ids."""
    if prompt["format"] == "plain":
        template = json.dumps(prompt["template"], ensure_ascii=False)
        return f'tokenizer({template}.replace("{{prompt}}", question), return_tensors="pt")'
    system = prompt.get("system")
    before = "" if system is None else f'{{"role": "system", "content": {json.dumps(system, ensure_ascii=False)}}}, '
    variables = "".join(f", {name}={value!r}" for name, value in prompt.get("template_variables", {}).items())
    return (
        f'tokenizer.apply_chat_template([{before}{{"role": "user", "content": question}}], add_generation_prompt=True, '
        f'return_tensors="pt", return_dict=True{variables})'
    )


def _answered(intervention: Intervention) -> list[str]:
    """Return the languages of answers that an intervention changes; empty if it changes all alike, or none."""
    pairs = [] if ANY in intervention.blocks else [wanted for _, wanted in intervention.blocks]
    return list(dict.fromkeys([*intervention.shifts, *pairs, *intervention.constrained]))


def hub_license(name: str) -> tuple[str, str | None]:
    """Return the hub's own name of a licence; if the hub has no name for it, `other` and a name in the hub's form."""
    called = _OF_MAKERS.get(name.lower(), name.lower())
    if called in HUB_LICENSES:
        return called, None
    return "other", re.sub(r"[^a-z0-9.]+", "-", called).strip("-.") or "other"


def public(source: Mapping[str, Any]) -> dict[str, Any]:
    """Return the public description of a backbone's source.

    For a local folder it is the folder's name, not its path.
    """
    return dict(source) | ({"path": Path(source["path"]).name} if source.get("kind") == "folder" else {})


def _warning(cost: Path) -> str:
    """The text about a method that was not applied; empty for other methods."""
    left = costs.read(cost).get("residual", 0.0) if cost.is_file() else 0.0
    return NOT_APPLIED_NOTE if left > LEFT else ""


def _rows(mine: Path, base: Path) -> list[dict[str, Any]]:
    """One row per score: benchmark, language, metric, and "value [low, high]" and n of both models."""
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
