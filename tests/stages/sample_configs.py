"""The samples that the tests make."""

from stages.simulation.config import SampleConfig

QUICK = SampleConfig(n_episodes=2, rate_hz=4.0, duration_s=3.0, width=96, height=72)
FAULTY = SampleConfig(n_episodes=1, rate_hz=4.0, duration_s=8.25, width=96, height=72, faults=True)  # 2 clips each
