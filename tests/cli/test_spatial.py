"""Commands that write domains, cell types and missing genes: what the functions write."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData, read_h5ad
from typer.testing import CliRunner

from stofm_geo import tl
from stofm_geo.cli import app
from stofm_geo.datasets import toy_tissue


@pytest.fixture(scope="module")
def adata() -> AnnData:
    adata = toy_tissue(220, 40, seed=0)
    adata.obsm["X_stofm"] = np.asarray(adata.X[:, :8].toarray(), dtype=np.float32)
    return adata


@pytest.fixture
def file(adata, tmp_path) -> Path:
    adata[:, :30].copy().write_h5ad(tmp_path / "slice.h5ad")
    return tmp_path / "slice.h5ad"


@pytest.fixture
def reference(tmp_path) -> Path:
    adata = toy_tissue(200, 40, seed=1)
    adata.layers["counts"], adata.X = adata.X.copy(), np.log1p(adata.X)
    adata.write_h5ad(tmp_path / "reference.h5ad")
    return tmp_path / "reference.h5ad"


def run(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.stdout, result.stderr


def test_domains(file, tmp_path) -> None:
    out = tmp_path / "out.h5ad"
    code, text, errors = run("domains", file, "-o", out, "--n-domains", 3, "--key-added", "d")
    assert code == 0 and "Found 3 domains" in text, text + errors
    expected = read_h5ad(file)
    tl.domains(expected, 3, key_added="d")
    assert (read_h5ad(out).obs["d"] == expected.obs["d"]).all()
    words = ("domains", file, "-o", out, "--key-added", "d", "--plot", tmp_path / "p.png")
    code, text, errors = run(*words, "--n-domains", 3)
    assert code == 0 and (tmp_path / "p.png").exists(), text + errors
    code, _, errors = run("domains", file, "-o", out, "--use-rep", "X_none")
    assert code == 1 and errors.count("\n") == 1 and "slice.h5ad: obsm has no 'X_none'" in errors
    assert "run stofm-geo embed first, or name another key with --use-rep" in errors
    assert run("domains", file, "-o", out, "--integrate", "best")[0] == 1


def test_completion_is_there() -> None:
    assert "--install-completion" in run("--help")[1]


@pytest.mark.slow
def test_deconvolve(file, reference, tmp_path) -> None:
    out = tmp_path / "out.h5ad"
    words = ("deconvolve", file, "--reference", reference, "-o", out, "--label-key", "region")
    code, text, errors = run(*words, "--reference-layer", "counts", "--json")
    assert code == 0, text + errors
    assert json.loads(text)["files"][str(file)]["spots"] == 220
    expected, known = read_h5ad(file), read_h5ad(reference)
    tl.deconvolve(expected, known, "region", reference_layer="counts")
    shares = read_h5ad(out).obsm["stofm_proportions"]
    np.testing.assert_allclose(shares.to_numpy(), expected.obsm["stofm_proportions"].to_numpy())
    code, _, errors = run(*words)
    assert code == 1 and "layer='counts'" in errors


def test_impute(file, reference, tmp_path) -> None:
    out = tmp_path / "out.h5ad"
    words = ("impute", file, "--reference", reference, "-o", out, "--reference-layer", "counts")
    code, text, errors = run(*words, "--gene", "Gene0033", "--gene", "Gene0037")
    assert code == 0 and "estimated 2 genes in 220 cells" in text, text + errors
    expected, known = read_h5ad(file), read_h5ad(reference)
    tl.impute(expected, known, ["Gene0033", "Gene0037"], reference_layer="counts")
    found = read_h5ad(out).obsm["stofm_imputed"]
    assert list(found) == ["Gene0033", "Gene0037"]
    np.testing.assert_allclose(found.to_numpy(), expected.obsm["stofm_imputed"].to_numpy())
    code, _, errors = run(*words, "--gene", "none")
    assert code == 1 and "requested genes (none)" in errors and errors.count("Error") == 1


def test_denoise(reference, tmp_path) -> None:
    out = tmp_path / "out.h5ad"
    words = ("denoise", reference, "-o", out, "--layer", "counts", "--max-steps", "2")
    code, text, errors = run(*words, "--json")
    assert code == 0, text + errors
    expected = read_h5ad(reference)
    tl.denoise(expected, layer="counts", max_steps=2, progress=False)
    found = read_h5ad(out)
    np.testing.assert_array_equal(found.layers["stofm_denoised"], expected.layers["stofm_denoised"])
    d2 = json.loads(text)["files"][str(reference)]["d2"]
    assert d2 == found.uns["stofm_denoised"]["d2"] == expected.uns["stofm_denoised"]["d2"]
    code, _, errors = run(*words, "--model", "stofm-geo-mini")
    assert code == 1 and "--max-steps is for a model that is fitted" in errors
    code, _, errors = run(*words[:-2], "--model", "stofm-geo-mini")
    assert code == 1 and "has the encoder 'panel', which does not denoise" in errors
