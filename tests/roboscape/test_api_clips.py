"""Clips by row, id, slice and split, with the labels that belong to them, and clear errors."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from small_stores import square_clips, write_clips, write_index
from small_workspace import FLAGGED, UNTRACKED, make_labels
from small_world import REJECTED, SPLITS
from test_api_workspace import rewrite_manifest

import roboscape as rs
from stages.clips.recording_flags import FLAGS as CLIP_FLAGS
from stages.drawing.pictures import png_bytes
from storage.stores.records import StoreRef

N = len(SPLITS)
ARRAYS = square_clips(N)
MADE = [row for row in range(N) if row != REJECTED]


def test_a_clip_has_its_arrays_and_its_place(clips):
    clip = clips[1]
    assert (clip.row, clip.clip_id, clip.split, clip.episode, clip.task) == (
        1,
        "clip001",
        "val",
        648601,
        327,
    )
    assert clip.text == "Push it. Let go." and clips[2].text == "Move a square"
    assert clip.ok and clip.rejected == "" and clip.rate_hz == 2.0
    np.testing.assert_array_equal(clip.rgb, ARRAYS["clip"]["rgb"][1])
    np.testing.assert_array_equal(clip.actions, ARRAYS["clip"]["actions"][1])
    assert clip["rgb"] is clip.rgb, "it is read once"


def test_labels_are_joined_from_the_stores_made_from_the_clips(clips, world):
    clip = clips[1]
    np.testing.assert_array_equal(clip.tracks, ARRAYS["keypoints"]["tracks"][1])
    np.testing.assert_array_equal(clip.visible, ARRAYS["keypoints"]["visible"][1])
    np.testing.assert_array_equal(
        clip.depth, ARRAYS["depth"]["inverse_depth"][1].astype(np.float32)
    )
    assert clip.depth.dtype == np.float32
    assert clip.flags == () and clips[FLAGGED].flags == ("flicker",)
    assert clip["rgb_tokens"].shape == (16, 4, 4)
    assert clip["label_quality/flicker"] == pytest.approx(0.005)
    assert clips.stores == {
        role: str(ref) for role, ref in world.rows.items() if role != "discover"
    }


def test_depth_is_nan_where_it_is_not_known(tmp_path):
    index = write_index(tmp_path, ["train", "val"])
    arrays = square_clips(2)
    arrays["depth"]["valid"][1, 3, 4, 5] = False
    clip = write_clips(index, "clip", arrays["clip"])
    write_clips(index, "depth", arrays["depth"], inputs={"clip": clip.uri})
    depth = rs.open(tmp_path).clips()[1].depth
    assert np.argwhere(np.isnan(depth)).tolist() == [[3, 4, 5]]


def test_arrays_cannot_be_spoiled(clips):
    with pytest.raises(ValueError, match="read-only"):
        clips[1].actions[0] = 0


def test_clips_are_a_sequence(clips):
    assert len(clips) == N and [clip.row for clip in clips] == MADE
    assert clips[-1].row == N - 1 and clips["clip004"].row == 4 and clips[np.int64(2)].row == 2
    part = clips[2:6]
    assert len(part) == 4 and [clip.row for clip in part] == [2, 4, 5] and part[0].row == 2
    assert part["clip004"].row == 4 and part.ok.tolist() == [True, False, True, True]
    assert clips[[5, 1]].rows.tolist() == [5, 1] and clips[part.rows[:0]].rows.tolist() == []
    assert clips[np.arange(N) % 2 == 0].rows.tolist() == [0, 2, 4, 6]
    for place in (N, -N - 1):
        with pytest.raises(IndexError, match=f"{N} clips, none at {place}"):
            clips[place]
    with pytest.raises(LookupError, match="'clip001' is not among these 4 of 7"):
        part["clip001"]
    with pytest.raises(LookupError, match="'x' is not in its index; ids look like clip000"):
        clips["x"]


def test_rows_cannot_be_spoiled(clips):
    clips.rows[:] = 0
    assert clips.rows.tolist() == list(range(N))


def test_selections(clips):
    assert clips.select(split="val").rows.tolist() == [1, 2, 3, 5, 6]
    assert clips.select(split="val", flagged=False).rows.tolist() == [1, 6]
    assert clips.select(flagged=True).rows.tolist() == [FLAGGED]
    assert len(clips.select(split="nonsense")) == 0


def test_a_stack_holds_all_clips_that_have_the_array(clips):
    np.testing.assert_array_equal(clips.stack("actions"), ARRAYS["clip"]["actions"][MADE])
    tracked = [row for row in MADE if row != UNTRACKED]
    np.testing.assert_array_equal(clips.stack("tracks"), ARRAYS["keypoints"]["tracks"][tracked])
    assert clips[:3].stack("depth").shape == (3, 16, 32, 32)


def test_a_rejected_clip_says_why_and_where(clips):
    clip = clips[REJECTED]
    assert not clip.ok and clip.rejected == "test: " and clip.split == "val"
    assert "rejected: test" in repr(clip) and clip._repr_png_() is None
    with pytest.raises(
        rs.RejectedClip, match=r"clip clip003 \(row 3\) has no rgb: clip/\w+ rejected it \(test: \)"
    ):
        clip.rgb  # noqa: B018
    # What keypoints lack because the clip lacks is the clip store's doing.
    with pytest.raises(rs.RejectedClip, match=r"has no tracks: clip/\w+ rejected it \(test: \)"):
        clip.tracks  # noqa: B018
    with pytest.raises(
        rs.RejectedClip, match=r"clip005 \(row 5\) has no tracks: keypoints/\w+ rejected it"
    ):
        clips[UNTRACKED].tracks  # noqa: B018
    assert clips[UNTRACKED].rgb.shape == (16, 32, 32, 3)


def test_the_table_has_every_row_and_why_some_have_no_data(clips):
    table = clips.to_frame()
    assert table.column_names[:4] == ["row", "ok", "clip_id", "split"]
    rows = table.to_pylist()
    assert [row["row"] for row in rows] == list(range(N)) and rows[1]["texts"] == [
        "Push it.",
        "Let go.",
    ]
    assert [row["ok"] for row in rows] == [row in MADE for row in range(N)]
    assert [row["reason"] for row in rows] == [None] * 3 + ["test"] + [None] * 3
    assert [row["flags"] for row in rows] == [[], [], ["flicker"], None, [], None, []]
    assert clips[[6, 2]].to_frame().to_pandas()["clip_id"].tolist() == ["clip006", "clip002"]


def test_clips_are_chosen_by_the_flags_of_recording_and_labels(clips, tmp_path):
    index, arrays = write_index(tmp_path, SPLITS), square_clips(N)
    bits = np.zeros((N, len(CLIP_FLAGS)), bool)
    bits[1, CLIP_FLAGS.index("count_mismatch")] = True
    clip = write_clips(
        index, "clip", arrays["clip"] | {"flags": bits}, (REJECTED,), {"discover": index.uri}
    )
    depth = write_clips(
        index, "depth", arrays["depth"], inputs={"clip": clip.uri}, upstream=(REJECTED,)
    )
    make_labels(index, clip, depth)
    found = rs.open(tmp_path).clips()
    assert found[1].recording_flags == ("count_mismatch",) and found[0].recording_flags == ()
    recorded = found.to_frame()["recording_flags"].to_pylist()
    assert recorded == [[], ["count_mismatch"], [], None, [], [], []]
    kept = found.select(drop_flags=["count_mismatch"])
    assert kept.rows.tolist() == [0, 2, 4, 5, 6], "what was rejected has no flags"
    assert found.select(drop_flags=["count_mismatch", "flicker"]).rows.tolist() == [0, 4, 6]
    data = found.torch_dataset(["rgb"], split="val", drop_flags=["count_mismatch"])
    assert data.rows.tolist() == [2, 5, 6]
    with pytest.raises(ValueError, match=r"drop_flags=\['blur'\]: expected a list of some of"):
        found.select(drop_flags=["blur"])
    with pytest.raises(rs.RejectedClip, match="no recording_flags"):
        _ = found[REJECTED].recording_flags
    with pytest.raises(ValueError, match="the stores here have no flags"):
        clips.select(drop_flags=["count_mismatch"])


def test_unknown_arrays_and_columns_are_explained(clips, tmp_path):
    with pytest.raises(
        LookupError, match="no array 'colour'; there is: rgb, actions, states, depth"
    ):
        clips[1]["colour"]
    with pytest.raises(
        LookupError, match=r"clip/\w+ has no array 'states'; it has actions, frame_index, rgb"
    ):
        clips[1].states  # noqa: B018
    with pytest.raises(LookupError, match="no store 'evaluation' is joined to clips"):
        clips[1]["evaluation/psnr"]
    del clips[1].about["task"]  # each clip reads its own
    clip = clips[1]
    clip.about.pop("task")
    with pytest.raises(LookupError, match="has no column 'task'; it has clip_id, split"):
        clip.task  # noqa: B018


# Which stores belong to the clips


@pytest.fixture
def two_depths(tmp_path: Path) -> dict[str, StoreRef]:
    """Clips with two versions of depth, the older one with keypoints and label quality."""
    index = write_index(tmp_path, SPLITS)
    refs = {
        "index": index,
        "clip": write_clips(index, "clip", ARRAYS["clip"], rejected=(REJECTED,)),
    }
    inputs = {"clip": refs["clip"].uri, "discover": index.uri}
    for i, name in enumerate(("old", "new")):
        arrays = {
            **ARRAYS["depth"],
            "inverse_depth": ARRAYS["depth"]["inverse_depth"] + np.float16(i),
        }
        refs[name] = write_clips(index, "depth", arrays, rejected=(REJECTED,), inputs=inputs)
        rewrite_manifest(refs[name].uri, created=f"2026-01-0{i + 1}T10:00:00+00:00")
    return refs | make_labels(index, refs["clip"], refs["old"])


def test_versions_of_labels_are_never_mixed(two_depths):
    """The newest depth is taken; keypoints that were made from another one do not go with it."""
    clips = rs.open(two_depths["clip"].root).clips()
    assert clips.stores["depth"] == str(two_depths["new"]) and "keypoints" not in clips.stores
    with pytest.raises(LookupError) as raised:
        clips[1].tracks  # noqa: B018
    text = str(raised.value)
    assert f"no complete store 'keypoints' is made from {two_depths['clip']} and the labels" in text
    assert (
        f"{two_depths['keypoints']} (clip/{two_depths['clip'].key}, depth/{two_depths['old'].key})"
        in text
    )
    newer = make_labels(two_depths["index"], two_depths["clip"], two_depths["new"], seed=1)
    assert rs.open(two_depths["clip"].root).clips().stores["keypoints"] == str(newer["keypoints"])


def test_labels_can_be_named(two_depths):
    ws = rs.open(two_depths["clip"].root)
    clips = ws.clips(depth=two_depths["old"].key)
    assert clips.stores == {
        "clip": str(two_depths["clip"]),
        "depth": str(two_depths["old"]),
        "keypoints": str(two_depths["keypoints"]),
        "label_quality": str(two_depths["label_quality"]),
    }
    assert clips[1].tracks.shape == (16, 30, 2) and clips[1].depth.max() == 2.0
    with pytest.raises(LookupError, match="expected a store of the stage 'depth'"):
        ws.clips(depth=str(two_depths["clip"]))


def test_labels_of_other_clips_do_not_belong(two_depths):
    other = write_clips(two_depths["index"], "clip", square_clips(N, 1)["clip"])
    ws = rs.open(two_depths["clip"].root)
    assert ws.clips(str(other)).stores == {"clip": str(other)}
    with pytest.raises(LookupError, match="are made from others: depth/"):
        ws.clips(str(other))[1].depth  # noqa: B018
    with pytest.raises(ValueError, match=r"depth=depth/\w+ was made from clip/\w+, not from clip/"):
        ws.clips(str(other), depth=str(two_depths["old"]))
    with pytest.raises(LookupError, match=r"there is none in .*: its stage has not run"):
        ws.clips(str(other))[1]["rgb_tokens"]
    assert ws.clips(str(other)).to_frame()["flags"].to_pylist() == [None] * N


def test_labels_that_need_no_frames_belong_by_their_index(tmp_path):
    """An annotator may read the episode's own files only."""
    index = write_index(tmp_path, SPLITS)
    write_clips(index, "clip", ARRAYS["clip"])
    depth = write_clips(index, "depth", ARRAYS["depth"], inputs={"discover": index.uri})
    assert rs.open(tmp_path).clips().stores["depth"] == str(depth)


def test_an_unfinished_store_does_not_belong(two_depths):
    (Path(two_depths["new"].uri) / "complete.json").unlink()
    assert rs.open(two_depths["clip"].root).clips().stores["depth"] == str(two_depths["old"])


# Text, pictures, other processes


def test_texts(clips):
    assert repr(clips) == (
        f"<Clips {clips.store}: 7 clips, 1 test, 5 val, 1 train; 16 frames of 32 x 32 px at 2 Hz; "
        "rejected: 1 test>"
    )
    assert repr(clips[:2]).startswith(f"<Clips {clips.store}: 2 of 7 clips, 1 test, 1 val; 16")
    assert repr(clips[1]) == (
        f"<Clip clip001: row 1 of {clips.store}, episode 648601, split val, "
        "16 frames of 32 x 32 px at 2 Hz, 'Push it. Let go.'>"
    )


def test_the_picture_shows_what_labels_there_are(clips, two_depths):
    with_all, without_tracks = clips[1].picture(), clips[UNTRACKED].picture()
    assert with_all.shape[1] == without_tracks.shape[1]
    assert with_all.shape[0] - without_tracks.shape[0] > 100, "a row less"
    assert clips[1]._repr_png_() == png_bytes(with_all)


def test_clips_go_to_other_processes(clips):
    copy = pickle.loads(pickle.dumps(clips[2:]))
    assert copy.rows.tolist() == clips.rows[2:].tolist() and copy.stores == clips.stores
    np.testing.assert_array_equal(copy[0].tracks, clips[2].tracks)
    clip = pickle.loads(pickle.dumps(clips[1]))
    np.testing.assert_array_equal(clip.rgb, clips[1].rgb)
