"""Hooks of mkdocs: pictures of results, formulas as MathML, links of tutorials, public names."""

from __future__ import annotations

import html
import logging
import posixpath
import re
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)
_LINK = re.compile(r'href="(?P<path>[^":#?]+\.(?:md|py))(?P<anchor>#[^"]*)?"')
_log = logging.getLogger("mkdocs.hooks")
ROOT = Path(__file__).parents[1]


def on_files(files: Files, config: Any) -> Files:
    """Add ``benchmarks/results/**/*.png`` as ``results/...``."""
    results = ROOT / "benchmarks" / "results"
    for picture in sorted(results.rglob("*.png")):
        name = f"results/{picture.relative_to(results).as_posix()}"
        files.append(File.generated(config, name, abs_src_path=str(picture)))
    return files


def on_page_content(content: str, *, page: Page, files: Files, **kwargs: Any) -> str:
    """Convert formulas to MathML, which browsers show without a script, and mend links."""
    if page.file.src_uri.endswith(".py"):  # notebooks, whose links mkdocs does not see
        content = _LINK.sub(lambda found: _link(found, page, files), content)
    return _FORMULA.sub(_mathml, content)


def _link(found: re.Match[str], page: Page, files: Files) -> str:
    """Return a link to the page of a source file; a file that is missing is warned of."""
    folder = posixpath.dirname(page.file.src_uri)
    file = files.get_file_from_path(posixpath.normpath(posixpath.join(folder, found["path"])))
    if file is None:
        _log.warning("%s links to %s, which is not there", page.file.src_uri, found["path"])
        return found[0]
    return f'href="{file.url_relative_to(page.file)}{found["anchor"] or ""}"'


def _mathml(found: re.Match[str]) -> str:
    display = "block" if found["tag"] == "div" else "inline"
    return convert(html.unescape(found["latex"]).strip(), display=display)


def on_post_build(config: Any) -> None:
    """Warn of public names that the API reference lacks; of constants, it needs the name alone."""
    for page in sorted((Path(config["docs_dir"]) / "api").glob("*.md")):
        package = import_module(page.read_text().splitlines()[0].removeprefix("# "))
        built = Path(config["site_dir"], "api", page.stem, "index.html").read_text()
        for name in package.__all__:
            value = getattr(package, name)
            text = rf'(id="|href="[^"]*#){package.__name__}[\w.]*\.{name}"'
            if not callable(value):
                text = f"<code>{name}</code>"
            if not isinstance(value, ModuleType | str) and not re.search(text, built):
                _log.warning("api/%s lacks %s", page.name, name)
