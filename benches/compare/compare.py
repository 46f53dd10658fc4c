#!/usr/bin/env python3
"""Runs colophon beside other ways to do its job, on one corpus in one session, and prints a Markdown table.

    cargo build --release
    python3 benches/compare/compare.py --corpus CORPUS_DIR --work SCRATCH_DIR

CORPUS_DIR holds plain `.jsonl` shards with the fields text, title, url, domain, quality_prob, word_count.
SCRATCH_DIR needs room for about three times the corpus; the script works in a new folder inside it and
removes that folder at the end. Only Python 3.11 and its standard library are needed: Polars, DuckDB and
datatrove come, pinned by requirements.txt, into a virtual environment that the script makes if it is missing.

How it measures
---------------
- Every contender is a process of its own, measured from outside as a whole: start-up, imports, work, exit.
  Wall time is the monotonic clock from just before the start to the end; CPU time and peak resident
  memory are what the kernel says in wait4, with the child processes that the contender waited for. For
  a contender of several processes the peak is that of its largest one. (A new process begins as a copy of
  this script, so a peak below this script's own can't be seen: it is shown as `< N`.)
- A contender gets no figures unless every one of its runs, timed or not, ends with status 0 and leaves as many
  documents as the corpus has (counted after the clock has stopped). So the corpus has to be a clean one.
- One warm-up each, not timed: it fills the page cache and byte-code caches and, with a sampler that would
  disturb a timing, measures anonymous memory. That is what a program allocates, in contrast to pages of
  mapped input files that the kernel can drop at will: the sum of RssAnon over the contender's processes, read
  every 5 ms, the highest seen. (A page shared after a fork counts once a process, so for datatrove it is an
  upper bound.)
- Then rounds: A B C, A B C, and so on, so that a machine that slows down slows all. Medians are shown, with
  the range. The slow contenders take part in the first --slow-runs rounds only.
- Each output is deleted before the next run. Before each start the file systems are synced, so that
  nobody pays for the writing back of another's pages.
- `colophon validate` reads an export that was made before the rounds, and its GB/s is of that export's bytes.
- The CPU time that other programs (or a hypervisor) took from the machine during a contender's runs is measured
  too, from /proc/stat. When it is more than 5 % the report says so: a contender of two threads then loses more
  than one of a single thread, and the ratios are not to be quoted.
- All get the same number of threads where they have a say. To hold a machine with more cores to that
  number too, start the script under `taskset -c 0,1`.

What it does not show: only `colophon export` and the Python way do the whole job (and Python without
checksums, quarantine or manifest); the others leave out most of it, as the table's second column says. colophon
syncs its files to the disk before it ends, the others don't: on a memory file system that is no difference, on a
disk it counts against colophon.
"""
import argparse
import contextlib
import datetime
import hashlib
import json
import os
import pathlib
import platform
import re
import resource
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field

HERE = pathlib.Path(__file__).resolve().parent
BINARY = HERE.parent.parent / 'target' / 'release' / 'colophon'
REQUIREMENTS = HERE / 'requirements.txt'
TOOLS = ['cp', 'colophon', 'python', 'polars', 'duckdb', 'datatrove']
NEED_VENV = {'polars', 'duckdb', 'datatrove'}
SAMPLE_SECONDS = 0.005
QUIET = 0.05                    # the share of the machine that others may take before the report warns
RENAME = [('title', 'title'), ('url', 'source_url'), ('domain', 'domain'),
          ('quality_prob', 'quality_score'), ('word_count', 'word_count')]


# --- what is compared -------------------------------------------------------------------------------

@dataclass
class Contender:
    """One row of the table: a command, what it does, and what came out."""

    name: str
    does: str
    command: list[str]
    input_bytes: int                        # what GB/s is of
    writes: bool = True                     # has an output with every document, to be checked and deleted
    content: Callable | None = None         # output document -> what --check compares
    slow: bool = False
    env: dict = field(default_factory=dict)
    anonymous_bytes: int | None = None      # from the warm-up
    runs: list = field(default_factory=list)
    failure: str | None = None

    def median(self, what):
        return statistics.median(run[what] for run in self.runs)

    def others_share(self):
        """The share of the machine's CPU time that others took during all timed runs together.

        Two steps of the kernel's clock are let off, or a run of a few milliseconds would look disturbed.
        """
        wall = sum(run['wall'] for run in self.runs)
        others = sum(run['others'] for run in self.runs) - 2 / os.sysconf('SC_CLK_TCK')
        return max(0.0, others) / (wall * os.cpu_count()) if wall else 0.0


def contenders(options, corpus, scratch, python):
    """The chosen contenders, in the table's order. Prepares the export that `validate` reads."""
    out, size, threads = scratch / 'out', corpus.size, str(options.threads)
    chosen = []

    def script(name, *arguments, interpreter=python):
        return [interpreter, str(HERE / name), str(corpus.folder), str(out), *arguments]

    if 'cp' in options.tools:
        chosen.append(Contender('`cp -r`', 'copies the bytes',
                                ['cp', '-r', str(corpus.folder), str(out)], size, content=source_content))
    if 'colophon' in options.tools:
        binary, extra = str(options.colophon), shlex.split(options.colophon_args)

        def export_to(folder):
            return [binary, 'export', '--input-dir', str(corpus.folder), '--output-dir', str(folder),
                    '--threads', threads, *extra]

        chosen.append(Contender('`colophon export`', 'everything: map, split, validate, count, SHA-256, manifest',
                                export_to(out), size, content=mapped_content))
        kept = scratch / 'kept'
        note('preparing the export that `colophon validate` reads')
        wrong = fault(run(export_to(kept), {}, scratch), corpus, kept)
        if not wrong:
            kept_bytes = sum(path.stat().st_size for path in output_shards(kept))
            chosen.append(Contender('`colophon validate`', 'reads and validates the export (GB/s of its bytes)',
                                    [binary, 'validate', str(kept)], kept_bytes, writes=False))
        else:
            note(f'no export for `colophon validate` to read, so it is skipped: {wrong}')
    if 'python' in options.tools:
        chosen.append(Contender('Python `json`', 'map, split, validate, count; one process',
                                script('seed_export.py', interpreter=sys.executable), size,
                                content=mapped_content, slow=True))
    if 'polars' in options.tools:
        chosen.append(Contender('Polars', 'map and split alone', script('polars_export.py'), size,
                                content=mapped_content, env={'POLARS_MAX_THREADS': threads}))
    if 'duckdb' in options.tools:
        chosen.append(Contender('DuckDB', 'map and split alone', script('duckdb_export.py', threads), size,
                                content=mapped_content))
    if 'datatrove' in options.tools:
        chosen.append(Contender('datatrove', 'reads and writes alone', script('datatrove_export.py', threads), size,
                                content=text_content, slow=True))
    return chosen


# --- running and measuring --------------------------------------------------------------------------

def environment(extra):
    """The environment of every contender: the user's, without settings that would change what is measured."""
    env = {key: value for key, value in os.environ.items() if not re.match('COLOPHON_|POLARS_|PYTHON', key)}
    return env | {'PYTHONUTF8': '1', 'LC_ALL': 'C.UTF-8'} | extra


def run(command, extra_env, scratch, sample=False):
    """Runs a command to its end and returns its status, seconds, CPU seconds and peak memory.

    With `sample` the highest sum of RssAnon is in `anonymous`, and the other figures are not to be trusted.
    """
    os.sync()
    log = scratch / 'log'
    with open(log, 'wb') as output:
        busy = machine_cpu_seconds()
        start = time.monotonic()
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                 env=environment(extra_env), cwd=scratch, process_group=0)
        anonymous = 0
        try:
            pid = 0
            while sample and pid == 0:
                anonymous = max(anonymous, anonymous_of_tree(child.pid))
                time.sleep(SAMPLE_SECONDS)
                pid, status, usage = os.wait4(child.pid, os.WNOHANG)
            if not sample:
                _, status, usage = os.wait4(child.pid, 0)
            wall = time.monotonic() - start
            others = machine_cpu_seconds() - busy - usage.ru_utime - usage.ru_stime
        except BaseException:               # a signal to this script: leave no contender behind
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            raise
        child.returncode = os.waitstatus_to_exitcode(status)   # Popen need not wait again
    tail = log.read_bytes()[-1500:].decode(errors='replace').strip().splitlines()
    return {'status': child.returncode, 'wall': wall, 'user': usage.ru_utime, 'system': usage.ru_stime,
            'others': others, 'rss': usage.ru_maxrss * 1024, 'anonymous': anonymous,
            'tail': ' / '.join(line.strip() for line in tail[-2:])}


def machine_cpu_seconds():
    """CPU seconds that the machine has spent on anything but idling, stolen time included (in steps of 10 ms)."""
    with open('/proc/stat') as file:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf('SC_CLK_TCK')


def anonymous_of_tree(pid):
    """Bytes of anonymous memory that a process and its descendants have now; 0 when it is gone."""
    total = 0
    try:
        with open(f'/proc/{pid}/status') as status:
            for line in status:
                if line.startswith('RssAnon:'):
                    total = int(line.split()[1]) * 1024
                    break
        for task in os.listdir(f'/proc/{pid}/task'):
            with open(f'/proc/{pid}/task/{task}/children') as children:
                total += sum(anonymous_of_tree(int(child)) for child in children.read().split())
    except OSError:
        pass
    return total


def fault(result, corpus, output):
    """What is wrong with a run, or None: its status, or the number of documents in its output (None: has none)."""
    if result['status'] != 0:
        return f'status {result["status"]}: {result["tail"]}'
    if output is not None:
        documents = sum(map(count_lines, output_shards(output)))
        if documents != corpus.documents:
            return f'wrote {documents:,} of {corpus.documents:,} documents'
    return None


def run_contender(contender, corpus, scratch, sample=False, check=False):
    """One run with everything around it: its output is looked at and deleted. Returns the result or None."""
    out = scratch / 'out'
    result = run(contender.command, contender.env, scratch, sample)
    contender.failure = fault(result, corpus, out if contender.writes else None)
    if check and contender.writes and not contender.failure:
        if digest(output_shards(out), contender.content) != corpus.digest(contender.content):
            contender.failure = 'wrote other documents than the corpus has'
    remove(out)
    return None if contender.failure else result


def measure(all_contenders, options, corpus, scratch):
    """Warm-ups, then the rounds."""
    for contender in all_contenders:
        if contender.slow and options.skip_slow_warmup:
            continue
        note(f'warm-up: {contender.name}')
        if result := run_contender(contender, corpus, scratch, sample=True, check=options.check):
            contender.anonymous_bytes = result['anonymous']
    for number in range(max(options.runs, options.slow_runs)):
        for contender in all_contenders:
            if contender.failure or number >= (options.slow_runs if contender.slow else options.runs):
                continue
            if result := run_contender(contender, corpus, scratch):
                note(f'round {number + 1}: {contender.name}: {result["wall"]:.3f} s')
                contender.runs.append(result)


# --- the corpus and the outputs ---------------------------------------------------------------------

class Corpus:
    """The input: plain `.jsonl` files in one folder, because that is what every contender reads."""

    def __init__(self, folder):
        self.folder = folder
        self.shards = sorted(folder.glob('*.jsonl'))
        others = [path.name for path in folder.iterdir() if path not in self.shards or not path.is_file()]
        if not self.shards or others:
            sys.exit(f'compare: {folder}: want a folder of .jsonl files and nothing else'
                     + (f'; found {", ".join(sorted(others)[:3])}' if others else ''))
        self.size = sum(path.stat().st_size for path in self.shards)
        self.documents = sum(map(count_lines, self.shards))     # reads everything: the page cache is warm
        self.digests = {}

    def digest(self, content):
        """What the output's digest has to be for a contender whose documents are read by `content`."""
        make = {mapped_content: source_as_mapped, text_content: text_content, source_content: source_content}[content]
        if content not in self.digests:
            self.digests[content] = digest(self.shards, make)
        return self.digests[content]


def output_shards(folder):
    """The files of an output that hold documents, whatever a contender's layout is."""
    found = [path for pattern in ('*.jsonl', 'split=*/*.json') for path in folder.glob(pattern)]
    return sorted(path for path in found if path.is_file())


def count_lines(path):
    """Lines of a file; the last one may lack its LF."""
    lines, last = 0, b'\n'
    with open(path, 'rb', buffering=0) as file:
        while block := file.read(1 << 20):
            lines += block.count(b'\n')
            last = block[-1:]
    return lines + (last != b'\n')


def digest(shards, content):
    """An order-free digest of documents: the sum of the hashes of what `content` takes from each."""
    total = 0
    for path in shards:
        with open(path, encoding='utf-8', newline='\n') as lines:
            for line in lines:
                key = json.dumps(content(json.loads(line)), sort_keys=True).encode()
                total += int.from_bytes(hashlib.blake2b(key, digest_size=16).digest(), 'big')
    return total % 2**128


def source_content(document):
    """All of an input document (for `cp`)."""
    return document


def text_content(document):
    """The text alone (datatrove keeps its own layout)."""
    return document['text']


def source_as_mapped(document):
    """What an input document has to become: text and metadata, without absent fields."""
    metadata = {new: document[old] for old, new in RENAME if document.get(old) is not None}
    return [document['text'], metadata]


def mapped_content(document):
    """What an output document became: nulls count as absent, the three constants are each tool's own."""
    metadata = {new: document['metadata'].get(new) for _, new in RENAME}
    return [document['text'], {key: value for key, value in metadata.items() if value is not None}]


def remove(folder):
    if folder.exists():
        shutil.rmtree(folder)


# --- the virtual environment ------------------------------------------------------------------------

def make_venv(folder):
    """Returns the environment's Python, after making the environment if it is missing or of other versions."""
    python, stamp = folder / 'bin' / 'python', folder / 'requirements.installed'
    wanted = REQUIREMENTS.read_text()
    if not (python.exists() and stamp.exists() and stamp.read_text() == wanted):
        note(f'installing the pinned contenders into {folder}')
        for command in ([sys.executable, '-m', 'venv', str(folder)],
                        [str(python), '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check',
                         '-r', str(REQUIREMENTS)]):
            if subprocess.run(command, stdout=sys.stderr).returncode != 0:
                sys.exit('compare: could not make the virtual environment; '
                         'without it: --tools cp,colophon,python')
        stamp.write_text(wanted)
    return str(python)


# --- the report -------------------------------------------------------------------------------------

def first_line(command):
    """The first line that a command prints, or `unknown`."""
    with contextlib.suppress(OSError, IndexError):
        return subprocess.run(command, capture_output=True, text=True).stdout.splitlines()[0].strip()
    return 'unknown'


def versions(options, python):
    """Name -> version of everything that was compared."""
    found = {'Python': platform.python_version()}
    if 'cp' in options.tools:
        found['cp'] = first_line(['cp', '--version']).removeprefix('cp ')
    if 'colophon' in options.tools:
        found['colophon'] = first_line([str(options.colophon), '--version']).removeprefix('colophon ')
    for tool in [tool for tool in options.tools if tool in NEED_VENV]:
        found[tool] = first_line([python, '-c', f'import importlib.metadata as m; print(m.version("{tool}"))'])
    return found


def file_system(path):
    """The type of the file system that a path is on."""
    best, kind = '', 'unknown'
    with open('/proc/self/mountinfo') as mounts:
        for line in mounts:
            left, right = line.split(' - ', 1)
            point = left.split()[4].encode().decode('unicode_escape')
            inside = path == pathlib.Path(point) or pathlib.Path(point) in path.parents
            if inside and len(point) >= len(best):
                best, kind = point, right.split()[0]
    return kind


def machine():
    """The CPU, its cores that this process may use, the memory, the kernel."""
    cpu = next((line.split(':', 1)[1].strip() for line in open('/proc/cpuinfo') if line.startswith('model name')),
               platform.machine())
    memory = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    return {'cpu': cpu, 'cores': len(os.sched_getaffinity(0)), 'memory': memory,
            'kernel': f'{platform.system()} {platform.release()}'}


def mib(size, floor=0):
    """A size in MiB; `floor` is the least that could have been seen."""
    return '–' if size is None else f'< {floor / 2**20:.0f}' if size <= floor else f'{size / 2**20:.0f}'


def table(all_contenders, floor):
    """The rows, as Markdown."""
    def reference(name):
        return next((c.median('wall') for c in all_contenders if c.name == name and c.runs and not c.failure), None)

    copy, full = reference('`cp -r`'), reference('`colophon export`')
    lines = ['| contender | what it does | wall s, median (range) | GB/s of input | × `cp -r` | × `colophon export` '
             '| CPU s | peak RSS MiB | peak anonymous MiB |',
             '| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |']
    for c in all_contenders:
        if c.failure or not c.runs:
            lines.append(f'| {c.name} | {c.does} | failed | – | – | – | – | – | – |')
            continue
        walls = [r['wall'] for r in c.runs]
        wall = c.median('wall')
        spread = f' ({min(walls):.3f}–{max(walls):.3f})' if len(walls) > 1 else ' (1 run)'
        cpu = statistics.median(r['user'] + r['system'] for r in c.runs)

        def ratio(base):
            return f'{wall / base:.2f}' if base and c.writes else '–'

        lines.append(
            f'| {c.name} | {c.does} | {wall:.3f}{spread} | {c.input_bytes / wall / 1e9:.3f} | {ratio(copy)} '
            f'| {ratio(full)} | {cpu:.2f} | {mib(max(r["rss"] for r in c.runs), floor)} | {mib(c.anonymous_bytes)} |')
    return lines


def report(all_contenders, options, corpus, scratch, python, load):
    """Prints everything and returns it for --json."""
    about, found = machine(), versions(options, python)
    floor = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    about |= {'work_file_system': file_system(scratch), 'corpus_file_system': file_system(corpus.folder),
              'load_at_start': load, 'threads': options.threads}
    lines = table(all_contenders, floor)
    lines += ['',
              f'{about["cpu"]}, {about["cores"]} cores, {about["memory"] / 2**30:.0f} GiB, {about["kernel"]}; '
              f'output on {about["work_file_system"]}, input on {about["corpus_file_system"]}; '
              f'{options.threads} threads; load at start {load:.2f}.',
              '',
              f'Corpus: {corpus.size:,} bytes ({corpus.size / 2**30:.2f} GiB), {corpus.documents:,} documents, '
              f'{len(corpus.shards)} shards. GB = 10⁹ bytes, MiB = 2²⁰ bytes. Runs: {options.runs}, '
              f'{options.slow_runs} for {" and ".join(c.name for c in all_contenders if c.slow) or "slow ones"}. '
              'RSS counts pages of mapped input files too; anonymous memory (a run of its own, read every 5 ms) '
              'does not.',
              '',
              'Versions: ' + ', '.join(f'{name} {version}' for name, version in found.items())
              + f'. {datetime.date.today().isoformat()}.']
    problems, warnings = [], []
    if options.skipped:
        lines += ['', f'Skipped: {options.skipped}']
    for c in all_contenders:
        if c.failure:
            problems.append(f'{c.name} failed: {c.failure}')
        if c.others_share() > QUIET:
            warnings.append(f'other programs took {c.others_share():.0%} of the CPU time during {c.name}: '
                            'measure again on a quiet machine')
    if options.check and not problems:
        lines += ['', 'Checked: every contender wrote the documents of the corpus, with their content.']
    lines += ['', *(f'- **{line}**' for line in problems + warnings)] if problems or warnings else []
    print('\n'.join(lines))
    kept = ('wall', 'user', 'system', 'others', 'rss')
    return {'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'), 'machine': about,
            'versions': found, 'problems': problems, 'warnings': warnings,
            'corpus': {'bytes': corpus.size, 'documents': corpus.documents, 'shards': len(corpus.shards)},
            'contenders': [{'name': c.name, 'does': c.does, 'input_bytes': c.input_bytes,
                            'anonymous_bytes': c.anonymous_bytes, 'failure': c.failure,
                            'runs': [{key: r[key] for key in kept} for r in c.runs]}
                           for c in all_contenders]}


def note(message):
    """Progress, to standard error."""
    print(f'compare: {message}', file=sys.stderr, flush=True)


# --- the command line -------------------------------------------------------------------------------

def count(text):
    """An argument that is a number from 1."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError('must be 1 or more')
    return value


def parse_arguments():
    parser = argparse.ArgumentParser(
        description='Runs colophon beside other ways to do its job; prints a Markdown table.')
    parser.add_argument('--corpus', type=pathlib.Path, required=True, help='folder of plain .jsonl shards')
    parser.add_argument('--work', type=pathlib.Path, required=True,
                        help='folder for outputs, with room for three times the corpus; best on a memory file system')
    parser.add_argument('--runs', type=count, default=5, help='timed runs of each contender (default 5)')
    parser.add_argument('--slow-runs', type=count, default=1, help='timed runs of Python and datatrove (default 1)')
    parser.add_argument('--skip-slow-warmup', action='store_true',
                        help='no warm-up for those: their anonymous memory stays unknown')
    parser.add_argument('--threads', type=count, default=2, help='threads for each contender (default 2)')
    parser.add_argument('--colophon', type=pathlib.Path, default=BINARY, help='the binary')
    parser.add_argument('--colophon-args', default='', metavar='ARGS',
                        help='more arguments for colophon export, e.g. --colophon-args="--device cpu"')
    parser.add_argument('--tools', default=','.join(TOOLS), help=f'which to run (default {",".join(TOOLS)})')
    parser.add_argument('--venv', type=pathlib.Path, default=HERE / '.venv',
                        help='virtual environment, made if missing (default benches/compare/.venv)')
    parser.add_argument('--check', action='store_true',
                        help='compare the documents of each output with the corpus (slow: for a small corpus)')
    parser.add_argument('--json', type=pathlib.Path, help='write every figure to this file')
    options = parser.parse_args()

    options.skipped = None
    options.tools = options.tools.split(',')
    if unknown := [tool for tool in options.tools if tool not in TOOLS]:
        parser.error(f'unknown tool {", ".join(unknown)}; there are {", ".join(TOOLS)}')
    options.tools = [tool for tool in TOOLS if tool in options.tools]
    for name in ('corpus', 'work', 'colophon', 'venv'):
        setattr(options, name, getattr(options, name).absolute())
    if not options.corpus.is_dir():
        parser.error(f'{options.corpus} is not a folder')
    if 'colophon' in options.tools and not os.access(options.colophon, os.X_OK):
        options.skipped = f'colophon, for there is no {options.colophon} (cargo build --release makes it).'
        note(f'skipping {options.skipped}')
        options.tools.remove('colophon')
    options.work = options.work.resolve()
    options.corpus = options.corpus.resolve()
    if options.work == options.corpus or options.corpus in options.work.parents:
        parser.error('--work must not be inside --corpus')
    return options


def main():
    options = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    load = os.getloadavg()[0]
    python = make_venv(options.venv) if NEED_VENV & set(options.tools) else sys.executable
    corpus = Corpus(options.corpus)
    options.work.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(options.work).free < 3 * corpus.size:
        sys.exit(f'compare: {options.work} has room for less than three times the corpus')
    try:
        with tempfile.TemporaryDirectory(prefix='compare-', dir=options.work) as folder:
            scratch = pathlib.Path(folder)
            all_contenders = contenders(options, corpus, scratch, python)
            measure(all_contenders, options, corpus, scratch)
            result = report(all_contenders, options, corpus, scratch, python, load)
    except KeyboardInterrupt:
        sys.exit(130)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2, ensure_ascii=False) + '\n')
    sys.exit(1 if result['problems'] else 0)


if __name__ == '__main__':
    main()
