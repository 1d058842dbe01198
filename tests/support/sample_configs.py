"""The samples that the tests make."""

from simulation.config import SampleConfig

QUICK = SampleConfig(n_episodes=2, rate_hz=4.0, duration_s=3.0, width=96, height=72)
# 2 clips each
FAULTY = SampleConfig(n_episodes=1, rate_hz=4.0, duration_s=8.25, width=96, height=72, faults=True)
