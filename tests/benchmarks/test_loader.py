"""The loader's benchmark: all loaders give a training's batches."""

import loader
import numpy as np
import torch
from loader import IN_FILE, loaders, report
from measuring import Conditions, Times

CPU = torch.device("cpu")


def test_all_loaders_give_the_same_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(loader, "SHARD", 16)
    found = loaders(tmp_path, 40)
    steps = found.pop("steps")
    for number in range(3):
        batches = [batch_at(number) for batch_at in found.values()]
        assert len(batches) == 3 and len(batches[0].clip_ids) == loader.BATCH
        for other in batches[1:]:
            assert other.clip_ids == batches[0].clip_ids
            for name, tensor in vars(batches[0]).items():
                if isinstance(tensor, torch.Tensor):
                    assert torch.equal(getattr(other, name), tensor), name
    assert batches[0].visible.any(), "tracks are chosen, which is what preparing costs"
    assert len(steps(0).clip_ids) == loader.STEP_BATCH
    steps.close()


def test_the_report_compares_with_an_upper_bound_for_a_gpu():
    """34 M parameters at 790 TFLOP/s, six operations a parameter and token: 812 clips a second."""
    times = dict.fromkeys(
        ["prepared rows in memory", IN_FILE, "from the stores"], Times(1e-4, 1e-4)
    )
    times |= dict.fromkeys(["step with the loader", "step with one batch"], Times(1.0, 1.0))
    text = report(times, Conditions(CPU))
    bound = float(text.split("full rate: ")[1].split()[0])
    assert np.isclose(bound, 812, rtol=0.02)
    assert f"| 10000 | 10000 | {1e4 / bound:.1f} |" in text
