#!/usr/bin/env bash
# tuf 7.0.1 (python-tuf): a client that runs on does not notice that its metadata has expired, and none works offline.
#
# "timestamp.json expires at noon" reads like: from then on its targets are refused. Expiry is judged by the time at which
# `Updater` was made (TUF specification 5.1: a fixed start time of an update), and not again: a server that keeps its
# Updater goes on handing out targets, and downloading them, for as long as it lives. The other way round, metadata that
# is kept and has not expired does not help without a network: `refresh` always downloads the timestamp.
#
# Seen, one valid repository whose timestamp counts for a few seconds:
#   within them:                                  get_targetinfo gives the target
#   after them, the same Updater:                 get_targetinfo gives the target, download_target its bytes
#   after them, a new Updater:                    ExpiredMetadataError
#   within them, a new Updater, nobody answers:   DownloadError, though all metadata is kept
# Who runs for long compares `expires` with the time at each use, or makes a new Updater; who must work offline hands
# the kept timestamp to a new one, whose other checks then hold.
#
# Ends with 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q tuf==7.0.1 securesystemslib==1.6.0 cryptography==50.0.2
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import DownloadError, DownloadHTTPError, ExpiredMetadataError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.ngclient import FetcherInterface, Updater

signer = CryptoSigner.generate_ed25519()
served: dict[str, bytes] = {}


def publish(seconds: float) -> bytes:
    later = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(days=1)
    soon = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(seconds=seconds)
    root = Root(consistent_snapshot=False, expires=later)
    for role in ("root", "timestamp", "snapshot", "targets"):
        root.add_key(signer.public_key, role)
    target = TargetFile.from_data("a.txt", b"apple", ["sha256"])
    parts = {"targets": Targets(expires=later, targets={"a.txt": target}), "snapshot": Snapshot(expires=later),
             "timestamp": Timestamp(expires=soon), "root": root}
    parts["snapshot"].meta = {"targets.json": MetaFile(1)}
    for name, signed in parts.items():
        metadata = Metadata(signed)
        metadata.sign(signer)
        served[f"metadata/{name}.json"] = metadata.to_bytes()
    served["targets/a.txt"] = b"apple"
    return served["metadata/root.json"]


class Served(FetcherInterface):
    answers = True

    def _fetch(self, url):
        if not self.answers:
            raise DownloadError("nobody answers")
        if url not in served:
            raise DownloadHTTPError(url, 404)
        return iter([served[url]])


def updater() -> Updater:
    Path("kept").mkdir(exist_ok=True)
    Path("got").mkdir(exist_ok=True)
    return Updater("kept", "metadata/", "got", "targets/", fetcher=Served(), bootstrap=root)


def outcome(act) -> str:
    try:
        act()
        return "fine"
    except Exception as error:
        return type(error).__name__


root = publish(6)
first = updater()
seen = [first.get_targetinfo("a.txt") is not None]
Served.answers = False
seen.append(outcome(updater().refresh))
Served.answers = True
time.sleep(7)
info = first.get_targetinfo("a.txt")
seen += [info is not None, Path(first.download_target(info)).read_bytes(), outcome(updater().refresh)]
print(seen)
assert seen == [True, DownloadError.__name__, True, b"apple", ExpiredMetadataError.__name__], seen
PYTHON
