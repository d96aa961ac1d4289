"""Known beside predicted, and the confusion matrix: the same cells, the same numbers."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from sklearn.metrics import accuracy_score

from stofm_geo.pl import confusion, predicted


def colors(ax) -> list[str]:
    return [to_hex(color) for color in ax.collections[0].get_facecolors()]


def test_wrong_cells_are_marked(predictions: ad.AnnData, tmp_path: Path) -> None:
    axes = predicted(predictions, "guess", "region", save=tmp_path / "a.png")
    assert axes.shape == (1, 3) and (tmp_path / "a.png").exists()
    marks = colors(axes[0, 2])
    assert marks.count("#1a1a1a") == 90 and marks.count("#f2f2f2") == 30
    assert marks[:280] == ["#d9d9d9"] * 280  # right: beneath the others
    assert [ax.get_title() for ax in axes[0]] == ["known", "predicted", "24% wrong"]
    assert set(colors(axes[0, 0])) == set(colors(axes[0, 1]))
    assert [text.get_text() for text in axes[0, 0].figure.legends[1].get_texts()] == [
        "wrong",
        "right",
        "neither",
    ]
    heading = axes[0, 0].figure.texts[0].get_text()
    both = slice(0, 370)
    expected = accuracy_score(*(predictions.obs[k].astype(str)[both] for k in ("region", "guess")))
    assert f"accuracy {expected:.2f}" in heading


def test_many_slices_one_of_them_without_labels(predictions: ad.AnnData) -> None:
    predictions.obs.loc[predictions.obs["slice_id"] == "slice1", "region"] = np.nan
    axes = predicted(predictions, "guess", "region", slice_key="slice_id")
    assert axes.shape == (2, 3)
    assert axes[0, 2].get_title() == "not compared" and "wrong" in axes[1, 2].get_title()


def test_confusion_is_normalised_by_the_known_class(predictions: ad.AnnData) -> None:
    predictions.obs["guess"] = predictions.obs["guess"].cat.add_categories("never known")
    predictions.obs.loc[predictions.obs_names[0], "guess"] = "never known"
    ax = confusion(predictions, "guess", "region")
    share = ax.collections[0].get_array()
    names = sorted(predictions.obs["region"].dropna().unique())
    assert share.shape == (len(names), len(names) + 1)
    np.testing.assert_allclose(share.sum(axis=1), 1)
    assert [t.get_text().rsplit(" (", 1)[0] for t in ax.get_yticklabels()] == names
    known = predictions.obs["region"].iloc[:380] == names[0]
    assert f"({known.sum()})" in ax.get_yticklabels()[0].get_text()
    assert ax.get_title() == "370 cells"
    box = ax.get_window_extent()
    assert box.width / share.shape[1] == pytest.approx(box.height / share.shape[0], rel=0.02)


def test_many_classes_are_not_written_into_fields(predictions: ad.AnnData) -> None:
    predictions.obs["many"] = [f"a rather long name of the cell type {i % 40}" for i in range(400)]
    ax = confusion(predictions, "many", "many")
    assert not ax.texts
    assert all(len(label.get_text()) < 45 for label in ax.get_yticklabels())


@pytest.mark.parametrize("classes", [2, 30, 150])
def test_all_labels_are_on_the_page_and_in_time(tmp_path, classes) -> None:
    names = [f"cell type of number {i % classes}" for i in range(1500)]
    adata = ad.AnnData(obs=pd.DataFrame({"a": names, "b": names[7:] + names[:7]}))
    start = time.process_time()
    ax = confusion(adata, "a", "b", save=tmp_path / "a.png")
    assert time.process_time() - start < 10  # seconds; 17 before, on a faster machine
    assert (tmp_path / "a.png").stat().st_size > 0
    page = ax.figure.bbox
    parts = [*ax.get_xticklabels(), *ax.get_yticklabels(), ax.xaxis.label, ax.yaxis.label]
    for part in [*parts, ax.title, ax.figure.axes[1].yaxis.label]:
        box = part.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= page.x1 and box.y1 <= page.y1
    labels = [label.get_window_extent() for label in ax.get_yticklabels()]
    assert all(below.y1 <= above.y0 + 1 for above, below in pairwise(labels))


@pytest.mark.parametrize("picture", [predicted, confusion])
def test_bad_data(predictions: ad.AnnData, picture) -> None:
    with pytest.raises(KeyError, match="obs has no column 'nope'"):
        picture(predictions, "nope", "region")
    with pytest.raises(FileNotFoundError, match="no folder"):
        picture(predictions, "guess", "region", save="nowhere/a.png")
    predictions.obs["guess"] = np.nan
    with pytest.raises(ValueError, match="no cell has both"):
        picture(predictions, "guess", "region")
