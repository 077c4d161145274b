"""Say which claims of the paper our runs replicate, and write docs/claims.md from docs/claims.yaml.

    python performance/claims.py

A state comes from the tables of a run if they are there: *replicated* if all cells show what the claim says, *not
replicated* if one does not, *not yet run* if there is no such cell. GPU and hours are computed as in docs/cost.md.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import Field

import cost
from lensflow.errors import LensflowError
from lensflow.schema.parsing import parse
from lensflow.schema.strict import Strict
from lensflow.schema.types import Name
from lensflow.storage.atomic import write_text
from lensflow.storage.parsing import read_yaml
from lensflow.workflow import protocols
from lensflow.workflow.experiment import Config, read

ROOT = Path(__file__).resolve().parents[1]
RATE = 122e12  # FLOP/s of extraction on an H200 (docs/benchmarks/gpu.md); nobody measured the other stages' rates
STUDY = ("config/paper.yaml", "config/study/paper.yaml")
STUDY_HEADER = ["claim", "compared", "endpoints", "trainings", "GPU and hours"]
ITEM_TOKENS = 256  # of an evaluated item, prompt and answer together: an allowance


class Test(Strict):
    """What decides a claim: the cells of a table, and what they must show."""

    config: str
    results: str  # folder of main.csv, versus.csv and cost.csv, below the repository
    table: Literal["main", "versus", "cost"] = "main"
    backbones: tuple[Name, ...] = Field(min_length=1, strict=False)
    setting: Name
    method: Name
    benchmarks: tuple[Name, ...] = Field(min_length=1, strict=False)
    metric: str
    language: str
    shows: str = Field(pattern=r"^(better|worse|kept|less than [a-z0-9._-]+)$")


class Claim(Strict):
    """A claim of the paper."""

    claim: str
    where: str
    tests: tuple[Test, ...] = Field(min_length=1, strict=False)


class Claims(Strict):
    """The file docs/claims.yaml."""

    claims: tuple[Claim, ...] = Field(min_length=1, strict=False)


def state(test: Test, root: Path) -> str:
    """Return the state of a test.

    Raises:
        LensflowError: the table has none of the columns that it needs; names the file.
    """
    path = root / test.results / f"{test.table}.csv"
    if not path.is_file():
        return "not yet run"
    try:
        shown = list(_shown(test, pd.read_csv(path)))
    except KeyError as error:
        raise LensflowError(f"{path}: no column {error}; make the table again") from None
    if None in shown:
        return "not yet run"
    return "replicated" if all(shown) else "not replicated"


def _shown(test: Test, table: pd.DataFrame) -> Iterator[bool | None]:
    """Whether each cell shows what the claim says; None for a cell that is not there."""
    for backbone in test.backbones:
        block = table[(table["backbone"] == backbone) & (table["setting"] == test.setting)]
        if test.table == "cost":
            values = block[block["column"] == test.metric].set_index("method")["value"]
            other = test.shows.removeprefix("less than ")
            yield bool(values[test.method] < values[other]) if {test.method, other} <= set(values.index) else None
            continue
        for benchmark in test.benchmarks:
            names = {"method": test.method, "benchmark": benchmark, "metric": test.metric, "language": test.language}
            cell = block[(block[list(names)] == pd.Series(names)).all(axis=1)]
            column = "retention" if test.shows == "kept" else "mark"
            yield None if cell.empty else bool(cell[column].iloc[0] == test.shows)


def needs(test: Test, config: Config) -> str:
    """Return the GPU and the hours that a run needs for a test."""
    if not any(config.backbones[name].resources.gpus for name in test.backbones):
        return "no GPU"
    sample = config.evaluation.sample
    return "{} GB, {:.2f} h".format(*needed(test, config, sample.n if sample else 0))


def needed(test: Test, config: Config, sample: int) -> tuple[int, float]:
    """The smallest GPU in GB, and the hours, with so many items per benchmark and language."""
    setting, flops, fitting = config.settings[test.setting], 0.0, set(cost.GPUS)
    languages = len(setting.languages)
    wanted = {f"extract_hidden_states, {corpus}" for corpus in (setting.probing, setting.training)}
    wanted |= {f"fit_subspaces, {test.setting}", f"train, {test.setting}, {test.method}"}
    for backbone in test.backbones:
        shape = cost.SHAPES[backbone]
        jobs = [job for job in cost.jobs(config, backbone) if job.stage in wanted and not job.streamed]
        flops += sum(min(job.count, languages) * job.flops for job in jobs)
        if test.table != "cost":
            items = len(test.benchmarks) * languages * sample
            flops += 2 * items * ITEM_TOKENS * cost.scored_flops(shape)  # of base and of the method
            fitting &= {gpu for gpu in fitting if cost.gpu_share(shape, gpu * 1e9, both=True)[1] > 0}
        fitting &= {gpu for gpu in fitting if gpu * 1e9 > max(job.gpu for job in jobs)}
    return min(fitting), flops / RATE / 3600


def study(files: Sequence[str], root: Path) -> list[list[str]]:
    """The rows of the primary claims at the paper's size: claim, sides, endpoints, trainings, GPU and hours."""
    config = read([root / file for file in files], root)
    assert config.protocol is not None
    protocol = protocols.read(config.protocol, [root])
    seeds = {method: len(run.seeds) for run in config.runs for method in run.methods}
    rows = []
    for claim in protocol.claims:
        gpu, hours, trainings = 0, 0.0, []
        for method in dict.fromkeys((claim.method, claim.comparator)):
            count = seeds[method] if config.methods[method].kind in ("lens", "sft") else 0
            trainings += [f"{method} × {count}"] if count else []
            test = {
                "config": files[0],
                "results": "study-paper",
                "backbones": [protocol.backbone],
                "setting": protocol.setting,
                "method": method,
                "benchmarks": sorted({endpoint.benchmark for endpoint in claim.endpoints}),
                "metric": claim.endpoints[0].metric,
                "language": claim.endpoints[0].language,
                "shows": "better",
            }
            of_side = needed(Test.model_validate(test), config, protocol.items)
            gpu, hours = max(gpu, of_side[0]), hours + max(count, 1) * of_side[1]
        endpoints = [f"{one.metric} in {one.language}: {one.test}, margin {one.margin:g}" for one in claim.endpoints]
        sides = f"{claim.method} against {claim.comparator}"
        rows.append([claim.says, sides, "; ".join(endpoints), ", ".join(trainings), f"{gpu} GB, {hours:.2f} h"])
    return rows


def page(claims: Claims, root: Path) -> str:
    """Return the page."""
    configs = {test.config: read([root / test.config], root) for claim in claims.claims for test in claim.tests}
    rows = [
        [claim.claim, claim.where, _endpoint(test), _run(test), state(test, root), needs(test, configs[test.config])]
        for claim in claims.claims
        for test in claim.tests
    ]
    header = ["claim", "where", "endpoint", "run", "state", "GPU and hours"]
    return "\n".join(
        [
            "# The paper's claims",
            "",
            "`python performance/claims.py` writes this page from [claims.yaml](claims.yaml), which explains the",
            "endpoints. The page lists the claims of the Lens paper and says which ones our runs replicate. A",
            "state comes from the tables of a run. Gemma-3-270M is not one of the paper's backbones, and",
            "`lens-gentle` has our own values. These rows therefore say what we find on a small model.",
            "",
            *(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)),
            "",
            "GPU and hours are computed, not measured: extraction and training of the row's method as in",
            f"[cost.md](cost.md), and evaluation with it and with base, {ITEM_TOKENS} tokens per item. They assume",
            f"{RATE / 1e12:.0f} TFLOP/s, which extraction reached on an H200 ([gpu.md](benchmarks/gpu.md)). The",
            "time for loading, for generation token by token, and for training the baselines is not included.",
            "",
            "## The study's primary claims at the paper's size",
            "",
            "`config/study/protocol-paper.yaml` lists the claims of the study with the",
            "published choices on Llama-3-8B-Instruct and Bactrian-X. It was written before any of these runs.",
            "The claims are tested in this order. No such",
            "run exists yet, so none of the claims is decided.",
            "",
            *(f"| {' | '.join(row)} |" for row in (STUDY_HEADER, ["---"] * len(STUDY_HEADER), *study(STUDY, root))),
            "",
            f"    snakemake --cores N --configfile {' '.join(STUDY)} --directory study-paper",
            "",
            "The hours of a row are the hours of both sides alone. Claims share common runs, so the",
            "sum over rows is an upper bound. The hours do not include the training of sft-lora,",
            "which needs a GPU of 80 GB.",
            "",
        ]
    )


def _endpoint(test: Test) -> str:
    if test.table == "cost":
        return f"{test.metric}: {test.shows}"
    verdict = {"main": test.shows, "versus": f"{test.method} {test.shows} than lens-published"}[test.table]
    return f"{test.metric} in {test.language}: {verdict} ({', '.join(test.benchmarks)})"


def _run(test: Test) -> str:
    return f"{test.config}, setting {test.setting}, {test.method} on {', '.join(test.backbones)}"


def main() -> None:
    """Write the page."""
    claims = parse(Claims, read_yaml(ROOT / "docs/claims.yaml"), "docs/claims.yaml")
    write_text(ROOT / "docs/claims.md", page(claims, ROOT))


if __name__ == "__main__":
    main()
