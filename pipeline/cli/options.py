"""Options that several commands have, and the request for a run that they make up."""

import json
from typing import Annotated, Any

import typer

from pipeline.cli.checks import check_backend

Set = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Change one parameter: keypoints.grid=16, or an annotator by name: "
        "depth.annotator=vda-tiny. May be repeated.",
    ),
]
Source = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER", help="Root of AGIBOT-World episodes. Default: the experiment's own."
    ),
]
Backend = Annotated[
    str | None,
    typer.Option(help="ray (default), or serial: without Ray, one process, the same arrays."),
]


def make_request(
    experiment: str, source: str | None, set_: list[str], backend: str | None = None, **rest: Any
) -> dict[str, Any]:
    """The parameters of the flow, as the journal keeps them."""
    check_backend(backend)
    overrides = parse_overrides(set_)
    run = {"experiment": experiment, "source": source or "", "overrides": overrides}
    return run | {"backend": backend} | rest


def parse_overrides(settings: list[str]) -> dict[str, Any]:
    """`a.b=value` strings as a dict; a value is JSON where it can be read as such, else text."""
    overrides: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or len(parts := name.split(".")) < 2 or not all(parts):
            raise ValueError(
                f"--set {setting}: expected STAGE.FIELD=VALUE, such as --set keypoints.grid=16"
            )
        try:
            overrides[name] = json.loads(value)
        except (ValueError, RecursionError):
            overrides[name] = value
    return overrides
