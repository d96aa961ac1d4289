"""The weights that are installed with the library."""

from __future__ import annotations

import socket

import numpy as np
import pytest
from typer.testing import CliRunner

from stofm_geo import SToFM
from stofm_geo.cli import app
from stofm_geo.data import read_slice_file
from stofm_geo.datasets import toy_tissue
from stofm_geo.models import shipped

NAME = "stofm-geo-mini"


@pytest.fixture
def tissue(monkeypatch):
    """A toy tissue whose genes have names that the model knows; no network."""

    def none(*args, **kwargs):
        raise OSError("no network in a test")

    monkeypatch.setattr(socket, "socket", none)
    adata = toy_tissue(150, 60, seed=0)
    genes = np.array(["ENSG00000075624", "ENSG00000111640"])  # ACTB, GAPDH
    known = [gene for gene in SToFM.from_pretrained(NAME).encoder.genes if gene not in genes]
    adata.var_names = [*genes, *known[:58]]
    return adata


def test_it_is_small_and_has_a_card() -> None:
    for name in shipped.NAMES:
        files = {file.name: file for file in (shipped.FOLDER / name).iterdir()}
        assert set(files) == {"README.md", "config.json", "model.safetensors"}
        assert sum(file.stat().st_size for file in files.values()) <= 16e6
        card = files["README.md"].read_text()
        assert "held" in card and "macro-F1" in card and "licence" in card.lower()


def test_it_embeds_without_network_and_without_fitting(tissue) -> None:
    model = SToFM.from_pretrained(NAME)
    model.embed(tissue)
    assert tissue.obsm["X_stofm"].shape == (150, 256)
    assert np.isfinite(tissue.obsm["X_stofm"]).all()


def test_the_command_takes_it(tissue, tmp_path) -> None:
    tissue.write_h5ad(tmp_path / "a.h5ad")
    run = CliRunner().invoke(
        app, ["embed", str(tmp_path / "a.h5ad"), "-o", str(tmp_path / "b.h5ad"), "--zero-shot"]
    )
    assert run.exit_code == 0, run.output
    out = read_slice_file(tmp_path / "b.h5ad")
    assert out.uns["stofm"]["training"]["steps"] > 0 and "X_stofm" in out.obsm
    extra = ["--encoder", "panel"]
    run = CliRunner().invoke(
        app,
        ["embed", str(tmp_path / "a.h5ad"), "-o", str(tmp_path / "c.h5ad"), "--zero-shot", *extra],
    )
    assert run.exit_code == 1 and "--zero-shot is --model stofm-geo-mini" in run.output


def test_names_that_are_none_are_told_what_is_installed() -> None:
    with pytest.raises(ValueError, match="stofm-geo-mini, which is installed"):
        SToFM.from_pretrained("stofm-geo-maxi")
