#!/usr/bin/env python3
"""Runs steps 5 and 6 of the workshop page that colophon comes from, as the page has them, on any folder.

    seed_steps.py EXPORT_DIR [--step 5|6]

Prints step 5's report, then step 6's JSON (both, or one of them), so that another program's report and
statistics can be compared with them. Writes nothing. Exit status: 1 where step 5 finds errors, as there.
Two things are not as there: the text is read as UTF-8 whatever the locale, and integers of more than 4300
digits, at which Python would stop, are read.
"""

import argparse
import json
import sys
from collections import Counter

sys.set_int_max_str_digits(0)
SPLITS = ["train", "validation", "test"]


def validate_split(filepath, split_name):
    errors = []
    doc_count = 0
    text_lengths = []

    with open(filepath, encoding="utf-8") as f:
        for line_num, line in enumerate(f, 1):
            doc_count += 1

            # Check valid JSON
            try:
                doc = json.loads(line)
            except json.JSONDecodeError:
                errors.append(f"Line {line_num}: Invalid JSON")
                continue

            # Check required fields
            if "text" not in doc:
                errors.append(f'Line {line_num}: Missing "text" field')
                continue

            text = doc["text"]

            # Check text is non-empty
            if not text or not text.strip():
                errors.append(f"Line {line_num}: Empty text")
                continue

            # Check text is string
            if not isinstance(text, str):
                errors.append(f"Line {line_num}: text is {type(text).__name__}, expected str")
                continue

            # Check for null bytes
            if "\x00" in text:
                errors.append(f"Line {line_num}: Contains null bytes")

            # Check metadata exists
            if "metadata" not in doc:
                errors.append(f"Line {line_num}: Missing metadata")

            text_lengths.append(len(text))

    # Report
    print(f"--- {split_name} ---")
    print(f"Documents: {doc_count}")
    print(f"Errors: {len(errors)}")
    if errors:
        for e in errors[:5]:
            print(f"  ! {e}")
        if len(errors) > 5:
            print(f"  ... and {len(errors) - 5} more")
    if text_lengths:
        avg_len = sum(text_lengths) / len(text_lengths)
        print(f"Avg text length: {avg_len:.0f} chars")
        print(f"Min: {min(text_lengths)}, Max: {max(text_lengths)}")
    print()

    return len(errors) == 0


def step_5(export_dir):
    """Prints the page's validation report; whether all is well."""
    all_valid = True
    for split in SPLITS:
        try:
            valid = validate_split(f"{export_dir}/{split}.jsonl", split)
            all_valid = all_valid and valid
        except FileNotFoundError:
            print(f"--- {split} --- FILE NOT FOUND")
            all_valid = False

    if all_valid:
        print("ALL SPLITS PASSED VALIDATION")
    else:
        print("VALIDATION FAILED - see errors above")
    return all_valid


def step_6(export_dir):
    """The page's statistics."""
    stats = {
        "total_documents": 0,
        "splits": {},
        "domain_distribution": Counter(),
        "quality_distribution": {"high": 0, "medium": 0, "low": 0},
        "text_length_stats": {},
    }

    for split in SPLITS:
        try:
            docs = []
            with open(f"{export_dir}/{split}.jsonl", encoding="utf-8") as f:
                for line in f:
                    docs.append(json.loads(line))

            text_lengths = [len(d["text"]) for d in docs]
            word_counts = [d.get("metadata", {}).get("word_count", 0) for d in docs]

            stats["splits"][split] = {
                "count": len(docs),
                "avg_text_length": sum(text_lengths) / len(text_lengths) if text_lengths else 0,
                "total_chars": sum(text_lengths),
                "total_words": sum(word_counts),
            }
            stats["total_documents"] += len(docs)

            for doc in docs:
                meta = doc.get("metadata", {})
                domain = meta.get("domain", "unknown")
                stats["domain_distribution"][domain] += 1

                qs = meta.get("quality_score", 0)
                if qs >= 0.8:
                    stats["quality_distribution"]["high"] += 1
                elif qs >= 0.6:
                    stats["quality_distribution"]["medium"] += 1
                else:
                    stats["quality_distribution"]["low"] += 1

        except FileNotFoundError:
            pass

    # Convert Counter to dict for JSON serialization
    stats["domain_distribution"] = dict(stats["domain_distribution"])
    return stats


def main():
    parser = argparse.ArgumentParser(description="Runs steps 5 and 6 of the workshop page on a folder.")
    parser.add_argument("export_dir")
    parser.add_argument("--step", type=int, choices=(5, 6), help="only this one")
    args = parser.parse_args()
    valid = True
    if args.step != 6:
        valid = step_5(args.export_dir)
    if args.step != 5:
        print(json.dumps(step_6(args.export_dir), indent=2))
    return 0 if valid else 1


if __name__ == "__main__":
    sys.exit(main())
