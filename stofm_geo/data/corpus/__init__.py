"""Slices of many files on disk, harmonised and cut; training reads a sub-slice at a time."""

try:
    import filelock  # noqa: F401
    import zarr  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"corpora need zarr and filelock ({error}), and Python 3.11 or later; "
        "pip install 'stofm-geo[corpus]'"
    ) from error

from stofm_geo.data.corpus.build import build
from stofm_geo.data.corpus.dataset import CorpusDataset
from stofm_geo.data.corpus.index import read_index, summary, verify
from stofm_geo.data.corpus.loader import CorpusLoader
from stofm_geo.data.corpus.sampler import NodeBudgetBatchSampler
from stofm_geo.data.corpus.sources import Source, find_sources, read_manifest

__all__ = [
    "CorpusDataset",
    "CorpusLoader",
    "NodeBudgetBatchSampler",
    "Source",
    "build",
    "find_sources",
    "read_index",
    "read_manifest",
    "summary",
    "verify",
]
