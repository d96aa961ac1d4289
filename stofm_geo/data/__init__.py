"""AnnData to PyG graphs and back, and reading and writing slices."""

from stofm_geo._storable import prepare_for_writing
from stofm_geo.data.anndata import from_anndata, to_obsm
from stofm_geo.data.canonical_pose import CanonicalPose, canonical_pose
from stofm_geo.data.io import read, write
from stofm_geo.data.io.h5ad import read_slice_file, write_h5ad
from stofm_geo.data.slices import slice_graph, split_slices
from stofm_geo.data.subslices import SubSliceDataset
from stofm_geo.data.tissue_slice import TissueSlice

__all__ = [
    "CanonicalPose",
    "SubSliceDataset",
    "TissueSlice",
    "canonical_pose",
    "from_anndata",
    "prepare_for_writing",
    "read",
    "read_slice_file",
    "slice_graph",
    "split_slices",
    "to_obsm",
    "write",
    "write_h5ad",
]
