from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from agibot_tree import FakeEpisode, pack, write_proprio

from storage.sources.agibot.proprio import read_proprio, read_proprio_header
from storage.sources.agibot.tree import list_episodes
from storage.sources.file_ref import FileRef, SourceError

E = FakeEpisode(n=120)


@pytest.fixture
def edited(tmp_path: Path) -> Callable[[Callable[[h5py.File], None]], FileRef]:
    """Writes the episode's file, changed by a function of the open file."""

    def write(edit: Callable[[h5py.File], None]) -> FileRef:
        path = tmp_path / "proprio_stats.h5"
        write_proprio(path, E)
        with h5py.File(path, "r+") as file:
            edit(file)
        return FileRef(path=path)

    return write


def put(file: h5py.File, name: str, values) -> None:
    if name in file:
        del file[name]
    file[name] = values


def test_reads_what_was_written(edited):
    p = read_proprio(edited(lambda file: None))
    np.testing.assert_array_equal(p.timestamps_ns, E.times_ns)
    np.testing.assert_array_equal(p.state.position, E.position)
    np.testing.assert_allclose(p.action.position, E.position + 0.01)
    np.testing.assert_allclose(np.abs((p.state.quaternion * E.quaternion).sum(-1)), 1)
    np.testing.assert_allclose(p.state.closed, E.closed, atol=1e-12)
    np.testing.assert_allclose(p.action.closed, E.closed, atol=1e-12)
    assert p.effector == "gripper" and p.notes == ()
    header = read_proprio_header(edited(lambda file: None))
    np.testing.assert_array_equal(header.timestamps_ns, E.times_ns)


def test_reads_the_same_from_a_tar(tree, tmp_path):
    plain, packed = (
        list_episodes(root).episodes[0].proprio for root in (tree, pack(tree, tmp_path / "packed"))
    )
    assert plain is not None and packed is not None and packed.member
    a, b = read_proprio(plain), read_proprio(packed)
    for name in vars(a.state):
        np.testing.assert_array_equal(getattr(a.state, name), getattr(b.state, name))
        np.testing.assert_array_equal(getattr(a.action, name), getattr(b.action, name))


def test_hands_are_recognised_by_their_width(tmp_path):
    write_proprio(tmp_path / "a.h5", FakeEpisode(n=50, hand=True))
    p = read_proprio(FileRef(path=tmp_path / "a.h5"))
    assert p.effector == "hand" and p.state.effector.shape == (50, 12)
    np.testing.assert_allclose(p.state.closed, FakeEpisode(n=50).closed, atol=1e-12)
    assert p.notes == ()


def shorten(file: h5py.File, group: str, rows: np.ndarray, *, index: bool = True) -> None:
    for name in ("position", "orientation"):
        if f"action/{group}/{name}" in file:
            put(file, f"action/{group}/{name}", file[f"action/{group}/{name}"][:][rows])
    put(file, f"action/{group}/index", rows if index else np.zeros(0, int))


def test_short_actions_go_to_their_rows_and_the_rest_is_the_state(edited):
    rows = np.arange(24, 100)  # as in a real file, whose first rows were never sent

    def edit(file):
        for group in ("joint", "end", "effector"):
            shorten(file, group, rows)

    p = read_proprio(edited(edit))
    np.testing.assert_allclose(p.action.position[rows], E.position[rows] + 0.01)
    np.testing.assert_array_equal(p.action.position[:24], p.state.position[:24])
    np.testing.assert_array_equal(p.action.position[100:], p.state.position[100:])
    np.testing.assert_allclose(p.action.closed[:24], p.state.closed[:24])
    np.testing.assert_allclose(np.abs((p.action.quaternion * p.state.quaternion).sum(-1)), 1)
    assert p.notes == ("action_filled",)


def test_an_empty_index_of_the_end_pose_is_the_joints(edited):
    rows = np.arange(10, 60)

    def edit(file):
        shorten(file, "joint", rows)
        shorten(file, "end", rows, index=False)

    p = read_proprio(edited(edit))
    np.testing.assert_allclose(p.action.position[rows], E.position[rows] + 0.01)
    np.testing.assert_array_equal(p.action.position[:10], p.state.position[:10])


@pytest.mark.parametrize("how", ["empty", "zero", "gone"])
def test_actions_that_were_never_sent_equal_the_state(edited, how):
    def edit(file):
        for name in ("joint/position", "end/position", "end/orientation"):
            shape = (
                (0, *file[f"action/{name}"].shape[1:])
                if how == "empty"
                else file[f"action/{name}"].shape
            )
            put(file, f"action/{name}", np.zeros(shape))
        if how == "gone":
            del file["action"]

    p = read_proprio(edited(edit))
    np.testing.assert_array_equal(p.action.position, p.state.position)
    np.testing.assert_allclose(p.action.quaternion, p.state.quaternion, atol=1e-15)
    assert "action_absent" in p.notes


def test_rows_of_zeros_among_sent_poses_are_the_state(edited):
    def edit(file):
        for name in ("position", "orientation"):
            file[f"action/end/{name}"][30:40] = 0

    p = read_proprio(edited(edit))
    np.testing.assert_array_equal(p.action.position[30:40], p.state.position[30:40])
    np.testing.assert_allclose(p.action.position[40:], E.position[40:] + 0.01)


def test_sign_flips_and_zero_quaternions(edited):
    def edit(file):
        file["state/end/orientation"][50:, 0] *= -1
        file["action/end/orientation"][70:] *= -1
        file["state/end/orientation"][:, 1] = 0

    p = read_proprio(edited(edit))
    assert ((p.state.quaternion[1:] * p.state.quaternion[:-1]).sum(-1) > 0.9).all()
    assert ((p.action.quaternion[:, 0] * p.state.quaternion[:, 0]).sum(-1) > 0.9).all()
    assert (p.state.quaternion[:, 1] == [0, 0, 0, 1]).all()
    assert p.notes == ("zero_quaternion",)


def test_an_inverted_gripper_is_corrected_in_rows_without_command_too(edited):
    def edit(file):
        put(file, "state/effector/position", 120 - 85 * E.closed)
        shorten(file, "effector", np.arange(100))

    p = read_proprio(edited(edit))
    assert p.notes == ("action_filled", "gripper_inverted")
    np.testing.assert_allclose(p.state.closed, E.closed, atol=1e-12)
    np.testing.assert_allclose(p.action.closed, E.closed, atol=1e-12)


def test_a_gripper_at_rest_is_not_verified(edited):
    p = read_proprio(
        edited(lambda file: put(file, "state/effector/position", np.full((E.n, 2), 36.0)))
    )
    assert p.notes == ("gripper_unverified",)


def test_head_and_waist_may_be_missing(edited):
    p = read_proprio(edited(lambda file: put(file, "state/head/position", np.zeros(0))))
    assert p.notes == ("no_head_or_waist",) and np.isnan(p.state.head).all()


def test_nan_in_the_state_stays_visible(edited):
    def edit(file):
        file["state/end/position"][5] = np.nan

    assert np.isnan(read_proprio(edited(edit)).state.position[5]).all()


FAULTS = {
    "a key is missing": (
        lambda f: f.pop("state/end/position"),
        "missing_proprio_key.*orientation.*state/end/position",
    ),
    "a group is missing": (
        lambda f: f.pop("state"), "missing_proprio_key: found nothing beside it"
    ),
    "no times": (lambda f: f.pop("timestamp"), "missing_proprio_key"),
    "more actions": (
        lambda f: put(f, "action/end/position", np.ones((E.n + 1, 2, 3))), "121 rows.*at most 120"
    ),
    "short state": (
        lambda f: put(f, "state/joint/position", np.zeros((90, 14))),
        "corrupt_proprio.*90, 14.*120",
    ),
    "another robot": (
        lambda f: put(f, "state/joint/position", np.zeros((E.n, 34))), "corrupt_proprio.*34"
    ),
    "odd effector": (
        lambda f: put(f, "state/effector/position", np.zeros((E.n, 5))), "2 numbers a row.*or 12"
    ),
    "text for numbers": (lambda f: put(f, "state/end/position", [b"a"]), "corrupt_proprio"),
    "rows without index": (
        lambda f: shorten(f, "joint", np.arange(9), index=False), "9 rows.*with 0 indices"
    ),
    "index outside": (
        lambda f: (
            shorten(f, "joint", np.arange(9)),
            put(f, "action/joint/index", np.arange(9) + 112),
        ),
        "9 rows.*112..120; expected an index in 0..119",
    ),
    "seconds": (lambda f: put(f, "timestamp", np.arange(E.n) / 30), "bad_timestamps.*float64"),
    "milliseconds": (
        lambda f: put(f, "timestamp", np.arange(E.n) * 33), "bad_timestamps.*median step of 33 ns"
    ),
    "times run back": (
        lambda f: put(f, "timestamp", E.times_ns[::-1].copy()), "bad_timestamps.*rising"
    ),
    "a time repeated": (
        lambda f: put(f, "timestamp", E.times_ns[[0, *range(E.n - 1)]]), "0 ns from row 0"
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named(edited, fault):
    edit, message = FAULTS[fault]
    ref = edited(edit)
    with pytest.raises(SourceError, match=f"(?s)proprio_stats.h5.*{message}"):
        read_proprio(ref)
    with pytest.raises(SourceError, match=message):
        read_proprio_header(ref)


@pytest.mark.parametrize("keep", [0, 100, 0.5])
def test_a_truncated_file_is_named(edited, keep):
    ref = edited(lambda file: None)
    whole = ref.path.read_bytes()
    ref.path.write_bytes(whole[: int(len(whole) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(SourceError, match="corrupt_proprio"):
        read_proprio(ref)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SourceError, match="missing_file"):
        read_proprio(FileRef(path=tmp_path / "proprio_stats.h5"))
