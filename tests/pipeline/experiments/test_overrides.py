from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipeline.experiments.overrides import Overrides
from storage.errors import WeightsError
from storage.weights.ref import WeightsRef


@dataclass(frozen=True, kw_only=True)
class Inner:
    steps: int = 3
    rate: float = 0.5
    cameras: tuple[str, ...] = ("head",)
    weights: str | None = None


@dataclass(frozen=True, kw_only=True)
class Extra:
    file: WeightsRef
    width: int = 4
    rate: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    seed: int = 0
    start_from: WeightsRef | None = None
    extra: Extra | None = None


def changed_by(config: Any, changes: Mapping[str, Any], weights: Path = Path("none")) -> Any:
    return Overrides(weights).changed(config, changes)


def test_paths_reach_nested_fields_and_leave_the_rest():
    changed = changed_by(Outer(), {"inner.steps": 7, "seed": 4, "inner.weights": "a"})
    assert changed == Outer(inner=Inner(steps=7, weights="a"), seed=4)
    assert changed_by(Outer(), {}) == Outer()


def test_json_values_take_the_type_of_the_field():
    changed = changed_by(Outer(), {"inner.rate": 2, "inner.cameras": ["left", "right"]})
    assert changed.inner.rate == 2.0 and isinstance(changed.inner.rate, float)
    assert changed.inner.cameras == ("left", "right")


@dataclass(frozen=True, kw_only=True)
class Span:
    low: int = 0
    high: int = 1

    def __post_init__(self):
        if self.low >= self.high:
            raise ValueError(f"low={self.low} is not below high={self.high}")


@pytest.mark.parametrize("paths", [("span.low", "span.high"), ("span.high", "span.low")])
def test_fields_that_only_go_together_are_changed_together(paths: tuple[str, str]):
    @dataclass(frozen=True, kw_only=True)
    class WithSpan:
        span: Span = field(default_factory=Span)

    values = {"span.low": 5, "span.high": 9}
    assert changed_by(WithSpan(), {path: values[path] for path in paths}).span == Span(
        low=5, high=9
    )
    with pytest.raises(ValueError, match="low=5 is not below high=1"):
        changed_by(WithSpan(), {"span.low": 5})


def test_weights_are_given_by_path(tmp_path: Path):
    (tmp_path / "mine.safetensors").write_bytes(b"weights")
    changed = changed_by(Outer(), {"start_from": str(tmp_path / "mine.safetensors")})
    assert changed.start_from == WeightsRef.of(tmp_path / "mine.safetensors")
    assert changed_by(changed, {"start_from": None}).start_from is None
    with pytest.raises(WeightsError, match=r"no weights file .*gone\.safetensors"):
        changed_by(Outer(), {"start_from": str(tmp_path / "gone.safetensors")})


def test_weights_are_given_by_the_name_of_published_ones(tmp_path: Path):
    with pytest.raises(WeightsError, match=r"roboscape weights fetch vda-vits"):
        changed_by(Outer(), {"start_from": "vda-vits"}, tmp_path)
    with pytest.raises(
        ValueError, match=r"start_from: no published weights 'vda-vitx'; there is: vda-vits, "
    ):
        changed_by(Outer(), {"start_from": "vda-vitx"}, tmp_path)


def test_a_part_that_is_off_is_enabled_by_its_fields(tmp_path: Path):
    (tmp_path / "mine.safetensors").write_bytes(b"weights")
    file = str(tmp_path / "mine.safetensors")
    changed = changed_by(Outer(), {"extra": {"file": file, "rate": 1}, "extra.width": 8})
    assert changed.extra == Extra(file=WeightsRef.of(file), width=8, rate=1.0)
    for value, message in (
        ({}, r"extra: Extra needs \['file'\] too"),
        (
            {"file": file, "size": 3},
            r"extra: Extra has no field \['size'\]; there is: \['file', 'width', 'rate'\]",
        ),
        (
            {"file": file, "width": "wide"},
            r"extra\.width='wide' has type str; expected int, such as 4",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            changed_by(Outer(), {"extra": value})
    with pytest.raises(
        ValueError,
        match=r"extra\.width: extra is off; enable it by setting its fields, as in extra=\{\}",
    ):
        changed_by(Outer(), {"extra.width": 8})


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("inner.step", 3, "no field 'step'; there is: steps, rate"),
        ("inner.steps", "many", "has type str; expected int, such as 3"),
        ("inner.steps", True, "has type bool"),
        ("inner", {}, "expected Inner, such as"),
        ("seed.x", 1, "no fields"),
    ],
)
def test_what_does_not_fit_is_explained(path: str, value: object, message: str):
    with pytest.raises(ValueError, match=message):
        changed_by(Outer(), {path: value})
