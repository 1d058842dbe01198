"""The annotators' benchmark: the device of its stages, and the lines of its table."""

from pathlib import Path
from types import SimpleNamespace

import annotators
import overhead
import pytest

from stages.depth.sensor import SensorDepth
from stages.depth.stage import PseudoDepth

MANIFEST = SimpleNamespace(n_clips=69, clips_per_shard=32)
MARKS = [(10.0, 1), (13.2, 2), (13.7, 3)]  # seconds, shards done


@pytest.mark.parametrize(("device", "n_gpus"), [("cpu", 0), ("cuda", 1), ("cuda:0", 1)])
def test_annotators_take_the_device_that_is_measured(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch, device: str, n_gpus: int
):
    monkeypatch.setattr(overhead, "make_sample", lambda folder, n_episodes: tree)
    stages = annotators.tiny_stages(tmp_path, 64, annotators.n_gpus_of(device))
    gpus = {stage.name: stage.resources.gpus for stage in stages}
    assert gpus == {"discover": 0, "clip": 0, "depth": n_gpus, "keypoints": n_gpus}


def test_a_line_has_the_time_after_the_first_shard():
    clip = SimpleNamespace(name="clip")
    line = annotators.stage_line(clip, MARKS, 6.9, MANIFEST)
    assert line == "| clip | 0.100 s a clip | 0.100 s a clip | 1.00 |"  # 3.7 s for 37 clips
    depth = PseudoDepth(annotator=SensorDepth(root=""))
    assert annotators.stage_line(depth, MARKS, 6.9, MANIFEST).startswith(
        "| depth (sensor) | 0.100 s"
    )


def test_a_single_shard_is_not_timed():
    with pytest.raises(
        SystemExit, match=r"stage clip: 20 clips are one shard of 32.*give --stage more clips"
    ):
        annotators.stage_line(
            SimpleNamespace(name="clip"),
            MARKS[:1],
            2.0,
            SimpleNamespace(n_clips=20, clips_per_shard=32),
        )
