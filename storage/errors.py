"""Errors of storage. Every message says which file, what was found and expected, what to do."""


class StoreError(Exception):
    """Base of all errors that storage raises on purpose."""


class IncompleteStore(StoreError):
    """The store is not sealed: shards are missing, or files are not published yet."""


class StoreConflict(StoreError):
    """The store exists, made by another recipe or in a format that this version cannot read."""


class StoreInUse(StoreError):
    """A live run uses or makes what was to be made or deleted."""


class StoreNeeded(StoreError):
    """Other stores or other workspaces need what was to be deleted."""


class UnreadableRecord(StoreError):
    """Who needs a store is not known, because a record about it cannot be read."""


class RejectedRow(StoreError):
    """A row was read whose clip was rejected: check `Rows.ok` first."""


class CorruptFile(StoreError):
    """A file's bytes are not those that were written."""


class CorruptShard(CorruptFile):
    """A shard file is truncated, missing, or one of its chunks fails its checksum."""


class WeightsError(StoreError):
    """A weights file is missing, or is another file than the one that the recipe names."""


class DownloadError(StoreError):
    """A file could not be fetched: no answer, a refusal, or another file."""


class StorageUnavailable(StoreError):
    """An object store cannot be reached, or refuses the request."""


class DiskFull(StoreError):
    """The disk or the quota has no room for what was being written."""
