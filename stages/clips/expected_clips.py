"""How many clips an index will have, before it is made: from some of the episodes."""

from functools import lru_cache
from pathlib import Path

from stages.clips.discover import Candidate, Discover, guarded
from storage.sources.agibot.tree import list_episodes

N_READ = 64  # episodes whose times are read; with no more than these the number is exact


@lru_cache(maxsize=4)
def expected_clips(config: Discover) -> int:
    """Of all episodes, as many as the mean of those read. `config.source` says which data it is."""
    episodes = list_episodes(Path(config.root)).episodes
    step = max(1, len(episodes) // N_READ)
    read = episodes[::step]
    clips = sum(
        len(found.starts_ns)
        for episode in read
        for found in guarded(episode, config)
        if isinstance(found, Candidate)
    )
    return -(-clips * len(episodes) // len(read)) if read else 0
