"""What a cluster's workers are given."""

import tomllib
from pathlib import Path

from repository import ROOT

from pipeline.orchestration.ray_session import code_modules


def test_workers_get_every_package_that_stages_may_import():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = set(settings["tool"]["importlinter"]["root_packages"]) - {"roboscape"}
    assert {Path(module).name for module in code_modules()} == packages
    assert all((Path(module) / "__init__.py").is_file() for module in code_modules())
