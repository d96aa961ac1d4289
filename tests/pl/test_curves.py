"""Curves of training, from a log in one file or in the folder of runs that went on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stofm_geo.pl import curves

LOG = Path(__file__).parents[2] / "benchmarks" / "results" / "pretrain_300.csv"


def test_losses_beside_what_was_held_out_and_a_plain_guess(tmp_path: Path) -> None:
    axes = curves(LOG, title="300 steps", save=tmp_path / "a.png")
    assert [ax.get_title() for ax in axes] == ["distance loss", "niche loss"]
    training, held_out, plain = axes[1].lines
    assert [line.get_label() for line in axes[1].lines] == [
        "training",
        "held out",
        "held out, baseline",
    ]
    assert len(training.get_xdata()) == 30
    assert list(held_out.get_xdata()) == [75, 150, 225, 300]
    rows = pd.read_csv(LOG).dropna(subset="val/niche_loss")
    np.testing.assert_array_equal(held_out.get_ydata(), rows["val/niche_loss"])
    np.testing.assert_array_equal(plain.get_ydata(), rows["val/niche_loss_plain"])
    assert (tmp_path / "a.png").exists()


def test_runs_that_went_on_are_put_together(tmp_path: Path) -> None:
    # The last run starts anew at step 2, after a checkpoint; the second was killed at once.
    for version, text in (
        (0, "step,niche_loss\n0,5\n1,4\n2,3\n3,9\n"),
        (2, ""),
        (10, "step,niche_loss\n2,2\n3,1\n"),
    ):
        folder = tmp_path / "csv" / f"version_{version}"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text(text)
    (ax,) = curves(tmp_path)
    (line,) = ax.lines
    np.testing.assert_array_equal(line.get_xydata(), [[1, 5], [2, 4], [3, 2], [4, 1]])


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no metrics\.csv"):
        curves(tmp_path)
    with pytest.raises(FileNotFoundError):
        curves(tmp_path / "nowhere.csv")
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="is not a training log"):
        curves(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(ValueError, match="is not a CSV file, and so no training log"):
        curves(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(ValueError, match="is not a training log"):
        curves(tmp_path / "a.csv")
