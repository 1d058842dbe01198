"""A workspace, or any root of stores, opened for reading: clips, world models, runs, lineage."""

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.lineage.graph import find, made, newest_complete, read_node
from pipeline.orchestration.journal import Journal, journals
from pipeline.settings import Settings
from roboscape.clips import Clips
from roboscape.joined import JoinedStores
from roboscape.lineage import Lineage
from storage.files import open_files
from storage.stores import cleanup, store
from storage.stores.records import StoreRef
from storage.stores.results import open_result
from storage.stores.rows import ClipRows, open_rows

if TYPE_CHECKING:
    import roboscape.world_model

# The stages whose numbers say how well a run did
LAST_STAGES = ("evaluation", "depth_annotator", "keypoint_annotator")
DONE = ("completed", "cached")


def open(path: str | Path | None = None, *, home: str | Path | None = None) -> "Workspace":
    """Opens a workspace for reading: nothing is written, and no service has to run.

    path: a workspace folder, or where its stores are: another folder, or `s3://bucket/prefix`
    (credentials, region and endpoint from the AWS_* variables). By default what the command line
    uses: ROBOSCAPE_HOME or ./workspace, and its stores where ROBOSCAPE_STORES says.
    home: the workspace folder whose runs `Workspace.runs` lists; `path` itself unless it is remote.
    Raises FileNotFoundError if there is no workspace, StoreError if this version cannot read it.
    """
    if path is None:
        settings = Settings()
        return Workspace(settings.stores, home=home or settings.home)
    return Workspace(path, home=home)


class Workspace:
    """What `open` returns. Every call looks again, so that stores of runs that end meanwhile are
    found.
    """

    def __init__(self, path: str | Path, *, home: str | Path | None = None):
        remote = "://" in str(path)
        self._root = str(path).rstrip("/") if remote else str(Path(path).absolute())
        self._home = Path(home).absolute() if home is not None else None
        if self._home is None and not remote:
            self._home = Path(self._root)
        if open_files(self._root).exists("format.json"):
            store.require_format(self._root)
        elif remote or not (Path(self._root) / "runs").is_dir():
            raise FileNotFoundError(
                f"no workspace at {self._root}: expected a folder that `roboscape run` wrote to, "
                "or the root of its stores; with ROBOSCAPE_STORES set they are there"
            )

    @property
    def path(self) -> str:
        """The root of the stores."""
        return self._root

    def clips(
        self,
        which: str | None = None,
        *,
        depth: str | None = None,
        keypoints: str | None = None,
        label_quality: str | None = None,
    ) -> Clips:
        """The clips of a store, with the labels made from them.

        which: a store of the stage `clip`: its key (a prefix will do), `clip/KEY`, or a path in it;
        the newest complete one by default.
        depth, keypoints, label_quality: stores to take the labels from, named likewise, in place of
        those that `Clips` finds.
        Raises LookupError if there is no such complete store, ValueError for one that was made from
        other clips.
        """
        ref = self._newest("clip") if which is None else self._complete(which, "clip")
        clip = open_rows(ref)
        assert isinstance(clip, ClipRows), clip
        asked = {"depth": depth, "keypoints": keypoints, "label_quality": label_quality}
        named = {role: self._complete(name, role) for role, name in asked.items() if name}
        for role, label in named.items():
            made_from = store.read_manifest(label).inputs.get("clip", str(ref))
            if made_from != str(ref):
                raise ValueError(f"{role}={label} was made from {made_from}, not from {ref}")
        return Clips(JoinedStores(clip, named))

    def world_model(
        self, which: str | Path | None = None, *, device: str | None = None
    ) -> "roboscape.world_model.WorldModel":
        """A trained world model with the tokenizers and action statistics that belong to it.

        which: the path of a `world_model.safetensors`, or a store of the stage `world_model`: its
        key (a prefix will do) or `world_model/KEY`; the newest complete one by default.
        device: `cpu` or `cuda`; a GPU where there is one by default.
        Raises LookupError if the model or a store that belongs to it is not there, ValueError if
        they do not belong together.
        """
        from pipeline.lineage.checkpoint import find_checkpoint
        from roboscape.world_model import WorldModel

        name = self._newest("world_model").uri if which is None else str(which)
        return WorldModel(find_checkpoint(name, self._root), device=device)

    def runs(self) -> pa.Table:
        """The runs, oldest first: one row each (`.to_pandas()` for pandas).

        Columns: run (its id), experiment, changed (parameters, as after `--set`), source, state
        (running, completed, failed, crashed), failed (the stage that failed), started (UTC),
        seconds, and the numbers of the evaluation (or of the annotator that was trained), empty for
        runs that did not reach it.

        Raises LookupError if only remote stores were opened: runs are noted in the workspace.
        """
        if self._home is None:
            raise LookupError(
                f"{self._root} holds stores; runs are noted in the workspace folder of the machine "
                "that drove them: roboscape.open(path, home=FOLDER)"
            )
        known = journals(self._home / "runs")
        rows = [self._row(journal) for journal in known]
        names = list(dict.fromkeys(name for row in rows for name in row[1]))
        columns = {
            name: pa.array([row[0][name] for row in rows], kind) for name, kind in RUN_COLUMNS
        }
        columns |= {
            name: pa.array([row[1].get(name) for row in rows], pa.float64()) for name in names
        }
        return pa.table(columns)

    def _row(self, journal: Journal) -> tuple[dict[str, Any], dict[str, float]]:
        """A run's own columns, and its numbers."""
        request = journal.request
        failed = [entry.name for entry in journal.stages if entry.state == "failed"]
        about = {
            "run": journal.id,
            "experiment": request.get("experiment"),
            "changed": " ".join(
                f"{name}={value if isinstance(value, str) else json.dumps(value)}"
                for name, value in (request.get("overrides") or {}).items()
            ),
            "source": request.get("source"),
            "state": journal.true_state,
            "failed": failed[-1] if failed else None,
            "started": datetime.fromtimestamp(journal.started, UTC),
            "seconds": journal.ended - journal.started if journal.ended else None,
        }
        results = [
            StoreRef.under(self._root, entry.uri)  # the workspace may have moved since
            for entry in journal.stages
            if entry.name in LAST_STAGES and entry.state in DONE
        ]
        there = [ref for ref in results if store.is_complete(ref)]
        return about, dict(open_result(there[-1]).numbers) if there else {}

    def stores(self) -> pa.Table:
        """Every store, oldest first: columns stage, key, kind, complete, created, clips, uri."""
        nodes = [read_node(ref) for ref in cleanup.list_stores(self._root)]
        nodes.sort(key=lambda node: made(node.manifest))
        return pa.table(
            {
                "stage": pa.array([node.ref.stage for node in nodes], pa.string()),
                "key": pa.array([node.ref.key for node in nodes], pa.string()),
                "kind": pa.array([node.manifest.kind for node in nodes], pa.string()),
                "complete": pa.array([node.complete for node in nodes], pa.bool_()),
                "created": pa.array([node.manifest.created for node in nodes], pa.string()),
                "clips": pa.array([node.manifest.n_clips for node in nodes], pa.int64()),
                "uri": pa.array([node.ref.uri for node in nodes], pa.string()),
            }
        )

    def lineage(self, what: str) -> Lineage:
        """What a store was made from, and what was made from it.

        what: a stage (its newest version), a key (a prefix will do), `stage/KEY`, or the path of
        any file in a store: a checkpoint, a table, a picture.
        Raises LookupError if nothing has that name.
        """
        return Lineage(find(what, self._root))

    def _newest(self, stage: str) -> StoreRef:
        found = newest_complete(self._root, stage)
        if not found:
            raise LookupError(
                f"no complete store of the stage '{stage}' in {self._root}: `roboscape run` "
                "makes one, `roboscape status` says how far it is"
            )
        return StoreRef.at(self._root, stage, found[0].key)

    def _complete(self, name: str, stage: str) -> StoreRef:
        ref = find(name, self._root)
        if ref.stage != stage:
            raise LookupError(f"'{name}' is {ref}: expected a store of the stage '{stage}'")
        if not store.is_complete(ref):
            raise LookupError(f"{ref} is not complete: `roboscape rerun {stage}` resumes it")
        return ref

    def __repr__(self) -> str:
        stages = Counter(ref.stage for ref in cleanup.list_stores(self._root))
        stores = ", ".join(f"{name} {n}" if n > 1 else name for name, n in stages.items())
        n_runs = 0 if self._home is None else len(journals(self._home / "runs"))
        return (
            f"<Workspace {self._root}: {_count(stages.total(), 'store')} ({stores or 'none yet'}), "
            f"{_count(n_runs, 'run')}>"
        )


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


RUN_COLUMNS: list[tuple[str, pa.DataType]] = [
    *(
        (name, pa.string())
        for name in ("run", "experiment", "changed", "source", "state", "failed")
    ),
    ("started", pa.timestamp("us", tz="UTC")),
    ("seconds", pa.float64()),
]
