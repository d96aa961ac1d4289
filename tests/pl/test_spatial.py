from __future__ import annotations

import sys
import warnings
from pathlib import Path

import anndata as ad
import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from scipy.spatial.distance import pdist

from stofm_geo.datasets import toy_tissue
from stofm_geo.pl import check_picture, domains, spatial

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def tissue() -> ad.AnnData:
    adata = toy_tissue(400, 10, 2)
    adata.obs["stofm_domain"] = pd.Categorical((adata.obs["region"].cat.codes + 2) % 6)
    return adata


def legend_colors(figure: Figure, which: int = 0) -> dict[str, str]:
    legend = figure.legends[which]
    labels = [text.get_text() for text in legend.get_texts()]
    return dict(zip(labels, [to_hex(h.get_color()) for h in legend.legend_handles], strict=True))


def drawn_colors(ax) -> set[str]:
    return {to_hex(color) for color in ax.collections[0].get_facecolors()}


def test_names_get_a_naturally_sorted_legend(tissue: ad.AnnData) -> None:
    tissue.obs["name"] = [f"part {i % 12}" for i in range(tissue.n_obs)]
    ax = spatial(tissue, "name")
    colors = legend_colors(ax.figure)
    assert list(colors) == [f"part {i}" for i in range(12)]
    assert len(set(colors.values())) == 12
    assert drawn_colors(ax) == set(colors.values())
    assert ax.get_title() == "name"
    assert ax.get_aspect() == 1


def test_thirty_five_names_have_distinct_colors(tissue: ad.AnnData) -> None:
    tissue.obs["name"] = [str(i % 35) for i in range(tissue.n_obs)]
    rgb = [to_rgb(color) for color in legend_colors(spatial(tissue, "name").figure).values()]
    assert len(rgb) == 35 and pdist(rgb).min() > 0.1


def test_missing_names_are_grey(tissue: ad.AnnData) -> None:
    tissue.obs.loc[tissue.obs_names[:50], "region"] = np.nan
    ax = spatial(tissue, "region")
    assert list(legend_colors(ax.figure))[-1] == "not labelled"
    assert to_hex(ax.collections[0].get_facecolors()[0]) == "#d9d9d9"  # under everything else


@pytest.mark.parametrize("color", ["depth", "Gene0003"])
def test_numbers_get_a_colour_bar(tissue: ad.AnnData, color: str) -> None:
    ax = spatial(tissue, color)
    assert len(ax.figure.axes) == 2
    assert not ax.figure.legends


def test_extreme_and_missing_numbers(tissue: ad.AnnData) -> None:
    tissue.obs["score"] = np.linspace(0, 1, tissue.n_obs)
    tissue.obs.loc[tissue.obs_names[-1], "score"] = 1e6
    tissue.obs.loc[tissue.obs_names[0], "score"] = np.nan
    ax = spatial(tissue, "score")
    assert ax.figure.axes[1].get_ylim()[1] < 2
    assert to_hex(ax.collections[0].get_facecolors()[0]) == "#d9d9d9"
    tissue.obs["score"] = np.nan
    assert drawn_colors(spatial(tissue, "score")) == {"#d9d9d9"}


def test_booleans_are_names(tissue: ad.AnnData) -> None:
    tissue.obs["deep"] = tissue.obs["depth"] > 0.5
    assert list(legend_colors(spatial(tissue, "deep").figure)) == ["False", "True"]


def test_no_color(tissue: ad.AnnData) -> None:
    ax = spatial(tissue)
    assert len(drawn_colors(ax)) == 1
    assert not ax.figure.legends


def test_one_panel_a_slice_all_to_one_scale(tissue: ad.AnnData) -> None:
    tissue.obs["slice_id"] = tissue.obs["slice_id"].map({"slice1": "s10", "slice2": "s9"})
    axes = spatial(tissue, "region", slice_key="slice_id")
    assert [ax.get_title() for ax in axes] == ["s9", "s10"]
    assert sum(len(ax.collections[0].get_offsets()) for ax in axes) == tissue.n_obs
    widths = [np.ptp(ax.get_xlim()) for ax in axes]
    assert widths[0] == pytest.approx(widths[1])
    assert axes[0].get_position().width == pytest.approx(axes[1].get_position().width)


def test_y_points_down(tissue: ad.AnnData) -> None:
    low, high = spatial(tissue).get_ylim()
    assert low > high


def test_scale_bar_only_with_known_units(tissue: ad.AnnData) -> None:
    tissue.uns["spatial_unit"] = "mm"
    ax = spatial(tissue)
    (bar,) = ax.lines
    length = np.ptp(bar.get_xdata())
    assert ax.texts[0].get_text() == f"{length:g} mm"
    assert 0.1 < length / np.ptp(ax.get_xlim()) <= 0.25
    del tissue.uns["spatial_unit"]
    assert not spatial(tissue).lines


def test_markers_follow_density() -> None:
    def share_covered(n: int) -> float:
        ax = spatial(toy_tissue(n, 1))
        diameter = np.sqrt(ax.collections[0].get_sizes()[0]) / 72  # inches
        box = ax.get_window_extent()
        window = box.width * box.height / ax.figure.dpi**2
        return n * np.pi / 4 * diameter**2 / window

    for n in (300, 3000, 30000):
        assert 0.25 < share_covered(n) < 0.7


@pytest.mark.parametrize(
    "xy", [np.zeros((3, 2)), np.arange(6).reshape(3, 2), [[0, 0]], [[0, 0]] * 4]
)
def test_few_or_equal_places(xy) -> None:
    xy = np.asarray(xy, dtype=float)
    adata = ad.AnnData(np.ones((len(xy), 1), np.float32), obsm={"spatial": xy})
    spatial(adata).figure.canvas.draw()


def test_draws_in_given_axes(tissue: ad.AnnData) -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert spatial(tissue, "region", ax=left, title="mine") is left
    assert spatial(tissue, "depth", ax=right) is right
    assert left.get_title() == "mine"
    assert left.get_legend() is not None
    figure.canvas.draw()


def test_palettes(tissue: ad.AnnData) -> None:
    regions = list(tissue.obs["region"].cat.categories)
    tens = [f"C{i}" for i in range(10)]
    by_name = dict(zip(regions, tens, strict=False))
    for palette in (tens, by_name):
        colors = legend_colors(spatial(tissue, "region", palette=palette).figure)
        assert colors == {name: to_hex(color) for name, color in by_name.items()}
    spatial(tissue, "depth", palette="magma")


def test_domains_take_the_colors_of_their_regions(tissue: ad.AnnData) -> None:
    axes = domains(tissue, label_key="region")
    assert axes.shape == (1, 2)
    regions, found = (legend_colors(axes[0, 0].figure, i) for i in (0, 1))
    names = list(tissue.obs["region"].cat.categories)
    assert found == {str((i + 2) % 6): regions[name] for i, name in enumerate(names)}
    assert "ARI 1.00" in axes[0, 0].figure.texts[0].get_text()


def test_more_domains_than_regions(tissue: ad.AnnData) -> None:
    tissue.obs["stofm_domain"] = np.arange(tissue.n_obs) % 9
    figure = domains(tissue, label_key="region")[0, 0].figure
    regions, found = (legend_colors(figure, i) for i in (0, 1))
    assert list(found) == [str(i) for i in range(9)]
    assert len(set(found.values())) == 9
    assert set(regions.values()) < set(found.values())


def test_domains_of_many_slices_some_without_labels(tissue: ad.AnnData) -> None:
    tissue.obs.loc[tissue.obs["slice_id"] == "slice2", "region"] = np.nan
    axes = domains(tissue, label_key="region", slice_key="slice_id")
    assert axes.shape == (2, 2)
    assert axes[0, 1].get_title() == "found  (ARI 1.00)"
    assert axes[1, 1].get_title() == "found"
    assert drawn_colors(axes[1, 0]) == {"#d9d9d9"}


def test_domains_without_labels(tissue: ad.AnnData) -> None:
    assert domains(tissue, slice_key="slice_id").shape == (2, 1)
    tissue.obs["empty"] = np.nan
    assert domains(tissue, label_key="empty").shape == (1, 1)


def test_long_names_stay_on_the_page(tissue: ad.AnnData) -> None:
    tissue.obs["region"] = tissue.obs["region"].cat.rename_categories(
        lambda name: f"{name} of the dorsolateral prefrontal cortex, left hemisphere, upper part"
    )
    figure = domains(tissue, label_key="region", slice_key="slice_id")[0, 0].figure
    figure.canvas.draw()
    for legend in figure.legends:
        box = legend.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0
        assert box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1


@pytest.mark.parametrize("name", ["a.png", "a.PDF", "a.svg"])
def test_save(tissue: ad.AnnData, tmp_path: Path, name: str) -> None:
    spatial(tissue, "region", save=tmp_path / name)
    domains(tissue, save=str(tmp_path / name))  # replaces
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).stat().st_size > 1000


def test_check_picture_writes_nothing(tmp_path: Path) -> None:
    assert check_picture(str(tmp_path / "a.png")) == tmp_path / "a.png"
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="use one of"):
        check_picture(tmp_path / "a")


def test_failed_save_leaves_the_old_file(
    tissue: ad.AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(b"old")

    def fail(self, path, **kwargs) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        spatial(tissue, save=tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"old"


def test_leaves_pyplot_and_backend_alone(tissue: ad.AnnData, tmp_path: Path) -> None:
    before = dict.__getitem__(matplotlib.rcParams, "backend")
    spatial(tissue, "region", save=tmp_path / "a.png")
    assert dict.__getitem__(matplotlib.rcParams, "backend") is before
    if "matplotlib.pyplot" in sys.modules:  # another test may have imported it
        assert not sys.modules["matplotlib.pyplot"].get_fignums()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"color": "nope"}, KeyError, "neither a gene in var_names nor a column of obs"),
        ({"spatial_key": "xy"}, KeyError, "obsm has no 'xy'"),
        ({"slice_key": "nope"}, KeyError, "obs has no .*'nope'"),
        ({"save": "a.xyz"}, ValueError, r"'\.xyz', which matplotlib cannot write.*\.png"),
        ({"save": "nowhere/a.png"}, FileNotFoundError, "no folder 'nowhere'"),
        ({"color": "region", "palette": ["red"]}, ValueError, "1 colours for 6 names"),
        ({"color": "region", "palette": {"L1": "red"}}, KeyError, "no colour for"),
        ({"color": "region", "palette": "magma"}, TypeError, "names need a palette of colours"),
        ({"color": "depth", "palette": "nope"}, ValueError, "is not a colormap"),
        ({"color": "depth", "palette": ["red"]}, TypeError, "the name of a colormap"),
        ({"ax": Figure().subplots(), "slice_key": "slice_id"}, ValueError, "only one of them"),
    ],
)
def test_bad_arguments(
    tissue: ad.AnnData, arguments: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        spatial(tissue, **arguments)


def test_bad_data(tissue: ad.AnnData) -> None:
    with pytest.raises(ValueError, match="no cells"):
        spatial(tissue[:0])
    with pytest.raises(KeyError, match="obs has no column 'found'"):
        domains(tissue, "found")
    tissue.obs["half"] = ["a"] * 200 + [None] * 200
    with pytest.raises(ValueError, match="missing for 200 of 400 cells"):
        spatial(tissue, slice_key="half")
    tissue.obsm["line"] = np.zeros((400, 1))
    with pytest.raises(ValueError, match=r"1 column"):
        spatial(tissue, spatial_key="line")
    tissue.obsm["spatial"][:3] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite for 3 of 400 cells"):
        spatial(tissue)
    tissue.var_names = ["A", "A", *tissue.var_names[2:]]
    tissue.obsm["spatial"][:3] = 0
    with pytest.raises(ValueError, match="names 2 genes"):
        spatial(tissue, "A")


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real slices are not in {SHARED}")
def test_real_slices(tmp_path: Path) -> None:
    cortex = ad.read_h5ad(SHARED / "dlpfc_151673.h5ad")
    ax = spatial(cortex, "region", save=tmp_path / "cortex.png")
    names = ["L1", "L2", "L3", "L4", "L5", "L6", "WM", "not labelled"]
    assert list(legend_colors(ax.figure)) == names
    tumour = ad.read_h5ad(SHARED / "her2st_labelled_8slices.h5ad")
    assert len(spatial(tumour, "region", slice_key="slice_id")) == 8


def test_a_stray_cell_does_not_make_an_empty_picture(tissue: ad.AnnData, tmp_path) -> None:
    usual = spatial(tissue)
    assert not usual.texts or "outside" not in usual.texts[-1].get_text()
    stray = tissue.copy()
    stray.obsm["spatial"][[3, 5]] = [[1e7, 0], [-1e6, 1e9]]
    ax = spatial(stray, save=tmp_path / "a.png")
    for near, far in ((usual.get_xlim(), ax.get_xlim()), (usual.get_ylim(), ax.get_ylim())):
        assert np.allclose(near, far, atol=0.1 * abs(near[1] - near[0]))
    assert [text.get_text() for text in ax.texts if "outside" in text.get_text()] == [
        "2 cells outside"
    ]
    pair = spatial(stray, slice_key="slice_id")
    told = [[t.get_text() for t in one.texts if "outside" in t.get_text()] for one in pair]
    assert sorted(told) == [[], ["2 cells outside"]]


def test_far_pieces_of_tissue_are_no_stray_cells(tissue: ad.AnnData) -> None:
    tissue.obsm["spatial"][:20] += [1e5, 0]
    ax = spatial(tissue)
    low, high = sorted(ax.get_xlim())
    assert low < tissue.obsm["spatial"][:, 0].min() and high > tissue.obsm["spatial"][:, 0].max()


def test_the_users_style_moves_no_panel(tissue: ad.AnnData, tmp_path: Path) -> None:
    before = dict.copy(matplotlib.rcParams)
    boxes = []
    for style in ({}, {"figure.constrained_layout.use": True, "figure.autolayout": False}):
        with matplotlib.rc_context(style), warnings.catch_warnings():
            warnings.simplefilter("error")
            axes = domains(tissue, slice_key="slice_id", save=tmp_path / "a.png")
        boxes.append([ax.get_position().bounds for ax in axes.flat])
    assert boxes[0] == boxes[1]
    assert dict.copy(matplotlib.rcParams) == before


@pytest.mark.parametrize("names", [5, 17, 22])
def test_the_whole_legend_is_saved(tmp_path: Path, names: int) -> None:
    random = np.random.default_rng(0)
    xy = random.uniform(0, 1, (600, 2)) * [1000, 400]  # the legend is higher than the slice
    adata = ad.AnnData(obsm={"spatial": xy})
    adata.obs["name"] = pd.Categorical([f"class {i % names:02d}" for i in range(600)])
    colors = legend_colors(spatial(adata, "name", save=tmp_path / "a.png").figure)
    assert len(colors) == names
    image = (matplotlib.image.imread(tmp_path / "a.png")[..., :3] * 255).round().astype(int)
    column = image[:, -int(0.9 * 300) :]  # right of the slice
    for name, color in colors.items():
        rgb = (np.array(to_rgb(color)) * 255).round()
        assert (abs(column - rgb).max(axis=-1) <= 1).sum() > 300, name  # a mark
