"""AnnData keys and node types that the library reads or writes."""

from __future__ import annotations


class Keys:
    """AnnData keys."""

    SPATIAL = "spatial"  # obsm, read: coordinates [n, 2]
    SLICES = ("slice_id", "library_id")  # obs, usual names of the slice column
    TECHNOLOGY = "technology"  # uns, read if present: MERFISH, Visium, ...
    UNIT = "spatial_unit"  # uns, read if present: nm, um or mm, for a scale bar
    POSITIONS = "stofm_positions"  # uns, written: elements of SpatialData that positions are of
    EMBEDDING = "X_stofm"  # obsm, written: [n, 256] float32
    INTEGRATED = "X_stofm_integrated"  # obsm and uns, written: the same, slices integrated
    DOMAIN = "stofm_domain"  # obs, written: categorical
    LABEL = "stofm_label"  # obs, written: categorical
    UNASSIGNED = "unassigned"  # value of that column if no label is probable enough
    PROPORTIONS = "stofm_proportions"  # obsm and uns, written: cell-type proportions
    IMPUTED = "stofm_imputed"  # obsm and uns, written: genes missing from the panel
    DENOISED = "stofm_denoised"  # layers (or obsm) and uns, written: expected counts
    UNS = "stofm"  # uns, written: settings of embedding and domains


class NodeType:
    """Codes of ``Data.node_type``; the token types of the published model."""

    CELL = 0
    CLS = 1
    MACRO = 2
