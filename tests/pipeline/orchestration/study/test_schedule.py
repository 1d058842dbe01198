"""Which runs of a study start when, and what becomes of the others if one fails."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline.experiments.studies.study import Member
from pipeline.orchestration.study import schedule as scheduling
from pipeline.orchestration.study.schedule import Schedule
from pipeline.settings import Settings


@dataclass(frozen=True)
class Ref:
    uri: str

    @property
    def stage(self) -> str:
        return self.uri.split("/", maxsplit=1)[0]


DONE: set[str] = set()


@dataclass(eq=False)
class Planned:
    name: str
    uris: tuple[str, ...]

    @property
    def member(self) -> Member:
        return Member(variant=self.name, seed=0, experiment="smoke", source="", overrides={})

    @property
    def stores(self) -> list[Ref]:
        return [Ref(uri) for uri in self.uris]

    @property
    def missing(self) -> set[str]:
        return set(self.uris) - DONE


@dataclass(eq=False)
class Process:
    """Lives for some looks, then has made its stores, or failed at one."""

    planned: Planned
    fails_at: str
    looks: int = 2
    makes: frozenset[str] = frozenset()
    log: Path = Path("x.log")
    seconds: float = 1.0
    ended: bool = False
    process: object = field(default=None)

    @property
    def alive(self) -> bool:
        self.looks -= 1
        if self.looks <= 0 and not self.ended:
            for uri in self.planned.uris:
                if uri == self.fails_at:
                    break
                DONE.add(uri)
        return self.looks > 0 and not self.ended

    def journal(self, settings) -> None:
        return None

    def terminate(self) -> None:
        self.ended = True

    def wait_or_kill(self) -> None:
        assert self.ended


@pytest.fixture
def schedule(monkeypatch, tmp_path):
    """Makes a schedule of runs by name; returns it, and the runs in the order of their starts."""
    DONE.clear()
    monkeypatch.setattr(scheduling, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(scheduling.store, "is_complete", lambda ref: ref.uri in DONE)

    def make(runs: dict[str, tuple[str, ...]], at_once: int = 2, fails_at: str = ""):
        started: list[Process] = []

        def start(planned, context, log, backend) -> Process:
            process = Process(planned, fails_at, makes=frozenset(planned.missing))
            process.process = process
            process.exitcode = 1
            beside = [p for p in started if p.looks > 0]
            assert len(beside) < at_once
            assert not any(p.makes & process.makes for p in beside), "two make the same store"
            started.append(process)
            return process

        monkeypatch.setattr(scheduling, "start", start)
        said: list[str] = []
        made = Schedule(
            settings=Settings(home=tmp_path), logs=tmp_path, context={}, at_once=at_once,
            backend=None, say=said.append, pending=[Planned(n, uris) for n, uris in runs.items()],
        )  # fmt: skip
        return made, started, said

    return make


def test_what_runs_share_is_made_by_one_of_them(schedule):
    runs = {name: ("clip/1", f"world_model/{name}") for name in ("a", "b", "c")}
    made, started, _ = schedule(runs)
    outcomes = made.run()
    assert {o.state for o in outcomes} == {"completed"} and len(started) == 3
    assert started[0].makes == {"clip/1", "world_model/a"}
    assert started[1].makes == {"world_model/b"}, "it waited for the first one's clips"


def test_runs_that_share_nothing_go_at_once(schedule):
    made, started, said = schedule({name: (f"world_model/{name}",) for name in "abc"})
    made.run()
    assert [text.split(":")[1].split()[0] for text in said[:2]] == ["started", "started"]
    assert len(started) == 3


def test_what_is_there_is_not_started(schedule):
    made, started, _ = schedule({"a": ("clip/1",), "b": ("clip/2",)})
    DONE.add("clip/1")
    assert {o.planned.name: o.state for o in made.run()} == {"a": "cached", "b": "completed"}
    assert [p.planned.name for p in started] == ["b"]


def test_a_failure_ends_those_that_need_the_same_and_no_other(schedule):
    runs = {
        "a": ("clip/1", "world_model/a"),
        "b": ("clip/1", "world_model/b"),
        "c": ("clip/2", "world_model/c"),
    }
    made, started, said = schedule(runs, at_once=1, fails_at="clip/1")
    states = {o.planned.name: (o.state, o.why) for o in made.run()}
    assert states["a"] == ("failed", "it ended with exit code 1 before it began")
    assert states["b"] == ("skipped", "clip failed in a, seed 0")
    assert states["c"] == ("completed", "")
    assert [p.planned.name for p in started] == ["a", "c"]
    assert any("a, seed 0: FAILED" in text and "x.log" in text for text in said)


def test_ctrl_c_ends_the_runs(schedule, monkeypatch):
    made, started, _ = schedule({name: (f"world_model/{name}",) for name in "abc"})
    monkeypatch.setattr(scheduling, "END_BY_THEMSELVES_S", 0.0)

    def interrupt(seconds) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(scheduling.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        made.run()
    assert len(started) == 2 and all(process.ended for process in started)
