import json

import numpy as np
import pytest
from agibot_tree import FakeEpisode, write_camera, write_depth
from PIL import Image

from storage.sources.agibot.calibration import read_depth_png, read_extrinsics, read_intrinsics
from storage.sources.file_ref import FileRef, SourceError


@pytest.fixture
def folder(tmp_path):
    write_camera(tmp_path, FakeEpisode(n=4))
    write_depth(tmp_path, FakeEpisode())
    return tmp_path


def test_reads_what_was_written(folder):
    found = read_intrinsics(FileRef(path=folder / "head_intrinsic_params.json"))
    assert (found.fx, found.fy, found.cx, found.cy) == (32.2, 42.9, 32.4, 24.3)
    assert found.distortion == (0.1, 0, 0, 0, 0)
    poses = read_extrinsics(FileRef(path=folder / "head_extrinsic_params_aligned.json"))
    assert poses.shape == (4, 3, 4)
    np.testing.assert_allclose(poses[:, :, 3], [[0.4, 0, 1 + i / 1000] for i in range(4)])
    # The optical axis, seen from the base, points forward and down.
    np.testing.assert_allclose(poses[0, :, :3] @ [0, 0, 1], [0.6, 0, -0.8])


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"intrinsic": 3}', '{"intrinsic": {"fx": 1, "fy": "x", "ppx": 0, "ppy": 0}}',
     '{"intrinsic": {"fx": 0, "fy": 1, "ppx": 0, "ppy": 0}}',
     '{"intrinsic": {"fx": NaN, "fy": 1, "ppx": 0, "ppy": 0}}'],
)  # fmt: skip
def test_bad_intrinsics_are_named(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(SourceError, match=r"a\.json: corrupt_calibration"):
        read_intrinsics(FileRef(path=tmp_path / "a.json"))


def pose(rotation, translation):
    return [{"extrinsic": {"rotation_matrix": rotation, "translation_vector": translation}}]


@pytest.mark.parametrize(
    "content",
    [{}, [1], [{}], pose([[1, 0], [0, 1]], [0, 0, 0]), pose((2 * np.eye(3)).tolist(), [0, 0, 0]),
     pose(np.eye(3).tolist(), [0, 0]), pose([[float("nan")] * 3] * 3, [0, 0, 0])],
)  # fmt: skip
def test_bad_extrinsics_are_named(tmp_path, content):
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(SourceError, match=r"a\.json: corrupt_calibration"):
        read_extrinsics(FileRef(path=tmp_path / "a.json"))


def test_depth_is_metres_with_holes(folder):
    depth = read_depth_png(FileRef(path=folder / "head_depth_000001.png"))
    assert depth.dtype == np.float32
    assert np.isnan(depth[0]).all() and not np.isnan(depth[1:]).any()
    assert depth[1, 0] == np.float32(0.501)


@pytest.mark.parametrize("kind", ["truncated", "8-bit", "colour", "text"])
def test_bad_depth_is_named(folder, kind):
    path = folder / "head_depth_000000.png"
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-40])
    elif kind == "text":
        path.write_text("no picture")
    else:
        Image.fromarray(np.zeros((4, 4) if kind == "8-bit" else (4, 4, 3), "uint8")).save(path)
    with pytest.raises(SourceError, match="corrupt_depth"):
        read_depth_png(FileRef(path=path))
