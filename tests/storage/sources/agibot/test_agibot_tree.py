import json
import shutil
from pathlib import Path

import pytest
from agibot_tree import FakeEpisode, info, pack, write_task_info, write_tree

from storage.sources.agibot.calibration import read_depth_png
from storage.sources.agibot.proprio import read_proprio
from storage.sources.agibot.tree import depth_frames, list_episodes, source_files
from storage.sources.file_ref import FileRef

FIRST = FakeEpisode()


@pytest.fixture
def root(tree: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(tree, tmp_path / "root"))


def what_is_there(root: Path) -> list[tuple]:
    """The listing without the files' paths."""
    found = []
    for e in list_episodes(root).episodes:
        files = [
            ref.read_bytes()
            for ref in (e.proprio, *e.videos.values(), *e.calibration("head_color"))
            if ref
        ]
        names = sorted(e.videos), sorted(e.intrinsics), sorted(e.extrinsics)
        found.append((e.task, e.episode, e.info, names, e.n_depth, files))
    return found


def test_lists_all_episodes_and_files(tree):
    listing = list_episodes(tree)
    assert listing.faults == []
    first, second = listing.episodes
    assert (first.task, first.episode, second.task, second.episode) == (327, 648642, 351, 648649)
    assert list(first.videos) == ["head_color"] and first.n_depth == 3
    assert first.info is not None and first.info.task_name == "Move a cup"
    assert [(s.start_frame, s.end_frame, s.skill) for s in first.info.segments] == [
        (0, 135, "Pick"),
        (135, 270, "Place"),
    ]
    assert first.calibration("head_color") == (first.intrinsics["head"], first.extrinsics["head"])
    assert first.calibration("hand_left_color") == (None, None)


def test_tars_read_like_the_extracted_tree(tree, tmp_path):
    assert what_is_there(pack(tree, tmp_path / "packed")) == what_is_there(tree)


def shallow_parameters(root: Path) -> None:
    for deep in sorted((root / "parameters").glob("*/*/parameters")):
        (deep / "camera").rename(deep.parent / "camera")
        deep.rmdir()


def folders_named_after_tars(root: Path) -> None:
    for kind in ("observations", "parameters", "proprio_stats"):
        for task in list((root / kind).iterdir()):
            inner = task / "648642-648649"
            inner.mkdir()
            for episode in list(task.glob("[0-9]*")):
                if episode != inner:
                    episode.rename(inner / episode.name)


def tar_folder_above_the_tasks(root: Path) -> None:
    inner = root / "proprio_stats/648533-713949/proprio_stats"
    inner.mkdir(parents=True)
    for task in list((root / "proprio_stats").glob("[0-9]*")):
        if task != inner.parent:
            task.rename(inner / task.name)


def episodes_nested_in_themselves(root: Path) -> None:
    for episode in list((root / "observations").glob("*/*")):
        nested = episode / episode.name
        nested.mkdir()
        for name in ("videos", "depth"):
            (episode / name).rename(nested / name)


def misspelt_labels(root: Path) -> None:
    for path in (root / "task_info").iterdir():
        path.write_text(path.read_text().replace("label_info", "lable_info"))


def other_files_about(root: Path) -> None:
    (root / "README.md").write_text("x")
    (root / "observations/.cache").mkdir()
    (root / "observations/327/648642/tactile").mkdir()
    (root / "observations/327/648642/tactile/left_sensor_1.mp4").write_bytes(b"x")
    (root / "parameters/327/648642/parameters/camera/head_extrinsic_params.json").write_text("[]")


@pytest.mark.parametrize(
    "change",
    [
        shallow_parameters,
        folders_named_after_tars,
        tar_folder_above_the_tasks,
        episodes_nested_in_themselves,
        misspelt_labels,
        other_files_about,
    ],
)
def test_known_variants_of_the_layout_read_alike(tree, root, change):
    change(root)
    assert what_is_there(root) == what_is_there(tree)


def test_an_extracted_copy_is_preferred_to_a_tar(tree, tmp_path):
    both = pack(tree, tmp_path / "both")
    shutil.copytree(tree, both, dirs_exist_ok=True)
    episode = list_episodes(both).episodes[0]
    assert episode.videos["head_color"].member == "" and episode.n_depth == 3


def test_missing_files_are_none(root):
    shutil.rmtree(root / "observations/327/648642/videos")
    (root / FIRST.proprio).unlink()
    shutil.rmtree(root / "parameters/351")
    write_task_info(root, 327, [info(FIRST), info(FakeEpisode(episode=700000))])
    first, second, third = list_episodes(root).episodes
    assert first.videos == {} and first.proprio is None and first.has_files
    assert second.calibration("head_color") == (None, None) and second.proprio is not None
    assert (third.episode, third.task, third.has_files) == (700000, 327, False)


def test_an_episode_without_an_entry_in_task_info_is_listed(root):
    write_task_info(root, 351, [])
    assert [e.info is None for e in list_episodes(root).episodes] == [False, True]


@pytest.mark.parametrize(
    "text", ["", "{", "not json", '[{"episode_id": 648642, "label_info": {"action_config": [1]}}]']
)
def test_corrupt_task_info_is_reported_and_the_rest_read(root, text):
    (root / "task_info/task_327.json").write_text(text)
    listing = list_episodes(root)
    assert [fault.reason for fault in listing.faults] == ["corrupt_task_info"]
    assert "task_327.json" in str(listing.faults[0])
    assert listing.episodes[0].info is None and listing.episodes[1].info is not None


def test_one_bad_entry_does_not_affect_the_others(root):
    entries = [{"no": "id"}, info(FIRST)]
    (root / "task_info/task_327.json").write_text(json.dumps(entries))
    listing = list_episodes(root)
    assert "entry 0" in str(listing.faults[0])
    assert listing.episodes[0].info is not None


def test_a_truncated_tar_is_reported_and_the_rest_read(tree, tmp_path):
    packed = pack(tree, tmp_path / "packed")
    tar = next((packed / "observations/327").iterdir())
    tar.write_bytes(tar.read_bytes()[:5000])
    listing = list_episodes(packed)
    assert [fault.reason for fault in listing.faults] == ["truncated_tar"]
    assert [len(e.videos) for e in listing.episodes] == [0, 1]


def test_another_folder_is_refused_with_its_content(tmp_path):
    (tmp_path / "video").mkdir()
    (tmp_path / "meta_info").mkdir()
    with pytest.raises(
        ValueError, match=r"lacks observations and proprio_stats.*video.*DigitalWorld"
    ):
        list_episodes(tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        list_episodes(tmp_path / "gone")


def test_a_data_set_is_told_by_the_names_and_contents_of_its_files(tree, root):
    before = source_files(tree)
    assert before == source_files(root), "a copy is the same data set"
    (root / "README.md").write_text("of no matter")
    assert source_files(root) == before
    contents = (root / FIRST.proprio).read_bytes()
    (root / FIRST.proprio).write_bytes(contents[:-1] + b"?")  # mended in place
    changed = [old for old, new in zip(before, source_files(root), strict=True) if old != new]
    assert [file.path for file in changed] == [FIRST.proprio]
    (root / FIRST.proprio).write_bytes(contents)
    assert source_files(root) == before
    (root / FIRST.proprio).rename((root / FIRST.proprio).with_name("proprio_stats2.h5"))
    assert source_files(root) != before
    with pytest.raises(ValueError, match="no AGIBOT-World root"):
        source_files(root / "observations")


@pytest.mark.parametrize("packed", [False, True])
def test_depth_frames_by_number(tree, tmp_path, packed):
    root = pack(tree, tmp_path / "packed") if packed else tree
    depth = list_episodes(root).episodes[0].depth
    assert depth is not None
    frames = depth_frames(FileRef.parse(depth.text(root), root))  # as it comes back from the index
    assert list(frames) == [0, 1, 2]
    assert read_depth_png(frames[2])[5, 5] == pytest.approx(0.502)


def test_ids_need_not_coincide(tmp_path):
    root = write_tree(tmp_path, FakeEpisode(n=10))
    shutil.move(root / "proprio_stats/327/648642", root / "proprio_stats/327/648643")
    first, second = list_episodes(root).episodes
    assert first.proprio is None and first.videos
    assert second.videos == {} and second.proprio is not None
    assert len(read_proprio(second.proprio).timestamps_ns) == 10
