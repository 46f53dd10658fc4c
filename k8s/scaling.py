#!/usr/bin/env python3
"""How an export runs on many nodes: a model on paper, and a simulated cluster that the model is checked against.

    scaling.py                 the tables of SCALING.md
    scaling.py --self-test     the model against the simulation, and the page against the model
    scaling.py --write         puts the tables into SCALING.md
    benches/workers.py … | scaling.py --measured
                               puts what was measured of 1, 2, 4 and 8 workers into SCALING.md

Everything that is assumed is a field of `Cluster` or `Job`, with its unit. What comes out is a prediction.
"""

import argparse
import dataclasses
import heapq
import math
import pathlib
import random
import re
import statistics
import sys

PAGE = pathlib.Path(__file__).resolve().parent / "SCALING.md"
TB = 1e12


@dataclasses.dataclass(frozen=True)
class Cluster:
    """What there is to run on. Rates in bytes a second, times in seconds, prices in US dollars."""

    # Measured: 1 GiB exported in 1.00 s on 2 cores, input and output in memory.
    worker_rate: float = 2**30 / 1.00
    # Measured: `colophon verify` hashes and scans about as fast as `validate`, on 2 cores.
    verify_rate: float = 2.0e9
    # Assumed: a volume that many nodes share gives one client so much, reading and writing together ...
    client_bandwidth: float = 1.2e9
    # ... and all of them together so much.
    volume_bandwidth: float = 40e9
    # Assumed: what a merge moves on the volume: it reads the parts and writes the export, with one stream.
    merge_rate: float = 0.5e9
    # Assumed: from the creation of a pod to its first byte, image and volume included.
    start: float = 30.0
    # Assumed: a node is taken away once in so many seconds (spot instances: some 5 % an hour).
    preempted_every: float = 20 * 3600.0
    # Assumed: until a pod that was lost has a successor that runs.
    replacement: float = 120.0
    # Assumed: share of workers on slow nodes, and how slow those are.
    stragglers: float = 0.03
    straggling: float = 0.5
    # Assumed: the other workers' rates scatter by so much (standard deviation, as a share).
    jitter: float = 0.05
    # Assumed: an object store takes so much from one client, and so many requests a second for one prefix.
    upload_rate: float = 1.0e9
    requests_a_second: float = 3500.0
    # Assumed prices: a spot node with 4 cores for an hour, the same with a small GPU, and 1,000 PUT requests.
    node_hour: float = 0.07
    gpu_node_hour: float = 0.25
    thousand_puts: float = 0.005


@dataclasses.dataclass(frozen=True)
class Job:
    """What there is to do. Bytes of input, workers, and how the output is cut."""

    bytes: float
    workers: int
    output: float = 1.04  # output bytes for a byte of input (measured on the demo's corpus)
    shard: float = 2**29  # --shard-size 512MiB
    part: float = 64 * 2**20  # --part-size
    datasets: int = 1  # folders of their own, each with its workers, its merge and its upload


def rate(job, cluster):
    """Bytes of input that a usual worker does in a second: its cores, its link, or its share of the volume."""
    moved = 1 + job.output
    return min(
        cluster.worker_rate,
        cluster.client_bandwidth / moved,
        cluster.volume_bandwidth / moved / job.workers,
    )


def bound_by(job, cluster):
    """Which of them it is."""
    moved = 1 + job.output
    limits = {
        "cores": cluster.worker_rate,
        "node's link": cluster.client_bandwidth / moved,
        "volume": cluster.volume_bandwidth / moved / job.workers,
    }
    return min(limits, key=limits.get)


def attempt(seconds, cluster):
    """Expected seconds until a share is done that takes so many undisturbed, where a loss means to begin again.

    With losses at the rate λ, each costing `replacement` and a start, the expected time of an all-or-nothing task of
    length t is (e^(λt) − 1) (1/λ + replacement); see Daly, "A higher order estimate of the optimum checkpoint interval
    for restart dumps", 2006, for one checkpoint interval.
    """
    lost = 1 / cluster.preempted_every
    return math.expm1(lost * seconds) * (cluster.preempted_every + cluster.replacement)


def finished(job, cluster):
    """The chance, at steps of so many seconds, that one share is done by then.

    Solves the renewal equation of a share that begins again, after `replacement`, whenever its node is lost:
    done(t) = succeeds(t) + ∫ lost(u) done(t − u − replacement) du. Slow nodes and jitter are in the distribution of an
    attempt's length.
    """
    work = job.bytes / job.workers / rate(job, cluster)
    step = (cluster.start + work) / 100
    loss = 1 / cluster.preempted_every

    def is_at_most(seconds):
        """The chance that an attempt on some node needs no longer, if it is left alone."""
        if seconds <= cluster.start:
            return 0.0
        speed = work / (seconds - cluster.start)
        if cluster.jitter > 0:
            usual = 1.0 if speed <= 0.2 else 1 - statistics.NormalDist(1, cluster.jitter).cdf(speed)
        else:
            usual = float(speed <= 1 + 1e-9)
        return (1 - cluster.stragglers) * usual + cluster.stragglers * (speed <= cluster.straggling + 1e-9)

    shift = round(cluster.replacement / step)
    succeeds, lost, done, total = [0.0], [0.0], [0.0], 0.0
    steps = 0
    # Until it is next to certain that all are done.
    while 1 - total > 1e-3 / job.workers and steps < 20_000:
        steps += 1
        now, before = steps * step, (steps - 1) * step
        # The two add up to what is left after the last step less what is left after this one, so nothing gets lost.
        succeeds.append((is_at_most(now) - is_at_most(before)) * math.exp(-loss * now))
        if (still := 1 - is_at_most(before)) > 1e-12:
            lost.append(still * (math.exp(-loss * before) - math.exp(-loss * now)))
        reach = range(1, min(len(lost), steps - shift))
        done.append(succeeds[steps] + sum(lost[u] * done[steps - u - shift] for u in reach))
        total += done[steps]
        yield step, total


def predict(job, cluster):
    """The whole run, in seconds and dollars."""
    share = job.bytes / job.workers
    undisturbed = cluster.start + share / rate(job, cluster)
    # The expected largest of so many independent times: nobody is done before the first step, which begins at 0, and
    # what happens in a step happens in its middle.
    steps = list(finished(job, cluster))
    workers = steps[0][0] / 2 + sum(step * (1 - chance**job.workers) for step, chance in steps)
    output = job.bytes * job.output
    moved_by_one = cluster.client_bandwidth / 2
    merge = output / min(job.datasets * min(cluster.merge_rate, moved_by_one), cluster.volume_bandwidth / 2)
    verify = output / min(job.datasets * min(cluster.verify_rate, cluster.client_bandwidth), cluster.volume_bandwidth)
    files = math.ceil(output / job.shard)
    requests = files * (math.ceil(job.shard / job.part) + 3)
    upload = max(output / cluster.upload_rate, requests / cluster.requests_a_second) / job.datasets
    losses = job.workers * undisturbed / cluster.preempted_every
    busy = job.workers * attempt(undisturbed, cluster) * (1 + cluster.stragglers * (1 / cluster.straggling - 1))
    after = (merge + verify + upload) * job.datasets
    puts = requests / 1000 * cluster.thousand_puts
    return {
        "rate": rate(job, cluster),
        "bound": bound_by(job, cluster),
        "share": share,
        "workers": workers,
        "merge": merge,
        "verify": verify,
        "upload": upload,
        "all": workers + merge + verify + upload,
        "files": files,
        "requests": requests,
        "losses": losses,
        "node_hours": (busy + after) / 3600,
        "puts": puts,
        "cost": (busy + after) / 3600 * cluster.node_hour + puts,
        "gpu_cost": (busy * cluster.gpu_node_hour + after * cluster.node_hour) / 3600 + puts,
    }


def simulate(job, cluster, seed):
    """Seconds until every share is done, on a cluster with slow nodes, lost nodes and retries, event by event."""
    dice = random.Random(seed)
    share = job.bytes / job.workers

    def length():
        """What one attempt takes, on whatever node it gets."""
        speed = cluster.straggling if dice.random() < cluster.stragglers else max(0.2, dice.gauss(1, cluster.jitter))
        return cluster.start + share / rate(job, cluster) / speed

    events = []  # (time, order, share, what)
    for index in range(job.workers):
        heapq.heappush(events, (0.0, index, index, "start"))
    order, done, busy, losses, end = job.workers, 0, 0.0, 0, 0.0
    while events:
        now, _, index, what = heapq.heappop(events)
        order += 1
        if what == "done":
            done, end = done + 1, now
            continue
        needs, lives = length(), dice.expovariate(1 / cluster.preempted_every)
        if needs <= lives:
            heapq.heappush(events, (now + needs, order, index, "done"))
            busy += needs
        else:
            # Nothing of the part is kept: the share begins again, elsewhere.
            heapq.heappush(events, (now + lives + cluster.replacement, order, index, "start"))
            busy += lives
            losses += 1
    assert done == job.workers
    return {"workers": end, "losses": losses, "busy": busy}


SCALES = (
    ("1 TB", Job(1 * TB, 8), Cluster()),
    ("100 TB", Job(100 * TB, 256, datasets=16), Cluster(volume_bandwidth=200e9)),
    ("10 PB", Job(10_000 * TB, 8192, datasets=1024), Cluster(volume_bandwidth=2e12)),
)


def duration(seconds):
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} d"


def size(number):
    for unit, name in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number:.0f} B"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def predictions():
    found = [(name, job, cluster, predict(job, cluster)) for name, job, cluster in SCALES]
    row = lambda title, cell: [title] + [cell(*entry[1:]) for entry in found]
    return table(
        ["prediction"] + [name for name, *_ in found],
        [
            row("datasets, each a folder of its own", lambda j, c, p: f"{j.datasets:,}"),
            row("workers in all, of 2 to 4 cores", lambda j, c, p: f"{j.workers:,}"),
            row("volume, all clients together", lambda j, c, p: f"{size(c.volume_bandwidth)}/s"),
            row("input of a worker", lambda j, c, p: size(p["share"])),
            row("a worker's rate", lambda j, c, p: f"{size(p['rate'])}/s"),
            row("bound by", lambda j, c, p: f"the {p['bound']}" if p["bound"] != "cores" else "its cores"),
            row("read and written by a node", lambda j, c, p: size(p["share"] * (1 + j.output))),
            row("nodes lost on the way", lambda j, c, p: f"{p['losses']:.2g}"),
            row("until the last worker is done", lambda j, c, p: duration(p["workers"])),
            row("merge, one node a dataset", lambda j, c, p: duration(p["merge"])),
            row("verify, one node a dataset", lambda j, c, p: duration(p["verify"])),
            row("upload to S3, one node a dataset", lambda j, c, p: duration(p["upload"])),
            row("all of it", lambda j, c, p: duration(p["all"])),
            row("with one dataset instead", lambda j, c, p: duration(predict(dataclasses.replace(j, datasets=1), c)["all"])),
            row("files of 512 MiB", lambda j, c, p: f"{p['files']:,}"),
            row("PUT requests, parts of 64 MiB", lambda j, c, p: f"{p['requests']:,}"),
            row("node hours", lambda j, c, p: f"{p['node_hours']:,.0f}" if p["node_hours"] >= 10 else f"{p['node_hours']:.1f}"),
            row("of the cost, PUT requests", lambda j, c, p: f"${p['puts']:,.2f}" if p["puts"] < 100 else f"${p['puts']:,.0f}"),
            row("cost, CPU nodes", lambda j, c, p: f"${p['cost']:,.2f}" if p["cost"] < 100 else f"${p['cost']:,.0f}"),
            row("cost, if the workers have GPUs", lambda j, c, p: f"${p['gpu_cost']:,.2f}" if p["gpu_cost"] < 100 else f"${p['gpu_cost']:,.0f}"),
        ],
    )


ROUNDS = {8: 2000, 16: 2000, 256: 400, 8192: 12}
# Scenarios beside the three scales: each brings out one of the model's parts.
SCENARIOS = SCALES + (
    ("calm: no slow nodes, none lost", Job(100 * TB, 256), Cluster(volume_bandwidth=200e9, stragglers=0, preempted_every=1e12)),
    ("no slow nodes, many lost", Job(100 * TB, 256), Cluster(volume_bandwidth=200e9, stragglers=0, preempted_every=5 * 3600.0)),
    ("many slow nodes, none lost", Job(100 * TB, 256), Cluster(volume_bandwidth=200e9, stragglers=0.2, preempted_every=1e12)),
    ("few large shares", Job(100 * TB, 16), Cluster()),
)


def comparison():
    """Model and simulation beside each other: name, model, the simulation's mean and range, the deviation."""
    for name, job, cluster in SCENARIOS:
        rounds = ROUNDS.get(job.workers, 200)
        ends = sorted(simulate(job, cluster, seed)["workers"] for seed in range(rounds))
        mean, model = statistics.mean(ends), predict(job, cluster)["workers"]
        yield name, job, model, mean, ends[0], ends[-1], model / mean - 1


def simulations():
    row = lambda name, job, model, mean, least, most, off: [
        name, f"{job.workers:,}", duration(model), duration(mean), f"{duration(least)} to {duration(most)}", f"{off:+.0%}",
    ]  # fmt: skip
    head = ["until the last worker is done", "workers", "model", "simulated, mean", "range", "model is off by"]
    return table(head, [row(*entry) for entry in comparison()])


def shares():
    """How the number of workers trades time for what a lost node costs."""
    rows = []
    for workers in (16, 64, 256, 1024, 4096):
        job, cluster = Job(100 * TB, workers), Cluster(volume_bandwidth=200e9)
        p = predict(job, cluster)
        once = cluster.start + p["share"] / p["rate"]
        again = attempt(once, cluster) / once - 1
        rows.append([f"{workers:,}", size(p["share"]), f"the {p['bound']}" if p["bound"] != "cores" else "its cores", duration(once), f"{again:.1%}", duration(p["workers"])])
    head = ["workers for 100 TB", "input of each", "bound by", "undisturbed", "work done twice", "until the last is done"]
    return table(head, rows)


def measured(report):
    """The table of benches/workers.py with what the model says: one worker's time over the workers that have a core."""
    cores = int(re.search(r"(\d+) cores", report)[1])
    row = re.compile(r"^\| (\d+) \| ([\d.]+) \(([^)]*)\) \| ([\d.]+) \| [^|]* \| ([\d.]+) \([^)]*\) \| ([\d.]+) \|$", re.M)
    found = [(int(n), float(seconds), spread, rate, merge, merge_rate) for n, seconds, spread, rate, merge, merge_rate in row.findall(report)]
    if not found or found[0][0] != 1:
        sys.exit("this is not the report of benches/workers.py, or one worker is missing in it")
    alone = found[0][1]
    rows = []
    for number, seconds, spread, rate, merge, merge_rate in found:
        model = alone / min(number, cores)
        rows.append([str(number), f"{seconds:.2f} s ({spread})", f"{rate} GB/s", f"{alone / seconds:.2f}", f"{model:.2f} s", f"{model / seconds - 1:+.0%}", f"{merge} s ({merge_rate} GB/s)"])
    head = ["workers, one thread each", "seconds (range)", "rate", "× one worker", "model", "model is off by", "merge"]
    about = report.strip().splitlines()[0]
    return f"{table(head, rows)}\n\n{about}"


def with_section(page, name, text):
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if begin not in page or end not in page:
        sys.exit(f"SCALING.md has no section {name}")
    before, rest = page.split(begin)
    return f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}"


def written(page):
    for name, text in (("predictions", predictions()), ("simulations", simulations()), ("shares", shares())):
        page = with_section(page, name, text)
    return page


def self_test():
    calm = Cluster(stragglers=0, jitter=0, preempted_every=1e15, start=0, volume_bandwidth=1e18, client_bandwidth=1e18)
    # Where nothing goes wrong, N workers take an N-th of the time.
    one = predict(Job(1 * TB, 1), calm)["workers"]
    assert math.isclose(one, TB / calm.worker_rate, rel_tol=0.006), one  # half a step of a hundredth
    for workers in (2, 8, 100):
        assert math.isclose(predict(Job(1 * TB, workers), calm)["workers"] * workers, one, rel_tol=1e-6)
        assert math.isclose(simulate(Job(1 * TB, workers), calm, 1)["workers"] * workers, TB / calm.worker_rate, rel_tol=1e-6)
    # A volume that is full does not get faster with more workers.
    full = dataclasses.replace(calm, volume_bandwidth=10e9)
    assert bound_by(Job(1 * TB, 100), full) == "volume"
    assert math.isclose(predict(Job(1 * TB, 100), full)["workers"], predict(Job(1 * TB, 200), full)["workers"], rel_tol=1e-6)
    # What a lost node costs, against the simulation: work done twice, over many rounds.
    lossy = dataclasses.replace(calm, preempted_every=3600.0, replacement=100.0)
    job = Job(2000 * calm.worker_rate, 1)
    mean = statistics.mean(simulate(job, lossy, seed)["workers"] for seed in range(20_000))
    assert abs(mean / attempt(2000, lossy) - 1) < 0.03, (mean, attempt(2000, lossy))
    # One seed, one run; another, another.
    lively = (Job(TB, 64), Cluster(preempted_every=3600.0))
    assert simulate(*lively, 1) == simulate(*lively, 1) != simulate(*lively, 2)
    assert simulate(*lively, 1)["losses"] > 0
    # The model as a whole, against the simulated cluster.
    for name, _, model, mean, _, most, off in comparison():
        assert abs(off) < 0.04, f"{name}: model {model:.0f} s, simulation {mean:.0f} s"
    report = (
        "1.05 GB in made, 2 cores, x86_64, Linux 6.18; seconds: median (range).\n\nOne machine, all cores: 1.07 (1–2) s.\n\n"
        "| workers | seconds | GB/s | of ideal | merge | merge, GB/s |\n| ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| 1 | 2.00 (1.90–2.10) | 0.52 | 1.00 | 0.60 (0.58–0.61) | 1.75 |\n| 4 | 1.10 (1.00–1.20) | 0.95 |  | 0.70 (0.60–0.80) | 1.50 |\n"
    )  # fmt: skip
    row = "| 4 | 1.10 s (1.00–1.20) | 0.95 GB/s | 1.82 | 1.00 s | -9% | 0.70 s (1.50 GB/s) |"
    assert row in measured(report), measured(report)
    page = PAGE.read_text()
    if written(page) != page:
        sys.exit("SCALING.md has other figures than the model: k8s/scaling.py --write")
    print("   the model agrees with the simulated cluster, and the page with the model")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--self-test", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--measured", action="store_true")
    options = parser.parse_args()
    if options.self_test:
        self_test()
    elif options.write:
        PAGE.write_text(written(PAGE.read_text()))
    elif options.measured:
        PAGE.write_text(with_section(PAGE.read_text(), "measured", measured(sys.stdin.read())))
    else:
        print("\n\n".join((predictions(), simulations(), shares())))


if __name__ == "__main__":
    main()
