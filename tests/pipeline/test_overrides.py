from dataclasses import dataclass, field

import pytest

from pipeline.overrides import override


@dataclass(frozen=True, kw_only=True)
class Inner:
    steps: int = 3
    rate: float = 0.5
    cameras: tuple[str, ...] = ("head",)
    weights: str | None = None


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    seed: int = 0


def test_paths_reach_nested_fields_and_leave_the_rest():
    changed = override(Outer(), {"inner.steps": 7, "seed": 4, "inner.weights": "a"})
    assert changed == Outer(inner=Inner(steps=7, weights="a"), seed=4)
    assert override(Outer(), {}) == Outer()


def test_json_values_take_the_type_of_the_field():
    changed = override(Outer(), {"inner.rate": 2, "inner.cameras": ["left", "right"]})
    assert changed.inner.rate == 2.0 and isinstance(changed.inner.rate, float)
    assert changed.inner.cameras == ("left", "right")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("inner.step", 3, "no field 'step'; there is: steps, rate"),
        ("inner.steps", "many", "is a str; expected a int such as 3"),
        ("inner.steps", True, "is a bool"),
        ("inner", {}, "expected a Inner"),
        ("seed.x", 1, "no fields"),
    ],
)
def test_what_does_not_fit_is_explained(path: str, value: object, message: str):
    with pytest.raises(ValueError, match=message):
        override(Outer(), {path: value})
