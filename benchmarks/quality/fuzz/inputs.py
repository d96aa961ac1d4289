"""One of each kind of file that users hand in, and how it is read."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
import yaml
from anndata import AnnData
from safetensors.torch import load_file
from transformers import BertConfig, BertModel

from stofm_geo import SToFM
from stofm_geo._names import read_names
from stofm_geo.data import prepare_for_writing, read_slice_file
from stofm_geo.data.corpus import CorpusDataset, build, find_sources, read_manifest
from stofm_geo.data.corpus.sources import read_slice, slices_of
from stofm_geo.datasets import toy_tissue
from stofm_geo.genes import RankEncoder, Vocabulary
from stofm_geo.models import official
from stofm_geo.tasks import Annotator, fine_tune
from stofm_geo.training.command import command

_SLICE = "of-the-model.h5ad"
_SIZES = {"hidden_channels": 8, "heads": 2, "num_layers": 1, "out_channels": 20, "n_components": 4}
_CUT = {"k": 6, "max_macro_nodes": 4, "cells_per_subslice": 40, "n_components": 4}


@dataclass(frozen=True)
class Input:
    """A file or folder.

    Attributes:
        read: What its command makes of it: numbers, of which :func:`digest` makes a name.
        content: What another reader finds in it, and that is admitted; ``None``: its checksums are
            ours, and it can only be what was written.
        beside: Name of what is read with it, a slice, or ``""``.
    """

    read: Callable[[Path], Any]
    content: Callable[[Path], Any] | None = None
    beside: str = ""


def write_inputs(folder: Path) -> dict[str, Input]:
    """Write one of each into an empty folder; by name."""
    tissue = toy_tissue(70, 12, 1, seed=0)
    tissue.var_names = [f"ENSG{i:011d}" for i in range(tissue.n_vars)]
    tissue.uns["technology"] = "toy"
    model = SToFM(**_SIZES).fit(tissue, max_steps=2, progress=False)
    model.save_pretrained(folder / "model")
    fine_tune(model, tissue, "region", progress=False, max_steps=2).save(folder / "annotator")
    vocabulary = Vocabulary.from_corpus([tissue])
    vocabulary.to_json(folder / "vocabulary.json")
    _write_checkpoint(folder / "checkpoint", vocabulary)
    _write_slices(folder, tissue)
    (folder / "sources").mkdir()
    for name, seed in (("a", 1), ("b", 2)):
        toy_tissue(60, 12, 1, seed=seed).write_h5ad(folder / "sources" / f"{name}.h5ad")
    build(find_sources([folder / "sources"], organism="none"), folder / "corpus", **_CUT)
    (folder / "manifest.csv").write_text(
        "path,slice,technology,organism\n"
        "sources/a.h5ad,slice_id,Xenium,none\nsources/b.h5ad,,MERFISH,mouse\n"
    )
    _write_yaml(folder)

    def of_slice(path: Path) -> Any:
        adata = read_slice_file(path)
        labels = read_names(adata.obs["region"]) if "region" in adata.obs else None
        prepare_for_writing(adata, str(path))
        model.embed(adata, name=str(path))
        return adata.obsm["X_stofm"], labels

    def of_model(path: Path) -> Any:
        adata = tissue.copy()
        SToFM.from_pretrained(path).embed(adata, name=_SLICE)
        return adata.obsm["X_stofm"]

    def of_annotator(path: Path) -> Any:
        return Annotator.load(path).probabilities(tissue, name=_SLICE)

    def of_checkpoint(path: Path) -> Any:
        adata = tissue.copy()
        SToFM.from_official(path).embed(adata, name=_SLICE)
        return adata.obsm["X_stofm"]

    return {
        "model": Input(of_model, beside=_SLICE),
        "annotator": Input(of_annotator, beside=_SLICE),
        "vocabulary.json": Input(lambda path: asdict(Vocabulary.from_json(path))),
        "checkpoint": Input(of_checkpoint, _weights, _SLICE),
        "csr.h5ad": Input(of_slice, _cells),
        "dense.h5ad": Input(of_slice, _cells),
        "source.h5ad": Input(_of_source, _cells),
        "v2.zarr": Input(_of_source, _cells),
        "v3.zarr": Input(_of_source, _cells),
        "corpus": Input(_of_corpus),
        "manifest.csv": Input(lambda path: [asdict(one) for one in read_manifest(path)], _rows),
        "pretrain.yaml": Input(_of_yaml, lambda path: yaml.safe_load(path.read_text())),
    }


def _write_checkpoint(folder: Path, vocabulary: Vocabulary) -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    more = {"intermediate_size": 8, "max_position_embeddings": 16, "vocab_size": 16}
    torch.manual_seed(0)
    bert = BertModel(BertConfig(**sizes, **more), add_pooling_layer=False)
    encoder = RankEncoder(bert, torch.nn.Linear(8, 6), vocabulary)
    network = official.OfficialNetwork(official.network.Config(1, 8, 8, 2, 4, 6))
    official.save(official.OfficialSToFM(network, encoder), folder)
    vocabulary.to_json(folder / "vocabulary.json")


def _write_slices(folder: Path, tissue: AnnData) -> None:
    tissue = tissue.copy()
    tissue.obs["region"] = pd.Categorical(tissue.obs["region"])
    tissue.obsm["X_other"] = pd.DataFrame({"a": 1.5, "b": 2}, index=tissue.obs_names)
    tissue.layers["counts"] = tissue.X.copy()
    tissue.write_h5ad(folder / "csr.h5ad", compression="gzip")
    for version in (2, 3):
        with anndata.settings.override(zarr_write_format=version):
            tissue.write_zarr(folder / f"v{version}.zarr")
    dense = tissue.copy()
    dense.X = dense.X.toarray().astype(np.float32)
    dense.write_h5ad(folder / "dense.h5ad")
    tissue.X = tissue.X.tocsc()
    tissue.write_h5ad(folder / "source.h5ad")


def _write_yaml(folder: Path) -> None:
    settings = {**_SIZES, **_CUT, "encoder": "panel", "organism": None}
    config = {
        "seed_everything": 0,
        "folder": str(folder / "pretrained"),
        "checkpoint_every": 100,
        "model": {"freeze_encoder_steps": 0, "config": settings},
        "data": {"folder": str(folder / "corpus"), "node_budget": 200, "held_out": 0.5},
        "trainer": {"accelerator": "cpu", "max_steps": 10, "gradient_clip_val": 1.0},
    }
    (folder / "pretrain.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def _of_source(path: Path) -> Any:
    """As ``corpus build`` reads it."""
    (source,) = find_sources([path], organism="none")
    slices = [read_slice(which, min_cells=7) for which in slices_of(source)]
    return [
        (one.counts[:].toarray(), one.genes, one.pos, one.row, one.unit, one.technology)
        for one in slices
    ]


def _of_corpus(path: Path) -> Any:
    """As training reads it."""
    data = CorpusDataset(path)
    subslices = [dict(data[i].items()) for i in range(len(data))]
    return list(data.genes), data.technologies, data.settings, data.components(), subslices


def _of_yaml(path: Path) -> Any:
    cli = command(["--config", str(path)])
    return cli.config.as_dict() | {"config": None}


def _cells(path: Path) -> Any:
    """By plain AnnData, all that an embedding depends on."""
    read = anndata.read_zarr if path.is_dir() else anndata.read_h5ad
    adata = read(path)
    counts = adata.X.data if sp.issparse(adata.X) else np.asarray(adata.X)
    for values in (counts, np.asarray(adata.obsm["spatial"])):
        if not np.isfinite(values).all():
            raise ValueError("NaN or infinite values")
    if len(counts) and counts.min() < 0:
        raise ValueError("negative counts")
    return adata.X, adata.obs, adata.var, adata.obsm["spatial"], dict(adata.uns)


def _weights(path: Path) -> Any:
    """Weights and settings of a published checkpoint, by PyTorch and safetensors alone."""
    found: dict[str, Any] = {}
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        name = str(file.relative_to(path))
        if file.suffix == ".json":
            found[name] = json.loads(file.read_text())
        elif file.suffix == ".safetensors":
            found[name] = load_file(file)
        else:
            found[name] = torch.load(file, weights_only=True)
    return found


def _rows(path: Path) -> Any:
    with path.open(newline="") as stream:
        return list(csv.reader(stream))


def digest(value: Any) -> str:
    """A name for numbers, text and all that holds them."""
    found = hashlib.sha256()

    def add(part: Any) -> None:
        found.update(f"{type(part).__name__}:".encode())
        if isinstance(part, torch.Tensor):
            add(part.detach().numpy())
        elif isinstance(part, np.ndarray) and part.dtype.kind in "biufc":
            found.update(f"{part.dtype} {part.shape}".encode() + part.tobytes())
        elif sp.issparse(part):
            add([part.shape, *(getattr(part, name) for name in ("indptr", "indices", "data"))])
        elif isinstance(part, pd.DataFrame):
            add([part.index.tolist(), {name: part[name].tolist() for name in part}])
        elif isinstance(part, Mapping):
            add(sorted(((str(key), one) for key, one in part.items()), key=lambda pair: pair[0]))
        elif isinstance(part, (list, tuple, np.ndarray)):
            found.update(str(len(part)).encode())
            for one in part:
                add(one)
        else:
            found.update(os.fsencode(repr(part)) + b";")

    add(value)
    return found.hexdigest()
