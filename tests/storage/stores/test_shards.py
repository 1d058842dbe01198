import math
from hashlib import shake_128
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from made_stores import DEPTH, RGB, SPECS, TOKENS, clips, flip

from storage.errors import CorruptShard
from storage.files import LocalFiles
from storage.stores.shards import (
    MappedShard,
    Shard,
    encode_shard,
    metadata_files,
    open_zarr,
    shard_path,
    zarr_codecs,
)
from storage.stores.spec import ArraySpec

DTYPES = ["bool", "uint8", "int16", "int32", "uint64", "float16", "float32", "float64"]


@st.composite
def blocks(draw: st.DrawFn) -> tuple[dict[str, Any], np.ndarray]:
    """The fields of a spec of any dtype, codec, rank and fill, and clips for it with any bit
    pattern.
    """
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(arrays.array_shapes(min_dims=0, max_dims=3, max_side=5))
    if dtype.kind == "f":
        fill = draw(st.sampled_from([0.0, -1.0, math.nan, math.inf, -math.inf]))
    else:
        fill = (
            draw(st.sampled_from([False, True]))
            if dtype.kind == "b"
            else int(draw(st.sampled_from([0, 1, 127])))
        )
    codec = draw(st.sampled_from(["raw", "lz4", "zstd"]))
    fields = {
        "dtype": dtype.name,
        "axes": tuple("xyz"[: len(shape)]),
        "shape": shape,
        "codec": codec,
        "fill": fill,
    }
    n, of_fill = draw(st.integers(1, 5)), np.full(shape, fill, dtype)
    size = n * of_fill.nbytes
    random = np.frombuffer(shake_128(draw(st.binary(max_size=4))).digest(size), np.uint8)
    block = (random & 1 if dtype.kind == "b" else random).view(dtype).reshape(n, *shape).copy()
    for i in range(
        n
    ):  # clips of nothing but the fill are special to Zarr, and smooth ones to the codecs
        if draw(st.booleans()):
            block[i] = draw(st.sampled_from([of_fill, np.ones(shape, dtype)]))
    return fields, block


def write_part(
    root: Any, specs: tuple[ArraySpec, ...], arrays: dict[str, np.ndarray], holes=frozenset()
) -> LocalFiles:
    files = LocalFiles(str(root))
    for spec in specs:
        files.write(f"p/{shard_path(spec)}", encode_shard(arrays[spec.name], spec, holes))
    for path, data in metadata_files(specs, len(arrays[specs[0].name]), {"stage": "clip"}).items():
        files.write(f"p/{path}", [data])
    return files


def opened(files: LocalFiles, spec: ArraySpec, n: int, first_row: int = 0) -> Shard:
    path = f"p/{shard_path(spec)}"
    return Shard(files, path, spec, n, files.size(path), first_row)


def read_all(shard: Shard | MappedShard, spec: ArraySpec, n: int) -> np.ndarray:
    out = np.empty((n, *spec.shape), spec.dtype)
    for i in range(n):
        shard.read(i, out[i : i + 1])
    return out


@settings(max_examples=50, deadline=None)
@given(made=blocks(), data=st.data())
def test_zarr_reads_what_is_written_directly(tmp_path_factory, made, data):
    spec, block = ArraySpec(name="a", units="m", about="", **made[0]), made[1]
    holes = frozenset(data.draw(st.sets(st.integers(0, len(block) - 1))))
    expected = block.copy()
    expected[list(holes)] = np.array(spec.fill, spec.dtype)
    files = write_part(tmp_path_factory.mktemp("shard"), (spec,), {"a": block}, holes)
    found: Any = open_zarr(files, "p")["a"]
    assert found.dtype == spec.dtype and found.metadata.dimension_names == ("clip", *spec.axes)
    assert found.attrs["units"] == "m" and found.fill_value == pytest.approx(spec.fill, nan_ok=True)
    assert np.asarray(found[:]).tobytes() == expected.tobytes()
    assert (
        read_all(opened(files, spec, len(block)), spec, len(block)).tobytes() == expected.tobytes()
    )


@settings(max_examples=50, deadline=None)
@given(made=blocks())
def test_what_zarr_writes_is_read_directly(tmp_path_factory, made):
    spec, block = ArraySpec(name="a", units="m", about="", **made[0]), made[1]
    root = tmp_path_factory.mktemp("zarr")
    array = zarr.create_array(
        zarr.storage.LocalStore(root / "p"), name="a", shape=block.shape, chunks=(1, *spec.shape),
        shards=block.shape, dtype=spec.dtype, fill_value=spec.fill, compressors=zarr_codecs(spec),
        config={"write_empty_chunks": True},
    )  # fmt: skip
    array[...] = block
    files = LocalFiles(str(root))
    assert read_all(opened(files, spec, len(block)), spec, len(block)).tobytes() == block.tobytes()
    assert files.read(f"p/{shard_path(spec)}") == b"".join(encode_shard(block, spec)), (
        "bytes are the same too"
    )


def test_a_chunk_that_was_not_stored_is_an_error_and_no_fill(tmp_path):
    """By default zarr-python does not store clips that equal the fill."""
    block = clips()["tokens"][:3].copy()
    block[1] = TOKENS.fill
    array = zarr.create_array(
        zarr.storage.LocalStore(tmp_path / "p"), name="tokens", shape=block.shape,
        chunks=(1, *TOKENS.shape), shards=block.shape, dtype="int32", fill_value=TOKENS.fill,
        compressors=zarr_codecs(TOKENS),
    )  # fmt: skip
    array[...] = block
    shard = opened(LocalFiles(str(tmp_path)), TOKENS, 3, first_row=8)
    out = np.empty_like(block[:1])
    with pytest.raises(CorruptShard, match=r"tokens/c/0/0/0: chunk 1 \(row 9\) is absent"):
        shard.read(1, out)
    for i in (0, 2):
        shard.read(i, out)
        np.testing.assert_array_equal(out[0], block[i])
    assert not shard.is_strided


def read_either_way(files: LocalFiles, spec: ArraySpec, n: int, size: int) -> None:
    shard = Shard(files, f"p/{shard_path(spec)}", spec, n, size, first_row=4)
    read_all(MappedShard(shard, bytearray(n)) if shard.is_strided else shard, spec, n)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.codec)
def test_every_flipped_bit_is_found_and_the_file_named(tmp_path, spec):
    files = write_part(tmp_path, SPECS, {name: block[4:8] for name, block in clips().items()})
    path = tmp_path / "p" / shard_path(spec)
    good = path.read_bytes()
    for bit in np.random.default_rng(0).permutation(8 * len(good))[:150].tolist():
        flip(path, bit)
        with pytest.raises(CorruptShard, match=str(path)) as error:
            read_either_way(files, spec, 4, len(good))
        end_of_data = len(good) - 4 * 16 - 4
        assert ("its index" if bit // 8 >= end_of_data else "(row ") in str(error.value)
        path.write_bytes(good)
    read_either_way(files, spec, 4, len(good))


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.codec)
def test_cut_zeroed_and_missing_files_raise_and_give_no_fill(tmp_path, spec):
    files = write_part(tmp_path, SPECS, {name: block[4:8] for name, block in clips().items()})
    path = tmp_path / "p" / shard_path(spec)
    good = path.read_bytes()
    for length in sorted({0, 1, 4, 16, 67, 68, len(good) // 2, len(good) - 1}):
        path.write_bytes(good[:length])
        with pytest.raises(
            CorruptShard, match=f"{path}: the file has {length} bytes, {len(good)} were written"
        ):
            read_either_way(files, spec, 4, len(good))
    for start in range(0, len(good) - 60, 60):
        path.write_bytes(good[:start] + bytes(60) + good[start + 60 :])
        with pytest.raises(CorruptShard, match=str(path)):
            read_either_way(files, spec, 4, len(good))
    path.write_bytes(good)
    shard = opened(files, spec, 4)
    path.write_bytes(good[: len(good) // 4])
    with pytest.raises(CorruptShard, match=str(path)):
        read_all(shard, spec, 4)
    path.unlink()
    for read in (
        lambda: read_all(shard, spec, 4),
        lambda: read_either_way(files, spec, 4, len(good)),
    ):
        with pytest.raises(CorruptShard, match=f"{path}: the file is gone"):
            read()


def test_raw_shards_are_mapped_without_a_copy(tmp_path):
    files = write_part(tmp_path, (TOKENS, DEPTH, RGB), clips())
    shard = opened(files, TOKENS, 10)
    mapped = MappedShard(shard, bytearray(10))
    assert (
        shard.is_strided
        and not opened(files, DEPTH, 10).is_strided
        and not opened(files, RGB, 10).is_strided
    )
    np.testing.assert_array_equal(mapped.view, clips()["tokens"])
    assert (
        np.shares_memory(mapped.view, mapped.bytes)
        and str(tmp_path) in Path("/proc/self/maps").read_text()
    )
    assert not mapped.view.flags.writeable
    assert read_all(mapped, TOKENS, 10).tobytes() == read_all(shard, TOKENS, 10).tobytes()
    assert mapped.checked == bytearray(b"\1" * 10)


def test_the_same_clips_give_the_same_bytes():
    """A store's digest relies on it; threads inside Blosc would break it."""
    smooth = (
        np.add.outer(np.arange(16), np.arange(256 * 256 * 3) // 97)
        .astype(np.uint8)
        .reshape(1, 16, 256, 256, 3)
    )
    for codec in ("lz4", "zstd"):
        spec = ArraySpec(
            "rgb", "uint8", ("t", "h", "w", "c"), (16, 256, 256, 3), "", "", codec=codec
        )
        assert len({b"".join(encode_shard(smooth, spec)) for _ in range(5)}) == 1


def test_arrays_that_are_not_contiguous_are_written_correctly(tmp_path):
    block = clips()["tokens"]
    turned = np.moveaxis(np.ascontiguousarray(np.moveaxis(block, 2, 0)), 0, 2)
    assert not turned.flags.c_contiguous
    assert b"".join(encode_shard(turned, TOKENS)) == b"".join(encode_shard(block, TOKENS))
