"""Files of strangers: nothing of theirs runs, and nothing of ours is copied."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData

from stofm_geo.data import read_slice_file
from stofm_geo.data.stores import ElsewhereError, check_zarr
from stofm_geo.datasets import toy_tissue
from tests.helpers import make_slice

corpus = pytest.importorskip("stofm_geo.data.corpus", reason="the extra corpus is not installed")
sources = pytest.importorskip("stofm_geo.data.corpus.sources")


@pytest.fixture
def adata() -> AnnData:
    adata = make_slice(40, 8)
    adata.uns["note"] = "plain"
    return adata


class Runs:
    """Leaves a file where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.marker,))


def stored(adata: AnnData, folder: Path, version: int) -> Path:
    with warnings.catch_warnings(), anndata.settings.override(zarr_write_format=version):
        warnings.simplefilter("ignore")
        adata.write_zarr(folder)
    return folder


@pytest.mark.parametrize("version", [2, 3])
def test_what_anndata_writes_is_read(adata, tmp_path, version: int) -> None:
    folder = stored(adata, tmp_path / "a.zarr", version)
    check_zarr(folder)
    found = sources.read_slice(sources.Slice(corpus.Source(str(folder), organism="none")))
    assert found.counts[:].sum() == adata.X.sum()


def text_array(folder: Path) -> Path:
    """Names of the cells, which newer versions of anndata and pandas write as a group."""
    index = folder / "obs" / "_index"
    return index / "values" if (index / "values").is_dir() else index


def hostile(adata: AnnData, tmp_path: Path) -> Path:
    """A zarr (version 2) array of text that numcodecs up to 0.16.3 unpickles."""
    folder = stored(adata, tmp_path / "a.zarr", 2)
    index = text_array(folder)
    metadata = json.loads((index / ".zarray").read_text())
    metadata |= {"filters": [{"id": "vlen-utf8"}, {"id": "pickle", "protocol": 5}]}
    metadata["compressor"] = None
    (index / ".zarray").write_text(json.dumps(metadata))
    for chunk in index.glob("[0-9]*"):
        chunk.write_bytes(pickle.dumps(Runs(tmp_path / "ran")))
    (folder / ".zmetadata").unlink(missing_ok=True)
    return folder


def test_a_codec_that_unpickles_is_refused_before_it_is_opened(adata, tmp_path) -> None:
    folder = hostile(adata, tmp_path)
    source = corpus.Source(str(folder), organism="none")
    for read in (sources.slices_of, lambda s: sources.read_slice(sources.Slice(s))):
        with pytest.raises(
            ValueError, match=r"_index(/values)?/\.zarray: names the codec 'pickle'"
        ):
            read(source)
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Runs(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()  # what it would have done


@pytest.mark.parametrize(
    "change",
    [
        lambda z: z["codecs"].append({"name": "numcodecs.pickle", "configuration": {}}),
        lambda z: z["codecs"].append("pickle"),
        lambda z: z["codecs"].append({"name": "bytes", "id": "pickle"}),
        lambda z: z["codecs"].append(7),
        lambda z: z.update(
            codecs=[{"name": "sharding_indexed", "configuration": {"codecs": [{"name": "evil"}]}}]
        ),
        lambda z: z.update(
            consolidated_metadata={"metadata": {"x": {"codecs": [{"name": "pickle"}]}}}
        ),
    ],
)
def test_codecs_of_version_3(adata, tmp_path, change: Callable) -> None:
    folder = stored(adata, tmp_path / "a.zarr", 3)
    file = text_array(folder) / "zarr.json"
    metadata = json.loads(file.read_text())
    change(metadata)
    file.write_text(json.dumps(metadata))
    with pytest.raises(ElsewhereError, match=r"zarr\.json: .*codec"):
        check_zarr(folder)


def test_attributes_may_have_any_name(adata, tmp_path) -> None:
    folder = stored(adata, tmp_path / "a.zarr", 3)
    metadata = json.loads((folder / "zarr.json").read_text())
    metadata["attributes"]["filters"] = [{"kind": "gaussian"}]
    (folder / "zarr.json").write_text(json.dumps(metadata))
    check_zarr(folder)


def test_a_corpus_is_looked_through_too(adata, tmp_path) -> None:
    make_slice(200, 8).write_h5ad(tmp_path / "in.h5ad")
    found = corpus.find_sources([tmp_path / "in.h5ad"], organism="none")
    corpus.build(found, tmp_path / "c", n_components=4)
    data = corpus.CorpusDataset(tmp_path / "c")
    assert data[0].num_nodes
    slice_ = next((tmp_path / "c" / "slices").glob("*/zarr.json")).parent
    file = slice_ / "common" / "zarr.json"
    metadata = json.loads(file.read_text())
    metadata["codecs"].append({"name": "numcodecs.pickle"})
    file.write_text(json.dumps(metadata))
    with pytest.raises(OSError, match="names the codec 'pickle'"):
        corpus.CorpusDataset(tmp_path / "c")[0]


def test_a_folder_of_links_and_pipes(adata, tmp_path) -> None:
    folder = stored(adata, tmp_path / "a.zarr", 3)
    os.mkfifo(folder / "pipe")
    with pytest.raises(ElsewhereError, match="pipe: is no file"):
        check_zarr(folder)
    (folder / "pipe").unlink()
    shutil.move(folder / "uns", tmp_path / "uns")
    (folder / "uns").symlink_to(tmp_path / "uns")
    with pytest.raises(ElsewhereError, match=r"uns: links to what is not in .*a\.zarr"):
        check_zarr(folder)


def external_link(file: h5py.File, secret: Path) -> None:
    file["uns/taken"] = h5py.ExternalLink(str(secret), "/x")


def external_storage(file: h5py.File, secret: Path) -> None:
    external = [(str(secret), 0, 8)]
    file["uns"].create_dataset("taken", (8,), "u1", external=external)


def virtual(file: h5py.File, secret: Path) -> None:
    layout = h5py.VirtualLayout((2,), "f8")
    layout[:] = h5py.VirtualSource(str(secret), "x", (2,))
    file["uns"].create_virtual_dataset("taken", layout)


@pytest.mark.parametrize("point", [external_link, external_storage, virtual])
def test_hdf5_that_points_elsewhere_is_refused(adata, tmp_path, point: Callable) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = np.arange(2.0)
    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        point(file, tmp_path / "secret.h5")
    source = corpus.Source(str(tmp_path / "a.h5ad"), organism="none")
    for read in (lambda: read_slice_file(source.path), lambda: sources.slices_of(source)):
        with pytest.raises(ValueError, match=r"a\.h5ad: /uns/taken (is a link|keeps its numbers)"):
            read()


def test_hdf5_with_links_within_is_read(adata, tmp_path) -> None:
    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        file["uns/again"] = file["uns/note"]
        file["uns/soft"] = h5py.SoftLink("/uns/note")
    assert read_slice_file(tmp_path / "a.h5ad").uns["again"] == "plain"


def test_a_pipe_is_not_waited_for(tmp_path) -> None:
    os.mkfifo(tmp_path / "a.h5ad")
    with pytest.raises(ValueError, match=r"a\.h5ad: is no file; name an \.h5ad file"):
        read_slice_file(tmp_path / "a.h5ad")
    with pytest.raises(ValueError, match=r"a\.h5ad: is no file; name an \.h5ad file"):
        corpus.find_sources([tmp_path / "a.h5ad"])


def legacy(path: Path) -> None:
    """As AnnData before 0.7: tables as one compound array each, a sparse matrix by h5sparse."""
    with h5py.File(path, "r+") as file:
        x = sp.csr_matrix(anndata.io.read_elem(file["X"]))
        obs, var = (anndata.io.read_elem(file[name]) for name in ("obs", "var"))
        places = file["obsm/spatial"][()]
        for name in list(file):
            del file[name]
        file.attrs.clear()
        group = file.create_group("X")
        group.attrs.update({"h5sparse_format": b"csr", "h5sparse_shape": np.array(x.shape)})
        for part in ("data", "indices", "indptr"):
            group[part] = getattr(x, part)
        for name, table in (("obs", obs), ("var", var)):
            kind = np.dtype([("index", f"S{max(map(len, table.index))}")])
            file[name] = np.array([(one.encode(),) for one in table.index], dtype=kind)
        file["obsm"] = np.array(
            [(tuple(one),) for one in places], dtype=np.dtype([("spatial", "f8", (2,))])
        )


def nullable(path: Path) -> None:
    with anndata.settings.override(allow_write_nullable_strings=True):
        adata = anndata.read_h5ad(path)
        adata.obs_names = adata.obs_names.astype("string")
        adata.var_names = adata.var_names.astype("string")
        adata.write_h5ad(path)


@pytest.mark.filterwarnings("ignore::anndata.OldFormatWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("make", [legacy, nullable])
def test_a_corpus_is_built_of_all_that_embed_reads(adata, tmp_path, make: Callable) -> None:
    path = tmp_path / "a.h5ad"
    adata.write_h5ad(path)
    make(path)
    read = read_slice_file(path)
    assert (read.X != adata.X).nnz == 0
    source = corpus.Source(str(path), organism="none")
    (which,) = sources.slices_of(source)
    found = sources.read_slice(which)
    assert list(found.genes) == sorted(adata.var_names)
    at = adata.var_names.get_indexer(found.genes)
    np.testing.assert_array_equal(found.counts[:].toarray(), adata.X.toarray()[found.row][:, at])


def test_x_that_is_none_names_the_layer(adata, tmp_path) -> None:
    adata.layers["counts"] = adata.X
    adata.X = None
    adata.write_h5ad(tmp_path / "a.h5ad")
    for path in (tmp_path / "a.h5ad", stored(adata, tmp_path / "a.zarr", 3)):
        with pytest.raises(ValueError, match=r"there are layers .'counts'."):
            sources.slices_of(corpus.Source(str(path)))


@pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csc_matrix])
@pytest.mark.parametrize("index", [-1, 10**9])
def test_damaged_sparse_matrices_on_disk(adata, tmp_path, kind: Callable, index: int) -> None:
    adata.X = kind(adata.X)
    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        file["X/indices"][3] = index
    which = sources.Slice(corpus.Source(str(tmp_path / "a.h5ad"), organism="none"))
    with pytest.raises(ValueError, match="X is a damaged sparse matrix"):
        sources.read_slice(which)


@pytest.mark.parametrize("name", ["slices", "settings", "genes", "technologies"])
def test_an_index_without_its_keys(tmp_path, name: str) -> None:
    index = {"format": 3, "settings": {}, "technologies": [], "failed": 0, "genes": []}
    index |= {"slices": []}
    (tmp_path / "corpus.json").write_text(json.dumps(index))
    assert corpus.read_index(tmp_path) == index
    for spoilt in ({**index, name: 7}, {k: v for k, v in index.items() if k != name}):
        (tmp_path / "corpus.json").write_text(json.dumps(spoilt))
        with pytest.raises(ValueError, match=rf"corpus\.json: is damaged \('{name}' is missing"):
            corpus.read_index(tmp_path)


def texts(tmp_path: Path) -> tuple[Path, int]:
    """A file, and where the free space of its last heap of texts begins."""
    file = tmp_path / "a.h5ad"
    toy_tissue(60, 12, 1, seed=0).write_h5ad(file)
    content = file.read_bytes()
    start = content.rindex(b"GCOL\1\0\0\0")
    at, end = start + 16, start + int.from_bytes(content[start + 8 : start + 16], "little")
    while content[at : at + 2] != b"\0\0":
        at += 16 + (int.from_bytes(content[at + 8 : at + 16], "little") + 7) // 8 * 8
        assert at < end
    return file, at


@pytest.mark.parametrize(
    ("number", "size"), [(0, 0), (0, 2**64 - 16), (7, 2**64 - 16), (7, 2**64 - 1), (7, 2**32)]
)
@pytest.mark.parametrize("backed", [False, True])
def test_heaps_that_hdf5_walks_for_ever(tmp_path, number: int, size: int, backed: bool) -> None:
    file, at = texts(tmp_path)
    assert read_slice_file(file, backed=backed).n_obs == 60
    content = bytearray(file.read_bytes())
    content[at : at + 16] = struct.pack("<H6xQ", number, size)
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.h5ad: cannot be read .* texts are damaged"):
        read_slice_file(file, backed=backed)


def test_attributes_of_any_length_are_refused(tmp_path) -> None:
    file, _ = texts(tmp_path)
    with h5py.File(file, "r+") as root:
        lists = h5py.vlen_dtype(np.int32)
        values = np.empty(1, dtype=object)
        values[0] = np.arange(2, dtype=np.int32)
        root["X"].attrs.create("more", values, dtype=lists)
    with pytest.raises(ValueError, match="attribute 'more' of /X is of no type of AnnData"):
        read_slice_file(file)
