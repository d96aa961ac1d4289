"""Many files: a killed run goes on, a cluster does the same, and options that leave work out."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from anndata import read_h5ad
from typer.testing import CliRunner

from stofm_geo import SToFM, tl
from stofm_geo.cli import _embedding, app
from stofm_geo.datasets import toy_tissue


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.fixture
def files(tmp_path) -> list[Path]:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        adata = toy_tissue(150, 30, seed=number)
        adata.layers["counts"] = adata.X.copy()
        adata.write_h5ad(folder / f"{number}.h5ad")
    return sorted(folder.iterdir())


OPTIONS = ("--n-domains", 3, "--max-steps", 2)


def same(one: Path, other: Path) -> None:
    for file in sorted(one.iterdir()):
        a, b = read_h5ad(file), read_h5ad(other / file.name)
        assert np.array_equal(a.obsm["X_stofm"], b.obsm["X_stofm"])
        assert a.obs.equals(b.obs) and set(a.uns) == set(b.uns)
        assert a.uns["stofm"]["weights_sha256"] == b.uns["stofm"]["weights_sha256"]
        assert np.array_equal(a.uns["stofm_domain_colors"], b.uns["stofm_domain_colors"])
        assert (a.X != b.X).nnz == 0


class Killed(BaseException):
    """Not caught by a command, as a kill is not."""


@pytest.mark.slow
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_killed_run_goes_on(files, tmp_path, monkeypatch, after: int) -> None:
    assert run("embed", *files, "-o", tmp_path / "whole", *OPTIONS)[0] == 0
    words = ("embed", *files, "-o", tmp_path / "out", *OPTIONS, "--resume")
    embed, fit, done = SToFM.embed, SToFM.fit, []

    def dies(*args: object, **options: object) -> None:
        if len(done) == after:
            raise Killed
        done.append(1)
        embed(*args, **options)

    monkeypatch.setattr(SToFM, "embed", dies)
    with pytest.raises(Killed):
        run(*words)
    kept = sorted(path.name for path in (tmp_path / "out.partial").iterdir())
    assert kept == [*(f"{i:05d}.h5ad" for i in range(after)), "model", "run.json"]
    fits = []
    monkeypatch.setattr(SToFM, "fit", lambda *a, **k: fits.append(1) or fit(*a, **k))
    monkeypatch.setattr(SToFM, "embed", lambda *a, **k: done.append(1) or embed(*a, **k))
    code, text = run(*words)
    assert code == 0 and "Continuing with the model" in text, text
    assert not fits and len(done) == 3 and not (tmp_path / "out.partial").exists()
    same(tmp_path / "whole", tmp_path / "out")


@pytest.mark.slow
def test_what_was_kept_of_other_files_or_options_is_not_used(files, tmp_path, monkeypatch) -> None:
    words = ("embed", *files, "-o", tmp_path / "out", *OPTIONS, "--resume")
    monkeypatch.setattr(tl, "domains", lambda *_, **__: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        run(*words)
    partial = tmp_path / "out.partial"
    shutil.copytree(partial, tmp_path / "kept")
    for changed in (("--seed", 1), ("--max-steps", 3)):
        with pytest.raises(Killed):
            run(*words, *changed)
        assert (partial / "run.json").read_text() != (tmp_path / "kept/run.json").read_text()
    with pytest.raises(Killed):
        run(*words)
    os.utime(files[0], (1, 1))
    fits = []
    fit = SToFM.fit
    monkeypatch.setattr(SToFM, "fit", lambda *a, **k: fits.append(1) or fit(*a, **k))
    with pytest.raises(Killed):
        run(*words)
    assert fits == [1]


def test_one_of_several_files_is_in_memory_at_a_time(files, tmp_path, monkeypatch) -> None:
    SToFM().fit(read_h5ad(files[0]), max_steps=1, progress=False).save_pretrained(tmp_path / "m")
    alive: list[int] = []
    counts = []
    get = _embedding.Tables.__getitem__

    def counted(self: _embedding.Tables, number: int):
        adata = get(self, number)
        alive.append(number)
        counts.append(None if self._last is None else self._last[0])
        return adata

    monkeypatch.setattr(_embedding.Tables, "__getitem__", counted)
    assert run("embed", *files, "-o", tmp_path / "out", "--model", tmp_path / "m")[0] == 0
    assert alive == [0, 1, 2, 0, 1, 2] and counts == alive


def test_a_model_is_fitted_to_some_of_very_many_files(files, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(_embedding, "_FIT_CELLS", 200)
    code, text = run("embed", *files, "-o", tmp_path / "out", *OPTIONS)
    assert code == 0 and "300 cells in 2 slices, 2 of the 3 files" in text, text
    assert all(read_h5ad(file).obsm["X_stofm"].any() for file in (tmp_path / "out").iterdir())


def test_no_domains_and_a_layer(files, tmp_path) -> None:
    code, text = run("embed", files[0], "-o", tmp_path / "a.h5ad", "--no-domains", *OPTIONS[2:])
    assert code == 0 and "Found" not in text, text
    plain = read_h5ad(tmp_path / "a.h5ad")
    assert "X_stofm" in plain.obsm and "stofm_domain" not in plain.obs
    adata = read_h5ad(files[0])
    adata.X = np.log1p(adata.X)
    adata.write_h5ad(files[0])
    words = ("embed", files[0], "-o", tmp_path / "b.h5ad", "--no-domains", *OPTIONS[2:])
    assert run(*words)[0] == 1
    assert run(*words, "--layer", "counts")[0] == 0
    other = read_h5ad(tmp_path / "b.h5ad")
    assert np.array_equal(plain.obsm["X_stofm"], other.obsm["X_stofm"])
    assert np.array_equal(other.X.toarray(), adata.X.toarray())
    for wrong, message in (
        (("--n-domains", 3), "leaves nothing to score"),
        (("--layer", "counts", "--use-rep", "X_pca"), "give one of them"),
        (("--model", "m", "--max-steps", 3), "leave one of both out"),
    ):
        code, text = run(*words[:5], *wrong)
        assert code == 1 and message in " ".join(text.split()), text


@pytest.mark.slow
def test_parts_of_array_jobs(files, tmp_path) -> None:
    model = tmp_path / "m"
    SToFM().fit(read_h5ad(files[0]), max_steps=1, progress=False).save_pretrained(model)
    words = ("embed", *files, "--model", model, "--n-domains", 3, "-o")
    assert run(*words, tmp_path / "whole")[0] == 0
    for part in ("2/2", "1/2"):
        code, text = run(*words, tmp_path / "out", "--part", part)
        assert code == 0 and text.count(": embedded") == (1 if part == "2/2" else 2), text
        assert not (tmp_path / "out").exists()
    assert run(*words, tmp_path / "out", "--resume")[0] == 0
    same(tmp_path / "whole", tmp_path / "out")
    code, text = run(*words[:4], "-o", tmp_path / "out", "--part", "1/2")
    assert code == 1 and "--part needs --model" in text


@pytest.mark.slow
def test_a_cluster_gives_the_same(files, tmp_path) -> None:
    distributed = pytest.importorskip("distributed", reason="distributed is not installed")
    assert run("embed", *files, "-o", tmp_path / "whole", *OPTIONS)[0] == 0
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster:
        address = cluster.scheduler_address
        words = ("embed", *files, "-o", tmp_path / "out", *OPTIONS, "--scheduler", address)
        code, text = run(*words)
    assert code == 0 and "3/3" in text, text
    same(tmp_path / "whole", tmp_path / "out")
