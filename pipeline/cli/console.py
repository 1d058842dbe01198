"""What all commands share: the two consoles, the exit codes, and errors shown as one message."""

import errno
import os
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
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
    from pipeline.orchestration.ray_health import RayDied, exit_now
    from pipeline.orchestration.services import ServiceError
    from storage.disk_space import explain_disk_full
    from storage.errors import StoreError

    try:
        with explain_disk_full(Path(os.environ.get("ROBOSCAPE_HOME") or "workspace")):
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
        if isinstance(error, RayDied):
            exit_now(NO_SERVICE)
        raise SystemExit(NO_SERVICE) from None
    except (click.exceptions.Exit, click.Abort, click.ClickException):
        raise
    except MemoryError as error:
        explain("Failed", f"not enough memory ({error}): ask for less at once, or add memory")
        raise SystemExit(FAILED) from None
    except OSError as error:
        explain("Failed", os_error_text(error))
        raise SystemExit(FAILED) from None
    except (StoreError, RuntimeError) as error:
        explain("Failed", str(error))
        raise SystemExit(FAILED) from None
    except Exception as error:
        # A bare KeyError or IndexError is a slip of the code's, no message for a user
        meant = isinstance(error, LookupError | ValueError) and " " in str(error)
        if meant:
            # A KeyError shows its text in quotes
            explain("Error", str(error.args[0] if isinstance(error, KeyError) else error))
            raise SystemExit(USAGE) from None
        explain("Internal error", fault_text(error))
        raise SystemExit(FAILED) from None


def os_error_text(error: OSError) -> str:
    """The error in words, with the file that it is about and what to do."""
    if error.filename is None or error.strerror is None:
        return str(error)
    advice = {
        errno.ENOENT: "expected a file or folder that exists: check the path",
        errno.EACCES: "expected one that you may use: check its permissions and its folders'",
        errno.EPERM: "expected one that you may use: check its permissions and its folders'",
        errno.EROFS: "choose a place that can be written",
    }.get(error.errno or 0, "check the path")
    return f"{error.filename}: {error.strerror}; {advice}"


def fault_text(error: Exception) -> str:
    """For an error that nobody foresaw: what it is, and where its traceback was written."""
    what = f"{type(error).__name__}: {error}".partition("\n")[0]
    path = Path(tempfile.gettempdir()) / f"roboscape-error-{os.getpid()}.txt"
    try:
        path.write_text("".join(traceback.format_exception(error)))
    except OSError:
        return f"{what}. This is a fault of the program; finished work is kept"
    return f"{what}. This is a fault of the program; finished work is kept. Report it with {path}"


def explain(kind: str, message: str) -> None:
    err.print(f"[red]{kind}:[/red]", end=" ")
    err.print(message, markup=False)
