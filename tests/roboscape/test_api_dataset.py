"""Clips for PyTorch: what a DataLoader's workers read is what the stores hold."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from repository import ROOT
from small_stores import square_clips
from small_workspace import FLAGGED, UNTRACKED
from small_world import REJECTED, SPLITS

ARRAYS = square_clips(len(SPLITS))


SCRIPT = """
import sys
import numpy as np
from torch.utils.data import DataLoader
import roboscape as rs

if __name__ == "__main__":
    root, context, out = sys.argv[1:]
    dataset = rs.open(root).clips().torch_dataset(["rgb", "actions", "discover/clip_id"])
    loader = DataLoader(dataset, batch_size=4, num_workers=2, multiprocessing_context=context)
    batches = list(loader)
    ids = [name for batch in batches for name in batch["discover/clip_id"]]
    read = {n: np.concatenate([batch[n].numpy() for batch in batches]) for n in ("rgb", "actions")}
    np.savez(out, ids=ids, **read)
"""


@pytest.mark.parametrize("context", ["fork", "forkserver"])
def test_workers_read_every_clip_once(ws, tmp_path: Path, context: str):
    """In a process of its own: a forked worker inherits no thread of other tests' libraries."""
    script, out = tmp_path / "read.py", tmp_path / "read.npz"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, script, ws.path, context, out],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    found = np.load(out)
    rows = [row for row in range(len(SPLITS)) if row != REJECTED]
    assert found["ids"].tolist() == [f"clip{row:03d}" for row in rows]
    for name in ("rgb", "actions"):
        np.testing.assert_array_equal(found[name], ARRAYS["clip"][name][rows])


def test_an_item_is_what_the_clip_has(clips):
    names = [
        "rgb",
        "depth",
        "tracks",
        "visible",
        "flags",
        "rgb_tokens",
        "depth/valid",
        "discover/episode",
    ]
    item = clips.torch_dataset(names)[1]
    assert list(item) == names
    for name in names[:-1]:
        np.testing.assert_array_equal(item[name].numpy(), clips[1][name])
        assert item[name].dtype == torch.from_numpy(np.array(clips[1][name])).dtype
    assert item["discover/episode"].item() == 648601


def test_only_clips_with_all_arrays_are_in_it(clips):
    assert clips.torch_dataset(["rgb"]).rows.tolist() == [0, 1, 2, 4, 5, 6]
    assert UNTRACKED not in clips.torch_dataset(["rgb", "tracks"]).rows
    assert clips.torch_dataset(["rgb"], split="val").rows.tolist() == [1, 2, 5, 6]
    kept = clips.torch_dataset(["rgb"], split="val", drop_flagged=True).rows
    assert kept.tolist() == [1, 6] and FLAGGED not in kept
    assert clips[4:].torch_dataset(["rgb"]).rows.tolist() == [4, 5, 6]


def test_it_is_a_sequence_and_can_be_pickled(clips):
    dataset = clips.torch_dataset(["actions"])
    assert len(dataset) == 6
    torch.testing.assert_close(dataset[-1]["actions"], dataset[5]["actions"])
    with pytest.raises(IndexError, match="6 clips, none at 6"):
        dataset[6]
    copy = pickle.loads(pickle.dumps(dataset))
    torch.testing.assert_close(copy[2]["actions"], dataset[2]["actions"])
    assert repr(dataset) == f"<ClipDataset of {clips.store}: 6 clips; actions [16, 15, 16]>"


def test_mistakes_are_explained(clips):
    with pytest.raises(ValueError, match="no array was named"):
        clips.torch_dataset([])
    with pytest.raises(LookupError, match="no array 'colour'"):
        clips.torch_dataset(["rgb", "colour"])
    with pytest.raises(ValueError, match="none of these 0 clips has rgb"):
        clips.torch_dataset(["rgb"], split="nonsense")
    with pytest.raises(ValueError, match="discover/texts: its lists differ in length"):
        clips.torch_dataset(["discover/texts"])
