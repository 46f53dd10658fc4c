#!/usr/bin/env python3
"""Uploads an export to a server that is not of this project, and fetches it with clients that are not either.

    python3 tests/oracle/check_upload.py COLOPHON

The server is moto's; it lists, keeps and aborts uploads in parts, and checks neither signatures nor hashes. boto3 and
awscli list and fetch what was uploaded, and every byte has to be the one that lies in the export's folder. Needs the
packages of requirements-upload.txt.
"""
import hashlib
import json
import logging
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

import boto3
from moto.server import ThreadedMotoServer

BUCKET = "corpora"
PREFIX = "curated/v1"
TARGET = f"s3://{BUCKET}/{PREFIX}"
MIB = 1 << 20


def corpus(path: pathlib.Path, mebibytes: int) -> None:
    """Documents that do not repeat, so that parts differ."""
    dice = random.Random(1)
    with path.open("w", encoding="utf-8") as file:
        number = 0
        while file.tell() < mebibytes * MIB:
            number += 1
            text = f"{number} {dice.randbytes(2000).hex()}"
            file.write(json.dumps({"text": text, "title": f"Title {number}"}) + "\n")


def files(folder: pathlib.Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


class Check:
    def __init__(self, colophon: str, work: pathlib.Path, endpoint: str):
        self.colophon, self.work, self.endpoint = colophon, work, endpoint
        self.environment = {
            **os.environ,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/nonexistent",
            "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
            "TZ": "UTC",
        }
        os.environ.update(self.environment)
        self.client = boto3.client("s3", endpoint_url=endpoint)
        self.client.create_bucket(Bucket=BUCKET)

    def run(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environment, cwd=self.work, stdout=subprocess.PIPE, check=True)
        return done.stdout.decode()

    def export(self, *options: str) -> dict[str, bytes]:
        self.run(self.colophon, "--quiet", "export", "--input-dir", "in", "--output-dir", "out", *options)
        return files(self.work / "out")

    def upload_command(self, *options: str) -> list[str]:
        return [self.colophon, "upload", "out", TARGET, "--endpoint-url", self.endpoint, "--path-style",
                "--part-size", "5MiB", *options]

    def upload(self, *options: str) -> dict:
        return json.loads(self.run(*self.upload_command("--quiet", "--json", *options)))

    def listed(self) -> dict[str, dict]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{PREFIX}/")
        objects = (entry for page in pages for entry in page.get("Contents", []))
        return {entry["Key"].removeprefix(f"{PREFIX}/"): entry for entry in objects}

    def by_boto3(self, export: dict[str, bytes]) -> None:
        listed = self.listed()
        assert listed.keys() == export.keys(), (sorted(listed), sorted(export))
        for name, content in export.items():
            answer = self.client.get_object(Bucket=BUCKET, Key=f"{PREFIX}/{name}")
            assert answer["Body"].read() == content, f"{name} differs"
            assert listed[name]["Size"] == len(content)
            assert answer["Metadata"]["sha256"] == hashlib.sha256(content).hexdigest(), name
        print(f"boto3: {len(export)} files are the same")

    def by_awscli(self, export: dict[str, bytes]) -> None:
        fetched = self.work / "fetched"
        shutil.rmtree(fetched, ignore_errors=True)
        aws = ("aws", "--endpoint-url", self.endpoint, "s3")
        self.run(*aws, "cp", "--recursive", "--only-show-errors", TARGET, str(fetched))
        assert files(fetched) == export, "what awscli fetched differs"
        theirs = self.run(*aws, "ls", "--human-readable", f"{TARGET}/")
        ours = self.run(*self.upload_command("--quiet"))
        lines = {line for line in theirs.splitlines() if not line.lstrip().startswith("PRE ")}
        missing = lines - set(ours.splitlines())
        assert lines and not missing, f"not in the listing of colophon:\n{missing}\n{ours}"
        print(f"awscli: {len(export)} files are the same, and so are {len(lines)} lines of the listing")

    def unchanged(self) -> None:
        before = {name: entry["LastModified"] for name, entry in self.listed().items()}
        receipt = self.upload()
        assert receipt["sent"] == [] and receipt["bytes_sent"] == 0, receipt
        assert {name: entry["LastModified"] for name, entry in self.listed().items()} == before
        print("a second upload moves nothing")

    def changed(self) -> None:
        before = self.listed()
        export = self.export("--shard-size", "6MiB")
        gone = sorted(before.keys() - export.keys())
        assert "train.jsonl" in gone
        receipt = self.upload("--delete")
        assert [entry["path"] for entry in receipt["deleted"]] == gone, receipt["deleted"]
        self.by_boto3(export)

    def killed(self) -> None:
        """Killed at some moment, over and over: no manifest beside half an export, and no parts in the end."""
        for round_ in range(8):
            export = self.export("--seed", str(round_))
            process = subprocess.Popen(self.upload_command("--quiet", "--concurrency", "2"), env=self.environment,
                                       cwd=self.work, stdout=subprocess.DEVNULL)
            time.sleep(0.15 * (round_ + 1))
            process.kill()
            process.wait()
            listed = self.listed()
            if "manifest.json" in listed:
                body = self.client.get_object(Bucket=BUCKET, Key=f"{PREFIX}/manifest.json")["Body"].read()
                for file in json.loads(body)["files"]:
                    content = self.client.get_object(Bucket=BUCKET, Key=f"{PREFIX}/{file['path']}")["Body"].read()
                    assert hashlib.sha256(content).hexdigest() == file["sha256"], f"{file['path']} is half published"
            self.upload("--delete")
            uploads = self.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
            assert not uploads, f"parts were left: {uploads}"
            self.by_boto3(export)


def main() -> None:
    colophon = os.path.realpath(sys.argv[1])
    # It would tell of every request.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        with tempfile.TemporaryDirectory() as folder:
            work = pathlib.Path(folder)
            (work / "in").mkdir()
            corpus(work / "in" / "a.jsonl", 24)
            check = Check(colophon, work, f"http://{host.replace('0.0.0.0', '127.0.0.1')}:{port}")
            export = check.export()
            check.upload()
            check.by_boto3(export)
            check.by_awscli(export)
            check.unchanged()
            check.changed()
            check.killed()
    finally:
        server.stop()


if __name__ == "__main__":
    main()
