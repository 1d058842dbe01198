"""Settings that the paper's annotators share: wrong ones are refused where an annotator is built, not clip by clip."""

from typing import Any, get_args


def check_choice(who: str, name: str, value: object, choices: Any) -> None:
    """Raises ValueError for a value that is none of a Literal's."""
    if value not in get_args(choices):
        raise ValueError(f"{who}: {name}={value!r}, expected one of {', '.join(get_args(choices))}")


def check_share(who: str, precision: str, gpus: float, clips_per_call: int) -> None:
    """Raises ValueError for a share of a worker's device that does not go with the precision, or is none."""
    if clips_per_call < 1:
        raise ValueError(f"{who}: clips_per_call={clips_per_call}, expected 1 or more")
    if gpus < 0:
        raise ValueError(f"{who}: gpus={gpus:g}, expected 0 or more")
    if precision != "float32" and not gpus:
        raise ValueError(
            f"{who}: precision={precision!r} with gpus=0, but half precision is for GPUs: set gpus too (0.5 is half "
            "a card), or take precision=float32"
        )
