"""What binds the files of a part to their place: to store, shard, array and row.

A chunk's own checksum says that its bytes are intact, not that they belong where they are: a file
of another shard, array or store, of the same size, passes it. So the attributes of a part (its root
`zarr.json`, whose checksum the commit holds) name store and shard, and list the crc32c of every
chunk of every array.
"""

import json
from collections.abc import Mapping
from typing import Any

from storage.errors import CorruptShard
from storage.files import Files, read_checked
from storage.stores.records import PartRecord, StoreRef

ATTRIBUTES = "zarr.json"  # the part's root group
CHUNKS = "chunk_crc32c"  # since format 1.2: path of a shard file -> its crc32c's, as hex


def place_of(ref: StoreRef, record: PartRecord) -> dict[str, Any]:
    """The attributes that name a part's place."""
    return {
        "stage": ref.stage,
        "key": ref.key,
        "shard": record.shard,
        "first_row": record.first_row,
        "n": record.n,
        "attempt": record.attempt,
    }


def chunk_attribute(checks: Mapping[str, bytearray]) -> dict[str, dict[str, str]]:
    """checks: of each shard file, by its path in the part."""
    return {CHUNKS: {path: found.hex() for path, found in checks.items()}}


def committed_checks(files: Files, ref: StoreRef, record: PartRecord) -> dict[str, bytes]:
    """The crc32c's of the chunks of each shard file; empty for a part of format 1.1 or older.

    Raises CorruptShard if the part is not that of this store and shard.
    """
    where = f"{record.part}/{ATTRIBUTES}"
    try:
        content = read_checked(files, where, record.files[ATTRIBUTES])
        found = json.loads(content)["attributes"]
    except FileNotFoundError as error:
        raise CorruptShard(f"{files.uri}/{where} is gone: {_REMEDY}") from error
    except (LookupError, ValueError, TypeError) as error:
        raise CorruptShard(f"{files.uri}/{where} has no attributes of a part: {_REMEDY}") from error
    expected = place_of(ref, record)
    wrong = {name: found.get(name) for name in expected if found.get(name) != expected[name]}
    if wrong:
        raise CorruptShard(
            f"{files.uri}/{record.part} was written for another place: it says {wrong}, expected "
            f"{ {name: expected[name] for name in wrong} }: {_REMEDY}"
        )
    return {path: bytes.fromhex(text) for path, text in found.get(CHUNKS, {}).items()}


_REMEDY = (
    "the shard was changed or exchanged after it was committed; restore it from a backup, or let "
    "`roboscape repair` make it again"
)
