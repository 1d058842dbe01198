"""What a field declares about its values is checked, at any depth and of every experiment."""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Interval, MinLen, Predicate
from hypothesis import given
from hypothesis import strategies as st

from pipeline.experiments.experiment import Experiment
from pipeline.experiments.field_values import MOST_INT, check_fields, hints, misfit
from pipeline.experiments.world_model import demo


@pytest.fixture(scope="module")
def experiment(tree: Path) -> Experiment:
    return demo(tree, tree)


def is_short(text: str) -> bool:
    """a short text."""
    return len(text) < 3


@pytest.mark.parametrize(
    ("hint", "value", "expected"),
    [
        (int, 3, ""),
        (int, True, "an integer"),
        (int, 3.0, "an integer"),
        (int, MOST_INT + 1, "<= 2147483647"),
        (int, -(10**30), ">= -2147483647"),
        (float, 3, ""),
        (float, math.nan, "a finite number"),
        (float, -math.inf, "a finite number"),
        (float, "3", "a finite number"),
        (Annotated[int, Ge(1)], 0, "an integer >= 1"),
        (Annotated[int, Ge(1)], None, "an integer >= 1"),
        (Annotated[float, Gt(0)], 0.0, "> 0"),
        (Annotated[float, Interval(ge=0, le=1)], 1.0, ""),
        (Annotated[float, Interval(ge=0, le=1)], 1.1, "a finite number >= 0 and <= 1"),
        (Annotated[float, Interval(ge=0, le=1)] | None, None, ""),
        (Annotated[float, Gt(0)] | Literal["native"], "x", "or 'native'"),
        (Literal["a", "b"], "c", "'a' or 'b'"),
        (Literal[1], True, "1"),
        (bool, 1, "true or false"),
        (str, 7, "a text"),
        (tuple[int, int], (1, 2, 3), "a list of 2"),
        (tuple[int, int], (1, 2.5), "each an integer"),
        (tuple[str, ...], ("a", 1), "each item a text"),
        (Annotated[tuple[str, ...], MinLen(1)], (), "at least 1"),
        (Annotated[str, Predicate(is_short)], "long", "a short text"),
        (Annotated[str, Predicate(is_short)] | None, None, ""),
    ],
)
def test_what_fits_and_what_is_expected_instead(hint: Any, value: Any, expected: str):
    found = misfit(value, hint)
    assert (expected in found) if expected else found == ""


@given(st.integers(), st.integers(0, 100), st.integers(0, 100))
def test_an_interval_holds_exactly_what_lies_in_it(value: int, one: int, other: int):
    low, high = min(one, other), max(one, other)
    fits = misfit(value, Annotated[int, Interval(ge=low, le=high)]) == ""
    assert fits == (low <= value <= high)


def test_the_field_is_named_by_its_whole_path():
    @dataclass(frozen=True)
    class Inner:
        share: Annotated[float, Interval(ge=0, le=1)] = 0.5

    @dataclass(frozen=True)
    class Outer:
        inner: Inner

    check_fields(Outer(Inner()), "stage")
    with pytest.raises(ValueError, match=r"^stage\.inner\.share=2: expected a finite number >= 0"):
        check_fields(Outer(Inner(2)), "stage")


def numbers_of(config: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(path, type that holds it, field) of each numeric field, at any depth."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from numbers_of(value, f"{path}{field.name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and field.init:
            yield f"{path}{field.name}", type(config), field


def test_no_parameter_of_the_demo_takes_what_is_not_a_finite_number(experiment: Experiment):
    accepted = [
        f"{path}={value}"
        for path, owner, field in numbers_of(experiment)
        for value in (math.nan, math.inf, -math.inf, 10**400, "many")
        if misfit(value, hints(owner)[field.name]) == ""
    ]
    assert accepted == [] and len(list(numbers_of(experiment))) > 100


def test_every_number_of_the_demo_declares_its_range(experiment: Experiment):
    """A new field must say what it takes; limits in dB alone may be below 0."""
    undeclared = {
        path
        for path, owner, field in numbers_of(experiment)
        if misfit(-1, hints(owner)[field.name]) == ""
    }
    assert undeclared == {"token_quality.min_objects_psnr"}


def test_an_experiment_built_by_hand_is_checked_too(experiment: Experiment):
    bad = dataclasses.replace(experiment.keypoints, min_contrast=math.nan)
    with pytest.raises(ValueError, match=r"keypoints\.min_contrast=nan: expected a finite number"):
        dataclasses.replace(experiment, keypoints=bad)
