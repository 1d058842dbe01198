"""Writes and reads Zarr v3 shards directly, with metadata that any Zarr library reads.

A shard file holds one encoded chunk per clip, then an index of (offset, size) pairs, two
little-endian uint64 each, then the index's crc32c (Zarr v3, `sharding_indexed` codec, index at the
end). A chunk is a clip's bytes, compressed or not, then its own crc32c.

zarr-python 3.1.6 spends 0.15 to 2 ms of Python per chunk, whatever its size; this code about 5 us.
zarr-python still writes the metadata and re-reads every new part, and the tests compare both ways.
"""

import hashlib
import struct
from collections.abc import Iterable, Iterator
from functools import cached_property
from mmap import ACCESS_READ, mmap
from typing import Any

import crc32c
import numpy as np
import zarr
import zarr.storage
from numcodecs.blosc import BITSHUFFLE, Blosc
from zarr.codecs import BloscCodec, Crc32cCodec

from storage.errors import CorruptShard
from storage.files import Files, LocalFiles, ObjectFiles
from storage.stores.spec import ArraySpec, Codec

CRC = struct.Struct("<I")
LEVEL = {"lz4": 5, "zstd": 1}  # zstd above 1 encodes below 50 MB/s and saves little

Array = np.ndarray[Any, np.dtype[Any]]


def shard_path(spec: ArraySpec) -> str:
    """An array's one shard file in its part's folder: Zarr's default chunk key `name/c/0/0/...`."""
    return "/".join([spec.name, "c", *("0" for _ in ("clip", *spec.axes))])


# Writing


def encode_shard(
    block: Array, spec: ArraySpec, holes: frozenset[int] = frozenset()
) -> Iterator[bytes]:
    """The shard file of `block` (clip, *shape), chunk by chunk; rows in `holes` are the fill."""
    fill = np.full(spec.shape, spec.fill, dtype=spec.dtype)
    offset, index = 0, np.empty((len(block), 2), "<u8")
    for i in range(len(block)):
        chunk = encode_chunk(fill if i in holes else block[i, ...], spec.codec)
        index[i] = offset, len(chunk)
        offset += len(chunk)
        yield chunk
    yield index.tobytes() + CRC.pack(crc32c.crc32c(index.tobytes()))


def tee_checksums(chunks: Iterable[bytes], checks: bytearray) -> Iterator[bytes]:
    """The chunks unchanged, while the crc32c at the end of each goes into `checks`."""
    for chunk in chunks:
        checks += chunk[-CRC.size :]
        yield chunk


def encode_chunk(clip: Array, codec: Codec) -> bytes:
    data = _bytes_of(clip)
    if codec != "raw":
        data = _blosc(codec, np.asarray(clip).itemsize).encode(data)
    return bytes(data) + CRC.pack(crc32c.crc32c(data))


def _bytes_of(clip: Array) -> memoryview:
    return np.ascontiguousarray(clip).reshape(-1).view(np.uint8).data


def _blosc(codec: Codec, itemsize: int) -> Blosc:
    return Blosc(cname=codec, clevel=LEVEL[codec], shuffle=BITSHUFFLE, typesize=itemsize)


# Metadata


def metadata_files(
    specs: tuple[ArraySpec, ...], n: int, attributes: dict[str, Any]
) -> dict[str, bytes]:
    """path -> bytes of every zarr.json of a part of `n` clips, written by zarr-python."""
    files: dict[str, Any] = {}
    group = zarr.create_group(zarr.storage.MemoryStore(files), zarr_format=3, attributes=attributes)
    for spec in specs:
        group.create_array(
            spec.name,
            shape=(n, *spec.shape),
            chunks=(1, *spec.shape),
            shards=(n, *spec.shape),
            dtype=spec.dtype,
            fill_value=spec.fill,
            compressors=zarr_codecs(spec),
            dimension_names=("clip", *spec.axes),
            attributes={"units": spec.units, "about": spec.about},
            config={"write_empty_chunks": True},
        )
    return {path: data.to_bytes() for path, data in files.items()}


def zarr_codecs(spec: ArraySpec) -> list[BloscCodec | Crc32cCodec]:
    """The chain after `bytes`, ending in crc32c: without it, 60 of 60 bit flips went unnoticed."""
    if spec.codec == "raw":
        return [Crc32cCodec()]
    itemsize = np.dtype(spec.dtype).itemsize
    blosc = BloscCodec(
        cname=spec.codec, clevel=LEVEL[spec.codec], shuffle="bitshuffle", typesize=itemsize
    )
    return [blosc, Crc32cCodec()]


def open_zarr(files: Files, folder: str) -> zarr.Group:
    """A part as zarr-python sees it, read-only."""
    if isinstance(files, LocalFiles):
        local = zarr.storage.LocalStore(files.root / folder, read_only=True)
        return zarr.open_group(local, mode="r", zarr_format=3)
    assert isinstance(files, ObjectFiles), files
    store = zarr.storage.ObjectStore(files.store, read_only=True)
    return zarr.open_group(store, path=files.key(folder), mode="r", zarr_format=3)


# Reading


class Shard:
    """One array of one part, opened for reading. Every chunk is checked against its crc32c.

    size: the file's size in bytes as committed. first_row: the store's row of the first clip, for
    messages. checks: the crc32c's of all chunks and of the index, one after the other, as they were
    committed (None for parts that did not record them): they bind each chunk to its place, since
    an intact one from elsewhere has another. Raises CorruptShard, naming file and row, for anything
    that was changed; a missing chunk is an error too, never a fill value.
    """

    def __init__(
        self,
        files: Files,
        path: str,
        spec: ArraySpec,
        n: int,
        size: int,
        first_row: int = 0,
        checks: bytes | None = None,
    ):
        self.files, self.path, self.spec, self.checks = files, path, spec, checks
        self.n, self.size, self.first_row = n, size, first_row
        self.dtype = np.dtype(spec.dtype)
        self.n_bytes = self.dtype.itemsize * int(np.prod(spec.shape, dtype=np.int64))
        self.index = self._read_index()

    def _read_index(self) -> Array:
        length = 16 * self.n + CRC.size
        data = self._bytes(self.size - length, length)
        if len(data) != length:
            raise self.corrupt(
                f"the file has {self.files.size(self.path)} bytes, {self.size} were written"
            )
        self.check_crc("its index", data, self.n)
        return np.frombuffer(data[: -CRC.size], "<u8").reshape(self.n, 2)

    def _bytes(self, start: int, length: int) -> bytes:
        try:
            return self.files.read_range(self.path, start, length)
        except FileNotFoundError as error:
            raise self.corrupt("the file is gone") from error

    def read(self, i: int, out: Array) -> None:
        """Decodes chunk `i` into `out`, a contiguous array of the spec's dtype and shape."""
        offset, size = (int(v) for v in self.index[i])
        if offset + size > self.size or size < CRC.size:  # Zarr's "no chunk": both are 2**64 - 1
            raise self.corrupt(f"{self.chunk(i)} is absent: offset {offset}, size {size}")
        data = self._bytes(offset, size)
        if len(data) != size:
            raise self.corrupt(f"{self.chunk(i)} has {len(data)} of {size} bytes")
        self.check_crc(self.chunk(i), data, i)
        self.decode(i, memoryview(data)[: -CRC.size], out)

    def decode(self, i: int, data: memoryview, out: Array) -> None:
        target = out.reshape(-1).view(np.uint8)
        try:
            if self.spec.codec == "raw":
                target[...] = np.frombuffer(data, np.uint8)
            else:
                _blosc(self.spec.codec, self.dtype.itemsize).decode(data, out=target)
        except (ValueError, RuntimeError) as error:
            raise self.corrupt(f"{self.chunk(i)} does not decode: {error}") from error

    def check(self, i: int) -> None:
        """Raises CorruptShard if chunk `i` was changed since it was written."""
        self.read(i, np.empty(self.spec.shape, self.dtype))

    def check_all(self) -> str:
        """Checks every chunk; returns the SHA-256 over all crc32c's, as in `PartRecord.chunks`."""
        checks = hashlib.sha256()
        for i, (offset, size) in enumerate(self.index.tolist()):
            self.check(i)
            checks.update(self._bytes(offset + size - CRC.size, CRC.size))
        checks.update(self._bytes(self.size - CRC.size, CRC.size))
        return checks.hexdigest()

    @cached_property
    def is_strided(self) -> bool:
        """Whether the chunks are raw and consecutive, so that the file is one strided array."""
        stride = self.n_bytes + CRC.size
        offsets = np.arange(self.n, dtype=np.uint64) * np.uint64(stride)
        strided = (self.index[:, 0] == offsets).all() and (self.index[:, 1] == stride).all()
        return self.spec.codec == "raw" and bool(strided)

    def chunk(self, i: int) -> str:
        return f"chunk {i} (row {self.first_row + i})"

    def check_place(self, i: int) -> None:
        """Raises CorruptShard if chunk `i` ends in another crc32c than the one committed there."""
        offset, size = (int(v) for v in self.index[i])
        data = self._bytes(offset + size - CRC.size, CRC.size)
        self._require_committed(self.chunk(i), data, i)

    def check_crc(self, what: str, data: bytes | memoryview, place: int) -> None:
        found = crc32c.crc32c(memoryview(data)[: -CRC.size])
        expected = CRC.unpack(data[-CRC.size :])[0]
        if found != expected:
            raise self.corrupt(f"the crc32c of {what} is {found:08x}, expected {expected:08x}")
        self._require_committed(what, data, place)

    def _require_committed(self, what: str, data: bytes | memoryview, place: int) -> None:
        if self.checks is None:
            return
        expected = self.checks[place * CRC.size : (place + 1) * CRC.size]
        if bytes(data[-CRC.size :]) != expected:
            raise self.corrupt(f"{what} is not the one that was committed there")

    def corrupt(self, what: str) -> CorruptShard:
        return CorruptShard(
            f"{self.files.uri}/{self.path}: {what}. The shard was changed after it was committed: "
            f"check the disk, then `roboscape repair {'/'.join(self.files.uri.split('/')[-2:])}` "
            "makes this shard again, and no other."
        )


class MappedShard:
    """A strided shard on a local disk as a memory-mapped array; chunks are checked on first use.

    checked: one byte per chunk; the caller's, so that it outlives this mapping.
    """

    def __init__(self, shard: Shard, checked: bytearray):
        local = shard.files.local(shard.path)
        assert local is not None and shard.is_strided, shard.path
        self.shard, self.checked, self.stride = shard, checked, shard.n_bytes + CRC.size
        with local.open("rb") as file:  # np.memmap would resolve each folder of the path as well
            mapped = mmap(file.fileno(), shard.size, access=ACCESS_READ)
        self.bytes = np.frombuffer(mapped, np.uint8)
        strides = (self.stride, *np.empty(shard.spec.shape, shard.dtype).strides)
        self.view: Array = np.ndarray(
            (shard.n, *shard.spec.shape), shard.dtype, self.bytes.data, strides=strides
        )

    def read(self, i: int, out: Array) -> None:
        if not self.checked[i]:
            chunk = self.bytes[i * self.stride : (i + 1) * self.stride]
            self.shard.check_crc(self.shard.chunk(i), chunk.data, i)
            self.checked[i] = 1
        out[...] = self.view[i]
