"""The protocol that a configuration names, checked against what the run measures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lensflow.artifacts.layout import BASE, Place
from lensflow.errors import LensflowError
from lensflow.measures.catalogue import METRICS
from lensflow.schema.messages import did_you_mean
from lensflow.schema.parsing import parse
from lensflow.schema.protocol import Endpoint, Protocol
from lensflow.schema.setting import Setting
from lensflow.storage.parsing import read_yaml
from lensflow.workflow.experiment import Config

Measured = Mapping[Place, Mapping[str, Sequence[str]]]  # checkpoint -> benchmark -> languages


def read(name: str, roots: Sequence[Path]) -> Protocol:
    """Read a protocol.

    Args:
        name: path of a YAML file.
        roots: folders from which the path may start.

    Raises:
        LensflowError: the file is missing or not a protocol; the message names the key.
    """
    path = next((root / name for root in roots if (root / name).is_file()), None)
    if path is None:
        raise LensflowError(f"protocol: {name}: no such file; check the path")
    protocol = parse(Protocol, read_yaml(path), name)
    assert isinstance(protocol, Protocol)
    return protocol


def check(protocol: Protocol, config: Config, measured: Measured) -> None:
    """Check that the run measures what every claim needs.

    Args:
        protocol: the protocol of the configuration.
        config: the configuration.
        measured: the measures of each checkpoint of the run.

    Raises:
        LensflowError: a claim names something that the run does not have; the message names the claim.
    """
    where = str(config.protocol)
    if protocol.setting not in config.settings:
        raise LensflowError(
            f"{where}: setting: no '{protocol.setting}'; {did_you_mean(protocol.setting, config.settings)}"
        )
    setting = config.settings[protocol.setting]
    cells = {
        place.method: of_place
        for place, of_place in measured.items()
        if place.backbone == protocol.backbone and (place.setting == protocol.setting or place.is_base)
    }
    if not set(cells) - {BASE}:
        raise LensflowError(f"{where}: no run has backbone '{protocol.backbone}' in setting '{protocol.setting}'")
    for number, claim in enumerate(protocol.claims):
        here = f"{where}: claims[{number}] ({claim.name})"
        for method in (claim.method, claim.comparator):
            if method not in cells:
                raise LensflowError(f"{here}: no run has the method '{method}'; {did_you_mean(method, cells)}")
            for endpoint in claim.endpoints:
                _check_endpoint(endpoint, f"{here}: {method}", cells[method], config, setting)


def _check_endpoint(
    endpoint: Endpoint, where: str, cells: Mapping[str, Sequence[str]], config: Config, setting: Setting
) -> None:
    if endpoint.benchmark not in cells:
        raise LensflowError(
            f"{where} is not measured by benchmark '{endpoint.benchmark}'; {did_you_mean(endpoint.benchmark, cells)}"
        )
    metrics = {*METRICS, *config.benchmarks[endpoint.benchmark].own_metrics()}
    if endpoint.metric not in metrics:
        raise LensflowError(f"{where}: no metric '{endpoint.metric}'; {did_you_mean(endpoint.metric, metrics)}")
    evaluated = cells[endpoint.benchmark]
    wanted = {"targets": setting.targets, "central": (setting.central,)}.get(endpoint.language, (endpoint.language,))
    for language in wanted:
        if language not in evaluated:
            raise LensflowError(
                f"{where} is not measured in '{language}' by {endpoint.benchmark}; it is in {', '.join(evaluated)}"
            )
