"""One name, one colour: over slices, subsets, pictures, and as scanpy keeps it."""

from __future__ import annotations

import contextlib

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from stofm_geo import pl, tl
from stofm_geo._colors import default_color
from stofm_geo.datasets import toy_tissue
from stofm_geo.pl.domains import share_colors

pytestmark = pytest.mark.filterwarnings("ignore:.*on top of each other")


def legend(figure: Figure, which: int = 0) -> dict[str, str]:
    found = figure.legends[which]
    pairs = zip(found.get_texts(), found.get_lines(), strict=True)
    return {text.get_text(): line.get_color() for text, line in pairs}


@pytest.fixture
def tissue() -> ad.AnnData:
    adata = toy_tissue(400, 20, 2)
    rng = np.random.default_rng(0)
    codes = adata.obs["region"].cat.codes.to_numpy()
    adata.obsm["X_stofm"] = np.eye(6)[codes] + rng.normal(0, 0.05, (400, 6))
    return adata


def test_parts_of_one_run_share_their_colours(tissue) -> None:
    tl.domains(tissue, 6)
    every = legend(pl.domains(tissue)[0, 0].figure)
    assert every == {str(i): default_color(i) for i in range(6)}
    part = tissue[~tissue.obs["stofm_domain"].isin(["0", "3"])]
    for one in (part, part.copy(), toy_concat(part)):
        assert legend(pl.domains(one)[0, 0].figure) == {n: every[n] for n in "1245"}
    plane = pl.embedding(part.copy(), color="stofm_domain")
    found = zip(plane.get_legend().get_texts(), plane.get_legend().get_lines(), strict=True)
    assert {t.get_text(): h.get_color() for t, h in found} == {n: every[n] for n in "1245"}
    # Before anything was drawn, too.
    fresh = tissue.copy()
    tl.domains(fresh, 6)
    part = fresh[fresh.obs["stofm_domain"] != "1"].copy()
    assert legend(pl.domains(part)[0, 0].figure) == {n: every[n] for n in "02345"}


def toy_concat(part: ad.AnnData) -> ad.AnnData:
    """What a user's own concat leaves of it."""
    return ad.concat([part[:50], part[50:]], uns_merge="first")


def test_slices_of_one_run_that_lack_a_domain(tissue) -> None:
    names = ["0", "1", "2", "3"]
    a, b = tissue[:200].copy(), tissue[200:].copy()
    a.obs["stofm_domain"] = pd.Categorical([names[i % 4] for i in range(200)], names)
    b.obs["stofm_domain"] = pd.Categorical([["0", "2", "3"][i % 3] for i in range(200)], names)
    every = legend(pl.domains(a)[0, 0].figure)
    assert legend(pl.domains(b)[0, 0].figure) == {n: every[n] for n in ("0", "2", "3")}


def test_colours_in_uns_are_honoured_and_written_by_category(tissue) -> None:
    tissue.obs["kind"] = pd.Categorical(["b", "a"] * 200, ["b", "a", "c"])
    tissue.uns["kind_colors"] = np.array(["red", "#00ff00", "blue"])
    assert legend(pl.spatial(tissue, "kind").figure) == {"a": "#00ff00", "b": "#ff0000"}
    pl.spatial(tissue, "kind", palette={"a": "black", "b": "white", "c": "gray"})
    assert list(tissue.uns["kind_colors"]) == ["#ffffff", "#000000", "#808080"]
    for unfit in (["red"], ["no", "such", "colour"], "red", None):
        tissue.uns["kind_colors"] = unfit
        few = pytest.warns(UserWarning, match="has 1 colours for the 3 names of obs")
        with few if unfit == ["red"] else contextlib.nullcontext():
            found = legend(pl.spatial(tissue, "kind").figure)
        assert found == {"a": default_color(0), "b": default_color(1)}
        assert list(tissue.uns["kind_colors"]) == [
            default_color(1),
            default_color(0),
            default_color(2),
        ]
    tissue.obs["text"] = ["x10", "x9"] * 200
    pl.spatial(tissue, "text")
    assert list(tissue.uns["text_colors"]) == [default_color(0), default_color(1)]
    tissue.obs["flag"] = [True, False] * 200
    pl.spatial(tissue, "flag")
    assert "flag_colors" not in tissue.uns


def test_drawing_a_view_does_not_copy_it(tissue) -> None:
    view = tissue[:100]
    pl.spatial(view, "region")
    assert view.is_view and "region_colors" not in view.uns


def test_regions_and_domains_keep_what_they_have(tissue) -> None:
    tl.domains(tissue, 6)
    figure = pl.domains(tissue, label_key="region")[0, 0].figure
    regions, found = legend(figure, 0), legend(figure, 1)
    assert found == {str(i): default_color(i) for i in range(6)}
    assert set(regions.values()) == set(found.values())
    assert legend(pl.spatial(tissue, "region").figure) == regions
    part = tissue[tissue.obs["region"] != "L3"].copy()
    again = pl.domains(part, label_key="region")[0, 0].figure
    for which, every in enumerate((regions, found)):
        assert legend(again, which).items() <= every.items()


def test_one_map_for_several_files(tissue) -> None:
    a, b = tissue[:200].copy(), tissue[200:].copy()
    tl.domains([a, b], 6)
    b = b[~b.obs["region"].isin(["L1", "L4"])].copy()
    share_colors([a, b], "stofm_domain", "region")
    maps = [pl.domains(one, label_key="region")[0, 0].figure for one in (a, b)]
    for which in (0, 1):
        first, second = (legend(figure, which) for figure in maps)
        assert len(shared := first.keys() & second.keys()) >= 3
        assert {name: first[name] for name in shared} == {name: second[name] for name in shared}


def test_predicted_and_known_names_share_colours(tissue) -> None:
    tissue.obs["guess"] = pd.Categorical(tissue.obs["region"].astype(str))
    tissue.uns["region_colors"] = [default_color(10 + i) for i in range(6)]
    figure = pl.predicted(tissue, "guess", "region")[0, 0].figure
    names = tissue.obs["region"].cat.categories
    expected = dict(zip(names, tissue.uns["region_colors"], strict=True))
    assert legend(figure, 0) == expected
    assert list(tissue.uns["guess_colors"]) == list(expected.values())


def test_more_names_than_colours(tissue) -> None:
    tissue.obs["many"] = pd.Categorical([f"n{i % 60}" for i in range(400)])
    tissue.obs["more"] = pd.Categorical([f"m{i % 80}" for i in range(400)])
    pl.domains(tissue, "many", "more")
    assert len(tissue.uns["many_colors"]) == 60 and len(tissue.uns["more_colors"]) == 80
