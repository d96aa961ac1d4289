"""Domains of files: found jointly, scored and drawn."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

from stofm_geo._keys import Keys
from stofm_geo.cli.output import echo, record

if TYPE_CHECKING:
    from anndata import AnnData

    from stofm_geo.tasks.integration import Method


def write_domains(
    adatas: list[AnnData],
    n_domains: int | None,
    *,
    integrate: str = "auto",
    reference: list[AnnData] | None = None,
    use_rep: str = Keys.EMBEDDING,
    spatial_key: str = Keys.SPATIAL,
    slice_key: str | None = None,
    key_added: str = Keys.DOMAIN,
    refine: bool = True,
    seed: int = 0,
) -> None:
    """Find domains of all files jointly, and say how many; see :func:`stofm_geo.tl.domains`."""
    from stofm_geo import tl
    from stofm_geo.tasks.integration import describe

    start = time.perf_counter()
    tl.domains(
        adatas,
        n_domains,
        integrate=cast("Method", integrate),
        reference=reference or None,
        use_rep=use_rep,
        spatial_key=spatial_key,
        slice_key=slice_key,
        key_added=key_added,
        refine=refine,
        seed=seed,
    )
    found = {name for adata in adatas for name in adata.obs[key_added].dropna()}
    of = f" of the {len(adatas[0].obs[key_added].cat.categories)} known" if reference else ""
    jointly = describe(adatas[0].uns[f"{key_added}_slices"])
    seconds = time.perf_counter() - start
    record(domains=len(found), seconds={"domains": round(seconds, 1)})
    echo(f"Found {len(found)} domains{of}{jointly} in {seconds:.0f} s")


def report(
    adatas: list[AnnData],
    names: list[str],
    *,
    slice_key: str | None = None,
    spatial_key: str = Keys.SPATIAL,
    label_key: str | None = None,
    plot: Path | None = None,
    domains_key: str = Keys.DOMAIN,
) -> None:
    """Print scores, write pictures."""
    if label_key is None and plot is None:
        return  # and leave out the imports
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    from stofm_geo import pl
    from stofm_geo._names import read_names
    from stofm_geo.pl.domains import share_colors

    if label_key is not None and plot is not None:
        share_colors(adatas, domains_key, label_key)  # one map for all pictures
    for adata, name in zip(adatas, names, strict=True):
        if label_key is not None:
            labels = read_names(adata.obs[label_key], f"{name}: obs[{label_key!r}]")
            known = labels.astype(bool)
            pair = labels[known].astype(str), adata.obs[domains_key][known]
            ari, nmi = adjusted_rand_score(*pair), normalized_mutual_info_score(*pair)
            record(files={name: {"ari": ari, "nmi": nmi, "labelled_cells": int(known.sum())}})
            echo(
                f"{name}: ARI {ari:.3f}, NMI {nmi:.3f} against {label_key!r} of "
                f"{int(known.sum())} cells"
            )
        if plot is not None:
            picture = plot
            if len(adatas) > 1:
                picture = plot.with_name(f"{plot.stem}-{Path(name).stem}{plot.suffix}")
            pl.domains(
                adata,
                domains_key,
                label_key=label_key,
                spatial_key=spatial_key,
                slice_key=slice_key,
                save=picture,
            )
            record(files={name: {"picture": str(picture)}})
            echo(f"Wrote {picture}")
