"""What can be wrong with a store. Every message says which file, what was found, what was expected
and what to do.
"""


class StoreError(Exception):
    """Base of all errors that the stores raise on purpose."""


class IncompleteStore(StoreError):
    """The store is not sealed: shards are missing, or its files are not published yet."""


class StoreConflict(StoreError):
    """The store exists, made by another recipe or in a format that this version does not know."""


class RejectedRow(StoreError):
    """The row was read although its clip was rejected: look at `Rows.ok` first."""


class CorruptFile(StoreError):
    """A file's bytes are not those that were written."""


class CorruptShard(CorruptFile):
    """A shard file is truncated, missing, or one of its chunks fails its checksum."""


class WeightsError(StoreError):
    """A weights file is missing, or is another file than the one that the recipe names."""


class DownloadError(StoreError):
    """A file could not be fetched: nobody answers, the server refuses, or it sent another file."""


class DiskFull(StoreError):
    """The disk (or the quota on it) has no room for what was being written."""
