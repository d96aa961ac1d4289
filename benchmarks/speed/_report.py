"""One report of all measurements of a folder: Markdown, and a picture beside it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from benchmarks.speed._aims import aims
from benchmarks.speed._measurements import NAMES, module
from benchmarks.speed._picture import draw
from benchmarks.speed._runner import measured, state
from benchmarks.speed._section import Section, Table
from stofm_geo.benchmark.reporting import replace_section

_AIMS = (
    "What was asked for, what was measured before (*: on a processor with AVX-512, where ratios to "
    "the published code are larger), and what the records have. Higher is better, but for "
    "seconds, shares, and times of a plain layer."
)


def report(folder: Path, file: Path, readme: Path | None = None) -> None:
    """Write ``file`` and, with its ending in place of ``.md``, a ``.png``.

    Args:
        folder: With ``NAME.json`` of measurements, made or not.
        file: Ends in ``.md``.
        readme: File in which what is between ``<!-- speed -->`` and ``<!-- /speed -->`` becomes a
            line a measurement, and the picture.

    Raises:
        FileNotFoundError: ``folder`` has no measurement.
        ValueError: ``file`` ends otherwise; a result cannot be read; ``readme`` lacks the marks.
    """
    if file.suffix != ".md":
        raise ValueError(f"{file}: a report is Markdown; let its name end in .md")
    files = {name: folder / f"{name}.json" for name in NAMES}
    found = {name: json.loads(path.read_text()) for name, path in files.items() if path.exists()}
    if not found:
        raise FileNotFoundError(
            f"{folder}: has none of {', '.join(p.name for p in files.values())}"
        )
    sections = {name: _section(name, result) for name, result in found.items() if measured(result)}
    panels = [panel for section in sections.values() for panel in section.panels]
    picture = file.with_suffix(".png")
    summary = _summary(found)
    lines = ["# Speed", "", *_table(summary), ""]
    if panels:
        draw(panels, picture)
        lines += [f"![Times over sizes]({picture.name})", ""]
    stand = aims({name: result for name, result in found.items() if not result["quick"]})
    if stand.rows:
        lines += ["## Aims", "", _AIMS, "", *_table(stand), ""]
    for name, section in sections.items():
        lines += [f"## {name}", "", _about(name), "", *_machine(found[name])]
        for part, reason in found[name].get("without", {}).items():
            lines += [f"Left out: {part}: {' '.join(reason.split())}", ""]
        for table in section.tables:
            lines += [f"### {table.title}", "", *_table(table), ""]
    file.write_text("\n".join(lines), encoding="utf-8")
    if readme is not None:
        lines = _table(_headlines(sections, summary))
        if panels:
            path = Path(os.path.relpath(picture, readme.parent)).as_posix()
            lines += ["", f"![Times over sizes]({path})"]
        replace_section(readme, "speed", "\n".join(lines))


def _section(name: str, result: dict[str, Any]) -> Section:
    try:
        return module(name).report(result)
    except KeyError as error:
        raise ValueError(f"{name}.json lacks {error}; measure it again") from error


def _machine(result: dict[str, Any]) -> list[str]:
    """The machine, and what it did meanwhile; nothing of records that do not say."""
    if "machine" not in result:
        return []
    machine, cases = result["machine"], result["cases"]
    caches = ", ".join(f"{kind} {size}" for kind, size in machine["caches"].items())
    speeds = [speed for case in cases for speed in case["gflops"]]
    disturbed = [case["case"] for case in cases if case["disturbed"]]
    lines = [
        f"{machine['processor']}, {machine['processors']} processors, {machine['capability']}, "
        f"{caches}; {machine['threads']} threads, BLAS: {machine['blas']}. A product of matrices "
        f"between the cases: {min(speeds):.0f} to {max(speeds):.0f} GFLOP/s.",
        "",
    ]
    if disturbed:
        lines += [f"Disturbed by other work, in each of several tries: {'; '.join(disturbed)}.", ""]
    return lines


def _about(name: str) -> str:
    """The first line of the measurement's own words."""
    return (module(name).__doc__ or "").splitlines()[0]


def _summary(found: dict[str, dict[str, Any]]) -> Table:
    rows = []
    for name, result in found.items():
        made = result["environment"]
        # Rows may be of another commit than the last one that was added.
        own = result.get("settings", {}), *result.get("rows", [])
        commit, threads = _each("commit", made, *own), _each("threads", *own)
        versions = f"{made['python']}, {made['versions']['torch']}"
        rows.append((name, state(result), made["date"], made["machine"], threads, versions, commit))
    columns = ("measurement", "state", "date", "machine", "threads", "Python, PyTorch", "commit")
    return Table("All measurements", columns, rows)


def _headlines(sections: dict[str, Section], summary: Table) -> Table:
    """A line or some of each measurement, with when and of what it was made."""
    made = {row[0]: (row[2], row[-1]) for row in summary.rows}
    rows = [
        (*line, *made[name]) for name, section in sections.items() for line in section.headlines
    ]
    where = "; ".join(dict.fromkeys(f"{row[3]}; Python, PyTorch {row[5]}" for row in summary.rows))
    return Table("", (where, "ours", "others, times as long", "date", "commit"), rows)


def _each(key: str, *places: dict[str, Any]) -> str:
    """The distinct values that there are."""
    return ", ".join(dict.fromkeys(str(place[key]) for place in places if key in place))


def _table(table: Table) -> list[str]:
    """Markdown; a bar or a new line inside of a cell would break it."""
    rows = [table.columns, ("---",) * len(table.columns), *table.rows]
    return [f"| {' | '.join(' '.join(c.split()).replace('|', '/') for c in row)} |" for row in rows]
