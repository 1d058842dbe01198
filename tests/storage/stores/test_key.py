from dataclasses import dataclass, field, make_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import PLAIN

from storage.stores.key import content_key, parameters

RECIPES = st.dictionaries(st.text(), PLAIN, min_size=1, max_size=5)


class Codec(Enum):
    RAW = "raw"
    SIZED = (4, Path("a"))


@dataclass(frozen=True)
class Inner:
    size: int = 256
    name: str = "a"


@dataclass(frozen=True)
class Config:
    rate_hz: float = 2.0
    inner: Inner = field(default_factory=Inner)
    codec: Codec = Codec.RAW
    steps: tuple[int, ...] = (1, 2)
    n_workers: int = field(default=1, metadata={"key": False})
    cache: Any = field(default=None, metadata={"key": False})


def reordered(value: Any) -> Any:
    """The same value with every dict's entries reversed."""
    if isinstance(value, dict):
        return {k: reordered(v) for k, v in reversed(value.items())}
    return [reordered(v) for v in value] if isinstance(value, list) else value


@settings(max_examples=50, deadline=None)
@given(RECIPES)
def test_order_of_entries_is_irrelevant(recipe):
    assert content_key(reordered(recipe)) == content_key(recipe)


def sorted_repr(value: Any) -> str:
    """Distinguishes 1, 1.0 and True, as JSON does, but not the order of entries."""
    if isinstance(value, dict):
        return repr(sorted((k, sorted_repr(v)) for k, v in value.items()))
    return repr([sorted_repr(v) for v in value]) if isinstance(value, list) else repr(value)


@settings(max_examples=50, deadline=None)
@given(RECIPES, st.data())
def test_one_change_anywhere_changes_the_key(recipe, data):
    name = data.draw(st.sampled_from(sorted(recipe)))
    value = data.draw(PLAIN)
    assume(sorted_repr(value) != sorted_repr(recipe[name]))
    assert content_key({**recipe, name: value}) != content_key(recipe)
    assert content_key({k: v for k, v in recipe.items() if k != name}) != content_key(recipe)
    assert content_key({"outer": recipe}) != content_key(recipe)


@given(n_workers=st.integers(), cache=st.text() | st.none())
def test_fields_that_change_no_number_change_no_key(n_workers, cache):
    changed = replace(Config(), n_workers=n_workers, cache=cache)
    assert content_key(changed) == content_key(Config())
    assert content_key({"stage": [changed]}) == content_key({"stage": [Config()]})


@pytest.mark.parametrize(
    "change",
    [{"rate_hz": 2}, {"rate_hz": 2.0000000000000004}, {"inner": Inner(size=255)},
     {"codec": Codec.SIZED}, {"steps": (2, 1)}, {"steps": (1, 2, 0)}, {"steps": ()}],
)  # fmt: skip
def test_every_other_field_does(change):
    assert content_key(replace(Config(), **change)) != content_key(Config())


def test_a_new_field_and_another_name_change_the_key():
    assert content_key(make_dataclass("Inner", [("size", int, 256)])()) != content_key(Inner())
    assert content_key(
        make_dataclass("Inner", [("side", int, 256), ("name", str, "a")])()
    ) != content_key(Inner())


def test_a_renamed_field_keeps_its_key_under_its_first_name():
    renamed = make_dataclass(
        "Inner", [("side", int, field(default=256, metadata={"key": "size"})), ("name", str, "a")]
    )
    assert parameters(renamed()) == parameters(Inner())
    assert content_key(renamed()) == content_key(Inner())
    assert content_key(renamed(side=255)) == content_key(Inner(size=255))


def test_a_shared_part_may_count_as_its_fields():
    """Stages that share a format need not declare each field of it."""
    shared = make_dataclass(
        "Format", [("size", int, 256), ("name", str, "a"), ("rate", float, 2.0)]
    )
    holder = make_dataclass(
        "Stage",
        [("format", Any, field(default_factory=shared, metadata={"key": ("size", "name")}))],
    )
    assert parameters(holder()) == parameters(Inner())
    assert content_key(holder(format=shared(rate=5.0))) == content_key(holder())
    assert content_key(holder(format=shared(size=64))) == content_key(Inner(size=64))


def test_parameters_are_plain_json():
    assert parameters(Config(codec=Codec.SIZED, cache=np.zeros(3))) == {
        "rate_hz": 2.0, "inner": {"size": 256, "name": "a"}, "codec": [4, "a"], "steps": [1, 2],
    }  # fmt: skip


def test_values_without_json_are_refused():
    for value in (np.zeros(3), {1, 2}, b"raw", Config):
        with pytest.raises(TypeError, match="a content key cannot hold"):
            content_key({"value": value})
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError):
            content_key([value])
    with pytest.raises(TypeError, match="needs names that differ as text"):
        content_key({1: "a", "1": "b"})


def test_keys_never_change():
    """Users' stores are found by them."""
    assert content_key(Config()) == "802aa018b0a8c20e"
    assert content_key({"é": [None, True, 0.1, -0.0, 10**20]}) == "7b9c08c59113dc46"


def test_a_field_that_was_added_counts_only_where_it_is_not_its_default():
    @dataclass(frozen=True)
    class Before:
        rate: float = 1.0

    @dataclass(frozen=True)
    class After:
        rate: float = 1.0
        weight: float = field(default=0.0, metadata={"added": True})

    assert content_key(After()) == content_key(Before())
    assert content_key(After(weight=2.0)) != content_key(Before())
    assert parameters(After(weight=2.0)) == {"rate": 1.0, "weight": 2.0}
