"""How much disk a store will take, before it is made: an upper estimate, in bytes and in inodes.

Raw sizes are exact; what compression leaves of them is not known before. `SHARES` are upper ones of
real recordings (DROID and other videos); simulated ones take about half of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from storage.stores.spec import ArraySpec, Codec

# Share of the raw bytes that a codec leaves, by kind and size of the dtype. Measured: RGB 0.52 to
# 0.82, depth as float16 0.36 to 0.55, tracks 0.12 to 0.65, other float32 0.2 to 0.92, masks 0.04 to
# 0.1
SHARES: dict[tuple[Codec, str], float] = {
    ("zstd", "u1"): 0.85,
    ("lz4", "u1"): 0.9,
    ("zstd", "f2"): 0.6,
    ("lz4", "f2"): 0.7,
    ("zstd", "f4"): 0.7,
    ("lz4", "f4"): 0.95,
    ("zstd", "b1"): 0.2,
    ("lz4", "b1"): 0.2,
}
CHUNK_BYTES = 4 + 16  # a clip's checksum, and its place in the index of its shard
COMPRESSED_BYTES = 100  # that compression may add to a clip's array
PICTURE_BYTES = 1 << 20  # of a few clips, for the lineage page
INODE_BYTES = 4096  # of a file or folder: what its last block wastes, or what its names take


@dataclass(frozen=True)
class DiskUse:
    """Bytes and inodes that stay; `working`: bytes that are needed besides until it is made."""

    kept: int
    inodes: int = 0
    working: int = 0

    def scaled(self, share: float) -> "DiskUse":
        return DiskUse(*(round(share * n) for n in (self.kept, self.inodes, self.working)))


def clip_bytes(spec: ArraySpec) -> int:
    """Of one clip's array in its shard."""
    raw = int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize
    if spec.codec == "raw":
        return raw + CHUNK_BYTES
    share = SHARES.get((spec.codec, np.dtype(spec.dtype).str[1:]), 1.0)
    return round(share * raw) + COMPRESSED_BYTES + CHUNK_BYTES


def inodes_of_shard(specs: Sequence[ArraySpec]) -> int:
    """Its folder, `zarr.json` and commit; of each array its folders, its shard and `zarr.json`."""
    return 3 + sum(len(spec.axes) + 4 for spec in specs)


def size_of_clips(
    specs: Sequence[ArraySpec],
    n_clips: int,
    clips_per_shard: int,
    bytes_per_clip: float | None = None,
) -> DiskUse:
    """Of a store of clips, none of which is rejected. bytes_per_clip: as measured, if it was."""
    if bytes_per_clip is None:
        bytes_per_clip = sum(map(clip_bytes, specs))
    n_shards = -(-n_clips // clips_per_shard)
    inodes = n_shards * inodes_of_shard(specs) + 8  # 8: manifest, seal, picture, folders
    kept = round(n_clips * bytes_per_clip) + inodes * INODE_BYTES + PICTURE_BYTES
    return DiskUse(kept=kept, inodes=inodes)
