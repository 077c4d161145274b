"""The verdict on each claim of a protocol: shown, not shown, or shown to be absent.

    rows = decide(runs, protocol, settings)
    rows = by_default(runs, blocks, settings, margins)

One row is one endpoint of one claim.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from lensflow.artifacts.layout import BASE, NO_SETTING
from lensflow.errors import LensflowError
from lensflow.mathematics import statistics
from lensflow.measures.catalogue import (
    ABSENT,
    BY_DEFAULT,
    CENTRAL,
    CLAIMED,
    NON_INFERIORITY,
    NOT_SHOWN,
    OF_STUDY,
    SHOWN,
    SIGNIFICANT,
    SUPERIORITY,
    TARGETS,
)
from lensflow.measures.comparisons import Cells, Place, contrast
from lensflow.schema.protocol import Claim, Endpoint, Protocol
from lensflow.schema.setting import Setting

HELPS, KEEPS = "helps", "keeps"  # the claims of a method that has no protocol
MARGIN = 0.05
PLAIN_REASON = "a difference of one answer in twenty is what a user notices; no protocol names another margin"


def decide(runs: Mapping[Place, Cells], protocol: Protocol, settings: Mapping[str, Setting]) -> pd.DataFrame:
    """Test the claims of a protocol in their order. A claim can be shown only if all claims before it are shown.

    Args:
        runs: place -> its cells, in the form of scores.json and judged.json.
        protocol: the claims.
        settings: setting name -> its languages.

    Returns:
        The columns `catalogue.CLAIMED`.

    Raises:
        LensflowError: the run lacks the setting, or no score supports an endpoint.
    """
    if (setting := settings.get(protocol.setting)) is None:
        raise LensflowError(f"protocol: the run has no setting '{protocol.setting}'; run it, or name another")
    places = _places(runs, protocol.backbone, protocol.setting)
    rows: list[dict[str, Any]] = []
    is_open = True
    for claim in protocol.claims:
        tested = [_tested(places, claim, endpoint, setting) for endpoint in claim.endpoints]
        if missing := [row for row in tested if "difference" not in row]:
            benchmark, metric, language = (missing[0][key] for key in ("benchmark", "metric", "language"))
            raise LensflowError(
                f"protocol: claim '{claim.name}': no scores of {claim.method} and {claim.comparator} for {metric} of "
                f"{benchmark} in {language}; add them to the run, or remove the claim"
            )
        verdict = _verdict(tested, is_open)
        is_open = verdict == SHOWN
        place = {"protocol": OF_STUDY, "backbone": protocol.backbone, "setting": protocol.setting}
        rows += [place | row | {"verdict": verdict} for row in tested]
    return pd.DataFrame(rows, columns=list(CLAIMED))


def by_default(
    runs: Mapping[Place, Cells],
    blocks: Iterable[tuple[str, str]],
    settings: Mapping[str, Setting],
    margins: Mapping[str, float],
) -> pd.DataFrame:
    """Test two claims about every method: it gives more usable answers than base, and keeps the central language.

    Holm's correction covers the methods of a block. Each test of the central language stands by itself.

    Args:
        runs: place -> its cells, in the form of scores.json and judged.json.
        blocks: (backbone, setting); each block has its own claims.
        settings: setting name -> its languages.
        margins: metric -> by how much it may get worse in the central language.

    Returns:
        The columns `catalogue.CLAIMED`. A claim without scores has no row.
    """
    rows: list[dict[str, Any]] = []
    for backbone, name in blocks:
        places, setting = _places(runs, backbone, name), settings[name]
        generated = (cell["benchmark"] for its in places.values() for cell in its if _measures(cell, "usable"))
        if (benchmark := next(generated, None)) is None:
            continue
        methods = dict.fromkeys(place[2] for place in places if place[2] != BASE)
        claims = [
            claim for method in methods for claim in _plain_claims(method, benchmark, margins.get("usable", MARGIN))
        ]
        tested = [_tested(places, claim, claim.endpoints[0], setting) for claim in claims]
        tested = [row for row in tested if "difference" in row]
        helping = [row for row in tested if row["test"] == SUPERIORITY and row["p"] is not None]
        if helping:
            for row, adjusted in zip(helping, statistics.holm([row["p"] for row in helping]), strict=True):
                row["p_adjusted"] = float(adjusted)
                row["endpoint_verdict"] = _judged(row)
        place = {"protocol": BY_DEFAULT, "backbone": backbone, "setting": name}
        rows += [place | row | {"verdict": row["endpoint_verdict"]} for row in tested]
    return pd.DataFrame(rows, columns=list(CLAIMED))


def _plain_claims(method: str, benchmark: str, margin: float) -> list[Claim]:
    shared = {"benchmark": benchmark, "metric": "usable", "direction": "higher", "reason": PLAIN_REASON}
    helps = shared | {"language": TARGETS, "test": SUPERIORITY, "margin": MARGIN}
    keeps = shared | {"language": CENTRAL, "test": NON_INFERIORITY, "margin": margin}
    said = {
        HELPS: ("more usable answers than base", helps),
        KEEPS: ("the central language is kept", keeps),
    }
    return [
        Claim.model_validate({"name": name, "says": says, "method": method, "endpoints": [endpoint]})
        for name, (says, endpoint) in said.items()
    ]


def _places(runs: Mapping[Place, Cells], backbone: str, setting: str) -> dict[Place, Cells]:
    return {
        place: cells
        for place, cells in runs.items()
        if place[0] == backbone and (place[1] == setting or place[1:3] == (NO_SETTING, BASE))
    }


def _measures(cell: Mapping[str, Any], metric: str) -> bool:
    return any(score["metric"] == metric and score["value"] is not None for score in cell["scores"])


def _tested(places: Mapping[Place, Cells], claim: Claim, endpoint: Endpoint, setting: Setting) -> dict[str, Any]:
    """One endpoint with its estimate, test and verdict; only the endpoint if there is no score."""
    said = endpoint.model_dump() | {"claim": claim.name, "says": claim.says}
    said |= {"method": claim.method, "comparator": claim.comparator}
    languages = {TARGETS: setting.targets, CENTRAL: (setting.central,)}.get(endpoint.language, (endpoint.language,))
    found, test = contrast(places, (endpoint.benchmark, endpoint.metric), (claim.method, claim.comparator), languages)
    if "difference" not in found:
        return said
    row = found | said | {"reference": found["base"], "value": found["base"] + found["difference"]}
    row["p"] = None
    if test is not None:
        sides = (test.base, test.other) if endpoint.direction == "higher" else (test.other, test.base)
        is_better = endpoint.test == SUPERIORITY
        p = statistics.paired_p(*sides) if is_better else statistics.non_inferiority_p(*sides, endpoint.margin)
        row["p"] = p
    return row | {"p_adjusted": row["p"]} | {"endpoint_verdict": _judged(row | {"p_adjusted": row["p"]})}


def _judged(row: Mapping[str, Any]) -> str:
    """The verdict on one endpoint, from its interval and its p.

    A gain is shown to be absent if its interval excludes a gain as large as the margin; there may even be a loss.
    If the difference is 0 by construction (p is None), it is shown that nothing got worse, and that nothing got better.
    """
    low, high = row["difference_low"], row["difference_high"]
    if row["direction"] == "lower":
        low, high = -high, -low
    margin = row["margin"]
    if row["test"] == NON_INFERIORITY:
        is_kept = row["p"] is None or row["p"] <= statistics.TAIL
        return SHOWN if is_kept else ABSENT if high < -margin else NOT_SHOWN
    if row["p_adjusted"] is not None and row["p_adjusted"] <= SIGNIFICANT and low > 0:
        return SHOWN
    return ABSENT if high < margin else NOT_SHOWN


def _verdict(tested: Sequence[Mapping[str, Any]], is_open: bool) -> str:
    """The verdict on a claim: shown if all endpoints are shown, absent if at least one is absent, otherwise not
    shown."""
    found = {row["endpoint_verdict"] for row in tested}
    if ABSENT in found:
        return ABSENT
    return SHOWN if is_open and found == {SHOWN} else NOT_SHOWN
