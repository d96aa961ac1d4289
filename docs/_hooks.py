"""Hooks of mkdocs: pictures of the committed results become files of the site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]


def on_files(files: Files, config: Any) -> Files:
    """Add ``benchmarks/results/**/*.png`` as ``results/...``."""
    results = ROOT / "benchmarks" / "results"
    for picture in sorted(results.rglob("*.png")):
        name = f"results/{picture.relative_to(results).as_posix()}"
        files.append(File.generated(config, name, abs_src_path=str(picture)))
    return files
