#!/usr/bin/env python3
"""Checks the dataset card, its plots and the Croissant metadata with the programs that read them.

    check_card.py COLOPHON

Exports ordinary and hostile corpora, and has `datasets` load each folder (offline, plain and streaming),
`huggingface_hub` read the card, `mlcroissant` validate and load the metadata, and an XML parser read the plots.
Numbers of documents have to be the manifest's, texts and metadata those of the split files.
Exit status: 1 if anything is not as it should be.
"""

import gzip
import json
import logging
import os
import pathlib
import subprocess
import sys
import tempfile
import xml.etree.ElementTree

SCRATCH = tempfile.TemporaryDirectory()
os.environ.update(
    HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", HF_HOME=SCRATCH.name + "/hf",
    HF_DATASETS_DISABLE_PROGRESS_BARS="1",
)

import datasets  # noqa: E402
import huggingface_hub  # noqa: E402
import mlcroissant  # noqa: E402
import zstandard  # noqa: E402

HOSTILE = [
    'quo"te', "apo'strophe", "back\\slash", "new\nline", "a: b # c", "- item", "| pipe | pipe |", "<script>alert(1)</script>",
    "`code`", "```", "{{ jinja }}", "%YAML", "---", "no", "null", "~", "1e3", "2024-01-15", "😀👩‍💻", "日本語", "שלום",
    "\u202eright to left", "\u0001\u007f\u0085\u2028\ufeff\ufffe", "", " ", "&amp;", "]]>", "x" * 500, "[a](b)", "@user", "$x$",
]


def documents(number, **more):
    """So many documents; `more` gives further fields, each from the document's number."""
    for i in range(number):
        document = {
            "text": f"Document {i}, with some words in it: {'word ' * (i % 97)}end.", "title": f"Title {i}",
            "url": f"https://example.org/{i}", "domain": f"domain-{i % 7}", "quality_prob": (i % 101) / 100,
            "word_count": i % 97 + 8,
        }
        document.update((name, value(i)) for name, value in more.items())
        yield {name: value for name, value in document.items() if value is not None}


def field(source, target, kind="any", required=False):
    table = {"from": source, "to": target, "type": kind}
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in table.items()]
    return "\n".join(["[[field]]", *lines, f"required = {str(required).lower()}", ""])


TEXT = field("text", "text", "string", True)
ODD_KEYS = ["quo\"te", "apo'strophe", "new\nline", "a b", "😀", "日本", "a:b", "no", "where", "x/y", "x_y", "back\\slash", "#", "-", "1"]

# name, documents, options, job file
CASES = [
    ("ordinary", list(documents(705)), [], ""),
    ("hostile domains", list(documents(620, domain=lambda i: HOSTILE[i % len(HOSTILE)])), [], ""),
    ("500 domains", list(documents(1500, domain=lambda i: f"domain {i * i % 500}")), [], ""),
    ("no domain, no quality, nothing but texts", [{"text": f"text {i}"} for i in range(90)], [], ""),
    ("one document", list(documents(1)), [], ""),
    ("no document", [], [], ""),
    ("an empty split", list(documents(50)), ["--split-ratio", "0.9,0,0.1"], ""),
    ("shards", list(documents(400)), ["--shard-size", "4k"], ""),
    ("gzip", list(documents(200)), ["--compress", "gzip"], ""),
    ("gzip shards", list(documents(200)), ["--compress", "gzip", "--shard-size", "9k"], ""),
    ("zstd", list(documents(200)), ["--compress", "zstd"], ""),
    ("odd split names", list(documents(300)), ["--split-names", "a-b,all,1.x.", "--split-ratio", "0.4,0.4,0.2"], ""),
    ("all options", list(documents(50)), [
        "--pretty-name", 'A "name": with # <signs> & \'quotes\' 😀', "--description", "Lines\n\n---\n\n| a | b |",
        "--language", "no,en", "--license", "cc-by-4.0", "--tags", "a b,yes,12:30", "--creator", "Me {and} you",
        "--homepage", "https://example.org/x?y=z", "--citation", "Me: \"It\", 2024.", "--dataset-version", "2.0.1",
        "--set", "metadata.source=it's $HOME `x` ``` \n| y", "--set", "metadata.licence=2024",
    ], ""),
    ("a header of one's own", list(documents(50)), [], "[card]\nsize_categories = ['n<1K']\ntask_categories = ['text-generation']\n"
     "viewer = true\n'a: b' = { c = [1, 2.5, { d = 'e' }], f = '' }\n"),
    ("odd keys", [{"text": f"text {i}", **{f"k{j}": f"value {i}" for j in range(len(ODD_KEYS))}} for i in range(60)], [],
     TEXT + "".join(field(f"k{j}", f"metadata.{key}", "string") for j, key in enumerate(ODD_KEYS))),
    ("odd keys at the top", [{"text": f"text {i}", **{f"k{j}": f"value {i}" for j in range(len(ODD_KEYS))}} for i in range(60)], [],
     TEXT + "".join(field(f"k{j}", key, "string") for j, key in enumerate(ODD_KEYS))),
    ("columns that are not always there", list(documents(
        60, sometimes=lambda i: i if i % 3 else None, never=lambda _: None, flag=lambda i: i % 2 == 0)), [],
     TEXT + field("sometimes", "sometimes", "integer") + field("never", "never", "string") + field("flag", "flag", "boolean")),
    ("every type", list(documents(
        80, n=lambda i: i - 40, x=lambda i: i / 8, b=lambda i: i % 2 == 0, o=lambda i: {"i": i, "list": [i, "x", None]})), [],
     TEXT + field("n", "numbers.n", "integer") + field("x", "numbers.deep.x", "number") + field("b", "b", "boolean")
     + field("o", "o") + "[constants]\nmetadata.number = 5\nmetadata.float = 0.5\nmetadata.yes = true\n"
     "metadata.list = ['a', 1]\nmetadata.date = 2024-02-29\n"),
    ("metadata as a whole", list(documents(40, meta=lambda i: {"domain": f"d{i % 3}", "i": i})), ["--date-published", "2024-02-29"],
     "default-constants = false\n" + TEXT + field("meta", "metadata")),
    ("no metadata", list(documents(40)), [], "default-constants = false\ndate-published = 2024-02-29\n" + TEXT),
]


class Case:
    def __init__(self, colophon, name, lines, options, job):
        self.name, self.problems = name, []
        self.folder = pathlib.Path(tempfile.mkdtemp(dir=SCRATCH.name))
        self.out = self.folder / "out"
        (self.folder / "in").mkdir()
        with open(self.folder / "in" / "a.jsonl", "w") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
        (self.folder / "job.toml").write_text(job)
        command = [colophon, "--quiet", "export", "--job", self.folder / "job.toml", "--input-dir", self.folder / "in",
                   "--output-dir", self.out, *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.manifest = json.loads((self.out / "manifest.json").read_text())
        self.splits = {split["name"]: self.lines(split["files"]) for split in self.manifest["splits"]}

    def lines(self, files):
        unpack = {".gz": gzip.decompress, ".zst": lambda b: zstandard.ZstdDecompressor().stream_reader(b, read_across_frames=True).read()}
        lines = []
        for name in files:
            path = self.out / name
            bytes_ = unpack.get(path.suffix, lambda b: b)(path.read_bytes())
            lines += [json.loads(line) for line in bytes_.split(b"\n")[:-1]]
        return lines

    def expect(self, is_so, problem):
        if not is_so:
            self.problems.append(problem)

    def check(self):
        for part in (self.card, self.loading, self.croissant, self.plots):
            try:
                part()
            except Exception as error:  # noqa: BLE001
                self.problems.append(f"{part.__name__}: {type(error).__name__}: {str(error)[:600]}")

    def card(self):
        """The Hub's own reader takes the header, and finds what was given."""
        card = huggingface_hub.DatasetCard.load(self.out / "README.md")
        header, given = card.data.to_dict(), self.manifest["configuration"]["card"]
        for key in ("pretty_name", "license"):
            self.expect(given[key] is None or header[key] == given[key], f"{key} is {header[key]!r}")
        for key in ("language", "tags"):
            self.expect(header.get(key, []) == given[key], f"{key} is {header.get(key)!r}")
        for key, value in given["header"].items():
            self.expect(header[key] == value, f"{key} is {header[key]!r}")
        self.expect(header["size_categories"][0].startswith("n<") or "K" in header["size_categories"][0], "size_categories")
        sizes = [(split["num_examples"], split["num_bytes"]) for split in header["dataset_info"]["splits"]]
        sizes = [size for size in sizes if size[0]]
        stats = json.loads((self.out / "dataset_stats.json").read_text())["splits"].values()
        self.expect(sizes == [(split["count"], split["bytes"]) for split in stats if split["count"]], f"splits are {sizes}")

    def loading(self):
        # An empty split is one that `datasets` cannot load, so the card leaves it out.
        splits = [lines for lines in self.splits.values() if lines]
        if not splits:
            return
        names = list(datasets.load_dataset_builder(str(self.out)).info.splits)
        loaded = datasets.load_dataset(str(self.out), cache_dir=str(self.folder / "cache"))
        streamed = datasets.load_dataset(str(self.out), streaming=True)
        self.expect(len(names) == len(splits), f"the splits are {names}")
        for name, lines in zip(names, splits):
            for how, rows in (("loaded", loaded[name]), ("streamed", streamed[name])):
                rows = list(rows)
                self.expect(len(rows) == len(lines), f"{how}: {name} has {len(rows)} documents, not {len(lines)}")
                for row, line in zip(rows, lines):
                    if not same(row, line):
                        self.problems.append(f"{how}: {name}: {row!r:.300} is not {line!r:.300}")
                        break

    def croissant(self):
        path = self.out / "croissant.json"
        warnings = Warnings()
        logging.getLogger("absl").addHandler(warnings)
        dataset = mlcroissant.Dataset(path)
        issues = dataset.metadata.ctx.issues
        self.expect(not issues.errors and not issues.warnings, f"croissant: {issues.report()}")
        self.expect(not warnings.messages, f"croissant: {warnings.messages}")
        logging.getLogger("absl").removeHandler(warnings)
        # Zstandard is beyond mlcroissant.
        if any(file["path"].endswith(".zst") for file in self.manifest["files"]):
            return
        ids = [record_set.id for record_set in dataset.metadata.record_sets]
        self.expect(ids == list(self.splits), f"croissant: record sets are {ids}")
        for name, lines in self.splits.items():
            records = list(dataset.records(name))
            self.expect(len(records) == len(lines), f"croissant: {name} has {len(records)} records, not {len(lines)}")
            for record, line in zip(records, lines):
                self.expect(record[f"{name}/text"] == line["text"].encode(), f"croissant: {name}: another text")
                for key, value in line.get("metadata", {}).items():
                    found = record.get(f"{name}/metadata")
                    if isinstance(value, str) and isinstance(found, dict):
                        self.expect(value.encode() in found.values(), f"croissant: {name}: no {key} in {found!r:.300}")

    def plots(self):
        for path in self.out.glob("*.svg"):
            xml.etree.ElementTree.parse(path)
            self.expect(f"]({path.name})" in (self.out / "README.md").read_text(), f"{path.name} is not in the card")


class Warnings(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


def same(row, line):
    """Whether a loaded value is that of the line; what is absent there is None here."""
    if isinstance(line, dict) and isinstance(row, dict):
        return all(same(row.get(key), line.get(key)) for key in {*row, *line})
    if isinstance(line, list) and isinstance(row, list):
        return len(row) == len(line) and all(map(same, row, line))
    if hasattr(row, "isoformat"):
        return row.isoformat() == line
    return row == line or (row in (None, {}) and line in (None, {}))


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    datasets.disable_progress_bars()
    failed = 0
    for arguments in CASES:
        case = Case(sys.argv[1], *arguments)
        case.check()
        failed += bool(case.problems)
        print(f"{'FAILED' if case.problems else 'ok'}: {case.name}", *case.problems[:8], sep="\n    ")
    print(f"{failed} of {len(CASES)} exports are not as they should be")
    sys.exit(bool(failed))


main()
