"""Proves the stand-in of the Hub with Hugging Face's own client; `download` fetches a snapshot from it."""

import sys
import tempfile
from pathlib import Path

from huggingface_hub import HfApi, CommitOperationAdd, CommitOperationDelete
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError


def fails(kind, call, status=None):
    try:
        call()
    except kind as error:
        assert status is None or error.response.status_code == status, error
        return
    raise AssertionError(f"that should have failed with {kind.__name__}")


def snapshot(api, repo, revision, folder):
    api.snapshot_download(repo, repo_type="dataset", revision=revision, local_dir=folder)


def prove(api, reader):
    repo = "owner/proof"
    assert api.whoami()["name"] == "owner"
    fails(RepositoryNotFoundError, lambda: api.dataset_info(repo))
    fails(HfHubHTTPError, lambda: reader.create_repo(repo, repo_type="dataset", private=True), 403)
    api.create_repo(repo, repo_type="dataset", private=True)
    fails(HfHubHTTPError, lambda: api.create_repo(repo, repo_type="dataset", private=True), 409)
    assert api.dataset_info(repo).private
    fails(RevisionNotFoundError, lambda: api.dataset_info(repo, revision="nowhere"))

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        sent = {
            "README.md": b"---\nlicense: mit\n---\n# Proof\n",
            "empty.txt": b"",
            "data/ä b+c.jsonl": b'{"text": "small"}\n',
            "data/large.jsonl": b"".join(b'{"text": "line %d"}\n' % n for n in range(20_000)),
            **{f"many/{n}.txt": b"%d" % n for n in range(12)},
        }
        for path, content in sent.items():
            (folder / "sent" / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / "sent" / path).write_bytes(content)
        first = api.upload_folder(repo_id=repo, repo_type="dataset", folder_path=folder / "sent")
        snapshot(api, repo, "main", folder / "got")
        for path, content in sent.items():
            assert (folder / "got" / path).read_bytes() == content, path

        files = {file.path: file for file in api.list_repo_tree(repo, repo_type="dataset", recursive=True)}
        assert files["data/large.jsonl"].lfs.size == len(sent["data/large.jsonl"])
        assert files["data/large.jsonl"].xet_hash and not files["README.md"].lfs
        [info] = api.get_paths_info(repo, ["data/ä b+c.jsonl"], repo_type="dataset")
        assert info.size == len(sent["data/ä b+c.jsonl"])

        head = api.dataset_info(repo).sha
        change = [
            CommitOperationAdd("data/large.jsonl", b"now small\n"),
            CommitOperationDelete("many/3.txt"),
        ]
        commit = dict(repo_id=repo, repo_type="dataset", operations=change, commit_message="change")
        fails(HfHubHTTPError, lambda: reader.create_commit(**commit), 403)
        api.create_commit(parent_commit=head, **commit)
        again = [CommitOperationAdd("other.txt", b"other\n")]
        commit = dict(repo_id=repo, repo_type="dataset", operations=again, commit_message="too late")
        fails(HfHubHTTPError, lambda: api.create_commit(parent_commit=head, **commit), 412)
        snapshot(api, repo, "main", folder / "after")
        assert (folder / "after/data/large.jsonl").read_bytes() == b"now small\n"
        assert not (folder / "after/many/3.txt").exists() and not (folder / "after/other.txt").exists()
        snapshot(api, repo, head, folder / "before")
        assert (folder / "before/many/3.txt").read_bytes() == b"3"

        api.create_branch(repo, repo_type="dataset", branch="next/one")
        api.create_commit(revision="next/one", **{**commit, "operations": again})
        snapshot(api, repo, "next/one", folder / "branch")
        assert (folder / "branch/other.txt").exists()
        snapshot(api, repo, "main", folder / "main")
        assert not (folder / "main/other.txt").exists()


if __name__ == "__main__":
    _, endpoint, what, token, *rest = sys.argv
    api = HfApi(endpoint=endpoint, token=token)
    if what == "prove":
        prove(api, HfApi(endpoint=endpoint, token=rest[0]))
    else:
        snapshot(api, *rest)
