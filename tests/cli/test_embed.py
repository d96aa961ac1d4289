"""The commands, as a person types them: what they write, and what they refuse, in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData, read_h5ad
from typer.testing import CliRunner

from stofm_geo import SToFM
from stofm_geo.cli import app
from stofm_geo.datasets import toy_tissue
from tests.helpers import SMALL


def run(*args: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def tissue() -> AnnData:
    return toy_tissue(200, 40, 2, seed=0)


@pytest.fixture(scope="module")
def model(tissue, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "m"
    SToFM(**SMALL).fit(tissue, slice_key="slice_id", max_steps=3, progress=False).save_pretrained(
        folder
    )
    return folder


@pytest.fixture
def slice_file(tissue, tmp_path) -> Path:
    tissue.write_h5ad(tmp_path / "in.h5ad")
    return tmp_path / "in.h5ad"


@pytest.fixture(autouse=True)
def few_steps(monkeypatch) -> None:
    """Fits of the commands are short here; their length is no option."""
    fit = SToFM.fit
    monkeypatch.setattr(SToFM, "fit", lambda *a, **k: fit(*a, **k | {"max_steps": 3}))


def test_embed_fits_embeds_scores_and_draws(slice_file, tmp_path) -> None:
    out, png = tmp_path / "out.h5ad", tmp_path / "out.png"
    code, text = run(
        *("embed", slice_file, "-o", out, "--n-domains", 4, "--label-key", "region"),
        *("--slice-key", "slice_id", "--plot", png, "--seed", 1, "--save-model", tmp_path / "m"),
    )
    assert code == 0, text
    assert "ARI 0." in text and "NMI" in text and "held-out molecules" in text
    adata = read_h5ad(out)
    assert adata.obsm["X_stofm"].shape == (200, 256) and adata.obsm["X_stofm"].dtype == np.float32
    assert list(adata.obs["stofm_domain"].cat.categories) == ["0", "1", "2", "3"]
    assert adata.uns["stofm"]["seed"] == 1
    assert png.read_bytes()[:4] == b"\x89PNG"
    code, text = run("embed", slice_file, "-o", tmp_path / "again.h5ad", "--model", tmp_path / "m",
                     "--slice-key", "slice_id")  # fmt: skip
    assert code == 0, text
    again = read_h5ad(tmp_path / "again.h5ad")
    np.testing.assert_array_equal(again.obsm["X_stofm"], adata.obsm["X_stofm"])


def test_same_command_same_bytes(slice_file, tmp_path) -> None:
    for name in ("a.h5ad", "b.h5ad"):
        assert run("embed", slice_file, "-o", tmp_path / name, "--n-domains", 3)[0] == 0
    a, b = read_h5ad(tmp_path / "a.h5ad"), read_h5ad(tmp_path / "b.h5ad")
    assert a.obsm["X_stofm"].tobytes() == b.obsm["X_stofm"].tobytes()
    assert (a.obs["stofm_domain"] == b.obs["stofm_domain"]).all()


def test_several_files_share_a_model_and_domains(tissue, tmp_path) -> None:
    for name in ("a", "b"):
        tissue.write_h5ad(tmp_path / f"{name}.h5ad")
    files = [tmp_path / "a.h5ad", tmp_path / "b.h5ad"]
    code, text = run("embed", *files, "-o", tmp_path / "out", "--plot", tmp_path / "p.png")
    assert code == 0, text
    out = [read_h5ad(tmp_path / "out" / f.name) for f in files]
    assert (out[0].obs["stofm_domain"].to_numpy() == out[1].obs["stofm_domain"].to_numpy()).all()
    assert (tmp_path / "p-a.png").exists() and (tmp_path / "p-b.png").exists()


def test_domains_are_joint_and_take_the_names_of_an_earlier_run(tissue, model, tmp_path) -> None:
    for name in ("a", "b"):
        tissue.write_h5ad(tmp_path / f"{name}.h5ad")
    files, out = [tmp_path / "a.h5ad", tmp_path / "b.h5ad"], tmp_path / "out"
    options = ("--model", model, "--slice-key", "slice_id")
    code, text = run("embed", *files, "-o", out, *options, "--n-domains", 3)
    assert code == 0 and "Found 3 domains over 4 slices jointly (integrate: none, mixing" in text
    old = read_h5ad(out / "a.h5ad")
    names = old.obs["stofm_domain"].cat.rename_categories(["x", "y", "z"])
    old.obs["stofm_domain"] = names
    old.uns["stofm_domain_colors"] = ["#000000", "#111111", "#222222"]
    old.write_h5ad(out / "a.h5ad")
    reference = ("--reference", out / "a.h5ad")
    base = ("embed", files[1], "-o", tmp_path / "new.h5ad")
    code, text = run(*base, *options, *reference, "--integrate", "center")
    assert code == 0 and "of the 3 known over 4 slices jointly (integrate: center)" in text, text
    new = read_h5ad(tmp_path / "new.h5ad")
    assert (new.obs["stofm_domain"].to_numpy() == names.to_numpy()).mean() > 0.9
    assert list(new.uns["stofm_domain_colors"]) == ["#000000", "#111111", "#222222"]
    refused("--reference has its model", "", *base, *reference)
    refused("leave --n-domains out", "", *base, *options, *reference, "--n-domains", 3)
    refused("--integrate must be one of", "'scvi'", *base, *options, "--integrate", "scvi")


def test_demo_and_doctor(tmp_path) -> None:
    code, text = run("demo", "-o", tmp_path / "demo")
    assert code == 0 and "ARI" in text, text
    assert {f.name for f in (tmp_path / "demo").iterdir()} == {"tissue.h5ad", "tissue.png"}
    code, text = run("doctor")
    assert code == 0
    for word in ("stofm-geo", "torch", "Threads", "Devices", "reference", "scatter", "scipy"):
        assert word in text


def spoiled(name: str):
    """A slice with one thing wrong."""

    def spatial(a, value):
        a.obsm["spatial"] = value

    def no_spatial(a):
        del a.obsm["spatial"]

    def nan(a):
        a.obsm["spatial"][3, 0] = np.nan

    def inf(a):
        a.obsm["spatial"][3:5, 1] = np.inf

    def negative(a):
        a.X = -1.0 * a.X

    def words(a):
        spatial(a, np.full((a.n_obs, 2), "x", dtype=object))

    def zeros(a):
        a.X = 0 * a.X

    def genes(a):
        a.var_names = ["same", "same", *a.var_names[2:]]

    def other_genes(a):
        a.var_names = [f"other{i}" for i in range(a.n_vars)]

    def column(a):
        spatial(a, a.obsm["spatial"][:, :1])

    def one_place(a):
        a.obsm["spatial"][:] = 7.0

    def nan_counts(a):
        x = a.X.astype(float)
        x.data[0] = np.nan
        a.X = x

    return locals()[name]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_spatial", "obsm has no 'spatial'; it has nothing; store the cells' x and y there"),
        ("nan", "obsm['spatial'] is NaN or infinite for 1 of 200 cells"),
        ("inf", "obsm['spatial'] is NaN or infinite for 2 of 200 cells"),
        ("column", "obsm['spatial'] has 1 column; x and y are needed"),
        ("one_place", "all 200 cells are at one place (7, 7)"),
        ("negative", "X holds negative values"),
        ("nan_counts", "X holds 1 NaN or infinite values"),
        ("zeros", "all 200 x 40 counts in X are zero"),
        ("genes", "1 gene names in var_names occur more than once (same)"),
        ("other_genes", "was trained for another panel"),
        ("words", "obsm['spatial'] must hold numbers"),
    ],
)
def test_bad_slices(tissue, model, tmp_path, name, message) -> None:
    adata = tissue.copy()
    spoiled(name)(adata)
    file = tmp_path / "bad.h5ad"
    adata.write_h5ad(file)
    refused(message, file, "embed", file, "-o", tmp_path / "out.h5ad", "--model", model)
    if name != "other_genes":
        refused(message, file, "embed", file, "-o", tmp_path / "out.h5ad")


def refused(message: str, name: object, *command: object) -> None:
    """One line that says what is wrong with what; no traceback, nothing written."""
    folder = Path(command[command.index("-o") + 1]).parent
    before = sorted(folder.rglob("*")) if folder.is_dir() else None
    code, text = run(*command)
    assert code == 1, text
    errors = [line for line in text.splitlines() if line.startswith("Error:")]
    assert len(errors) == 1 and message in errors[0] and str(name) in errors[0], text
    assert "Traceback" not in text
    assert (sorted(folder.rglob("*")) if folder.is_dir() else None) == before


@pytest.mark.parametrize("n", [0, 1, 2, 3, 12])
def test_few_cells(tissue, model, tmp_path, n) -> None:
    file = tmp_path / "few.h5ad"
    tissue[:n].copy().write_h5ad(file)
    message = "there are no cells" if n == 0 else f"{n} cells are too few"
    refused(message, file, "embed", file, "-o", tmp_path / "o.h5ad", "--model", model)
    refused(message, file, "embed", file, "-o", tmp_path / "o.h5ad")


def test_bad_arguments(slice_file, model, tmp_path) -> None:
    out = tmp_path / "out.h5ad"
    base = ("embed", slice_file, "-o", out, "--model", model)
    refused("obs has no 'batch'", slice_file, *base, "--slice-key", "batch")
    refused("obs has no 'layer'", slice_file, *base, "--label-key", "layer")
    refused("they would be scored by themselves", "", *base, "--label-key", "stofm_domain")
    refused("obsm has no 'xy'", slice_file, *base, "--spatial-key", "xy")
    refused("201 domains were requested of 200 cells", slice_file, *base, "--n-domains", 201)
    refused("obsm has no 'X_pca'", slice_file, *base[:4], "--use-rep", "X_pca")
    refused("trained for counts in X, not for obsm['X_pca']", "", *base, "--use-rep", "X_pca")
    refused("use one of", "p.xyz", *base, "--plot", tmp_path / "p.xyz")
    refused("no such file", "absent.h5ad", "embed", tmp_path / "absent.h5ad", "-o", out)
    refused("is the input too", slice_file, "embed", slice_file, "-o", slice_file)
    refused("must end in .h5ad", "x.txt", "embed", slice_file, "-o", tmp_path / "x.txt")
    refused("cannot be written into one", out, "embed", slice_file, slice_file, "-o", out)
    refused(
        "cannot be written", "absent", "embed", slice_file, "-o", tmp_path / "absent" / "o.h5ad"
    )
    refused("is a folder of no known format", tmp_path, "embed", tmp_path, "-o", out)


def test_nothing_is_left_behind_of_what_failed(slice_file, model, tmp_path) -> None:
    bad = tmp_path / "bad.h5ad"
    bad.write_text("no")
    before = sorted(tmp_path.rglob("*"))
    for extra in (("--save-model", tmp_path / "m"), ()):
        code, text = run("embed", slice_file, bad, "-o", tmp_path / "deep" / "out", *extra)
        assert code == 1 and "cannot be read as .h5ad" in text
    assert sorted(tmp_path.rglob("*")) == before


def test_labels_that_are_not_there(tissue, model, tmp_path) -> None:
    adata = tissue.copy()
    adata.obs["region"] = np.nan
    file = tmp_path / "nan.h5ad"
    adata.write_h5ad(file)
    refused("has no labels", file, "embed", file, "-o", tmp_path / "o.h5ad", "--model", model,
            "--label-key", "region")  # fmt: skip


def test_bad_files_and_models(slice_file, tmp_path) -> None:
    out = tmp_path / "out.h5ad"
    cut = tmp_path / "cut.h5ad"
    cut.write_bytes(slice_file.read_bytes()[:5000])
    refused("cannot be read as .h5ad", cut, "embed", cut, "-o", out)
    text = tmp_path / "text.h5ad"
    text.write_text("cells")
    refused("cannot be read as .h5ad", text, "embed", text, "-o", out)
    empty = tmp_path / "empty"
    empty.mkdir()
    refused("has no config.json and no model.safetensors", empty,
            "embed", slice_file, "-o", out, "--model", empty)  # fmt: skip
    (empty / "config.json").write_text('{"model_type": "bert"}')
    (empty / "model.safetensors").write_bytes(b"")
    refused("is not the configuration of a stofm_geo model", empty,
            "embed", slice_file, "-o", out, "--model", empty)  # fmt: skip
    refused("no/such/model: is no folder; name one", "no/such/model",
            "embed", slice_file, "-o", out, "--model", "no/such/model")  # fmt: skip


def test_odd_but_fit_slices_go_through_with_a_word(tissue, model, tmp_path) -> None:
    adata = tissue.copy()
    adata.obsm["spatial"] = np.column_stack([adata.obsm["spatial"], np.zeros(200)])
    adata.obsm["spatial"][:5] = adata.obsm["spatial"][5:10]
    adata.X = adata.X.toarray()
    adata.X[7] = 0
    file, out = tmp_path / "odd.h5ad", tmp_path / "out.h5ad"
    adata.write_h5ad(file)
    code, text = run("embed", file, "-o", out, "--model", model)
    assert code == 0, text
    assert "has 3 columns; the first two are used as x and y" in text
    assert "1 of 200 cells have no counts" in text
    assert "cells lie exactly where another does" in text
    assert np.isfinite(read_h5ad(out).obsm["X_stofm"]).all()


@pytest.mark.slow
@pytest.mark.shared
def test_real_slices_of_one_file(shared_data, tmp_path) -> None:
    out = tmp_path / "out.h5ad"
    code, text = run(
        *("embed", shared_data / "her2st_labelled_8slices.h5ad", "-o", out, "--n-domains", 7),
        *("--slice-key", "slice_id", "--label-key", "region"),
    )
    assert code == 0 and "in 8 slices" in text and "ARI" in text, text
    assert np.isfinite(read_h5ad(out).obsm["X_stofm"]).all()


def test_positions_under_another_key(tissue, model, slice_file, tmp_path) -> None:
    adata = tissue.copy()
    adata.obsm["X_spatial"] = adata.obsm.pop("spatial")
    adata.write_h5ad(other := tmp_path / "other.h5ad")
    for file, extra in ((slice_file, ()), (other, ("--spatial-key", "X_spatial"))):
        code, text = run("embed", file, "-o", tmp_path / f"{file.stem}-out.h5ad", "--model", model,
                         "--plot", tmp_path / f"{file.stem}.png", *extra)  # fmt: skip
        assert code == 0, text
    outs = [read_h5ad(tmp_path / f"{file.stem}-out.h5ad") for file in (slice_file, other)]
    np.testing.assert_array_equal(outs[0].obsm["X_stofm"], outs[1].obsm["X_stofm"])
