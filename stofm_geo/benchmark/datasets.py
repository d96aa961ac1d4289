"""Registered data sets: their source, licence, files and how to read them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from anndata import AnnData

from stofm_geo._registry import Registry
from stofm_geo.benchmark.geometry import data as planar
from stofm_geo.benchmark.geometry.data import Graphs
from stofm_geo.benchmark.problems import GROUP, LOAD
from stofm_geo.data import read as read_cells
from stofm_geo.datasets import toy_tissue

Slices = dict[str, AnnData]


@dataclass(frozen=True)
class Dataset:
    """Slices of one study.

    Attributes:
        load: Function from the data folder to slices by name, with counts in ``X``, positions in
            ``obsm["spatial"]``, labels in ``obs``, and in ``obs["group"]`` the patient, animal, ...
            that is held out as a whole; or to lists of PyG graphs by name.
        files: SHA-256 of each file in the data folder; ``None``: not checked.
        source: Technology, tissue and publication.
        licence: Terms of use.
        synthetic: Whether the data are simulated; then they are excluded from means and ranks
            over real data.

    Examples:
        >>> from stofm_geo.benchmark import Dataset
        >>> from stofm_geo.datasets import toy_tissue
        >>> def load(folder):
        ...     adata = toy_tissue(200, 30, seed=0)
        ...     adata.obs["group"] = "patient 1"
        ...     return {"slice 1": adata}
        >>> slices = Dataset(load, synthetic=True).read(None)
        >>> slices["slice 1"].obs_names[0]
        'slice 1:cell0000000'
    """

    load: Callable[[Path | None], Slices] | Callable[[Path | None], Graphs]
    files: Mapping[str, str | None] = field(default_factory=dict)
    source: str = ""
    licence: str = ""
    synthetic: bool = False

    def read(self, folder: Path | None) -> Any:
        """Read the slices or graphs by name; cell names get the name of their slice as prefix.

        Args:
            folder: Data folder; ``None`` if the data set has no files.

        Raises:
            FileNotFoundError: Files are missing, or have another SHA-256.
            ValueError: A slice lacks groups or positions.
        """
        if reason := self.missing(folder):
            raise FileNotFoundError(reason)
        slices: dict[str, Any] = dict(self.load(folder))
        for name, adata in slices.items():
            if not isinstance(adata, AnnData):
                continue
            for container, key in (("obs", GROUP), ("obsm", "spatial")):
                if key not in getattr(adata, container):
                    raise ValueError(f"slice {name!r} has no {container}[{key!r}]; set it in load")
            adata.obs_names = [f"{name}:{cell}" for cell in adata.obs_names]
        return slices

    def missing(self, folder: Path | None) -> str | None:
        """Return why the data set cannot be read, or ``None`` if it can."""
        if not self.files:
            return None
        if folder is None:
            return "no data folder is given; name one with data (--data)"
        absent = [name for name in self.files if not (folder / name).is_file()]
        if absent:
            return f"{folder} has no {', '.join(absent)}"
        for name, expected in self.files.items():
            found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
            if expected not in (None, found):
                return f"{folder / name} is another file: its SHA-256 is {found}, not {expected}"
        return None


DATASETS: Registry[Dataset] = Registry("data set", LOAD)


def register_dataset(
    name: str,
    load: Callable[[Path | None], Slices] | Callable[[Path | None], Graphs],
    *,
    files: Mapping[str, str | None] | None = None,
    source: str = "",
    licence: str = "",
    synthetic: bool = False,
) -> None:
    """Register a data set; see :class:`Dataset`.

    A task runs on the data sets that it names (:func:`register_task`).

    Args:
        name: Name of the data set.
        load: See :class:`Dataset`.
        files: See :class:`Dataset`; ``None`` (default): no files.
        source: See :class:`Dataset`.
        licence: See :class:`Dataset`.
        synthetic: See :class:`Dataset`.

    Raises:
        TypeError, ValueError: ``name`` is invalid or taken.

    Examples:
        >>> from stofm_geo.benchmark import DATASETS, register_dataset
        >>> from stofm_geo.datasets import toy_tissue
        >>> def load(folder):
        ...     adata = toy_tissue(200, 30, seed=0)
        ...     adata.obs["group"] = "patient 1"
        ...     return {"slice 1": adata}
        >>> register_dataset("my tissue", load, source="simulated", synthetic=True)
        >>> list(DATASETS["my tissue"].read(None))
        ['slice 1']
    """
    DATASETS.add(name, Dataset(load, files or {}, source, licence, synthetic))


def read(folder: Path, files: tuple[str, ...], group: str | None = None) -> Slices:
    """Read slices of h5ad files by name; groups are those of ``obs[group]``, or the slices."""
    slices: Slices = {}
    for file in files:
        slices |= _by_slice(read_without_duplicates(folder / file), group)
    return slices


def read_without_duplicates(path: Path) -> AnnData:
    """Read a file without the cells marked in ``obs["is_duplicate"]``."""
    adata = read_cells(path)
    if "is_duplicate" not in adata.obs:
        return adata
    return adata[~adata.obs["is_duplicate"].to_numpy(dtype=bool)].copy()


def _by_slice(adata: AnnData, group: str | None = None) -> Slices:
    slice_id = adata.obs["slice_id"].astype(str)
    slices = {name: adata[slice_id == name].copy() for name in sorted(slice_id.unique())}
    for name, slice_adata in slices.items():
        slice_adata.obs[GROUP] = slice_adata.obs[group].astype(str) if group else name
    return slices


def _toy(folder: Path | None) -> Slices:
    return _by_slice(toy_tissue(1000, 60, 2, seed=0))


register_dataset(
    "toy",
    _toy,
    source="stofm_geo.datasets.toy_tissue(1000, 60, 2)",
    licence="MIT",
    synthetic=True,
)


# Name, column of obs with the groups (None: the slice), source, licence, files.
_REAL = (
    (
        "dlpfc",
        None,
        (
            "Visium, human cortex, one donor: spatialLIBD (Maynard et al. 2021) through "
            "prabhakarlab/Banksy"
        ),
        "MIT + file LICENSE at those commits; the data's own not checked",
        {
            "dlpfc_151673.h5ad": (
                "2f50c0361e3c3e5f63a5c0806d773fc40d764cdd07f2eeb3c424606ebfc8b5ee"
            ),
            "dlpfc_151674.h5ad": (
                "f58c9720da3fa6ea833ec25a3048a89165551b9a8d766a44d346586443c1ab59"
            ),
        },
    ),
    (
        "her2st",
        "patient",
        (
            "Spatial Transcriptomics, human breast tumour, 8 patients: almaan/her2st "
            "(Andersson et al. 2021)"
        ),
        "none stated in the repository",
        {
            "her2st_labelled_8slices.h5ad": (
                "9230ccdeb9f29580644a646759e7ac8a092ef9241695d1792d77a5ac3dee319c"
            ),
        },
    ),
    (
        "osmfish",
        None,
        ("osmFISH, mouse cortex: Codeluppi et al. 2018 through drieslab/spatial-datasets"),
        "MIT (repository)",
        {
            "osmfish_sscortex.h5ad": (
                "76c88e860de3fbc082c2c4724684541f49ad1a4e63afc2c471973ac2bf344b84"
            ),
        },
    ),
    (
        "starmap",
        None,
        ("STARmap, mouse visual cortex: Wang et al. 2018 through prabhakarlab/Banksy_py"),
        "GPL-3 (repository)",
        {
            "starmap_visp_1020.h5ad": (
                "e2f78e65841adc18c895c8803752fe2454574dfc0dea515f93fb46196d45b08e"
            ),
        },
    ),
    (
        "merfish",
        "animal_id",
        (
            "MERFISH, mouse hypothalamus, 2 animals: Moffitt et al. 2018 through "
            "clustSIGNAL, SEraster and Banksy"
        ),
        "GPL-2, GPL-3 and MIT (repositories)",
        {
            "merfish_hypothalamus_moffitt.h5ad": (
                "08e21e5b18848a61a84e6d0edc32522e5158fd5855ac35f9e645cdbf67ce2e84"
            ),
        },
    ),
    (
        "seqfish",
        None,
        ("seqFISH, mouse embryo, two z planes: Lohoff et al. 2021 through SydneyBioX/clustSIGNAL"),
        "GPL-2 (repository)",
        {
            "seqfish_mouse_embryo2.h5ad": (
                "6f881917473dd0208a44bf85199b873561a08a91a8c85bbb16f7226fc1f21f9a"
            ),
        },
    ),
    (
        "cosmx",
        None,
        "CosMx, human lung, two fields: feiyoung/ProFAST",
        "GPL-3 (repository)",
        {
            "cosmx_lung_profast.h5ad": (
                "c641a5fb12479bb8dac48b18029be9d44919c7595238fa1c2439f21e83714da7"
            ),
        },
    ),
    (
        "mop",
        None,
        "MERFISH, mouse primary motor cortex: Zhang et al. 2021 through spacetx-spacejam",
        "none stated in the repository",
        {
            "merfish_mop_zhuang_4slices.h5ad": (
                "0820c9f0070d0c9d0e960aaa5e21bab25b21926e77ff9059b75f03b6fbf58f94"
            ),
        },
    ),
    (
        "verafish",
        None,
        "VeraFISH, mouse hippocampus: prabhakarlab/Banksy (Singhal et al. 2024)",
        "MIT + file LICENSE at that commit",
        {
            "verafish_hippocampus.h5ad": (
                "4584e931c9b63fab2c2167cdd0f773e423e5072ae51666baff37897c0ace11b1"
            ),
        },
    ),
    (
        "xenium",
        None,
        "Xenium, human breast: Janesick et al. 2023 through BIMSBbioinfo/VoltRon",
        "MIT (repository); the data's own not checked",
        {
            "xenium_breast_voltron.h5ad": (
                "a564e451e532c7f9350b2b5787b7c2845a6de73dd2be09b9f0c76003fdac3b38"
            ),
        },
    ),
    (
        "slideseq",
        None,
        "Slide-seqV2, mouse hippocampus: Stickels et al. 2021 through WonLab-CS/Vesalius",
        "GPL-3 (repository)",
        {
            "slideseqv2_hippocampus_crop.h5ad": (
                "6b9d8e53db098a184e4eb9090f9ebcd576c58830063fe52574dedec0dbb7087b"
            ),
        },
    ),
    (
        "olfactory",
        None,
        "Spatial Transcriptomics, mouse olfactory bulb: Stahl et al. 2016 through JEFworks-Lab",
        "GPL-3 (repository)",
        {
            "st_mouse_olfactory_bulb.h5ad": (
                "b0eb48b556504b7b18d9d1fecca7dd13cead41fcde0b3a4542b15c7792a02bce"
            ),
        },
    ),
)
for _name, _group, _source, _licence, _files in _REAL:
    register_dataset(
        _name,
        partial(read, files=tuple(_files), group=_group),
        files=_files,
        source=_source,
        licence=_licence,
    )
register_dataset(
    "mnist",
    planar.mnist,
    files=planar.MNIST_FILES,
    source="Superpixels of the 10 000 test images of MNIST: LeCun and Cortes",
    licence="CC BY-SA 3.0",
)
register_dataset(
    "digits",
    planar.digits,
    source="Superpixels of sklearn.datasets.load_digits, enlarged",
    licence="CC BY 4.0",
    synthetic=True,
)
register_dataset(
    "particles",
    planar.particles,
    source="stofm_geo.datasets.charged_particles",
    licence="MIT",
    synthetic=True,
)
