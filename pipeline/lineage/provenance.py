"""Code, libraries, weights and licences behind a store: what a manifest holds beside parameters."""

import dataclasses
import functools
import platform
import subprocess
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from stages.base import Stage
from storage.stores.records import Manifest
from storage.weights.ref import WeightsRef, is_non_commercial

# Attribute of a store: such weights behind it, also of stores that are deleted by now
NON_COMMERCIAL = "non_commercial"
LIBRARIES = ("torch", "numpy", "av", "opencv-python-headless", "zarr", "ray", "prefect", "mujoco")


def _git(*arguments: str) -> str | None:
    folder = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", folder, *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@functools.cache
def code_version() -> dict[str, str]:
    """Git commit (with `+changes` if the tree differs from it), package and library versions."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no") if commit else None
    code = {
        "commit": f"{commit}+changes" if changed else commit or "not a git checkout",
        "python": platform.python_version(),
    }
    for name in ("roboscape", *LIBRARIES):
        try:
            code[name] = version(name)
        except PackageNotFoundError:
            continue
    return code


def costs_of(stages: Iterable[Stage]) -> list[str]:
    """What these stages expect to take, one line each, of those that can say so before they run."""
    return [f"{stage.name} {cost}" for stage in stages if (cost := stage.expected_cost)]


def weights_of(stage: Any) -> list[dict[str, str]]:
    """Name, digest and licence of every weights file in a stage's fields, at any depth."""
    found: list[dict[str, str]] = []

    def visit(value: Any) -> None:
        if isinstance(value, WeightsRef):
            found.append({"name": value.name, "sha256": value.sha256, "licence": value.licence})
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            for field in dataclasses.fields(value):
                visit(getattr(value, field.name))
        elif isinstance(value, list | tuple):
            for item in value:
                visit(item)

    visit(stage)
    return found


def non_commercial(weights: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The weights whose licence forbids commercial use: name -> licence.

    weights: as a manifest lists them.
    """
    return {w["name"]: w["licence"] for w in weights if is_non_commercial(w.get("licence") or "")}


def non_commercial_behind(manifests: Iterable[Manifest]) -> dict[str, str]:
    """The same for stores: of the weights that they used, and of those behind their inputs."""
    found: dict[str, str] = {}
    for manifest in manifests:
        found |= non_commercial(manifest.weights) | manifest.attributes.get(NON_COMMERCIAL, {})
    return found


def non_commercial_text(found: Mapping[str, str]) -> str:
    """The note that people read; empty if nothing was found."""
    if not found:
        return ""
    files = ", ".join(f"{name} ({licence})" for name, licence in sorted(found.items()))
    return f"made with {files}: treat it, and what is made from it, as not for commercial use"


def run_with(stage: Any) -> dict[str, str]:
    """The fields that are no part of the key, such as the folder of the episodes."""
    fields = [f for f in dataclasses.fields(stage) if not f.metadata.get("key", True)]
    return {f.name: str(getattr(stage, f.name)) for f in fields}
