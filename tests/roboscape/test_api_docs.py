"""What the documents say is what the code does: the reference, the examples and the tour run."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from api_reference import CLASSES, FUNCTIONS, MARK, OPERATORS, PAGE, doc, members
from nbclient import NotebookClient
from repository import ROOT, SUPPORT

import roboscape as rs

TOUR = ROOT / "docs" / "tour.ipynb"


def test_the_reference_is_made_from_the_docstrings():
    """In a process of its own: tests check annotations, which changes signatures."""
    made = subprocess.run(
        [sys.executable, str(SUPPORT / "api_reference.py")],
        capture_output=True, text=True, check=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    expected, found = (
        made.stdout.splitlines(),
        PAGE.read_text().partition(MARK)[2].strip().splitlines(),
    )
    assert found == expected, "run: PYTHONPATH=. python tests/support/api_reference.py --write"


def test_every_public_name_is_in_the_reference():
    shown = {cls.__name__ for _, cls in CLASSES} | {"RejectedClip", "metrics"}
    shown |= {name.rpartition(".")[2] for name, _ in FUNCTIONS}
    assert set(rs.__all__) | set(rs.metrics.__all__) <= shown
    for variable, cls in CLASSES:
        text = "\n".join(members(variable, cls))
        for name, member in vars(cls).items():
            if not name.startswith("_"):
                assert doc(member), f"{cls.__name__}.{name} has no docstring"
                assert re.search(rf"`{variable}\.{name}\b", text), f"{cls.__name__}.{name}"
            elif name in OPERATORS and doc(member):
                assert f"`{OPERATORS[name].partition('{')[0]}{variable}" in text


@pytest.mark.parametrize("page", ["README.md", "docs/api.md"])
def test_the_example_of_the_page_runs(page, world, tmp_path, monkeypatch):
    """But for `rs.run`, and with a clip of the small workspace."""
    text = (ROOT / page).read_text().partition("## From Python")[2] or (ROOT / page).read_text()
    match = re.search(r"```python\n(import roboscape as rs\n.*?)```", text, re.DOTALL)
    assert match is not None
    lines = [line for line in match[1].splitlines() if not line.startswith("rs.run(")]
    (tmp_path / "workspace").symlink_to(world.root)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec("\n".join(lines).replace("[3]", "[1]").replace("n_frames=40", "n_frames=18"), names)
    assert len(names["video"]) == 18 and len(names["data"]) == 1
    assert (page != "README.md") or Path("out.mp4").stat().st_size > 1000


def test_the_tour_runs_from_start_to_end(world, tmp_path, monkeypatch):
    for name in (
        "JUPYTER_RUNTIME_DIR",
        "JUPYTER_CONFIG_DIR",
        "JUPYTER_DATA_DIR",
        "IPYTHONDIR",
        "MPLCONFIGDIR",
    ):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("ROBOSCAPE_HOME", str(world.root))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(TOUR, as_version=4)
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    shown = {cell.source.splitlines()[-1]: cell.outputs for cell in cells}
    assert f"<Workspace {world.root}: 11 stores" in shown["ws"][0].data["text/plain"]
    assert "image/png" in shown["clip"][0].data and "text/html" in shown["video"][0].data
    assert "psnr_moving" in shown["rs.metrics.compare(video, clip)"][0].data["text/plain"]
    assert "└── world_model" in shown['ws.lineage("world_model")'][0].data["text/plain"]
    assert len(shown['ws.lineage("world_model")']) == 1, "Rich shows nothing on its own"
    assert not [out for cell in cells for out in cell.outputs if out.get("name") == "stderr"]


def test_the_tour_is_kept_without_outputs():
    notebook = nbformat.read(TOUR, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs") and not cell.get("execution_count"), cell.source
    assert TOUR.stat().st_size < 20_000
