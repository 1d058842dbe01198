import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from agibot_tree import FakeEpisode, pack, write_proprio, write_tree
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from label_clips import T, one_clip, still_clip, write_depth

from stages.base import ClipInputs, ClipStage, Rejected, Resources
from stages.clip_format import ClipFormat
from stages.depth.scaling import depth_to_image, image_to_depth, inverse_depth_range
from stages.depth.sensor import SensorDepth, sensor_estimate
from stages.depth.stage import DepthAnnotator, DepthEstimate, DepthUnits, PseudoDepth
from stages.resizing import nearest_pixels
from storage.sources.agibot.tree import list_episodes
from storage.stores.key import content_key, parameters
from storage.stores.records import Manifest

SIDE = 24
FRAMES = np.arange(T) * 3
PROPRIO = "proprio_stats.h5"


CLIPS = ClipFormat(size=SIDE)


def sensor_stage(root: str, **fields) -> PseudoDepth:
    annotator = SensorDepth(root=root, clip_format=CLIPS)
    return PseudoDepth(annotator=annotator, clip_format=CLIPS, **fields)


def ramp_mm(frame: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A floor from 0.5 m (below) to about 2 m (above), a box that moves right, holes along its left
    edge.
    """
    y, x = np.mgrid[:height, :width]
    depth = 500 + 1500 * (height - 1 - y) / (height - 1) + x
    left = 4 + frame
    depth[20:36, left : left + 12] = 450
    depth[20:36, left - 2 : left] = 0
    return depth.astype(np.uint16)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_depth(tmp_path / "depth", {i: ramp_mm(i) for i in range(50)})
    return tmp_path


def make(root: Path, text: str = "depth", frames: np.ndarray = FRAMES, **fields):
    stage = sensor_stage(str(root), **fields)
    clip = one_clip(depth=np.array(text), proprio=np.array(PROPRIO), frame_index=frames)
    return stage.start("cpu", {})([clip])[0]


def made(root: Path, **fields) -> dict[str, np.ndarray]:
    arrays = make(root, **fields)
    assert isinstance(arrays, dict), arrays
    return arrays


def reason(found: object) -> tuple[str, str]:
    assert isinstance(found, Rejected), found
    return found.reason, found.detail


# -- inverse depth and images ----------------------------------------------------------------------

ranges = st.tuples(st.floats(-100, 100, width=32), st.floats(0.0625, 100, width=32)).map(
    lambda pair: np.array([pair[0], pair[0] + pair[1]], np.float32)
)
unit = hnp.arrays(np.float32, (2, 3, 4), elements=st.floats(0, 1, width=32))


@given(unit, ranges)
def test_depth_becomes_an_image_and_back(share: np.ndarray, limits: np.ndarray):
    low, high = limits
    inverse = low + share * (high - low)
    image = depth_to_image(inverse, limits)
    assert image.min() >= -1 and image.max() <= 1
    np.testing.assert_allclose(
        image_to_depth(image, limits), inverse, atol=1e-5 * max(abs(low), abs(high))
    )


@given(unit, ranges)
def test_an_image_becomes_depth_and_back(share: np.ndarray, limits: np.ndarray):
    image = 2 * share - 1
    spread = (limits[1] - limits[0]) / np.abs(limits).max()
    np.testing.assert_allclose(
        depth_to_image(image_to_depth(image, limits), limits), image, atol=1e-6 / spread
    )


def test_the_range_becomes_minus_one_and_one_and_outside_is_clamped():
    inverse = np.array([-1.0, 0.5, 1.25, 2.0, 7.0], np.float16).reshape(1, 1, 5)
    image = depth_to_image(inverse, np.array([0.5, 2.0], np.float32))
    np.testing.assert_allclose(image.ravel(), [-1, -1, 0, 1, 1], atol=1e-6)


@given(unit, st.floats(0.1, 10), st.floats(-5, 5))
def test_the_image_ignores_scale_and_shift(share: np.ndarray, scale: float, shift: float):
    limits = np.array([0.1, 0.9], np.float32)
    changed = depth_to_image(
        (share * scale + shift).astype(np.float32), (limits * scale + shift).astype(np.float32)
    )
    np.testing.assert_allclose(changed, depth_to_image(share, limits), atol=1e-3)


def test_a_batch_is_its_clips_one_by_one():
    rng = np.random.default_rng(0)
    inverse = rng.random((3, 4, 5, 6), np.float32)
    limits = np.sort(rng.random((3, 2), np.float32), axis=1)
    for convert in (depth_to_image, image_to_depth):
        batch = convert(inverse, limits)
        assert batch.dtype == np.float32
        np.testing.assert_array_equal(
            batch, np.stack([convert(i, r) for i, r in zip(inverse, limits, strict=True)])
        )


def test_an_empty_range_is_refused():
    with pytest.raises(
        ValueError, match=r"inverse_depth_range \[1.0, 1.0\]: expected the first below the second"
    ):
        depth_to_image(np.ones((1, 2, 2), np.float32), np.array([1, 1], np.float32))


def test_the_range_ignores_holes_and_outliers():
    rng = np.random.default_rng(0)
    inverse = rng.uniform(1, 2, (4, 50, 50)).astype(np.float16)
    valid = rng.random(inverse.shape) > 0.3
    limits = inverse_depth_range(inverse, valid)
    np.testing.assert_allclose(
        limits, np.quantile(inverse[valid].astype(np.float64), (0.02, 0.98)), rtol=1e-3
    )
    np.testing.assert_array_equal(
        inverse_depth_range(np.where(valid, inverse, np.float16(99)), valid), limits
    )
    spiked = inverse.copy()
    spiked.ravel()[np.flatnonzero(valid)[:20]] = 500
    assert abs(inverse_depth_range(spiked, valid) - limits).max() < 0.01


# -- what every annotator must give ----------------------------------------------------------------


def estimate(inverse: np.ndarray, valid: np.ndarray | None = None) -> DepthEstimate:
    valid = np.ones(inverse.shape, bool) if valid is None else valid
    return DepthEstimate(inverse_depth=inverse.astype(np.float32), valid=valid)


@pytest.fixture
def stage(tmp_path: Path) -> PseudoDepth:
    return sensor_stage(str(tmp_path))


def good() -> np.ndarray:
    return np.random.default_rng(0).uniform(0.5, 2, (T, SIDE, SIDE))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e6, -1e6])
def test_numbers_that_cannot_be_are_rejected(stage: PseudoDepth, bad: float):
    inverse = good()
    inverse[3, 4, 5] = bad
    why, detail = reason(stage.checked(estimate(inverse), "clip"))
    assert why == "nan_depth" and detail.startswith("1 of 9216")


def test_nan_in_a_hole_is_nothing(stage: PseudoDepth):
    inverse, valid = good(), np.ones((T, SIDE, SIDE), bool)
    inverse[3, 4, 5], valid[3, 4, 5] = np.nan, False
    arrays = stage.checked(estimate(inverse, valid), "clip")
    assert isinstance(arrays, dict) and arrays["inverse_depth"][3, 4, 5] == 0
    for spec in stage.outputs:
        spec.check(arrays[spec.name], "clip")


def test_holes_in_one_frame_reject_the_clip(stage: PseudoDepth):
    valid = np.ones((T, SIDE, SIDE), bool)
    valid[5, :13] = False  # 54 % of one frame, 3 % of the clip
    assert reason(stage.checked(estimate(good(), valid), "clip")) == (
        "holes",
        "frame 5: 54.2% of the pixels are unknown, at most 50% may be",
    )
    assert isinstance(
        replace(stage, max_hole_share=0.55).checked(estimate(good(), valid), "clip"), dict
    )


def test_a_clip_without_any_depth_is_rejected(stage: PseudoDepth):
    nothing = estimate(good(), np.zeros((T, SIDE, SIDE), bool))
    assert reason(stage.checked(nothing, "clip"))[0] == "holes"
    assert reason(replace(stage, max_hole_share=0.99).checked(nothing, "clip"))[0] == "holes"


def test_a_flat_scene_is_rejected(stage: PseudoDepth):
    assert reason(stage.checked(estimate(np.full((T, SIDE, SIDE), 1.3)), "clip"))[0] == "flat_depth"


@dataclass(frozen=True, kw_only=True)
class Brightness(DepthAnnotator):
    """Another annotator, as a network would be one: relative, from the frames."""

    name: str = field(default="brightness", init=False)
    version: int = field(default=1, init=False)

    units: ClassVar[DepthUnits] = "relative"
    inputs: ClassVar[Mapping[str, tuple[str, ...]]] = {"discover": (), "clip": ("rgb",)}
    attributes: ClassVar[Mapping[str, str]] = {"licence": "none"}
    resources: ClassVar[Resources] = Resources(gpus=0.5, clips_per_call=4)

    def start(
        self, device: str
    ) -> Callable[[Sequence[ClipInputs]], Sequence[DepthEstimate | Rejected]]:
        return lambda clips: [estimate(clip.arrays["rgb"].mean(-1)) for clip in clips]


def test_another_annotator_is_another_field(stage: PseudoDepth):
    other = replace(stage, annotator=Brightness())
    assert isinstance(other, ClipStage) and isinstance(stage, ClipStage)
    assert [s.name for s in other.outputs] == [s.name for s in stage.outputs]
    assert other.outputs[0].units == "relative" and other.resources.gpus == 0.5
    assert set(other.inputs) == set(stage.inputs) == {"discover", "clip"}
    assert content_key(other) != content_key(stage)
    clips = [one_clip(rgb=still_clip(SIDE, seed)) for seed in range(3)]
    arrays = other.start("cpu", {})(clips)
    assert len(arrays) == 3 and all(isinstance(a, dict) and a["valid"].all() for a in arrays)


def test_the_annotator_is_named_in_what_reports_show(stage: PseudoDepth):
    assert stage.attributes["annotator"] == "sensor"
    assert stage.attributes["stand_in_for"] == "Video Depth Anything"
    assert stage.attributes["units"] == "1/m" and stage.attributes["licence"]
    shown = Manifest(
        stage="depth", key="k", kind="result", version=1, parameters=parameters(stage), inputs={},
        attributes=stage.attributes,
    )  # fmt: skip
    assert Manifest.from_json(shown.to_json()).attributes == stage.attributes


def test_the_key_names_the_annotator_but_not_the_place(stage: PseudoDepth):
    assert parameters(stage)["annotator"] == {"name": "sensor", "version": 1}
    assert content_key(stage) == content_key(
        replace(stage, annotator=SensorDepth(root="/elsewhere", clip_format=CLIPS))
    )


# -- the sensor ------------------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(1, 60))
def test_nearest_pixels_stay_within_half_a_pixel(n_source: int, n: int):
    picked = nearest_pixels(n_source, n)
    centre = (np.arange(n) + 0.5) * n_source / n - 0.5
    assert picked.min() >= 0 and picked.max() < n_source
    assert np.abs(picked - centre).max() <= 0.5 + 1e-9


def test_every_value_is_one_that_the_sensor_gave():
    """Averages across an edge would be depths of nothing."""
    depth = np.stack([ramp_mm(i) for i in range(T)]).astype(np.float32) / 1000
    depth[depth == 0] = np.nan
    found = sensor_estimate(depth, (SIDE, SIDE))
    inverse = found.inverse_depth[found.valid]
    assert np.isin(inverse, 1 / depth[np.isfinite(depth)]).all()
    assert (found.inverse_depth[~found.valid] == 0).all() and not found.valid.all()


def test_frames_are_the_clips_own(root: Path):
    shuffled = made(root, frames=FRAMES[::-1].copy())
    forward = made(root)
    np.testing.assert_array_equal(shuffled["inverse_depth"], forward["inverse_depth"][::-1])
    np.testing.assert_array_equal(shuffled["inverse_depth_range"], forward["inverse_depth_range"])


def test_golden_depth(root: Path):
    """Tied to `PseudoDepth.version` and `SensorDepth.version`: other numbers here mean a new
    version.
    """
    arrays = made(root)
    np.testing.assert_allclose(arrays["inverse_depth_range"], [0.4998, 2.2227], atol=2e-4)
    np.testing.assert_allclose(arrays["inverse_depth"][0, ::6, 12], GOLDEN_COLUMN, rtol=6e-4)
    assert arrays["valid"].sum() == 9120
    assert not arrays["valid"][1, 12, 2] and arrays["inverse_depth"][1, 12, 2] == 0
    for spec in sensor_stage("").outputs:
        spec.check(arrays[spec.name], "clip")


GOLDEN_COLUMN = [1 / 2.001, 1 / 1.618, 1 / 1.235, 1 / 0.852]


def test_missing_pictures_are_counted(root: Path):
    for frame in (6, 45):
        (root / f"depth/head_depth_{frame:06d}.png").unlink()
    why, detail = reason(make(root))
    assert why == "missing_depth"
    assert (
        "48 pictures, but none for frames [6, 45] (2 of 16 missing)" in detail
        and "head_depth_<frame>.png" in detail
    )


def test_no_folder_at_all(root: Path):
    why, detail = reason(make(root, text=""))
    assert (why, detail) == ("no_depth", "the episode or this camera has no depth pictures")


def test_a_folder_that_has_gone(root: Path):
    why, detail = reason(make(root, text="gone"))
    assert why == "missing_depth" and "no such folder" in detail


def test_a_broken_picture_is_named(root: Path):
    path = root / "depth/head_depth_000009.png"
    path.write_bytes(path.read_bytes()[:60])
    why, detail = reason(make(root))
    assert why == "corrupt_depth" and "head_depth_000009.png" in detail


def test_a_picture_of_8_bits_is_not_depth(root: Path):
    write_depth(root / "depth", {9: ramp_mm(9).astype(np.uint8)})
    assert reason(make(root))[0] == "corrupt_depth"


def renumbered(root: Path, first: int, n_rows: int = 50) -> Path:
    """The same pictures with numbers from `first` on, beside a file of so many rows."""
    write_proprio(root / PROPRIO, FakeEpisode(n=n_rows))
    pictures = [(root / f"depth/head_depth_{i:06d}.png").read_bytes() for i in range(50)]
    for path in (root / "depth").iterdir():
        path.unlink()
    for i, picture in enumerate(pictures):
        (root / f"depth/head_depth_{first + i:06d}.png").write_bytes(picture)
    return root


def test_pictures_numbered_from_1_belong_to_the_frames_before(root: Path):
    before = made(root)
    np.testing.assert_array_equal(
        made(renumbered(root, 1))["inverse_depth"], before["inverse_depth"]
    )


@pytest.mark.parametrize(("first", "n_rows"), [(1, 51), (2, 50), (7, 60)])
def test_pictures_whose_numbers_do_not_say_their_frames_are_refused(root: Path, first, n_rows):
    why, detail = reason(make(renumbered(root, first, n_rows)))
    assert why == "depth_numbers" and f"{first} to {first + 49}, for {n_rows} rows" in detail


def test_what_a_saturated_sensor_reads_is_a_hole(root: Path):
    before = made(root)
    saturated = ramp_mm(9)
    saturated[40:44, 30:50] = 65535
    write_depth(root / "depth", {9: saturated})
    after = made(root)
    assert (before["valid"] & ~after["valid"])[3].any() and not after["valid"][
        3, 20:22, 12:18
    ].any()
    np.testing.assert_array_equal(
        after["inverse_depth"][after["valid"]], before["inverse_depth"][after["valid"]]
    )


UNITS = {  # what the pictures hold -> what is found
    "0.1 mm": (10, "a median depth of 1"),
    "mm in the upper byte": (16, "all multiples of 16"),
    "m": (0.001, "a median depth of 0.00"),
}


@pytest.mark.parametrize("unit", UNITS)
def test_pictures_in_another_unit_are_refused(root: Path, unit: str):
    factor, found = UNITS[unit]
    limit = 1e9 if factor == 16 else 6.0
    write_depth(
        root / "depth", {i: (ramp_mm(i) * factor).astype("uint16") for i in FRAMES.tolist()}
    )
    annotator = SensorDepth(root=str(root), clip_format=CLIPS, max_median_m=limit)
    stage = PseudoDepth(annotator=annotator, clip_format=CLIPS)
    clip = one_clip(depth=np.array("depth"), proprio=np.array(PROPRIO), frame_index=FRAMES)
    why, detail = reason(stage.start("cpu", {})([clip])[0])
    assert why == "implausible_depth" and found in detail


def test_a_picture_that_claims_to_be_huge_is_not_unpacked(root: Path):
    path = root / "depth/head_depth_000009.png"
    data = bytearray(path.read_bytes())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)
    why, detail = reason(make(root))
    assert why == "corrupt_depth" and ("60000x60000" in detail or "DecompressionBomb" in detail)


def test_pictures_of_two_sizes_are_refused(root: Path):
    write_depth(root / "depth", {9: ramp_mm(9, 60, 80)})
    why, detail = reason(make(root))
    assert why == "depth_size" and "(48, 64), (60, 80)" in detail


def test_one_bad_clip_spoils_no_other(root: Path):
    stage = sensor_stage(str(root))
    proprio = np.array(PROPRIO)
    clips = [
        one_clip(depth=np.array(text), proprio=proprio, frame_index=FRAMES)
        for text in ("depth", "", "depth")
    ]
    first, second, third = stage.start("cpu", {})(clips)
    assert isinstance(second, Rejected)
    np.testing.assert_array_equal(first["inverse_depth"], third["inverse_depth"])


def test_tars_give_what_folders_give(tmp_path: Path):
    plain = write_tree(tmp_path / "plain", FakeEpisode(n=20, n_depth=16))
    packed = pack(plain, tmp_path / "packed")
    found = []
    for root in (plain, packed):
        folder = list_episodes(root).episodes[0].depth
        assert folder is not None
        annotate = SensorDepth(root=str(root), clip_format=CLIPS).start("cpu")
        clip = one_clip(
            depth=np.array(folder.text(root)), proprio=np.array(""), frame_index=np.arange(16)
        )
        found.append(annotate([clip])[0])
    assert isinstance(found[0], DepthEstimate) and isinstance(found[1], DepthEstimate)
    np.testing.assert_array_equal(found[0].inverse_depth, found[1].inverse_depth)
    np.testing.assert_allclose(found[0].inverse_depth[3, 10], 1 / 0.503, rtol=1e-6)
