#!/usr/bin/env python3
"""Checks a finished `colophon export` against a slow, plain reading of its specification.

    check_export.py INPUT EXPORT_DIR [--seed 42] [--split-ratio 0.95,0.03,0.02]
                    [--split-names train,validation,test]
    check_export.py --self-test

It covers the default schema and `--split-method hash`, without selection: it reads every line of INPUT,
decides whether the line is blank, rejected or a document, builds the bytes that the export must have
written for it, and compares these with the split files, the quarantine and `dataset_stats.json`.
Needs `xxhash`, and `zstandard` where the input has .zst shards. Exit status: 0 agrees, 1 differs, 2 usage.
"""

import argparse
import gzip
import json
import math
import os
import random
import re
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import xxhash

try:
    import zstandard
except ImportError:
    zstandard = None

MAX_DEPTH = 1024  # the top-level object is level 1
MAX_LINE = 1 << 30
BOM = b"\xef\xbb\xbf"
SUFFIXES = tuple(base + packed for base in (".jsonl", ".ndjson") for packed in ("", ".gz", ".zst"))

# White space, as the specification lists it.
WHITE = frozenset(map(chr, [
    *range(0x09, 0x0E), *range(0x1C, 0x21), 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B),
    0x2028, 0x2029, 0x202F, 0x205F, 0x3000]))
WORD = re.compile("[^" + "".join(map(re.escape, sorted(WHITE))) + "]+")

# source key, path in the export, type, required
SCHEMA = [
    ("text", "text", "string", True),
    ("title", "metadata.title", "string", False),
    ("url", "metadata.source_url", "string", False),
    ("domain", "metadata.domain", "string", False),
    ("quality_prob", "metadata.quality_score", "number", False),
    ("word_count", "metadata.word_count", "number", False),
]
CONSTANTS = ["metadata.source", "metadata.curation_pipeline", "metadata.curation_date"]
REASONS = ["null_byte", "invalid_utf8", "invalid_json", "not_object", "missing_field", "wrong_type",
           "lone_surrogate", "empty_text", "too_long"]

sys.setrecursionlimit(10 * MAX_DEPTH)
sys.set_int_max_str_digits(0)


# ---- JSON: RFC 8259, strictly, keeping where each value stands -----------------------------------------

class Malformed(Exception):
    pass


class TooDeep(Malformed):
    pass


class Value(NamedTuple):
    kind: str  # object, array, string, number, true, false, null
    start: int
    end: int  # the value's source is source[start:end]
    content: object  # dict of Values, list of Values, decoded string, or the number's source

    @property
    def span(self):
        return slice(self.start, self.end)


BLANKS = re.compile(r"[ \t\n\r]*")
PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
HEX4 = re.compile(r"[0-9a-fA-F]{4}")
LITERALS = ("true", "false", "null")
ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def parse(source):
    value = parse_value(source, skip(source, 0), 0)
    if skip(source, value.end) != len(source):
        raise Malformed("something follows the value")
    return value


def skip(source, at):
    return BLANKS.match(source, at).end()


def parse_value(source, at, depth):
    first = source[at:at + 1]
    if first == '"':
        text, end = parse_string(source, at)
        return Value("string", at, end, text)
    if first == "{":
        return parse_object(source, at, depth + 1)
    if first == "[":
        return parse_array(source, at, depth + 1)
    for literal in LITERALS:
        if source.startswith(literal, at):
            return Value(literal, at, at + len(literal), None)
    number = NUMBER.match(source, at)
    if number is None:
        raise Malformed("no value")
    return Value("number", at, number.end(), number[0])


def parse_object(source, start, depth):
    if depth > MAX_DEPTH:
        raise TooDeep
    members = {}
    at = skip(source, start + 1)
    if source[at:at + 1] == "}":
        return Value("object", start, at + 1, members)
    while True:
        if source[at:at + 1] != '"':
            raise Malformed("no key")
        key, at = parse_string(source, at)
        at = skip(source, at)
        if source[at:at + 1] != ":":
            raise Malformed("no colon")
        value = parse_value(source, skip(source, at + 1), depth)
        members[key] = value  # of equal keys the last counts
        at = skip(source, value.end)
        if source[at:at + 1] == "}":
            return Value("object", start, at + 1, members)
        if source[at:at + 1] != ",":
            raise Malformed("no comma or brace")
        at = skip(source, at + 1)


def parse_array(source, start, depth):
    if depth > MAX_DEPTH:
        raise TooDeep
    items = []
    at = skip(source, start + 1)
    if source[at:at + 1] == "]":
        return Value("array", start, at + 1, items)
    while True:
        items.append(parse_value(source, skip(source, at), depth))
        at = skip(source, items[-1].end)
        if source[at:at + 1] == "]":
            return Value("array", start, at + 1, items)
        if source[at:at + 1] != ",":
            raise Malformed("no comma or bracket")
        at += 1


def parse_string(source, at):
    """The decoded string and the place after its closing quote. A lone surrogate stays one."""
    pieces = []
    at += 1
    while True:
        plain = PLAIN.match(source, at)
        pieces.append(plain[0])
        at = plain.end()
        if source[at:at + 1] == '"':
            return "".join(pieces), at + 1
        if source[at:at + 1] != "\\":
            raise Malformed("a control character, or the end, in a string")
        letter = source[at + 1:at + 2]
        if letter == "u":
            unit = parse_unit(source, at)
            at += 6
            if 0xD800 <= unit <= 0xDBFF and source.startswith("\\u", at):
                second = parse_unit(source, at)
                if 0xDC00 <= second <= 0xDFFF:
                    unit = 0x10000 + ((unit - 0xD800) << 10) + (second - 0xDC00)
                    at += 6
            pieces.append(chr(unit))
        elif letter in ESCAPES:
            pieces.append(ESCAPES[letter])
            at += 2
        else:
            raise Malformed("no such escape")


def parse_unit(source, at):
    digits = HEX4.match(source, at + 2)
    if digits is None:
        raise Malformed("no four hexadecimal digits")
    return int(digits[0], 16)


def cross_check(source):
    """parse(), but stops the program should Python's own json module read the line in another way."""
    def refuse(name):
        raise ValueError(name)

    try:
        ours = parse(source)
    except TooDeep:  # json has no such limit
        raise
    except Malformed as error:
        ours = error
    try:
        theirs = json.loads(source, parse_constant=refuse,
                            parse_int=lambda s: ("number", s), parse_float=lambda s: ("number", s))
    except ValueError as error:
        assert isinstance(ours, Malformed), f"json refuses {source[:300]!r}: {error}"
        raise ours
    assert isinstance(ours, Value), f"json accepts {source[:300]!r}: {ours}"
    assert plain_tree(ours) == theirs, f"json reads another value in {source[:300]!r}"
    return ours


def plain_tree(value):
    if value.kind == "object":
        return {key: plain_tree(member) for key, member in value.content.items()}
    if value.kind == "array":
        return [plain_tree(item) for item in value.content]
    if value.kind == "number":
        return ("number", value.content)
    return {"true": True, "false": False}.get(value.kind, value.content)


# ---- one line ----------------------------------------------------------------------------------------

class Document(NamedTuple):
    fields: dict  # source key -> the value's bytes as they stand in the input
    text: str
    domain: str
    quality: float


class Rejected(NamedTuple):
    reason: str


def judge(line):
    """None for a blank line, else Rejected or Document. The order is that of the specification's table."""
    if b"\x00" in line:
        return Rejected("null_byte")
    try:
        source = line.decode("utf-8")  # strict: no overlong forms, no surrogates, nothing above U+10FFFF
    except UnicodeDecodeError:
        return Rejected("invalid_utf8")
    if all(char in WHITE for char in source):
        return None
    try:
        value = cross_check(source)
    except Malformed:
        return Rejected("invalid_json")
    if value.kind != "object":
        return Rejected("not_object")
    mapped = {key: value.content[key] for key, *_ in SCHEMA
              if key in value.content and value.content[key].kind != "null"}
    if any(required and key not in mapped for key, _, _, required in SCHEMA):
        return Rejected("missing_field")
    if any(key in mapped and mapped[key].kind != kind for key, _, kind, _ in SCHEMA):
        return Rejected("wrong_type")
    if any(is_surrogate(char) for v in mapped.values() if v.kind == "string" for char in v.content):
        return Rejected("lone_surrogate")
    text = mapped["text"].content
    if "\x00" in text:
        return Rejected("null_byte")
    if all(char in WHITE for char in text):
        return Rejected("empty_text")
    if len(line) > MAX_LINE:
        return Rejected("too_long")
    return Document(
        fields={key: source[v.span].encode("utf-8") for key, v in mapped.items()},
        text=text,
        domain=mapped["domain"].content if "domain" in mapped else "unknown",
        quality=float(mapped["quality_prob"].content) if "quality_prob" in mapped else 0.0)


def is_surrogate(char):
    return "\ud800" <= char <= "\udfff"


def count_words(text):
    words = len(WORD.findall(text))
    assert words == len(text.split()), "Python's white space is not the specification's"
    return words


def output_line(document, constants):
    metadata = [(path, document.fields[key]) for key, path, _, _ in SCHEMA[1:] if key in document.fields]
    metadata += [(path, constants[path]) for path in CONSTANTS]
    members = b",".join(b'"%s":%s' % (path.removeprefix("metadata.").encode(), raw) for path, raw in metadata)
    return b'{"text":%s,"metadata":{%s}}' % (document.fields["text"], members)


# ---- the input ---------------------------------------------------------------------------------------

def find_shards(root):
    """(name relative to the input, path), by the bytes of the whole path."""
    if root.is_file():
        return [(root.name, root)]
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.endswith(SUFFIXES) and not name.startswith("."):
                path = Path(folder, name)
                found.append((path.relative_to(root).as_posix(), path))
    return sorted(found, key=lambda shard: os.fsencode(shard[0]))


def read_unpacked(path):
    if path.name.endswith(".gz"):
        with gzip.open(path) as file:
            return file.read()
    if path.name.endswith(".zst"):
        assert zstandard is not None, "main() has looked"
        with open(path, "rb") as file:
            return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read()
    return path.read_bytes()


def split_lines(data):
    """(offset, line without its LF) of each line."""
    offset = len(BOM) if data.startswith(BOM) else 0
    while offset < len(data):
        end = data.find(b"\n", offset)
        end = len(data) if end < 0 else end
        yield offset, data[offset:end]
        offset = end + 1


# ---- what the export must be -------------------------------------------------------------------------

class Expected:
    def __init__(self, names, ratios, seed):
        self.names, self.seed = names, seed
        self.bounds = [sum(ratios[:n + 1]) * 2**64 for n in range(len(ratios))]
        self.lines = {name: [] for name in names}  # (bytes, "shard:line")
        self.chars = Counter()
        self.counted_words = Counter()
        self.word_counts = {name: [] for name in names}  # the numbers' sources
        self.domains = Counter()
        self.quality = Counter(high=0, medium=0, low=0)
        self.ledger = Counter(lines=0, blank=0, rejected=0, filtered=0, duplicates=0, sampled_out=0, exported=0)
        self.rejects = Counter()
        self.quarantine = {}  # shard -> bytes
        self.index = []

    def split_of(self, text):
        digest = xxhash.xxh3_64_intdigest(text.encode("utf-8"), seed=self.seed)
        for name, bound in zip(self.names, self.bounds):
            if bound > digest:
                return name
        return self.names[-1]

    def read(self, shards, constants):
        for shard, path in shards:
            for number, (offset, line) in enumerate(split_lines(read_unpacked(path)), 1):
                self.ledger["lines"] += 1
                verdict = judge(line)
                if verdict is None:
                    self.ledger["blank"] += 1
                elif isinstance(verdict, Rejected):
                    self.reject(shard, number, offset, line, verdict.reason)
                else:
                    self.export(verdict, f"{shard}:{number}", constants)

    def reject(self, shard, number, offset, line, reason):
        self.ledger["rejected"] += 1
        self.rejects[reason] += 1
        self.quarantine[shard] = self.quarantine.get(shard, bytearray())
        self.quarantine[shard] += line + b"\n"
        self.index.append({"file": shard, "line": number, "offset": offset, "length": len(line), "reason": reason})

    def export(self, document, origin, constants):
        self.ledger["exported"] += 1
        split = self.split_of(document.text)
        self.lines[split].append((output_line(document, constants), origin))
        self.chars[split] += len(document.text)
        self.counted_words[split] += count_words(document.text)
        if "word_count" in document.fields:
            self.word_counts[split].append(document.fields["word_count"].decode())
        self.domains[document.domain] += 1
        level = "high" if document.quality >= 0.8 else "medium" if document.quality >= 0.6 else "low"
        self.quality[level] += 1


def find_constants(export, names):
    """Source bytes of the three constants: from the manifest, else from the first exported line."""
    try:
        configured = json.loads((export / "manifest.json").read_bytes())["configuration"]["constants"]
        return {path: json.dumps(configured[path], ensure_ascii=False, separators=(",", ":")).encode() for path in CONSTANTS}
    except (OSError, ValueError, KeyError, TypeError):
        pass
    for name in names:
        try:
            with open(export / f"{name}.jsonl", "rb") as file:
                source = file.readline().decode().removesuffix("\n")
            metadata = parse(source).content["metadata"].content
            return {path: source[metadata[path.removeprefix("metadata.")].span].encode() for path in CONSTANTS}
        except (OSError, ValueError, KeyError, TypeError, Malformed):
            continue
    return {path: b'"?"' for path in CONSTANTS}


# ---- comparing ---------------------------------------------------------------------------------------

class Report:
    SHOWN = 20

    def __init__(self):
        self.count = 0

    def add(self, where, what):
        self.count += 1
        if self.count <= self.SHOWN:
            print(f"{where}: {what}")

    def same(self, where, expected, found):
        if expected != found or isinstance(found, bool):  # True == 1 in Python
            self.add(where, f"expected {shorten(expected)}, found {shorten(found)}")


def shorten(value, limit=160):
    shown = repr(value)
    return shown if len(shown) <= limit else f"{shown[:limit]}… ({len(shown)} characters)"


def around(one, other):
    """Where two byte strings part, with what stands there in each."""
    at = next((n for n, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))
    window = slice(max(0, at - 20), at + 40)
    return f"byte {at}: expected …{bytes(one[window])!r}, found …{bytes(other[window])!r}"


def align(expected, found, same):
    """(line number in `found`, expected item or None, found line or None) for each difference; one item
    missing or too many does not throw out all that follow it."""
    e = f = 0
    while e < len(expected) and f < len(found):
        if same(expected[e], found[f]):
            e, f = e + 1, f + 1
        elif e + 1 < len(expected) and same(expected[e + 1], found[f]):
            yield f + 1, expected[e], None
            e += 1
        elif f + 1 < len(found) and same(expected[e], found[f + 1]):
            yield f + 1, None, found[f]
            f += 1
        else:
            yield f + 1, expected[e], found[f]
            e, f = e + 1, f + 1
    for item in expected[e:]:
        yield f + 1, item, None
    for at in range(f, len(found)):
        yield at + 1, None, found[at]


def compare_split(report, path, expected):
    try:
        data = path.read_bytes()
    except OSError as error:
        report.add(path.name, error.strerror)
        return
    if data and not data.endswith(b"\n"):
        report.add(path.name, "the last line has no LF")
    found = data.removesuffix(b"\n").split(b"\n") if data else []
    for number, wanted, line in align(expected, found, lambda wanted, line: wanted[0] == line):
        where = f"{path.name}:{number}"
        if line is None:
            report.add(where, f"the document of {wanted[1]} is missing: {shorten(wanted[0])}")
        elif wanted is None:
            report.add(where, f"a line too many: {shorten(line)}")
        else:
            report.add(where, f"differs from {wanted[1]} at {around(wanted[0], line)}")


def compare_quarantine(report, folder, expected):
    if not expected.index:
        if folder.exists():
            report.add("quarantine", "there, though nothing is rejected")
        return
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    wanted = {*expected.quarantine, "index.jsonl"}
    for name in sorted(wanted - found):
        report.add(f"quarantine/{name}", "missing")
    for name in sorted(found - wanted):
        report.add(f"quarantine/{name}", "should not be there")
    for name in sorted(found & wanted - {"index.jsonl"}):
        try:
            data = read_unpacked(folder / name)
        except Exception as error:  # the packers raise their own kinds
            report.add(f"quarantine/{name}", f"cannot be unpacked: {error}")
            continue
        if data != expected.quarantine[name]:
            report.add(f"quarantine/{name}", around(expected.quarantine[name], data))
    if "index.jsonl" in found:
        compare_index(report, folder / "index.jsonl", expected.index)


def compare_index(report, path, expected):
    data = path.read_bytes()
    if not data.endswith(b"\n"):
        report.add("quarantine/index.jsonl", "the last line has no LF")
    entries = []
    for number, line in enumerate(data.removesuffix(b"\n").split(b"\n"), 1):
        where = f"quarantine/index.jsonl:{number}"
        try:
            entry = json.loads(line)
            detail = entry.pop("detail", None)
        except (ValueError, AttributeError):
            report.add(where, f"not a JSON object: {shorten(line)}")
            entry, detail = {}, "?"
        if not isinstance(detail, str) or not detail:
            report.add(where, f"detail is {detail!r}")
        entries.append(entry)
    for number, wanted, entry in align(expected, entries, dict.__eq__):
        what = "missing:" if entry is None else "too many:" if wanted is None else f"expected {wanted}, found"
        report.add(f"quarantine/index.jsonl:{number}", f"{what} {wanted if entry is None else entry}")


def compare_stats(report, path, expected):
    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    try:
        stats = json.loads(path.read_bytes(), parse_constant=refuse)
    except (OSError, ValueError) as error:
        report.add(path.name, str(error))
        return

    def get(*keys):
        value = stats
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    report.same("total_documents", expected.ledger["exported"], get("total_documents"))
    report.same("splits", sorted(expected.names), sorted(get("splits") or []))
    for name in expected.names:
        count, chars = len(expected.lines[name]), expected.chars[name]
        where = f"splits.{name}"
        report.same(f"{where}.count", count, get("splits", name, "count"))
        report.same(f"{where}.total_chars", chars, get("splits", name, "total_chars"))
        report.same(f"{where}.counted_words", expected.counted_words[name], get("splits", name, "counted_words"))
        report.same(f"{where}.avg_text_length", chars / count if count else 0, get("splits", name, "avg_text_length"))
        compare_total(report, f"{where}.total_words", expected.word_counts[name], get("splits", name, "total_words"))
    compare_counts(report, "domain_distribution", expected.domains, get("domain_distribution"))
    compare_counts(report, "quality_distribution", expected.quality, get("quality_distribution"))
    compare_counts(report, "ledger", expected.ledger, get("ledger"), may_have=("repeats",))
    compare_counts(report, "rejects", expected.rejects, get("rejects"), may_have=REASONS)
    report.same("ledger.repeats", 0, get("ledger", "repeats") or 0)
    report.same("leakage", 0, get("leakage"))


def compare_counts(report, where, expected, found, may_have=()):
    """Numbers by name; a name in `may_have` may stand there with a zero."""
    if not isinstance(found, dict):
        report.add(where, f"expected an object, found {shorten(found)}")
        return
    for key in sorted({*expected, *found}):
        if key in expected or key not in may_have:
            report.same(f"{where}.{shorten(key)}", expected.get(key), found.get(key))
        elif where == "rejects":
            report.same(f"{where}.{key}", 0, found[key])


def compare_total(report, where, numbers, found):
    """Integers add up exactly. A sum of other or of huge numbers depends on the order of adding: it may
    be off by a trifle, and one that a double cannot hold may be anything."""
    if isinstance(found, bool) or not isinstance(found, (int, float, type(None))):
        report.add(where, f"expected a number, found {shorten(found)}")
    elif all(re.fullmatch("-?[0-9]+", n) for n in numbers) and sum(abs(int(n)) for n in numbers) < 2**63:
        wanted = sum(map(int, numbers))
        if found != wanted or type(found) is not int:
            report.add(where, f"expected {wanted}, found {found}")
    elif math.isfinite(size := sum(abs(float(n)) for n in numbers)):
        wanted = math.fsum(map(float, numbers))
        if found is None or abs(found - wanted) > size * 1e-9:
            report.add(where, f"expected about {wanted}, found {found}")
    else:
        print(f"note: {where}: beyond a double, {shorten(found)} not checked")


# ---- self-test ---------------------------------------------------------------------------------------

GOOD_LINES = [
    r'{"text":"a b","title":"T","url":"u","domain":"d","quality_prob":0.5,"word_count":2}',
    r' { "te\u0078t" : "\ud83d\ude00\n" , "x" : [ 1 , -0.5e+3 , { } , [ ] , true , false , null ] } ',
    '{"x":{"y":[{"z":"\u2028é€😀"}]},"text":"\u3000wörd\u2003\\/\\\\\\""}',
    r'[[],{},"",0,-0,1E5,10.25e-7,"\b\f\n\r\t\"\\\/\u00e9"]',
]
VERDICTS = [  # None: blank, "": a document
    (b"", None), (b" \t\r", None), ("\u0085\u00a0\u1680\u2000\u200a\u2028\u2029\u202f\u205f\u3000".encode(), None),
    (b"\x1c\x1d\x1e\x1f\x0b\x0c", None), ("\u200b".encode(), "invalid_json"), ("\u180e".encode(), "invalid_json"),
    (BOM, "invalid_json"), (b"\x00", "null_byte"), (b"\x00\xff", "null_byte"), (b"\x85", "invalid_utf8"),
    (b"\xc0\x80", "invalid_utf8"), (b"\xed\xa0\x80", "invalid_utf8"), (b"\xf4\x90\x80\x80", "invalid_utf8"),
    (b"{}", "missing_field"), (b"[]", "not_object"), (b'"text"', "not_object"), (b"1 2", "invalid_json"),
    (b'{"text":"a"}', ""), (b'{"text":"a"}\r', ""), (b'{"text":"a"}\x0b', "invalid_json"),
    (b'{"text":null,"title":1}', "missing_field"), (b'{"text":1}', "wrong_type"), (b'{"text":"","url":[]}', "wrong_type"),
    (b'{"text":"a","quality_prob":"1"}', "wrong_type"), (b'{"text":"a","word_count":true}', "wrong_type"),
    (b'{"text":"a","word_count":null}', ""), (b'{"text":"a","text":null}', "missing_field"),
    (b'{"text":1,"te\\u0078t":"a"}', ""), (b'{"Text":"a"}', "missing_field"),
    (b'{"text":"\\ud800\\u0000"}', "lone_surrogate"), (b'{"text":"","title":"\\udc00\\ud800"}', "lone_surrogate"),
    (b'{"text":"a","x":"\\ud800","\\ud800":1}', ""), (b'{"text":" \\u0000"}', "null_byte"),
    (b'{"text":"a","title":"\\u0000"}', ""), (b'{"text":"\\u2029 \\u001c"}', "empty_text"), (b'{"text":"\\ufeff"}', ""),
    (b'{"text":"a","x":' + b"[" * 1023 + b"]" * 1023 + b"}", ""),
    (b'{"text":"a","x":' + b"[" * 1024 + b"]" * 1024 + b"}", "invalid_json"),
    (b'{"x":' * 1023 + b"{}" + b"}" * 1023, "missing_field"), (b'{"x":' * 1024 + b"{}" + b"}" * 1024, "invalid_json"),
    (b"[" * 100000, "invalid_json"),
] + [(b'{"text":"a","word_count":%s}' % number, "") for number in
     (b"0", b"-0", b"0.0", b"1E400", b"1e-7", b"-1.5e+007", b"9" * 5000)
] + [(b'{"text":"a","word_count":%s}' % number, "invalid_json") for number in
     (b"01", b"-01", b"1.", b".5", b"+1", b"-", b"0x1", b"1_000", b"1e", b"1e+", b"NaN", b"Infinity", b"-Infinity",
      b"True", b"nul", b"\xd9\xa1", b"", b"1 1")
] + [(b'{"text":"%s"}' % string, "invalid_json") for string in
     (b"\\x", b"\\u12G4", b"\\u12", b"\\u+123", b"\\u 123", b"\\u1_23", b"\\", b"\\u\xd9\xa1000", b"\t", b"\x1f", b"\r")
] + [(line, "invalid_json") for line in
     (b'{"text":"a",}', b'{,"text":"a"}', b'{"text":"a"}}', b'{"text":"a"', b"{'text':'a'}", b'{text:"a"}', b'{"text" "a"}',
      b'{"text":"a"}{"text":"a"}', b'{"text":"a"}//', b'{"text":"a","x":[1,]}', b'{"text":"a","x":[,1]}', b'{"text":"a" "x":1}')]


def self_test():
    for line, wanted in VERDICTS:
        verdict = judge(line)
        found = None if verdict is None else verdict.reason if isinstance(verdict, Rejected) else ""
        assert found == wanted, f"{line[:200]!r}: expected {wanted!r}, found {found!r}"
    assert WHITE == {chr(c) for c in range(0x110000) if chr(c).isspace()}
    assert xxhash.xxh3_64_intdigest(b"") == 0x2D06800538D394C2
    assert list(split_lines(BOM + b"a\r\n\n\xe2\x80\xa8")) == [(3, b"a\r"), (6, b""), (7, b"\xe2\x80\xa8")]
    assert not list(split_lines(BOM)) and not list(split_lines(b""))

    constants = dict.fromkeys(CONSTANTS, b'"c"')
    line = judge(b'{"word_count":1.50,"x":1,"title":"\\u0041\\/","text": "t" ,"url":null}')
    assert output_line(line, constants) == (
        b'{"text":"t","metadata":{"title":"\\u0041\\/","word_count":1.50,'
        b'"source":"c","curation_pipeline":"c","curation_date":"c"}}')

    # cross_check() itself asserts that json agrees.
    rng = random.Random(1)
    alphabet = '{}[]:,"\\u0123456789abcdefABCDEF.eE+-nulltruefalse \t\r\x0b\x1f\x7f/\u00e9\u2028\ufeff\U0001f600\ud800xX_'
    accepted = 0
    for _ in range(200_000):
        chars = list(rng.choice(GOOD_LINES))
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            at, kind = rng.randrange(len(chars)), rng.randrange(5)
            if kind == 0:
                chars[at] = rng.choice(alphabet)
            elif kind == 1:
                chars.insert(at, rng.choice(alphabet))
            elif kind == 2 and len(chars) > 1:
                del chars[at]
            elif kind == 3:
                other = rng.randrange(len(chars))
                chars[at], chars[other] = chars[other], chars[at]
            else:
                chars[at:at] = chars[at:at + rng.randrange(12)]
        try:
            value = cross_check("".join(chars))
        except Malformed:
            continue
        accepted += 1
        check_spans("".join(chars), value)
    print(f"self-test passed: {len(VERDICTS)} verdicts, 200,000 mutated lines, {accepted:,} of them JSON")


def check_spans(source, value):
    """Each value's own piece of the source is that value."""
    assert plain_tree(parse(source[value.span])) == plain_tree(value)
    children = value.content.values() if value.kind == "object" else value.content if value.kind == "array" else ()
    for child in children:
        check_spans(source, child)


# ---- the program -------------------------------------------------------------------------------------

def main():
    parser = argparse.ArgumentParser(description="Checks an export against a plain reading of the specification.")
    parser.add_argument("input", type=Path, nargs="?")
    parser.add_argument("export", type=Path, nargs="?")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--split-ratio", default="0.95,0.03,0.02")
    parser.add_argument("--split-names", default="train,validation,test")
    parser.add_argument("--self-test", action="store_true")
    args = parser.parse_args()
    if args.self_test:
        self_test()
        return 0
    if args.input is None or args.export is None:
        parser.error("INPUT and EXPORT_DIR are needed")
    names = args.split_names.split(",")
    ratios = [Fraction(ratio) for ratio in args.split_ratio.split(",")]
    if len(names) != len(ratios) or abs(sum(ratios) - 1) > Fraction(1, 10**9):
        parser.error("as many split ratios as names are needed, adding up to 1")
    if not args.input.exists() or not args.export.is_dir():
        parser.error("INPUT or EXPORT_DIR is not there")
    shards = find_shards(args.input)
    if zstandard is None and any(path.name.endswith(".zst") for _, path in shards):
        parser.error("the input has .zst shards: install zstandard")

    expected = Expected(names, ratios, args.seed)
    expected.read(shards, find_constants(args.export, names))

    report = Report()
    for name in names:
        compare_split(report, args.export / f"{name}.jsonl", expected.lines[name])
    compare_quarantine(report, args.export / "quarantine", expected)
    compare_stats(report, args.export / "dataset_stats.json", expected)
    if report.count > Report.SHOWN:
        print(f"… and {report.count - Report.SHOWN:,} more")
    ledger = expected.ledger
    print(f"{report.count:,} differences ({len(shards):,} shards, {ledger['lines']:,} lines: {ledger['blank']:,} blank, "
          f"{ledger['rejected']:,} rejected, {ledger['exported']:,} exported)")
    return 1 if report.count else 0


if __name__ == "__main__":
    sys.exit(main())
