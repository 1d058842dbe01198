"""Train, val and test by episode, never by clip: clips of one episode share frames."""

import hashlib
from collections.abc import Iterable
from typing import TypeVar

from storage.stores.index import Split

Episode = TypeVar("Episode", int, str)


def assign_splits(
    episodes: Iterable[Episode], val_share: float, test_share: float, salt: str = ""
) -> dict[Episode, Split]:
    """The split of each episode, by a hash of its id: adding or removing others does not change it.

    In a small set no hash may fall into the share of val or test. Then val takes the episode of
    train with the lowest hash and test the one with the highest, as long as train keeps one. Only
    such an episode can change its split (back to train) when episodes are added.
    """
    place = {episode: _place(episode, salt) for episode in episodes}
    splits: dict[Episode, Split] = dict.fromkeys(place, "train")
    splits |= {e: "test" for e, at in place.items() if at >= 1 - test_share}
    splits |= {e: "val" for e, at in place.items() if at < val_share}
    train = sorted((e for e, split in splits.items() if split == "train"), key=place.__getitem__)
    if val_share > 0 and "val" not in splits.values() and len(train) >= 2:
        splits[train.pop(0)] = "val"
    if test_share > 0 and "test" not in splits.values() and len(train) >= 2:
        splits[train.pop()] = "test"
    return splits


def _place(episode: int | str, salt: str) -> float:
    """The hash of an episode, a number in [0, 1)."""
    digest = hashlib.blake2b(f"{salt} {episode}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
