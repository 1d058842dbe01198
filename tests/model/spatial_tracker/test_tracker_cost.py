"""Predicted operations and memory against a real run's."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from tracker_cases import SMALL, clip, queries, small_tracker

from model.spatial_tracker.cost import LiveBytes, measured_cost, predict_cost

# Lookups are slow on meta tensors
ONE_LEVEL = replace(SMALL, correlation_levels=1, motion=129)


def test_predicted_flops_and_memory_against_a_real_run():
    network = small_tracker(config=replace(ONE_LEVEL, iterations=3))
    (video, depth), (frames, points) = clip(b=2), queries(b=2, p=40)
    memory, flops = (
        LiveBytes([*network.parameters(), video, depth, points]),
        FlopCounterMode(display=False),
    )
    with torch.no_grad(), flops, memory, sdpa_kernel(SDPBackend.MATH):
        network(video, depth, frames, points)
    predicted = predict_cost(network.config, n_clips=2, n_frames=9, n_points=40)
    assert predicted.flops == flops.get_total_flops()
    assert memory.peak <= predicted.peak_bytes <= 1.5 * memory.peak


# Five windows of 6 frames, each a half after the one before: two of them are only counted
@pytest.mark.parametrize("n_frames", [17, 18])
def test_windows_that_are_only_counted_cost_what_run_ones_do(n_frames: int):
    counted = predict_cost(ONE_LEVEL, 1, n_frames, 20)
    assert counted == measured_cost(ONE_LEVEL, 1, n_frames, 20)


def test_live_bytes_counts_the_peak_and_views_once():
    kept = torch.zeros(100)
    with LiveBytes([kept]) as memory:
        first = torch.ones(1000)
        view = first[:500]
        del first
        assert memory.now == 4 * 1100
        del view
        assert memory.now == 4 * 100
        second = torch.ones(300) + 1  # two of them for a moment
        assert memory.now == 4 * 400
    assert memory.peak == 4 * 1100
    assert second.numel() == 300


def test_more_points_cost_more():
    few, many = (predict_cost(ONE_LEVEL, 1, 6, n) for n in (50, 100))
    assert many.flops > few.flops and many.peak_bytes >= few.peak_bytes
