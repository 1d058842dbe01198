import torch

from model.training.peak_flops import SIZES, device_name, measure_peak


def test_the_rate_of_products_is_measured(monkeypatch):
    """By a fake clock: each product takes 1 ms, the best one 0.5 ms."""
    now, lengths = 0.0, iter([1e-3, 1e-3, 5e-4] + [1e-3] * 100)
    calls = 0

    def clock() -> float:
        nonlocal now, calls
        calls += 1
        if calls % 2 == 0:
            now += next(lengths)
        return now

    monkeypatch.setattr("time.perf_counter", clock)
    peak = measure_peak(torch.device("cpu"), torch.float32)
    assert round(peak.flops) == round(2 * SIZES["cpu"] ** 3 / 5e-4)
    assert peak.what.startswith("float32 products of 512 x 512 on ")


def test_a_real_machine_has_a_rate_and_a_name():
    assert measure_peak(torch.device("cpu"), torch.float32).flops > 1e8
    assert (
        "threads" in device_name(torch.device("cpu")) and len(device_name(torch.device("cpu"))) > 12
    )


def test_a_data_sheet_is_for_its_precision_and_gpu(monkeypatch):
    cpu = torch.device("cpu")
    assert measure_peak(cpu, torch.bfloat16).data_sheet is None
    monkeypatch.setattr("model.training.peak_flops.device_name", lambda device: "NVIDIA H200")
    assert measure_peak(cpu, torch.bfloat16).data_sheet == 989e12
    assert measure_peak(cpu, torch.float32).data_sheet is None
