#!/usr/bin/env python3
"""Compares colophon's own reports on an export with those of the workshop's Python.

    compare_seed.py COLOPHON EXPORT_DIR

`colophon validate` must print what step 5 prints, to the character, and every key that step 6 computes must
have the same value in `dataset_stats.json`, as the export wrote it and as `colophon stats` counts it afresh.
Exit status: 1 on any difference.
"""

import json
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent


def output_of(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout


def differences(expected, found, path="$"):
    """Yields what `expected` has that `found` has not, key by key."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key, value in expected.items():
            yield from differences(value, found.get(key), f"{path}.{key}")
    elif expected != found:
        yield f"{path}: {expected!r} by the workshop's Python, {found!r} by colophon"


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    colophon, export = sys.argv[1:]
    seed = [sys.executable, str(HERE / "seed_steps.py"), export, "--step"]
    found = []
    if output_of(*seed, "5") != output_of(colophon, "--quiet", "validate", export):
        found.append("colophon validate prints something else than step 5")
    counted = json.loads(output_of(*seed, "6"))
    # The workshop leaves this key empty; colophon fills it.
    counted.pop("text_length_stats")
    stats = pathlib.Path(export, "dataset_stats.json")
    written = stats.read_bytes()
    found += differences(counted, json.loads(written))
    afresh = output_of(colophon, "--quiet", "stats", export)
    found += differences(counted, json.loads(afresh))
    if stats.read_bytes() != written:
        found.append("colophon stats changes the statistics of a finished export")
    print(*found, f"{len(found)} differences from the workshop's steps 5 and 6", sep="\n")
    sys.exit(bool(found))


main()
