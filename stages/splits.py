"""Train, val and test by episode, never by clip: clips of one episode share frames."""

import hashlib
from collections.abc import Iterable

from storage.index import Split


def assign_splits(episodes: Iterable[int], val_share: float, test_share: float, salt: str = "") -> dict[int, Split]:
    """Each episode's split, by a hash of its id alone: it stays what it is when episodes are added or removed.

    Small sets: with two episodes or more and `val_share` above 0 the one with the lowest hash is in val even if it lies
    above the share, and likewise with three or more the one with the highest in test. Only such an episode can change
    its split (to train) when others are added.
    """
    place = {episode: _place(episode, salt) for episode in sorted(episodes)}
    splits: dict[int, Split] = {}
    for episode, at in place.items():
        splits[episode] = "val" if at < val_share else "test" if at >= 1 - test_share else "train"
    by_place = sorted(place, key=lambda episode: place[episode])
    if val_share > 0 and len(place) >= 2 and "val" not in splits.values():
        splits[by_place[0]] = "val"
    if test_share > 0 and len(place) >= 3 and "test" not in splits.values():
        splits[by_place[-1]] = "test"
    return splits


def _place(episode: int, salt: str) -> float:
    """A number in [0, 1) that belongs to the episode."""
    digest = hashlib.blake2b(f"{salt} {episode}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
