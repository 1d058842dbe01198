"""From a store, checkpoint, metric or picture back to the episode files, by manifests alone."""

from dataclasses import dataclass
from pathlib import Path

from storage.stores import cleanup, store
from storage.stores.records import Manifest, StoreRef


@dataclass(frozen=True, kw_only=True)
class Node:
    """One data set version and the versions that it was made from (role -> uri)."""

    ref: StoreRef
    manifest: Manifest
    complete: bool

    @property
    def label(self) -> str:
        return f"{self.manifest.stage} {self.manifest.key}"


def ancestry(ref: StoreRef) -> list[Node]:
    """The version and everything upstream, each once, inputs before what was made from them.

    Raises FileNotFoundError if a manifest on the way is missing.
    """
    order: dict[str, Node] = {}

    def visit(at: StoreRef) -> None:
        if at.uri in order:
            return
        manifest = store.read_manifest(at)
        for uri in manifest.inputs.values():
            visit(StoreRef(uri))
        order[at.uri] = Node(ref=at, manifest=manifest, complete=store.is_complete(at))

    visit(ref)
    return list(order.values())


def find(key_or_path: str, root: str) -> StoreRef:
    """The store with this key or prefix, `stage`, `stage/key` or address, or with this file in it.

    A bare stage name means its newest version. Raises LookupError, naming what there is.
    """
    path = Path(key_or_path).absolute()
    if path.exists():
        for folder in (path, *path.parents):
            if (folder / "manifest.json").exists():
                return StoreRef(str(folder))
    known = cleanup.list_stores(root)
    stage, _, key = key_or_path.rpartition("/")
    matching = [
        r
        for r in known
        if r.uri == key_or_path or (r.key.startswith(key) and stage in ("", r.stage))
    ]
    if not matching:
        matching = sorted(
            (r for r in known if r.stage == key_or_path),
            key=lambda r: store.read_manifest(r).created,
        )[-1:]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise LookupError(
            f"'{key_or_path}' is ambiguous: {', '.join(f'{r.stage}/{r.key}' for r in matching)}"
        )
    names = ", ".join(sorted({r.stage for r in known})) or "none yet"
    raise LookupError(f"no store '{key_or_path}' in {root}. Stages with stores there: {names}")


def source_of(nodes: list[Node]) -> str:
    """The episode files that everything was made from, in words."""
    index = next((n for n in nodes if n.manifest.kind == "index"), None)
    if index is None:
        return "unknown: no index upstream"
    counts = store.read_complete(index.ref)["numbers"] if index.complete else {}
    episodes = f"{counts['episodes']:.0f} episodes, " if "episodes" in counts else ""
    fingerprint = str(index.manifest.parameters.get("source", "?"))[:16]
    return (
        f"{index.manifest.attributes.get('root', '?')} ({episodes}files' fingerprint {fingerprint})"
    )
