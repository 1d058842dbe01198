"""FVD's network: how it is called, and files that are another one."""

import pytest
import torch
from tiny_i3d import Other, TinyI3d, write_script

from model.i3d import I3d
from model.value_range import IMAGES


def videos(b: int = 3, t: int = 12) -> torch.Tensor:
    return torch.rand(b, t, 3, 8, 10, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_features_are_of_8_bit_levels_frame_by_frame_in_the_right_order(tmp_path):
    network = I3d(write_script(tmp_path / "i3d.pt"))
    found = network(videos(), value_range=IMAGES)
    levels = ((videos() + 1) * 127.5).round()
    colours = torch.cat([levels[:, 0].mean((2, 3)), levels.mean((1, 3, 4))], dim=1)
    assert found.shape == (3, 400) and not found.requires_grad
    torch.testing.assert_close(found, (colours @ TinyI3d().head).detach(), rtol=1e-4, atol=1e-4)


def test_the_range_is_the_callers(tmp_path):
    network = I3d(write_script(tmp_path / "i3d.pt"))
    unit = network((videos() + 1) / 2, value_range=(0, 1))
    torch.testing.assert_close(unit, network(videos(), value_range=IMAGES), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="expected \\[0, 1\\]"):
        network(videos(), value_range=(0, 1))


def test_files_that_are_another_network_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="weights fetch i3d-kinetics400"):
        I3d(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("no archive")
    with pytest.raises(ValueError, match=r"text\.pt: no TorchScript file"):
        I3d(tmp_path / "text.pt")
    torch.save({"w": torch.zeros(3)}, tmp_path / "tensors.pt")
    with pytest.raises(ValueError, match=r"tensors\.pt: no TorchScript file"):
        I3d(tmp_path / "tensors.pt")
    other = I3d(write_script(tmp_path / "other.pt", Other()))
    with pytest.raises(ValueError, match=r"other\.pt: it does not run on videos"):
        other(videos(), value_range=IMAGES)
    small = I3d(write_script(tmp_path / "small.pt", TinyI3d(100)))
    with pytest.raises(ValueError, match=r"small.pt: its output has shape \(3, 100\)"):
        small(videos(), value_range=IMAGES)


def test_short_videos_are_refused(tmp_path):
    network = I3d(write_script(tmp_path / "i3d.pt"))
    with pytest.raises(ValueError, match="videos of 9 frames: FVD needs 10"):
        network(videos(t=9), value_range=IMAGES)
    assert network(videos(t=10), value_range=IMAGES).shape == (3, 400)
