"""The page of a training in progress: when it is updated, and for which stages there is one."""

import io
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from toys import Total

from pipeline.lineage import live_page as module
from pipeline.lineage.live_page import LivePage
from stages.base import LivePage as Shown


def stage_that(look: Callable[[Path], Shown | None]) -> Total:
    """A stage whose page is made by `look`."""

    class Watched(Total):
        name = "world_model"

        def live_page(self, folder: Path) -> Shown | None:
            return look(folder)

    return Watched()


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

    def look(folder: Path) -> Shown | None:
        looks.append(folder)
        return (
            None
            if len(looks) == 1
            else Shown(text=f"step {len(looks) // 2}", pictures={"losses": png()})
        )

    page = LivePage(stage_that(look), tmp_path)
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
    def look(folder: Path) -> Shown | None:
        raise OSError("no such disk")

    page = LivePage(stage_that(look), tmp_path)
    for _ in range(3):
        clock.s += module.EVERY_S
        page()
    assert capsys.readouterr().err == "world_model: no live page: no such disk\n", "printed once"


def test_a_stage_that_shows_nothing_publishes_nothing(clock, published, tmp_path):
    page = LivePage(Total(), tmp_path)
    clock.s += module.EVERY_S
    page()
    assert published == []
