#!/usr/bin/env python3
"""Measures how an export grows with the number of workers, and what the merge costs. Prints a Markdown table.

    cargo build --release
    python3 benches/workers.py --corpus CORPUS_DIR --work SCRATCH_DIR

CORPUS_DIR holds shards as an export reads them; --make 1GiB makes a corpus of plain shards in the scratch folder
instead. SCRATCH_DIR needs room for about three times the corpus (and for the corpus, where it is made here); the script works
in a new folder inside it and removes that at the end. A folder in memory (tmpfs) leaves the disk out of it.
Only Python 3.11 and its standard library are needed.

How it measures
---------------
- All workers of a number N start at once, each a process of its own with --threads 1 on a core of its own as
  long as there are enough (otherwise the kernel deals them out). The time is that from the first start to the last end, the
  start-up of the processes and the syncing of their parts included; the rate is the corpus's bytes on disk by that.
- `of ideal` is the rate over N times the rate of one worker. With more workers than cores it says
  nothing of workers, and is left out.
- The merge then runs alone, with all cores. Its time is shown beside that of a whole export on one machine with all cores,
  which it has to be compared with.
- Rounds: every number of workers once, then again; medians are shown, with the range. One round before, not
  timed, fills the page cache.
- Every merged export has to have the manifest of the export on one machine, byte for byte, or the script ends with status 1.
- Processor time that other programs took meanwhile is measured from /proc/stat. Above 5 % the report says so,
  and its figures are not to be quoted.

--test makes a small corpus, does everything once, and prints no figures that anybody should read.
"""
import argparse
import os
import pathlib
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
BINARY = HERE.parent / 'target' / 'release' / 'colophon'
DATE = 'metadata.curation_date=2024-01-15'
QUIET = 0.05
UNITS = {'KiB': 1 << 10, 'MiB': 1 << 20, 'GiB': 1 << 30}


def size(text):
    """Bytes of `512MiB`."""
    for unit, factor in UNITS.items():
        if text.endswith(unit):
            return int(text.removesuffix(unit)) * factor
    return int(text)


def make_corpus(folder, total, shards=16):
    """Plain shards of made-up documents, about `total` bytes in all."""
    dice = random.Random(1)
    words = [''.join(dice.choices('etaoinshrdlu', k=dice.randint(2, 9))) for _ in range(2000)]
    folder.mkdir()
    number = 0
    for shard in range(shards):
        written = 0
        with open(folder / f'part-{shard:05}.jsonl', 'w', encoding='utf-8') as out:
            while written < total // shards:
                text = ' '.join(dice.choices(words, k=dice.randint(20, 400)))
                number += 1
                written += out.write(f'{{"text":"{number} {text}","url":"https://example.org/{number}",'
                                     f'"domain":"d{number % 17}","quality_prob":0.{number % 97:02},"word_count":7}}\n')


def busy_time():
    """Seconds of processor time that anybody has used on this machine, and that a hypervisor took."""
    fields = pathlib.Path('/proc/stat').read_text().split('\n', 1)[0].split()[1:]
    ticks = [int(field) for field in fields]
    return (sum(ticks[:8]) - ticks[3] - ticks[4]) / os.sysconf('SC_CLK_TCK')


def own_time():
    """The same of the processes that were started here and have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class Bench:
    """A corpus, the export of it on one machine, and times."""

    def __init__(self, args, folder):
        self.binary, self.corpus, self.folder = args.colophon, args.corpus, folder
        self.cores = sorted(os.sched_getaffinity(0))
        self.bytes = sum(path.stat().st_size for path in self.corpus.rglob('*') if path.is_file())

    def export(self, output, *args):
        """The command of an export."""
        return [self.binary, 'export', '-q', '--input-dir', self.corpus, '--output-dir', output, '--set', DATE, *args]

    def timed(self, commands, pinned=False):
        """Seconds that commands take, started at once."""
        os.sync()
        start = time.monotonic()
        running = []
        for index, command in enumerate(commands):
            pin = None
            if pinned and len(commands) <= len(self.cores):
                pin = lambda core=self.cores[index]: os.sched_setaffinity(0, {core})
            running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=pin))
        statuses = [process.wait() for process in running]
        seconds = time.monotonic() - start
        if any(statuses):
            sys.exit(f'status {statuses} of {commands[0]}')
        return seconds

    def by_one_run(self):
        """An export on one machine, with all cores; its manifest is what the others have to have."""
        output = self.folder / 'one'
        seconds = self.timed([self.export(output)])
        self.manifest = (output / 'manifest.json').read_bytes()
        shutil.rmtree(output)
        return seconds

    def by_workers(self, number):
        """Seconds of so many workers, and of the merge."""
        output = self.folder / 'merged'
        commands = [self.export(output, '--threads', '1', '--worker', f'{i}/{number}') for i in range(number)]
        workers = self.timed(commands, pinned=True)
        merge = self.timed([[self.binary, 'merge', '-q', '--output-dir', output]])
        if (output / 'manifest.json').read_bytes() != self.manifest:
            sys.exit(f'the export of {number} workers is not that of one machine')
        shutil.rmtree(output)
        return workers, merge


def shown(values, unit=''):
    """A median with its range."""
    return f'{statistics.median(values):.2f}{unit} ({min(values):.2f}–{max(values):.2f})'


def table(bench, numbers, one, workers):
    """The report."""
    lines = [
        f'{bench.bytes / 1e9:.2f} GB in {bench.corpus.name}, {len(bench.cores)} cores, {platform.machine()}, '
        f'Linux {platform.release()}; seconds: median (range).',
        '',
        f'One machine, all cores: {shown(one)} s.',
        '',
        '| workers | seconds | GB/s | of ideal | merge | merge, GB/s |',
        '| ---: | ---: | ---: | ---: | ---: | ---: |',
    ]
    alone = statistics.median(seconds for seconds, _ in workers[numbers[0]]) * numbers[0]
    for number in numbers:
        seconds = [worker for worker, _ in workers[number]]
        merges = [merge for _, merge in workers[number]]
        ideal = f'{alone / number / statistics.median(seconds):.2f}' if number <= len(bench.cores) else ''
        rate, merge_rate = (bench.bytes / 1e9 / statistics.median(times) for times in (seconds, merges))
        lines.append(f'| {number} | {shown(seconds)} | {rate:.2f} | {ideal} | {shown(merges)} | {merge_rate:.2f} |')
    return '\n'.join(lines)


def main():
    """Measures as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--corpus', type=pathlib.Path)
    parser.add_argument('--make', metavar='SIZE', type=size, help='make a corpus of this size')
    parser.add_argument('--work', type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()))
    parser.add_argument('--colophon', type=pathlib.Path, default=BINARY)
    parser.add_argument('--workers', default='1,2,4,8', help='numbers of workers; the first is what the others are compared with')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--test', action='store_true', help='only see that everything runs')
    args = parser.parse_args()
    if args.test:
        args.make, args.rounds = 4 << 20, 1
    if (args.corpus is None) == (args.make is None):
        parser.error('give --corpus or --make')
    numbers = [int(number) for number in args.workers.split(',')]
    with tempfile.TemporaryDirectory(prefix='colophon-workers-', dir=args.work) as folder:
        folder = pathlib.Path(folder)
        if args.make:
            args.corpus = folder / 'made'
            make_corpus(args.corpus, args.make)
        bench = Bench(args, folder)
        bench.by_one_run()
        one, workers = [], {number: [] for number in numbers}
        before, start = busy_time() - own_time(), time.monotonic()
        for _ in range(args.rounds):
            one.append(bench.by_one_run())
            for number in numbers:
                workers[number].append(bench.by_workers(number))
        others = (busy_time() - own_time() - before) / (time.monotonic() - start) / len(bench.cores)
        print(table(bench, numbers, one, workers))
        if others > QUIET:
            print(f'\nNot to be quoted: other programs took {others:.0%} of the processor time meanwhile.')


if __name__ == '__main__':
    main()
