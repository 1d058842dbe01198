"""Digests of everything that a workspace's stores hold, to compare two versions of the code on one
machine.

    PYTHONPATH=. python benchmarks/store_digests.py WORKSPACE > digests.json

Arrays of clips are hashed by value (rows without data excepted), checkpoints by their tensors,
other files of results by their bytes. Text that names the moment, the machine or the speed differs
from run to run and is left out.
"""

import hashlib
import json
import sys

import numpy as np
from safetensors.numpy import load_file

from storage.stores import cleanup, store
from storage.stores.records import StoreRef
from storage.stores.results import open_result
from storage.stores.rows import open_rows

COMPARED = (".parquet", ".png", ".gif", ".mp4", ".json", ".md", ".csv")
TIMED = ("losses.csv", "throughput.md", "sample.json")


def digests(root: str) -> dict[str, dict[str, str]]:
    """stage -> array or file -> SHA-256, first 16 digits."""
    return {
        ref.stage: digests_of(ref) for ref in cleanup.list_stores(root) if store.is_complete(ref)
    }


def digests_of(ref: StoreRef) -> dict[str, str]:
    manifest = store.read_manifest(ref)
    found = {"key": ref.key}
    if manifest.kind == "clips":
        rows = open_rows(ref)
        made = np.flatnonzero(rows.ok)
        found["ok"] = sha(np.packbits(rows.ok).tobytes())
        for name in sorted(rows.specs):
            found[name] = sha(np.ascontiguousarray(rows.gather(name, made)).tobytes())
        return found
    result = open_result(ref) if manifest.kind == "result" else None
    files = {} if result is None else {name: result.file(name) for name in sorted(result.files)}
    if result is not None:
        found |= {f"number {name}": f"{value:.9g}" for name, value in result.numbers.items()}
    for name, path in files.items():
        if path.suffix in COMPARED and path.name not in TIMED:
            found[name] = sha(path.read_bytes())
        elif path.suffix == ".safetensors":  # its header names the moment
            tensors = load_file(path)
            found[name] = sha(b"".join(tensors[key].tobytes() for key in sorted(tensors)))
    return found


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


if __name__ == "__main__":
    print(json.dumps(digests(sys.argv[1]), indent=1))
