"""A workspace of a test's own at a Prefect server that another one has started."""

from pathlib import Path

from pipeline.settings import Settings


def at_server_of(settings: Settings, home: Path) -> Settings:
    """Serial, on the same port, and with the same login."""
    other = Settings(home=home, prefect_port=settings.prefect_port, backend="serial")
    if login := settings.login():
        other.services.mkdir(parents=True)
        other.login_file.write_text(login)
        other.login_file.chmod(0o600)
    return other
