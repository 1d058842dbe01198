"""Train, val and test by episode, never by clip: clips of one episode share frames."""

import hashlib
from collections.abc import Iterable

from storage.stores.index import Split


def assign_splits(
    episodes: Iterable[int], val_share: float, test_share: float, salt: str = ""
) -> dict[int, Split]:
    """Each episode's split, by a hash of its id alone: it stays what it is when episodes are added
    or removed.

    Small sets: where nobody's hash lies in val's share, the lowest of train stands in, and for test
    the highest, as long as train keeps one. Only such a stand-in can change its split (back to
    train) when episodes are added.
    """
    place = {episode: _place(episode, salt) for episode in episodes}
    splits: dict[int, Split] = {}
    for episode, at in place.items():
        splits[episode] = "val" if at < val_share else "test" if at >= 1 - test_share else "train"
    train = sorted(
        (e for e, split in splits.items() if split == "train"), key=lambda episode: place[episode]
    )
    if val_share > 0 and "val" not in splits.values() and len(train) >= 2:
        splits[train.pop(0)] = "val"
    if test_share > 0 and "test" not in splits.values() and len(train) >= 2:
        splits[train.pop()] = "test"
    return splits


def _place(episode: int, salt: str) -> float:
    """A number in [0, 1) that belongs to the episode."""
    digest = hashlib.blake2b(f"{salt} {episode}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
