"""Published weights: list and download them."""

from typing import Annotated

import typer

from pipeline.cli.console import FAILED, err, failures_explained, out


@failures_explained()
def list_weights(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Show published weights: licences, sizes, which are downloaded.

    [bold]Example[/bold]
    roboscape weights list
    """
    from pipeline.cli.weights import print_weights

    print_weights(context.obj.weights, out, as_json)


@failures_explained()
def fetch_weights(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(help="Names from `roboscape weights list`.")],
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Accept the licences without being asked.")
    ] = False,
) -> None:
    """Download published weights and check their SHA-256.

    Files that are there already are only checked. All names are tried, and an
    interrupted download resumes. Exit code 1 if a file is still missing at the
    end; for files that must be downloaded by hand, it prints how.

    [bold]Examples[/bold]
    roboscape weights fetch vda-vits
    roboscape weights fetch vda-vitl spatracker --yes
    """
    from pipeline.cli.weights import fetch_all

    settings = context.obj
    if fetch_all(names, settings.weights, settings.hub, out, err, yes=yes, confirm=agrees):
        raise SystemExit(FAILED)


def agrees(question: str) -> bool:
    """The answer on the terminal; no answer means no."""
    try:
        return typer.confirm(question)
    except typer.Abort:
        out.print("\nNo answer: add --yes if you accept the licence.")
        return False
