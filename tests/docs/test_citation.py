"""The citation names the version of the package."""

from __future__ import annotations

from pathlib import Path

import stofm_geo

CITATION = Path(__file__).parents[2] / "CITATION.cff"


def test_its_version_is_that_of_the_package() -> None:
    versions = [x for x in CITATION.read_text().splitlines() if x.startswith("version:")]
    assert versions == [f"version: {stofm_geo.__version__}"]
