#!/usr/bin/env python3
"""Measures `colophon upload` beside `aws s3 sync` and a plain parallel PUT, to one server on loopback.

    cargo build --release
    python3 -m venv VENV && VENV/bin/pip install -r tests/oracle/requirements-upload.txt
    PATH=VENV/bin:$PATH python3 benches/upload.py --server 'COMMAND' --work SCRATCH_DIR [--mebibytes 1024 | --input DIR]
        [--rounds 5]

COMMAND starts an S3 server on 127.0.0.1:PORT that keeps its files in ROOT, both of which the script puts in, and accepts
the credentials `key` and `secret`; such as

    s3s-fs --host 127.0.0.1 --port {port} --access-key key --secret-key secret {root}

(`cargo install s3s-fs --features binary`). The bucket is a folder that the script makes in ROOT. SCRATCH_DIR, best on a
memory file system, needs room for about four times the corpus. The corpus is made up, unless --input names a folder with
documents to export.

The plain PUT is the server's own limit: as many threads as the others have requests under way send the same requests,
signed as theirs, with bodies and hashes that lie in memory before the clock starts. Rounds go A B C, A B C; every
contender begins with an empty bucket; medians are shown. `colophon` verifies the export first, which the others do not;
its time is also shown without that. Peak memory is what the kernel says of the whole process.
"""
import argparse
import concurrent.futures
import hashlib
import http.client
import json
import os
import pathlib
import random
import shlex
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import boto3
import botocore.auth
import botocore.awsrequest
import botocore.credentials

BUCKET = "corpora"
PART = 8 << 20
CONCURRENCY = 8
MIB = 1 << 20
ROOT = pathlib.Path(__file__).resolve().parent.parent


def corpus(path: pathlib.Path, mebibytes: int) -> None:
    """Documents of some 4 KiB that do not repeat."""
    dice = random.Random(1)
    with path.open("w", encoding="utf-8") as file:
        number = 0
        while file.tell() < mebibytes * MIB:
            number += 1
            file.write(json.dumps({"text": f"{number} {dice.randbytes(2000).hex()}"}) + "\n")


def measured(command: list[str], environment: dict[str, str], log: pathlib.Path) -> tuple[float, float]:
    """Wall seconds and peak MiB of a process that has to end with status 0."""
    with log.open("w") as out:
        start = time.monotonic()
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{shlex.join(command)} ended with {process.returncode}:\n{log.read_text()}")
    return seconds, usage.ru_maxrss / 1024


class Known(botocore.auth.S3SigV4Auth):
    """Signs with a hash that was computed before."""

    def payload(self, request: botocore.awsrequest.AWSRequest) -> str:
        return request.context["sha256"]


def plain_put(endpoint: str, folder: pathlib.Path) -> float:
    """Seconds in which as many threads send the same requests, with bodies and hashes that lie in memory."""
    client = boto3.client("s3", endpoint_url=endpoint)
    signer = Known(botocore.credentials.Credentials("key", "secret"), "s3", "us-east-1")
    whole, parts = [], []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content, key = path.read_bytes(), f"plain/{path.relative_to(folder)}"
        pieces = [content[at:at + PART] for at in range(0, max(len(content), 1), PART)]
        hashed = [(piece, hashlib.sha256(piece).hexdigest()) for piece in pieces]
        (whole if len(pieces) == 1 else parts).append((key, hashed))
    local = threading.local()

    def put(path: str, query: str, piece: tuple[bytes, str]) -> str:
        if not hasattr(local, "connection"):
            local.connection = http.client.HTTPConnection(endpoint.removeprefix("http://"))
        request = botocore.awsrequest.AWSRequest("PUT", f"{endpoint}/{BUCKET}/{path}{query}", data=piece[0])
        request.context["sha256"] = piece[1]
        signer.add_auth(request)
        local.connection.request("PUT", f"/{BUCKET}/{path}{query}", piece[0], dict(request.headers.items()))
        answer = local.connection.getresponse()
        answer.read()
        if answer.status != 200:
            sys.exit(f"the plain PUT was answered with {answer.status}")
        return answer.headers["ETag"]

    start = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(CONCURRENCY) as pool:
        waiting = [pool.submit(put, key, "", pieces[0]) for key, pieces in whole]
        for key, pieces in parts:
            name = {"Bucket": BUCKET, "Key": key}
            name["UploadId"] = client.create_multipart_upload(**name)["UploadId"]
            query = [f"?partNumber={number + 1}&uploadId={name['UploadId']}" for number in range(len(pieces))]
            etags = list(pool.map(put, [key] * len(pieces), query, pieces))
            done = [{"PartNumber": number + 1, "ETag": etag} for number, etag in enumerate(etags)]
            client.complete_multipart_upload(**name, MultipartUpload={"Parts": done})
        for one in waiting:
            one.result()
    return time.monotonic() - start


def main() -> None:
    if sys.argv[1:2] == ["--plain"]:
        return print(plain_put(sys.argv[2], pathlib.Path(sys.argv[3])))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", required=True)
    parser.add_argument("--work", required=True, type=pathlib.Path)
    parser.add_argument("--colophon", default=ROOT / "target/release/colophon", type=pathlib.Path)
    parser.add_argument("--mebibytes", default=1024, type=int)
    parser.add_argument("--input", type=pathlib.Path)
    parser.add_argument("--rounds", default=5, type=int)
    arguments = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    os.environ.update(AWS_ACCESS_KEY_ID="key", AWS_SECRET_ACCESS_KEY="secret", AWS_REGION="us-east-1",
                      AWS_DEFAULT_REGION="us-east-1", AWS_EC2_METADATA_DISABLED="true",
                      AWS_CONFIG_FILE="/nonexistent", AWS_SHARED_CREDENTIALS_FILE="/nonexistent")
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        work = pathlib.Path(folder)
        input_ = arguments.input or work / "in"
        root, out, log = work / "root", work / "out", work / "log.txt"
        (root / BUCKET).mkdir(parents=True)
        if not arguments.input:
            input_.mkdir()
            corpus(input_ / "a.jsonl", arguments.mebibytes)
        colophon = str(arguments.colophon.resolve())
        subprocess.run([colophon, "--quiet", "export", "--input-dir", input_, "--output-dir", out], check=True,
                       stdout=subprocess.DEVNULL)
        shutil.rmtree(work / "in", ignore_errors=True)
        bytes_ = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        command = shlex.split(arguments.server.format(port=port, root=root))
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for(port, server)
            upload = [colophon, "upload", str(out), f"s3://{BUCKET}/colophon", "--endpoint-url", endpoint, "--path-style"]
            contenders = {
                "plain parallel PUT": None,
                "colophon upload": upload,
                "colophon upload --no-verify": [*upload, "--no-verify"],
                "colophon upload, unchanged": upload,
                "aws s3 sync": ["aws", "--endpoint-url", endpoint, "s3", "sync", "--only-show-errors", str(out),
                                f"s3://{BUCKET}/aws"],
            }
            times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
            for _ in range(arguments.rounds):
                for name, command in contenders.items():
                    if "unchanged" not in name:
                        shutil.rmtree(root / BUCKET)
                        (root / BUCKET).mkdir()
                        for entry in root.glob(".*"):
                            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
                    if command is None:
                        # In a process of its own, as a process begins with the memory of the one that starts it.
                        plain = [sys.executable, __file__, "--plain", endpoint, out]
                        done = subprocess.run(plain, check=True, stdout=subprocess.PIPE)
                        times[name].append((float(done.stdout), 0))
                    else:
                        times[name].append(measured(command, dict(os.environ), log))
        finally:
            server.terminate()
            server.wait()
    show(bytes_, times)


def wait_for(port: int, server: subprocess.Popen) -> None:
    for _ in range(100):
        if server.poll() is not None:
            sys.exit(f"the server ended with {server.returncode}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    sys.exit("the server does not listen")


def show(bytes_: int, times: dict[str, list[tuple[float, float]]]) -> None:
    limit = statistics.median(seconds for seconds, _ in times["plain parallel PUT"])
    print(f"{bytes_ / MIB:.0f} MiB, {os.cpu_count()} cores\n")
    print("| contender | seconds | range | × plain PUT | peak MiB |\n| --- | ---: | ---: | ---: | ---: |")
    for name, runs in times.items():
        seconds = [run[0] for run in runs]
        middle, memory = statistics.median(seconds), max(run[1] for run in runs)
        peak = f"{memory:.0f}" if memory else ""
        print(f"| {name} | {middle:.2f} | {min(seconds):.2f}–{max(seconds):.2f} | {middle / limit:.2f} | {peak} |")


if __name__ == "__main__":
    main()
