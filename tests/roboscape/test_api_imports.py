"""Nothing is imported before it is used: a shell or a notebook has `roboscape` at once."""

import subprocess
import sys

import pytest

import roboscape as rs

HEAVY = (
    "torch",
    "prefect",
    "ray",
    "matplotlib",
    "zarr",
    "pyarrow",
    "pandas",
    "cv2",
    "av",
    "mujoco",
)


def loaded_after(code: str) -> set[str]:
    """Which of the heavy libraries a new process has loaded."""
    code += f"\nimport sys; print(*({set(HEAVY)!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split("\n")[-2].split())


def test_the_import_loads_no_library():
    assert loaded_after("import roboscape; dir(roboscape)") == set()


def test_clips_and_their_labels_need_no_pytorch_and_no_drawing(world):
    code = (
        f"import roboscape; ws = roboscape.open({str(world.root)!r}); clips = ws.clips()\n"
        "repr(ws), repr(clips), repr(clips[1]), clips.to_frame(), clips[1].depth, clips[1].flags\n"
        "ws.runs(), ws.stores(), repr(ws.lineage('clip')), clips.stack('actions')"
    )
    assert loaded_after(code) <= {"zarr", "pyarrow", "pandas"}


def test_a_rollout_needs_neither_prefect_nor_ray(world):
    code = (
        f"import roboscape as rs; model = rs.open({str(world.root)!r}).world_model(device='cpu')\n"
        "rs.metrics.compare(model.rollout(1, n_frames=3), model.clips[1])"
    )
    assert not loaded_after(code) & {"prefect", "ray", "mujoco"}


def test_every_public_name_is_there_and_no_other():
    assert dir(rs) == sorted(rs.__all__, key=dir(rs).index)
    for name in rs.__all__:
        assert getattr(rs, name).__doc__, name
    assert callable(rs.run) and callable(rs.open), "no module has taken their place"
    with pytest.raises(AttributeError, match="WorldModelEnv"):
        rs.WorldModelEnv  # noqa: B018  (kept free)
