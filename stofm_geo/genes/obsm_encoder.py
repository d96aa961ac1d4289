"""Existing vectors of cells as features."""

from __future__ import annotations

from typing import Any

import numpy as np
from anndata import AnnData

from stofm_geo._anndata_checks import check_obsm
from stofm_geo._validation import check_key, check_positive


class ObsmFeatures:
    """Existing vectors (scVI, PCA, a foundation model), divided by their root mean square.

    Args:
        key: Key in ``obsm`` of the vectors, ``[n, out_channels]``.

    Examples:
        >>> import numpy as np
        >>> from stofm_geo import datasets
        >>> from stofm_geo.genes import ObsmFeatures
        >>> adata = datasets.toy_tissue(200, 30, seed=0)
        >>> adata.obsm["X_own"] = np.full((200, 4), 2.0)
        >>> vectors = ObsmFeatures("X_own").fit([adata]).transform(adata)
        >>> vectors.shape, vectors.max().item()
        ((200, 4), 1.0)
    """

    genes = module = None

    def __init__(self, key: str) -> None:
        self.key = key

    def fit(self, slices: list[AnnData]) -> ObsmFeatures:
        """Fit the size and the scale of the vectors.

        Raises:
            KeyError: A slice has no ``obsm[key]``.
            ValueError: Values are not finite, or the slices' vectors differ in size.
        """
        vectors = [check_obsm(adata, self.key) for adata in slices]
        sizes = sorted({v.shape[1] for v in vectors})
        if len(sizes) > 1:
            raise ValueError(f"obsm['{self.key}'] has {sizes} columns in different slices")
        self.out_channels = sizes[0]
        mean_square = sum((v**2).sum() for v in vectors) / sum(v.size for v in vectors)
        self.scale = float(np.sqrt(mean_square)) or 1.0
        return self

    def transform(self, adata: AnnData) -> np.ndarray:
        """Return the vectors ``[n, out_channels]`` float32.

        Raises:
            KeyError: ``adata`` has no ``obsm[key]``.
            ValueError: Values are not finite, or the vectors have another size.
        """
        vectors = check_obsm(adata, self.key)
        if vectors.shape[1] != self.out_channels:
            raise ValueError(
                f"obsm['{self.key}'] has {vectors.shape[1]} columns; the model was trained "
                f"for {self.out_channels}"
            )
        return np.ascontiguousarray(vectors / self.scale, dtype=np.float32)

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """See :class:`CellFeatures`."""
        settings = {
            "kind": "obsm",
            "key": self.key,
            "out_channels": self.out_channels,
            "scale": self.scale,
        }
        return settings, {}

    @classmethod
    def from_state(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> ObsmFeatures:
        """See :class:`CellFeatures`."""
        check_key("key", settings["key"])
        check_positive("out_channels", settings["out_channels"], whole=True)
        check_positive("scale", settings["scale"])
        encoder = cls(settings["key"])
        encoder.out_channels, encoder.scale = settings["out_channels"], settings["scale"]
        return encoder

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.key!r})"
