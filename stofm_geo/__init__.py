"""Spatial transcriptomics on PyTorch Geometric: slices as graphs, an SE(2) Transformer on them.

For AnnData:

- ``SToFM``: the model; fit, embed, save, load. ``SToFMConfig``: its settings.
- ``read``, ``write``: slices of any format.
- ``tl``: domains, annotation, integration, deconvolution, imputation, denoising.
- ``pl``: plots. ``datasets``: data with known answers.
- ``tasks``: what ``tl`` is made of, and ``fine_tune``. ``Annotator``: a model with a classifier.
- ``genes``: names of genes, encoders of cells.

For PyTorch Geometric:

- ``from_anndata``, ``data``: AnnData to graphs, and back.
- ``transforms``: neighbour graphs, macro nodes, sub-slices, masks.
- ``nn``: ``SE2TransformerConv``, ``SE2Transformer`` and their parts.
- ``ops``: attention and sums over edges, usable alone.
- ``benchmark``: the benchmark suite, for layers and models of your own.

``networks`` and ``training`` hold the network of ``SToFM`` and how it is trained.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stofm_geo._version import __version__

if TYPE_CHECKING:
    from stofm_geo import benchmark as benchmark
    from stofm_geo import data as data
    from stofm_geo import datasets, pl, tl, transforms
    from stofm_geo import genes as genes
    from stofm_geo import models as models
    from stofm_geo import networks as networks
    from stofm_geo import nn as nn
    from stofm_geo import ops as ops
    from stofm_geo import tasks as tasks
    from stofm_geo import training as training
    from stofm_geo.data import from_anndata, read, write
    from stofm_geo.models import SToFM
    from stofm_geo.networks import SToFMConfig
    from stofm_geo.tasks import Annotator

__all__ = [
    "Annotator",
    "SToFM",
    "SToFMConfig",
    "__version__",
    "datasets",
    "from_anndata",
    "pl",
    "read",
    "tl",
    "transforms",
    "write",
]

# Imported when first asked for: PyTorch Geometric takes seconds, in which the command line has to
# answer to --help and to signals.
_MODULES = (
    *("benchmark", "data", "datasets", "genes", "models", "networks", "nn", "ops", "pl"),
    *("tasks", "tl", "training"),
    "transforms",
)
_MEMBERS = {
    "Annotator": "tasks",
    "SToFM": "models",
    "SToFMConfig": "networks",
    "from_anndata": "data",
    "read": "data",
    "write": "data",
}

if not TYPE_CHECKING:  # type checkers read the imports above, and see misspelt names

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            value = import_module(f"stofm_geo.{name}")
        elif name in _MEMBERS:
            value = getattr(import_module(f"stofm_geo.{_MEMBERS[name]}"), name)
        else:
            raise AttributeError(f"module 'stofm_geo' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *_MEMBERS})
