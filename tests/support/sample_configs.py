"""The samples that the tests make."""

from dataclasses import replace

from simulation.config import SampleConfig

QUICK = SampleConfig(n_episodes=2, rate_hz=4.0, duration_s=3.0, width=96, height=72)
SWAYING = replace(QUICK, n_episodes=1, seed=1, camera_motion=1.0)
# 2 clips each
FAULTY = SampleConfig(n_episodes=1, rate_hz=4.0, duration_s=8.25, width=96, height=72, faults=True)
