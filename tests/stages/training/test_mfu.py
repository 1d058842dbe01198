import pytest

from model.training.peak_flops import Peak
from stages.training.mfu import Meter


def meter(**changes) -> Meter:
    settings = {
        "clips_per_step": 8, "tokens_per_clip": 100, "flops_per_clip": 2e9, "n_workers": 1,
        "peak": Peak(flops=1e11, what="products"),
    }  # fmt: skip
    return Meter(**(settings | changes))


def test_rates_are_those_of_all_workers_and_mfu_is_of_all_their_machines():
    assert meter().rates(0.5) == {"clips/s": 16.0, "tokens/s": 1600.0, "MFU": pytest.approx(0.32)}
    assert meter(n_workers=2).rates(0.5)["MFU"] == pytest.approx(0.16)


def test_the_report_is_of_the_median_step_after_the_warm_up():
    text = meter().report([100.0, 90.0, *[0.5] * 16, 3.0, 0.4])
    assert "Median of 18 steps, 1 worker, 8 clips a step" in text
    for line in (
        "| step | 500 ms |",
        "| clips a second | 16 |",
        "| MFU | 32.0% of 1 worker x 100 GFLOP/s |",
    ):
        assert line in text
    assert "data sheet" not in text
    known = meter(peak=Peak(flops=1e11, what="products", data_sheet=2e11))
    assert "| MFU of the data sheet's 0 TFLOP/s | 16.0% |" in known.report([0.5])
    assert "products, in this run" in text and "2 workers x 100" in meter(n_workers=2).report([0.5])
