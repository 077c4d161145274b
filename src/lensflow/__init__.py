"""Lensflow: a workflow-managed reproducibility pipeline for Lens (arXiv 2410.04407)."""

from importlib.metadata import version

__version__ = version("lensflow")
