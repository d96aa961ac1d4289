"""Small output folders of instruments, laid out as their vendors document.

- Visium, Visium HD: 10x Genomics, Space Ranger, "Output overview", "Feature-barcode matrices
  (HDF5)", "Spatial outputs", "Binned outputs".
- Xenium: 10x Genomics, Xenium Onboard Analysis, "Understanding Xenium outputs", "Zarr file
  formats".
- MERSCOPE: Vizgen, "MERSCOPE output file formats".
- CosMx: NanoString, "CosMx SMI data file formats: flat files".
- Stereo-seq: BGI/STOmics, SAW manual, "GEF file format", "output folders".
- Slide-seq: Curio Bioscience, "Curio Seeker bioinformatics pipeline: outputs".
"""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData

from stofm_geo.datasets import toy_tissue


def tissue(cells: int = 120, genes: int = 20) -> AnnData:
    """Counts and positions that all folders hold."""
    adata = toy_tissue(cells, genes, 1, seed=0)
    adata.obs_names = [f"cell{i}-1" for i in range(cells)]
    adata.var_names = [f"ENSG{i:011}" for i in range(genes)]
    return adata


def half(adata: AnnData) -> np.ndarray:
    """0 on the left of the tissue and 1 on the right."""
    x = adata.obsm["spatial"][:, 0]
    return (x > np.median(x)).astype(int)


def matrix_h5(adata: AnnData, file: Path) -> None:
    """A feature-barcode matrix of 10x Genomics."""
    file.parent.mkdir(parents=True, exist_ok=True)
    counts = adata.X.tocsr()
    with h5py.File(file, "w") as h5:
        h5.attrs["library_ids"] = np.array([b"toy"])
        h5.attrs["chemistry_description"] = "Spatial 3' v1"
        matrix = h5.create_group("matrix")
        matrix["barcodes"] = np.array(adata.obs_names, dtype="S")
        matrix["data"] = counts.data.astype(np.int32)
        matrix["indices"] = counts.indices.astype(np.int64)
        matrix["indptr"] = counts.indptr.astype(np.int64)
        matrix["shape"] = np.array(adata.shape[::-1], dtype=np.int32)
        features = matrix.create_group("features")
        for key in ("id", "name"):
            features[key] = np.array(adata.var_names, dtype="S")
        features["feature_type"] = np.array([b"Gene Expression"] * adata.n_vars)
        features["genome"] = np.array([b"GRCh38"] * adata.n_vars)
        features["_all_tag_keys"] = np.array([b"genome"])


def spots(adata: AnnData) -> pd.DataFrame:
    """Positions of spots, in pixels."""
    x, y = adata.obsm["spatial"].T
    return pd.DataFrame(
        {
            "barcode": adata.obs_names,
            "in_tissue": 1,
            "array_row": np.arange(adata.n_obs),
            "array_col": half(adata),
            "pxl_row_in_fullres": y,
            "pxl_col_in_fullres": x,
        }
    )


def scale_factors(**more: float) -> str:
    return json.dumps(
        {"tissue_hires_scalef": 0.2, "tissue_lowres_scalef": 0.05, "spot_diameter_fullres": 16.0}
        | more
    )


def visium(adata: AnnData, folder: Path) -> None:
    matrix_h5(adata, folder / "filtered_feature_bc_matrix.h5")
    (folder / "spatial").mkdir()
    spots(adata).to_csv(folder / "spatial" / "tissue_positions.csv", index=False)
    (folder / "spatial" / "scalefactors_json.json").write_text(scale_factors())


def visium_hd(adata: AnnData, folder: Path) -> None:
    """Two sizes of bins; of the larger half as many."""
    folder.mkdir()
    with h5py.File(folder / "toy_feature_slice.h5", "w") as h5:
        layout = json.dumps({"file_format": "1.0"})
        h5.attrs["metadata_json"] = json.dumps({"hd_layout_json": layout})
    for size, part in ((8, adata), (16, adata[::2])):
        own = folder / "binned_outputs" / f"square_{size:03}um"
        matrix_h5(part, own / "filtered_feature_bc_matrix.h5")
        (own / "spatial").mkdir()
        spots(part).to_parquet(own / "spatial" / "tissue_positions.parquet", index=False)
        factors = scale_factors(
            bin_size_um=size, spot_diameter_fullres=2.0 * size, microns_per_pixel=0.5
        )
        (own / "spatial" / "scalefactors_json.json").write_text(factors)


def xenium(adata: AnnData, folder: Path) -> None:
    import zarr

    n = adata.n_obs
    prefix = np.arange(1, n + 1, dtype=np.uint32)
    names = [f"{cell_name(int(i))}-1" for i in prefix]
    adata = adata.copy()
    adata.obs_names = names
    matrix_h5(adata, folder / "cell_feature_matrix.h5")
    specs = {"analysis_sw_version": "xenium-1.6.0.8", "pixel_size": 0.2125, "major_version": 5}
    (folder / "experiment.xenium").write_text(json.dumps(specs))
    x, y = adata.obsm["spatial"].T
    pd.DataFrame(
        {
            "cell_id": names,
            "x_centroid": x,
            "y_centroid": y,
            "transcript_counts": np.asarray(adata.X.sum(1)).ravel(),
            "cell_area": 80.0,
            "nucleus_area": 30.0 + half(adata),
        }
    ).to_parquet(folder / "cells.parquet", index=False)
    summary = [
        *("cell_centroid_x", "cell_centroid_y", "cell_area", "nucleus_centroid_x"),
        *("nucleus_centroid_y", "nucleus_area", "z_level"),
    ]
    group = zarr.create_group(folder / "cells.zarr", zarr_format=2)
    group.create_array("cell_id", data=np.stack([prefix, np.ones(n, np.uint32)], 1))
    group.create_array(
        "cell_summary",
        data=np.stack([x, y, *(np.ones(n) for _ in range(5))], 1),
        attributes={"column_names": summary},
    )
    group.create_array("seg_mask_value", data=prefix)
    with zipfile.ZipFile(folder / "cells.zarr.zip", "w") as archive:
        for file in sorted((folder / "cells.zarr").rglob("*")):
            archive.write(file, file.relative_to(folder / "cells.zarr").as_posix())
    shutil.rmtree(folder / "cells.zarr")


def cell_name(number: int) -> str:
    """The name of a cell: eight digits of base 16, a to p."""
    return "".join(chr(ord("a") + int(digit, 16)) for digit in f"{number:08x}")


def merscope(adata: AnnData, folder: Path) -> None:
    (folder / "images").mkdir(parents=True)
    np.savetxt(folder / "images" / "micron_to_mosaic_pixel_transform.csv", np.eye(3))
    names = np.arange(10**15, 10**15 + adata.n_obs).astype(str)
    counts = pd.DataFrame(adata.X.toarray(), index=pd.Index(names, name="cell"))
    counts.columns = list(adata.var_names)
    counts["Blank-1"] = 0
    counts.to_csv(folder / "cell_by_gene.csv")
    x, y = adata.obsm["spatial"].T
    cells = pd.DataFrame({"fov": half(adata), "volume": 100.0, "center_x": x, "center_y": y})
    cells.set_index(pd.Index(names, name="EntityID")).to_csv(folder / "cell_metadata.csv")


def cosmx(adata: AnnData, folder: Path) -> None:
    """Two fields of view side by side; each numbers its cells from 1."""
    for name in ("CellComposite", "CellLabels"):
        (folder / name).mkdir(parents=True)
    x, y = adata.obsm["spatial"].T
    fov = half(adata) + 1
    number = np.zeros(adata.n_obs, dtype=int)
    for one in (1, 2):
        number[fov == one] = np.arange(1, (fov == one).sum() + 1)
    counts = pd.DataFrame(adata.X.toarray(), columns=list(adata.var_names))
    counts.insert(0, "cell_ID", number)
    counts.insert(0, "fov", fov)
    counts.to_csv(folder / "toy_exprMat_file.csv", index=False)
    left = np.where(fov == 1, x.min(), np.median(x))
    cells = {
        **{"fov": fov, "cell_ID": number, "Area": 50},
        **{"CenterX_local_px": x - left, "CenterY_local_px": y},
        **{"CenterX_global_px": x, "CenterY_global_px": y},
    }
    pd.DataFrame(cells).to_csv(folder / "toy_metadata_file.csv", index=False)
    fovs = pd.DataFrame({"fov": [1, 2], "x_global_px": [0, 1], "y_global_px": [0, 0]})
    fovs.to_csv(folder / "toy_fov_positions_file.csv", index=False)


def stereoseq(adata: AnnData, folder: Path) -> None:
    for name in ("02.count", "03.register", "04.tissuecut", "041.cellcut", "051.cellcluster"):
        (folder / name).mkdir(parents=True)
    with h5py.File(folder / "02.count" / "toy.raw.gef", "w") as h5:
        h5["note"] = 1
    with h5py.File(folder / "04.tissuecut" / "toy.gef", "w") as h5:
        h5["note"] = 1
    adata.write_h5ad(folder / "051.cellcluster" / "toy.cell.cluster.h5ad")
    n, genes = adata.shape
    counts = adata.X.tocoo()
    whole = np.round(adata.obsm["spatial"]).astype(np.int32)
    cell = np.zeros(
        n,
        [
            *[("id", "u4"), ("x", "i4"), ("y", "i4"), ("offset", "u4"), ("geneCount", "u2")],
            *[("expCount", "u2"), ("dnbCount", "u2"), ("area", "u2"), ("cellTypeID", "u2")],
            ("clusterID", "u2"),
        ],
    )
    cell["id"], cell["x"], cell["y"], cell["area"] = np.arange(n), *whole.T, 50
    gene = np.zeros(
        genes,
        [
            *[("geneName", "S64"), ("offset", "u4"), ("cellCount", "u4"), ("expCount", "u4")],
            ("maxMIDcount", "u2"),
        ],
    )
    gene["geneName"] = np.array(adata.var_names, dtype="S64")
    with h5py.File(folder / "041.cellcut" / "toy.cellbin.gef", "w") as h5:
        h5.attrs["version"] = np.array([2], np.uint32)
        bins = h5.create_group("cellBin")
        bins["cell"], bins["gene"] = cell, gene
        bins["cellExon"], bins["geneExon"] = np.zeros(n, "u2"), np.zeros(genes, "u4")
        cell_exp = np.zeros(counts.nnz, [("geneID", "u4"), ("count", "u2")])
        gene_exp = np.zeros(counts.nnz, [("cellID", "u4"), ("count", "u2")])
        cell_exp["geneID"], cell_exp["count"] = counts.col, counts.data
        gene_exp["cellID"], gene_exp["count"] = counts.row, counts.data
        bins["cellExp"], bins["geneExp"] = cell_exp, gene_exp
        bins["cellExpExon"] = bins["geneExpExon"] = np.zeros(counts.nnz, "u2")
        bins["blockIndex"], bins["blockSize"] = np.zeros(2, "u4"), np.zeros(4, "u4")
        bins["cellTypeList"] = np.array([b"default"])
        corners = np.full((n, 32, 2), 32767, np.int16)
        corners[:, :4] = [[-2, -2], [2, -2], [2, 2], [-2, 2]]
        bins["cellBorder"] = corners


def curio(adata: AnnData, folder: Path) -> None:
    folder.mkdir()
    adata = adata.copy()
    adata.obsm["X_spatial"] = adata.obsm["spatial"]
    adata.write_h5ad(folder / "toy_anndata.h5ad")
    names = pd.Series(adata.obs_names)
    clusters = pd.DataFrame({"name": names, "cluster": 1})
    clusters.to_csv(folder / "toy_cluster_assignment.txt", sep="\t", header=False, index=False)
    (folder / "toy_Metrics.csv").write_text("Metric,Value,Category\nreads,100,sequencing\n")
    header = "gene\tcluster\n"
    (folder / "toy_variable_features_clusters.txt").write_text(f"{header}{adata.var_names[0]}\t1\n")
    moran = pd.DataFrame({"MoransI": [0.5]}, index=[adata.var_names[0]])
    file = folder / "toy_variable_features_spatial_moransi.txt"
    moran.to_csv(file, sep="\t", index_label=False)  # as R writes it


MAKERS = {
    "Visium": visium,
    "Visium HD": visium_hd,
    "Xenium": xenium,
    "MERSCOPE": merscope,
    "CosMx": cosmx,
    "Stereo-seq": stereoseq,
    "Slide-seq": curio,
}
