"""Two-dimensional plots of embeddings."""

from __future__ import annotations

import os
import warnings

import anndata as ad
import numpy as np
from matplotlib.axes import Axes
from sklearn.decomposition import PCA

from stofm_geo._anndata_checks import check_obsm
from stofm_geo._keys import Keys
from stofm_geo.pl._categories import Palette
from stofm_geo.pl._paint import paint_by
from stofm_geo.pl._sheet import check_picture, legend_style, plain_axes, write


def embedding(
    adata: ad.AnnData,
    use_rep: str = Keys.EMBEDDING,
    color: str | None = None,
    *,
    size: float | None = None,
    palette: Palette = None,
    title: str | None = None,
    seed: int = 0,
    save: str | os.PathLike[str] | None = None,
) -> Axes:
    """Draw a two-dimensional projection of embeddings.

    The projection is UMAP if ``umap-learn`` is installed (``pip install 'stofm-geo[umap]'``),
    else the first two principal components; the axis labels name it. Cells whose embedding
    is 0, as of cells without counts, are not drawn.

    Args:
        adata: Cells of one or more slices.
        use_rep: Key in ``obsm`` of the embedding, ``[n, D]``.
        color: As in :func:`spatial`.
        size: Marker diameter in points; None fits it to the number of cells.
        palette: As in :func:`spatial`.
        title: Heading; None takes ``color``.
        seed: Random seed of UMAP and of the order in which cells are drawn.
        save: As in :func:`spatial`.

    Returns:
        The Axes.

    Raises:
        KeyError: A key or ``color`` is not in ``adata``, or ``palette`` lacks a name.
        ValueError: There are fewer than 3 cells, the embedding is not finite, ``palette`` is
            invalid, or the extension of ``save`` is unknown.
        FileNotFoundError: The folder of ``save`` does not exist.

    Examples:
        >>> from stofm_geo import datasets, from_anndata, pl
        >>> adata = datasets.toy_tissue(200, 30, seed=0)
        >>> adata.obsm["X_pca"] = from_anndata(adata).x.numpy()
        >>> ax = pl.embedding(adata, "X_pca", color="region")
        >>> ax.get_title(), len(ax.get_legend().get_texts())
        ('region', 6)
    """
    path = None if save is None else check_picture(save)
    vectors = check_obsm(adata, use_rep, "run SToFM.embed first, or name another key with use_rep")
    full = vectors.any(axis=1)  # cells without counts have embedding 0
    vectors = vectors[full]
    if len(vectors) < 3:
        raise ValueError(
            f"{len(vectors)} cells are too few to draw embeddings; at least 3 are needed"
        )
    paint = paint_by(adata, color, palette)
    rgba = paint.rgba[full]
    plane, labels = _project(vectors, seed)
    ax = plain_axes(5.2, 5.2)[0]
    if size is None:
        size = float(np.clip(250 / np.sqrt(len(plane)), 1.2, 7))
    order = np.random.default_rng(seed).permutation(len(plane))
    ax.scatter(
        *plane[order].T,
        s=size**2,
        c=rgba[order],
        linewidths=0,
        rasterized=len(plane) > 2000,  # as vectors, the PDF would be too large
    )
    ax.set_aspect("equal")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_xlabel(labels[0], size=9)
    ax.set_ylabel(labels[1], size=9)
    ax.set_title((color or "") if title is None else title, size=11)
    if paint.legend:
        style = {**legend_style(paint), "title": None}
        ax.legend(**style, loc="upper left", bbox_to_anchor=(1.03, 1))
    elif paint.bar is not None:
        bar = ax.figure.colorbar(paint.bar, ax=ax, extend=paint.extend, shrink=0.6)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=8, length=2)
    write(ax, path)
    return ax


def _project(vectors: np.ndarray, seed: int) -> tuple[np.ndarray, list[str]]:
    """Return coordinates ``[n, 2]`` and the axis labels."""
    try:
        import umap
    except ImportError:
        return _components(vectors)
    neighbours = min(15, len(vectors) - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a seed limits UMAP to one thread
        plane = umap.UMAP(n_neighbors=neighbours, random_state=seed).fit_transform(vectors)
    return plane, ["UMAP 1", "UMAP 2"]


def _components(vectors: np.ndarray) -> tuple[np.ndarray, list[str]]:
    count = min(2, vectors.shape[1])
    pca = PCA(count, random_state=0)
    plane = pca.fit_transform(vectors)
    plane = np.pad(plane, [(0, 0), (0, 2 - count)])
    share = np.pad(pca.explained_variance_ratio_, (0, 2 - count))
    names = ["first", "second"]
    return plane, [
        f"{n} principal component ({s:.0%} of the variance)"
        for n, s in zip(names, share, strict=True)
    ]
