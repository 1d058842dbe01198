"""Where tests find the repository's own files."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SUPPORT = ROOT / "tests" / "support"
SHARED = (
    ROOT.parent / "shared"
)  # golden inputs and outputs; tests that read it skip where it is absent
