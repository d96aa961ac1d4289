"""Names that labels of different studies have in common.

Cortical layers: the names of the Allen Brain Atlas (``L1`` ... ``L6``), with layers 2 and 3 as one
and ``WM`` for white matter. Left out are labels of what is not one of these, such as the border
``Layer 3-4`` and the hippocampus.

Cell types: the classes that the studies name. Sources are their publications: osmFISH (Codeluppi et
al. 2018, doi:10.1038/s41592-018-0175-z), STARmap (Wang et al. 2018, doi:10.1126/science.aat5691),
MERFISH (Moffitt et al. 2018, doi:10.1126/science.aau5324: immature oligodendrocytes are precursor
cells and newly formed ones, of which the first kind is taken), DLPFC (Maynard et al. 2021,
doi:10.1038/s41593-020-00787-0). Left out are types that are between two classes (``Oligodendrocyte
COP``), named after a region, or have no counterpart.
"""

from __future__ import annotations

from collections.abc import Mapping

LAYERS: Mapping[str, Mapping[str, str]] = {
    "osmfish": {
        "Pia Layer 1": "L1",
        "Layer 2-3 medial": "L2/3",
        "Layer 2-3 lateral": "L2/3",
        "Layer 4": "L4",
        "Layer 5": "L5",
        "Layer 6": "L6",
        "White matter": "WM",
    },
    "starmap": {"L1": "L1", "L2/3": "L2/3", "L4": "L4", "L5": "L5", "L6": "L6", "CC": "WM"},
    "dlpfc": {
        "L1": "L1",
        "L2": "L2/3",
        "L3": "L2/3",
        "L4": "L4",
        "L5": "L5",
        "L6": "L6",
        "WM": "WM",
    },
}

_OSMFISH_TYPES = {
    "Astrocyte": ("Astrocyte Gfap", "Astrocyte Mfge8"),
    "Endothelial": ("Endothelial", "Endothelial 1"),
    "Ependymal": ("Ependymal",),
    "Excitatory": (
        "Pyramidal Cpne5",
        "Pyramidal Kcnip2",
        "Pyramidal L2-3",
        "Pyramidal L2-3 L5",
        "Pyramidal L3-4",
        "Pyramidal L5",
        "Pyramidal L6",
        "pyramidal L4",
    ),
    "Inhibitory": (
        "Inhibitory CP",
        "Inhibitory Cnr1",
        "Inhibitory Crhbp",
        "Inhibitory IC",
        "Inhibitory Kcnip2",
        "Inhibitory Pthlh",
        "Inhibitory Vip",
    ),
    "Microglia": ("Microglia",),
    "Mural": ("Pericytes", "Vascular Smooth Muscle"),
    "OPC": ("Oligodendrocyte Precursor cells",),
    "Oligodendrocyte": (
        "Oligodendrocyte MF",
        "Oligodendrocyte Mature",
        "Oligodendrocyte NF",
    ),
}
_STARMAP_TYPES = {
    "Astrocyte": ("Astro-1", "Astro-2"),
    "Endothelial": ("Endo",),
    "Excitatory": ("eL2/3", "eL4", "eL5", "eL6-1", "eL6-2"),
    "Inhibitory": ("PVALB", "Reln", "SST", "VIP"),
    "Microglia": ("Micro",),
    "Mural": ("Smc",),
    "Oligodendrocyte": ("Oligo",),
}
_MERFISH_TYPES = {
    "Astrocyte": ("Astrocyte",),
    "Endothelial": ("Endothelial 1", "Endothelial 2", "Endothelial 3"),
    "Ependymal": ("Ependymal",),
    "Excitatory": ("Excitatory",),
    "Inhibitory": ("Inhibitory",),
    "Microglia": ("Microglia",),
    "Mural": ("Pericytes",),
    "OPC": ("OD Immature 1",),
    "Oligodendrocyte": ("OD Mature 1", "OD Mature 2", "OD Mature 3", "OD Mature 4"),
}
CELL_TYPES: Mapping[str, Mapping[str, str]] = {
    study: {label: name for name, labels in table.items() for label in labels}
    for study, table in (
        ("osmfish", _OSMFISH_TYPES),
        ("starmap", _STARMAP_TYPES),
        ("merfish", _MERFISH_TYPES),
    )
}
