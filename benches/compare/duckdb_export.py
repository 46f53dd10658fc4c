#!/usr/bin/env python3
"""Mapping and split in DuckDB: no validation, statistics, checksums or card.

usage: duckdb_export.py CORPUS_DIR OUTPUT_DIR THREADS

How it is made fast (the alternatives named here were timed on 64 MiB; the rest follows DuckDB's guide):

- one streaming `COPY` partitioned by the split. It is faster than a temporary table with three `COPY`s
  (the corpus in memory) and than three `COPY`s straight from the shards (which parse everything three
  times). It writes split=train/data_0.json and so on: DuckDB's own layout, one file a split;
- `preserve_insertion_order` is off, as DuckDB's guide advises for large exports (no difference was seen here);
- the columns are given, so nothing is sniffed and the unused ones are never built;
- the split is a comparison of the text's hash: reproducible, equal texts land in one split (as in
  colophon), and no slower than `random()`.

What differs from colophon's output: an absent optional field is written as null; numbers are parsed and
printed again; lines are not in input order; a line above 16 MiB is an error (DuckDB's default).
"""
import datetime
import pathlib
import sys

import duckdb


def quoted(value):
    """A SQL string literal."""
    return "'" + str(value).replace("'", "''") + "'"


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    corpus, output, threads = sys.argv[1:]
    pathlib.Path(output).mkdir(parents=True, exist_ok=True)
    con = duckdb.connect(config={'threads': int(threads), 'preserve_insertion_order': 'false'})
    con.execute('SET enable_progress_bar = false')
    con.execute(f"""
        COPY (
            SELECT
                text,
                struct_pack(
                    title := title,
                    source_url := url,
                    domain := domain,
                    quality_score := quality_prob,
                    word_count := word_count,
                    source := 'unknown',
                    curation_pipeline := 'duckdb',
                    curation_date := {quoted(datetime.date.today())}
                ) AS metadata,
                CASE WHEN draw < 0.95 THEN 'train' WHEN draw < 0.98 THEN 'validation' ELSE 'test' END AS split
            FROM (
                SELECT *, hash(text) / 18446744073709551616.0 AS draw
                FROM read_json(
                    {quoted(corpus + '/*.jsonl')},
                    format = 'newline_delimited',
                    compression = 'none',
                    auto_detect = false,
                    columns = {{text: 'VARCHAR', title: 'VARCHAR', url: 'VARCHAR', domain: 'VARCHAR',
                                quality_prob: 'DOUBLE', word_count: 'BIGINT'}}
                )
            )
        ) TO {quoted(output)} (FORMAT json, PARTITION_BY (split), OVERWRITE_OR_IGNORE)
    """)


main()
