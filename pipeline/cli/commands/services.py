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
    """Print the address of the Prefect UI and its login, and open it.

    Its page asks for the login once in each browser.

    [bold]Examples[/bold]
    roboscape ui
    roboscape ui --no-open
    """
    from pipeline.cli.ui import check_answers, print_address

    check_answers(context.obj)
    print_address(context.obj, out)
    if open_ and sys.stdout.isatty():
        import webbrowser

        webbrowser.open(context.obj.ui_url)
