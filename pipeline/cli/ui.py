"""`roboscape ui`: where the Prefect UI is, and how to log in to it."""

from rich.console import Console

from pipeline.orchestration import services
from pipeline.settings import Settings


def check_answers(settings: Settings) -> None:
    """Raises ServiceError if no Prefect server answers, or one that is not this workspace's."""
    if not services.prefect_answers(settings):
        raise services.ServiceError(
            f"no Prefect server answers at {settings.api_url}; `roboscape up` starts one"
        )


def print_address(settings: Settings, out: Console) -> None:
    """Prints the address and, on a terminal, the login; elsewhere the file that holds it.

    Raises ServiceError if the server does not take the login: then it must not be typed there.
    """
    out.print(settings.ui_url, markup=False)
    if settings.external_prefect:
        return
    state = services.check_login(settings, lambda text: out.print(text, markup=False))
    if state == "accepted":
        shown = settings.login() if out.is_terminal else f"the text in {settings.login_file}"
        out.print(f"Login, asked for once in each browser: {shown}", markup=False)
