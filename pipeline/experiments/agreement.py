"""What the stages of an experiment must agree on: each fact has one owner, the others follow it.

`follow` sets the followers to the owner's value, and refuses a contradicting value that a user set.
`check` refuses an experiment built by hand whose stages disagree.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from pipeline.experiments.facts import Parts, Shared, limits, shared


def check(parts: Parts) -> None:
    """Raises ValueError naming the first fact that two parts disagree on."""
    for fact in shared(parts):
        for path, value in fact.disagreeing.items():
            if fact.binding:
                raise ValueError(contradiction(path, value, fact))
    for fits, complaint in limits(parts):
        if not fits:
            raise ValueError(complaint)


def follow(before: Parts, parts: Parts, given: Collection[str] = ()) -> dict[str, Any]:
    """The changed parts of `before`, with every follower set to its owner's value.

    given: the paths that a user set. Raises ValueError if one of them is a follower and binding.
    """
    changes: dict[str, Any] = {}
    for old, fact in zip(shared(before), shared(parts), strict=True):
        for path, value in fact.disagreeing.items():
            chosen = any(overlap(path, name) for name in given)
            if chosen and fact.binding:
                raise ValueError(contradiction(path, value, fact))
            if fact.binding or (not chosen and value == old.followers[path] == old.value):
                changes[path] = fact.value
    return {name: replaced(part, under(changes, name)) for name, part in parts.items()}


def overlap(path: str, other: str) -> bool:
    """Whether one of two dotted paths is, or contains, the other."""
    return f"{path}.".startswith(f"{other}.") or f"{other}.".startswith(f"{path}.")


def contradiction(path: str, value: Any, fact: Shared) -> str:
    return (
        f"{path}={value!r}, but {fact.what}, which {fact.owner} decides, is {fact.value!r}: "
        f"change {fact.owner} instead"
    )


def under(changes: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The changes below this name, by the rest of their dotted path."""
    inner = {}
    for path, value in changes.items():
        first, _, rest = path.partition(".")
        if first == name:
            inner[rest] = value
    return inner


def replaced(value: Any, changes: Mapping[str, Any]) -> Any:
    """A copy with the fields at these dotted paths replaced, all fields of one part at once."""
    if not changes:
        return value
    if "" in changes:
        return changes[""]
    names = {path.partition(".")[0] for path in changes}
    new = {name: replaced(getattr(value, name), under(changes, name)) for name in names}
    return dataclasses.replace(value, **new)
