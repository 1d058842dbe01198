"""Why a stage ended without its output."""


class StageFailed(RuntimeError):
    """A stage ended without its output; everything that it finished is kept."""
