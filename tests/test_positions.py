"""Positions in tables: x and y by name; missing and impossible ones."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from stofm_geo._anndata_checks import check_obsm, check_positions

XY = np.array([[1.5, 2.0], [3.0, 4.0], [5.0, 7.0]])


def held(columns: dict) -> AnnData:
    table = pd.DataFrame(columns, index=["a", "b", "c"])
    return AnnData(obs=pd.DataFrame(index=table.index), obsm={"spatial": table})


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ("x", "y"),
        ("X", "Y"),
        ("x_centroid", "y_centroid"),
        ("center_x", "center_y"),
        ("CenterX_global_px", "CenterY_global_px"),
        ("xcoord", "ycoord"),
        ("sdimx", "sdimy"),
        ("x_max_um", "y_max_um"),
        ("pxl_col_in_fullres", "pxl_row_in_fullres"),
        ("imagecol", "imagerow"),
        ("array_col", "array_row"),
        ("column", "row"),
    ],
)
def test_x_and_y_are_found_by_name(x, y) -> None:
    table = {"cell": list("abc"), "z": [9, 9, 8], y: XY[:, 1], "n": [1, 2, 3], x: XY[:, 0]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(check_positions(held(table), "spatial"), XY)


def test_the_better_of_two_pairs() -> None:
    local = {"CenterX_local_px": [0, 1, 2], "CenterY_local_px": [0, 1, 2]}
    array = {"array_row": [0, 1, 2], "array_col": [0, 1, 2]}
    for other, x, y in (
        (local, "CenterX_global_px", "CenterY_global_px"),
        (array, "pxl_col_in_fullres", "pxl_row_in_fullres"),
        (array, "x", "y"),
    ):
        adata = held({**other, y: XY[:, 1], x: XY[:, 0]})
        np.testing.assert_array_equal(check_positions(adata, "spatial"), XY)


def test_without_names_the_first_two_columns_of_numbers() -> None:
    table = {"cell": list("abc"), "in_tissue": [True] * 3, "p": XY[:, 0], "q": XY[:, 1], "r": 1.0}
    said = "cell, in_tissue, p, q, r, none of which .* 'p' is used as x and 'q' as y"
    with pytest.warns(UserWarning, match=said):
        np.testing.assert_array_equal(check_positions(held(table), "spatial"), XY)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = held({0: XY[:, 0], 1: XY[:, 1]})
        plain.obsm["spatial"].columns = ["0", "1"]
        np.testing.assert_array_equal(check_positions(plain, "spatial"), XY)
    with pytest.raises(ValueError, match=r"has 1 columns of numbers \(cell, p\); x and y"):
        check_positions(held({"cell": list("abc"), "p": [1, 2, 3]}), "spatial")


@pytest.mark.parametrize("dtype", ["float64", "Float64", "Int64", object, "string"])
def test_numbers_of_any_type(dtype) -> None:
    table = pd.DataFrame({"y": [2, 4, 7], "x": [1, 3, 5]}, index=list("abc")).astype(dtype)
    found = check_positions(held(table), "spatial")
    np.testing.assert_array_equal(found, [[1, 2], [3, 4], [5, 7]])
    missing = table.copy()
    missing.loc["b", "x"] = np.nan if dtype == "float64" else pd.NA
    said = r"is missing \(NaN\) or infinite for 1 of 3 cells \(b\); drop them: adata\[~pandas.isna"
    with pytest.raises(ValueError, match=said):
        check_positions(held(missing), "spatial")


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_missing_positions_in_an_array(missing) -> None:
    adata = held({"x": XY[:, 0], "y": XY[:, 1]})
    adata.obsm["spatial"] = XY.astype(object)
    np.testing.assert_array_equal(check_positions(adata, "spatial"), XY)
    adata.obsm["spatial"][1, 0] = missing
    for check in (check_positions, check_obsm):
        with pytest.raises(ValueError, match=r"missing \(NaN\) or infinite for 1 of 3 cells \(b\)"):
            check(adata, "spatial")


def test_positions_whose_squares_are_no_numbers_are_refused() -> None:
    adata = held({"x": XY[:, 0], "y": [1, 1e308, 2]})
    with pytest.raises(ValueError, match=r"obsm\['spatial'\] holds 1e\+308, whose square"):
        check_positions(adata, "spatial")


def test_positions_in_obs_are_pointed_at() -> None:
    adata = AnnData(obs=pd.DataFrame({"y_centroid": [1.0, 2], "x_centroid": [3.0, 4]}))
    said = r"adata.obsm\['spatial'\] = adata.obs\[\['x_centroid', 'y_centroid'\]\].to_numpy\(\)"
    with pytest.raises(KeyError, match=said):
        check_positions(adata, "spatial")
