#!/usr/bin/env python3
"""Mapping and split in Polars: no validation, statistics, checksums or card.

usage: polars_export.py CORPUS_DIR OUTPUT_DIR        (POLARS_MAX_THREADS sets the threads)

How it is made fast (the alternatives named here were timed on 64 MiB; the rest follows Polars' guide):

- one lazy query on the streaming engine with a partitioned sink: it reads, maps and writes at once and
  never holds the corpus. As fast as three filtered sinks in one `collect_all`, and a little faster than
  `read_ndjson` with three `write_ndjson`;
- the schema is given, so nothing is inferred and the unused columns are never built;
- the split is a comparison of the text's hash, computed in the engine: reproducible, equal texts land in
  one split (as in colophon).

What differs from colophon's output: an absent optional field is written as null; numbers are parsed and
printed again.
"""
import datetime
import pathlib
import sys

import polars as pl

SCHEMA = {'text': pl.String, 'title': pl.String, 'url': pl.String, 'domain': pl.String,
          'quality_prob': pl.Float64, 'word_count': pl.Int64}
SPLITS = ['train', 'validation', 'test']


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    corpus, output = map(pathlib.Path, sys.argv[1:])
    output.mkdir(parents=True, exist_ok=True)

    metadata = pl.struct(
        title='title', source_url='url', domain='domain', quality_score='quality_prob', word_count='word_count',
        source=pl.lit('unknown'), curation_pipeline=pl.lit('polars'),
        curation_date=pl.lit(datetime.date.today().isoformat()))
    draw = pl.col('text').hash(seed=42)
    split = (pl.when(draw < int(0.95 * 2**64)).then(0)
             .when(draw < int(0.98 * 2**64)).then(1)
             .otherwise(2))

    (pl.scan_ndjson(sorted(corpus.glob('*.jsonl')), schema=SCHEMA)
     .select('text', metadata=metadata, split=split)
     .sink_ndjson(
         pl.PartitionBy(
             output, key='split', include_key=False, approximate_bytes_per_file=None,  # one file a split
             file_path_provider=lambda part: f'{SPLITS[part.partition_keys.item()]}.jsonl'),
         engine='streaming'))


main()
