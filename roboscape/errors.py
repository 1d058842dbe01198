"""The one error of its own; all others are Python's: LookupError, ValueError, FileNotFoundError."""

from storage.errors import RejectedRow


class RejectedClip(RejectedRow):
    """An array was asked for of a clip that a stage rejected. The message says which, and why."""
