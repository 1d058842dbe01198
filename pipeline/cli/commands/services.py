"""Services: Prefect's server, Ray and the deployment."""

import sys
from typing import Annotated

import typer

from pipeline.cli.console import failures_explained, out


@failures_explained()
def up(context: typer.Context) -> None:
    """Start Prefect's server, Ray and the deployment, if not running.

    `roboscape run` does so itself. If PREFECT_API_URL or RAY_ADDRESS is set, the
    server or cluster that it names is used, and none is started here.

    [bold]Example[/bold]
    roboscape up
    """
    from pipeline.orchestration import services

    services.up(context.obj, out.print)


@failures_explained()
def down(context: typer.Context) -> None:
    """Stop what `up` started.

    Stores, runs and the server's history stay.

    [bold]Example[/bold]
    roboscape down
    """
    from pipeline.orchestration import services

    services.down(context.obj, out.print)


@failures_explained()
def ui(
    context: typer.Context,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open a browser.")] = True,
) -> None:
    """Print the address of the Prefect UI and open it.

    [bold]Examples[/bold]
    roboscape ui
    roboscape ui --no-open
    """
    from pipeline.orchestration import services

    settings = context.obj
    if not services.prefect_answers(settings):
        raise services.ServiceError(
            f"no Prefect server answers at {settings.api_url}; `roboscape up` starts one"
        )
    out.print(settings.ui_url)
    if open_ and sys.stdout.isatty():
        import webbrowser

        webbrowser.open(settings.ui_url)
