"""The page of a training in progress: when it is updated, and for which stages there is one."""

import io
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from pipeline.lineage import live_page as module
from pipeline.lineage.live_page import LivePage, live_page
from stages.training.live import Live


def png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (300, 200), (200, 30, 30)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(s=1000.0)
    monkeypatch.setattr(time, "monotonic", lambda: now.s)
    return now


@pytest.fixture
def published(monkeypatch) -> list[str]:
    pages: list[str] = []
    monkeypatch.setattr(LivePage, "publish", lambda self, page: pages.append(page))
    return pages


def test_it_looks_every_30_seconds_and_publishes_what_is_new(clock, published, tmp_path):
    looks: list[Path] = []

    def look(folder: Path) -> Live | None:
        looks.append(folder)
        return (
            None
            if len(looks) == 1
            else Live(text=f"step {len(looks) // 2}", pictures={"losses": png()})
        )

    page = LivePage("world_model", tmp_path, look)
    for _ in range(5 * 60):
        page()
        clock.s += 1.0
    assert len(looks) == 9 and set(looks) == {tmp_path}
    assert [text.rpartition("\n")[2] for text in published] == [
        "step 1",
        "step 2",
        "step 3",
        "step 4",
    ]
    assert all(text.startswith("![losses](data:image/jpeg;base64,") for text in published)


def test_a_page_that_cannot_be_made_does_not_end_the_stage(clock, published, tmp_path, capsys):
    def look(folder: Path) -> Live | None:
        raise OSError("no such disk")

    page = LivePage("world_model", tmp_path, look)
    for _ in range(3):
        clock.s += module.EVERY_S
        page()
    assert capsys.readouterr().err == "world_model: no live page: no such disk\n", "printed once"


def test_only_stages_that_have_one_are_followed(tmp_path):
    assert live_page(SimpleNamespace(name="depth"), tmp_path) is None
    assert (
        live_page(SimpleNamespace(name="world_model", live=lambda folder: None), tmp_path)
        is not None
    )


def test_without_a_task_run_nothing_is_sent(tmp_path):
    LivePage("world_model", tmp_path, lambda folder: None).publish("a page")
