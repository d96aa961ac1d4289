"""The command: many trials, gone on with where it was stopped."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.quality import fuzz
from benchmarks.quality.fuzz.trials import CLASSES, FAULTS, trials
from stofm_geo.benchmark.records import append, environment, write_result


def table(rows: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Counts by input and class, and how many of those that were read came with a warning."""
    counts: dict[str, Counter] = {}
    for row in rows:
        of = counts.setdefault(row["input"], Counter())
        of[row["found"]] += 1
        of["warned"] += row["warned"] and row["found"] in ("harmless", "other input")
    found = {name: {kind: of[kind] for kind in (*CLASSES, "warned")} for name, of in counts.items()}
    total = sum(counts.values(), Counter())
    return {**found, "all": {kind: total[kind] for kind in (*CLASSES, "warned")}}


def _known(file: Path, seed: int) -> list[dict[str, Any]]:
    """Trials of this seed and this commit that are done already."""
    lines = file.read_text().splitlines() if file.is_file() else []
    rows = [json.loads(line) for line in lines if line.endswith("}")]
    same = {"seed": seed, "commit": environment()["commit"]}
    return [row for row in rows if same.items() <= row.items()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=fuzz.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="INPUT or INPUT:NUMBER, to look at; nothing is written")
    parser.add_argument("-o", "--output", type=Path, help="beside it, .jsonl has all trials so far")
    options = parser.parse_args()
    log = options.output.with_suffix(".jsonl") if options.output and not options.only else None
    rows = _known(log, options.seed) if log else []
    done = {(row["input"], row["number"]) for row in rows}
    name, _, number = (options.only or "").partition(":")
    with trials(options.seed) as of:
        kinds = list(of.inputs)
        plan = [(kinds[i % len(kinds)], i // len(kinds)) for i in range(options.trials)]
        if options.only:
            plan = [(name, int(number))] if number else [one for one in plan if one[0] == name]
        for one in plan:
            if one in done:
                continue
            outcome = asdict(of.run(*one))
            row = {"input": one[0], "number": one[1], **outcome, "seed": options.seed}
            row["commit"] = environment()["commit"]
            rows.append(row)
            if log is not None:
                append(row, log)
            if options.only or outcome["found"] in FAULTS:
                print(f"{one[0]}:{one[1]}", *outcome.values(), flush=True)
    counts = table(rows)
    for name, of_kind in counts.items():
        print(f"{name:<18}" + "  ".join(f"{kind} {count}" for kind, count in of_kind.items()))
    bad = [row for row in rows if row["found"] in FAULTS]
    if log is not None:
        result = {"trials": len(rows), "seed": options.seed, "counts": counts, "bad": bad}
        write_result({"environment": environment(), **result}, options.output)
    if bad:
        raise SystemExit(f"{len(bad)} of {len(rows)} trials came to what must not be")


if __name__ == "__main__":
    main()
