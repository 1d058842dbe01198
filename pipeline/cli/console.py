"""What all commands share: the two consoles, the exit codes, and errors shown as one message."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

# Exit codes; 0 is success
FAILED, USAGE, NO_SERVICE, INTERRUPTED, TERMINATED = 1, 2, 3, 130, 143

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


@contextmanager
def failures_explained() -> Iterator[None]:
    """Ends the process with one clear message and an exit code instead of a traceback.

    Also a decorator: `@failures_explained()`.
    """
    from pipeline.orchestration.interrupts import interrupted_by
    from pipeline.orchestration.services import ServiceError
    from storage.errors import StoreError

    try:
        yield
    except KeyboardInterrupt:
        by = interrupted_by()
        err.print(
            f"\n[yellow]Interrupted[/yellow] by {by}. Finished work is kept; the same command "
            "resumes."
        )
        raise SystemExit(TERMINATED if by == "SIGTERM" else INTERRUPTED) from None
    except ServiceError as error:
        explain("Service", str(error))
        raise SystemExit(NO_SERVICE) from None
    except (LookupError, ValueError) as error:
        explain("Error", str(error.args[0] if error.args else error))
        raise SystemExit(USAGE) from None
    except (StoreError, OSError, RuntimeError) as error:
        explain("Failed", str(error))
        raise SystemExit(FAILED) from None


def explain(kind: str, message: str) -> None:
    err.print(f"[red]{kind}:[/red]", end=" ")
    err.print(message, markup=False)
