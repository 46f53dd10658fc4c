#!/usr/bin/env python3
"""Checks the selection of a finished `colophon export` against a slow, plain reading of its specification.

    check_selection.py INPUT EXPORT_DIR
    check_selection.py --self-test

What was asked for is taken from the manifest's configuration; what should have come of it is worked out from
INPUT, document by document: filters, exact duplicates, the sample or the balance, the split, the repeats. With
`--split-method hash` every line of every split is foretold, in order; with `exact`, which documents there are,
and how many in which split. It covers the default schema and the field `domain` for shares and strata. Without
repeats `exact` may be combined with anything. Exit status: 0 agrees, 1 differs, 2 usage.
"""

import argparse
import json
import struct
import sys
from collections import Counter, defaultdict
from decimal import Decimal, getcontext
from fractions import Fraction
from pathlib import Path

import xxhash

import check_export as base

MASK = 0xFFFFFFFF
getcontext().prec = 60


# ---- random numbers: ChaCha8, by its definition ----------------------------------------------------------

def chacha8(key, stream):
    """The first 64 bits of block 0: `key` is 32 bytes, `stream` the 64-bit nonce."""
    start = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574, *struct.unpack("<8I", key), 0, 0,
             stream & MASK, stream >> 32]
    state = list(start)

    def quarter(a, b, c, d):
        for one, other, to, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            state[one] = (state[one] + state[other]) & MASK
            mixed = state[to] ^ state[one]
            state[to] = (mixed << turn | mixed >> (32 - turn)) & MASK

    for _ in range(4):
        for column in range(4):
            quarter(column, column + 4, column + 8, column + 12)
        for column in range(4):
            quarter(column, 4 + (column + 1) % 4, 8 + (column + 2) % 4, 12 + (column + 3) % 4)
    low, high = ((state[i] + start[i]) & MASK for i in (0, 1))
    return high << 32 | low


# ---- the steps -------------------------------------------------------------------------------------------

class Asked:
    """What the manifest says was asked for."""

    def __init__(self, configuration):
        self.all = configuration
        self.seed = configuration["seed"]
        self.names = configuration["split_names"]
        self.ratios = [Fraction(ratio) for ratio in configuration["split_ratio"]]
        self.exact = configuration["split_method"] == "exact"
        self.repeats = configuration["repeat_up_to"] or 1
        assert not configuration["filters"], "[[filter]] is not covered"

    def hash(self, text):
        return xxhash.xxh3_64_intdigest(text.encode("utf-8"), seed=self.seed)

    def chance(self, text):
        return chacha8(self.seed.to_bytes(8, "little") + bytes(24), self.hash(text))

    def split_by_hash(self, document):
        field = self.all["split_key"]
        key = base.parse(document.fields[field].decode()) if field in document.fields else None
        text = document.text if key is None else key.content
        cumulative = Fraction(0)
        for split, ratio in enumerate(self.ratios):
            cumulative += ratio
            if self.hash(text) < cumulative * 2**64:
                return split
        raise AssertionError("the ratios add up to 1")


def passes(document, asked):
    words, chars = base.count_words(document.text), len(document.text)
    for found, least, most in ((words, "min_words", "max_words"), (chars, "min_chars", "max_chars")):
        if asked[least] is not None and found < asked[least] or asked[most] is not None and found > asked[most]:
            return False
    if asked["min_quality"] is not None and "quality_prob" in document.fields:
        if document.quality < asked["min_quality"]:
            return False
    excluded = asked["exclude_domains"] or []
    if "domain" not in document.fields:
        return "unknown" not in excluded
    return document.domain not in excluded and (asked["domains"] is None or document.domain in asked["domains"])


def largest_remainder(total, weights):
    whole = sum(weights)
    if not whole:
        return [0] * len(weights)
    quotas = [total * weight / whole for weight in weights]
    shares = [int(quota) for quota in quotas]
    order = sorted(range(len(weights)), key=lambda i: (shares[i] - quotas[i], i))
    for i in order[:total - sum(shares)]:
        shares[i] += 1
    return shares


def weights_of(mode, values):
    """The weight of each value (name, documents)."""
    kind, _, rest = mode.partition("=")
    if kind == "equal":
        return [Fraction(1)] * len(values)
    if kind == "temperature":
        return [Fraction(Decimal(n) ** (1 / Decimal(rest))) for _, n in values]
    given = dict((name, Fraction(number)) for name, _, number in (part.rpartition(":") for part in rest.split(",")))
    return [given[name] if name in given else given["*"] for name, _ in values]


class Selected:
    """Documents that are exported: (index, document); and how many further copies each has."""

    def __init__(self, documents, asked):
        self.asked = asked
        self.ledger = Counter()
        kept = [(i, d) for i, d in enumerate(documents) if passes(d, asked.all)]
        self.ledger["filtered"] = len(documents) - len(kept)
        if asked.all["dedup"]:
            first = {}
            for i, document in kept:
                first.setdefault(document.text, i)
            unique = [(i, d) for i, d in kept if first[d.text] == i]
            self.ledger["duplicates"] = len(kept) - len(unique)
            kept = unique
        self.repeats = Counter()
        self.documents = sorted(self.take(kept), key=lambda item: item[0])
        self.ledger["sampled_out"] = len(kept) - len(self.documents)
        self.ledger["exported"] = len(self.documents)
        self.ledger["repeats"] = sum(self.repeats.values())

    def rank(self, item):
        return self.asked.chance(item[1].text), self.asked.hash(item[1].text), item[0]

    def take(self, kept):
        asked = self.asked.all
        if asked["balance_by"]:
            return self.balance(kept)
        if asked["sample"]:
            return [item for item in kept if self.asked.chance(item[1].text) < Fraction(asked["sample"]) * 2**64]
        if asked["max_documents"] and asked["max_documents"] < len(kept):
            return sorted(kept, key=self.rank)[:asked["max_documents"]]
        return kept

    def balance(self, kept):
        asked = self.asked
        groups = defaultdict(list)
        for item in sorted(kept, key=self.rank):
            groups[item[1].domain].append(item)
        values = [(name, len(groups[name])) for name in sorted(groups, key=lambda name: name.encode())]
        weights = weights_of(asked.all["balance"], values)
        is_train = lambda item: asked.names[asked.split_by_hash(item[1])] == "train"
        capacities = [n + (asked.repeats - 1) * (sum(map(is_train, groups[name])) if asked.repeats > 1 else 0)
                      for name, n in values]
        whole = sum(weights)
        total = min((int(n * whole / w) for n, w in zip(capacities, weights) if w), default=0)
        total = min(total, asked.all["max_documents"] or total)
        taken = []
        for (name, n), target in zip(values, largest_remainder(total, weights)):
            chosen = groups[name][:target]
            taken += chosen
            train = [item for item in chosen if is_train(item)]
            missing = target - len(chosen)
            for place, item in enumerate(train if missing else []):
                self.repeats[item[0]] = missing // len(train) + (place < missing % len(train))
        return taken


# ---- comparing -------------------------------------------------------------------------------------------

def check(report, documents, export, asked, constants):
    selected = Selected(documents, asked)
    stats = json.loads((export / "dataset_stats.json").read_bytes())
    for key, wanted in selected.ledger.items():
        report.same(f"ledger.{key}", wanted, stats["ledger"][key])
    line = lambda item: base.output_line(item[1], constants)
    found = {name: (export / f"{name}.jsonl").read_bytes().splitlines(True) for name in asked.names}
    if not asked.exact:
        for split, name in enumerate(asked.names):
            items = [item for item in selected.documents if asked.split_by_hash(item[1]) == split]
            wanted = [line(item) + b"\n" for item in items for _ in range(1 + selected.repeats[item[0]])]
            if wanted != found[name]:
                report.add(f"{name}.jsonl", f"{len(found[name])} lines, expected {len(wanted)}, or others than those")
    else:
        check_exact(report, [(line(item) + b"\n", item[1]) for item in selected.documents], found, asked)
    texts = defaultdict(set)
    for name, lines in found.items():
        for one in lines:
            texts[json.loads(one)["text"]].add(name)
    leaks = sum(len(names) > 1 for names in texts.values())
    report.same("leakage", leaks, stats["leakage"])
    if leaks and asked.all["split_key"] is None:
        report.add("splits", f"{leaks} texts stand in more than one")


def check_exact(report, wanted, found, asked):
    """Which documents there are, and how many in which split."""
    if sorted(line for line, _ in wanted) != sorted(line for lines in found.values() for line in lines):
        report.add("splits", "other documents than were to be selected")
        return
    if asked.all["split_key"] is not None:
        return  # how groups of all sizes are packed is for the program to say
    stratified = asked.all["stratify_by"] is not None
    document_of = dict(wanted)
    for stratum in {d.domain for _, d in wanted} if stratified else {None}:
        of_stratum = [d for _, d in wanted if not stratified or d.domain == stratum]
        due = largest_remainder(len(of_stratum), asked.ratios)
        counts = [sum(not stratified or document_of[line].domain == stratum for line in found[name])
                  for name in asked.names]
        report.same(f"documents by split of {stratum!r}", due, counts)
    texts = Counter(d.text for _, d in wanted)
    if not stratified and len(texts) == len(wanted):
        ranked = sorted((asked.hash(document_of[line].text), split)
                        for split, name in enumerate(asked.names) for line in found[name])
        if [split for _, split in ranked] != sorted(split for _, split in ranked):
            report.add("splits", "do not follow the ranks of the hashes")


def self_test():
    # Block 0 of the ChaCha8 key stream for a key and nonce of zeros (draft-strombergson-chacha-test-vectors, TC1).
    assert chacha8(bytes(32), 0).to_bytes(8, "little") == bytes.fromhex("3e00ef2f895f40d6")
    assert largest_remainder(33, [Fraction(95), Fraction(3), Fraction(2)]) == [31, 1, 1]
    assert weights_of("weights=a:b:2,*:0.5", [("a:b", 1), ("c", 1)]) == [2, Fraction(1, 2)]
    assert abs(weights_of("temperature=2", [("a", 100)])[0] - 10) < Fraction(1, 10**40)


def main():
    parser = argparse.ArgumentParser(description="Checks a selection against a plain reading of the specification.")
    parser.add_argument("input", type=Path, nargs="?")
    parser.add_argument("export", type=Path, nargs="?")
    parser.add_argument("--self-test", action="store_true")
    args = parser.parse_args()
    if args.self_test:
        self_test()
        return 0
    if args.input is None or args.export is None:
        parser.error("INPUT and EXPORT_DIR are needed")
    asked = Asked(json.loads((args.export / "manifest.json").read_bytes())["configuration"])
    lines = (line for _, path in base.find_shards(args.input) for _, line in base.split_lines(base.read_unpacked(path)))
    documents = [verdict for verdict in map(base.judge, lines) if isinstance(verdict, base.Document)]
    report = base.Report()
    check(report, documents, args.export, asked, base.find_constants(args.export, asked.names))
    print(f"{report.count:,} differences ({len(documents):,} documents)")
    return 1 if report.count else 0


if __name__ == "__main__":
    sys.exit(main())
