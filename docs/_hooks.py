"""Hooks of mkdocs: pictures of the committed results, and formulas as MathML."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

_FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)
ROOT = Path(__file__).parents[1]


def on_files(files: Files, config: Any) -> Files:
    """Add ``benchmarks/results/**/*.png`` as ``results/...``."""
    results = ROOT / "benchmarks" / "results"
    for picture in sorted(results.rglob("*.png")):
        name = f"results/{picture.relative_to(results).as_posix()}"
        files.append(File.generated(config, name, abs_src_path=str(picture)))
    return files


def on_page_content(content: str, **kwargs: Any) -> str:
    """Convert formulas to MathML, which browsers show without a script."""
    return _FORMULA.sub(_mathml, content)


def _mathml(found: re.Match[str]) -> str:
    display = "block" if found["tag"] == "div" else "inline"
    return convert(html.unescape(found["latex"]).strip(), display=display)
