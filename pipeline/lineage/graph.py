"""From a store, checkpoint, metric or picture back to the episode files, by manifests alone."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from storage.files import open_files
from storage.stores import cleanup, store
from storage.stores.records import STORES, Manifest, StoreRef


@dataclass(frozen=True, kw_only=True)
class Node:
    """One data set version."""

    ref: StoreRef
    manifest: Manifest
    complete: bool

    @property
    def inputs(self) -> dict[str, StoreRef]:
        """The versions that it was made from, by role, under its own root."""
        names = self.manifest.inputs
        return {role: StoreRef.under(self.ref.root, name) for role, name in names.items()}

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
        node = read_node(at)
        for upstream in node.inputs.values():
            visit(upstream)
        order[at.uri] = node

    visit(ref)
    return list(order.values())


def descendants(ref: StoreRef) -> list[Node]:
    """Everything under the same root that was made from this version, inputs before what was made
    from them.
    """
    nodes = {other.uri: read_node(other) for other in cleanup.list_stores(ref.root)}
    made_from_it, order = {ref.uri: True}, list[Node]()

    def visit(uri: str) -> bool:
        if uri in nodes and uri not in made_from_it:
            node = nodes[uri]
            made_from_it[uri] = any([visit(each.uri) for each in node.inputs.values()])
            order.extend([node] if made_from_it[uri] else [])
        return made_from_it.get(uri, False)

    for uri in nodes:
        visit(uri)
    return order


def read_node(ref: StoreRef) -> Node:
    """Raises FileNotFoundError if there is no such store."""
    return Node(ref=ref, manifest=store.read_manifest(ref), complete=store.is_complete(ref))


def newest_complete(root: str, stage: str) -> list[Manifest]:
    """Of the stage's complete versions, the newest first."""
    keys = open_files(root).list(f"{STORES}/{stage}")
    refs = [StoreRef.at(root, stage, key) for key in keys]
    manifests = [store.read_manifest(ref) for ref in refs if store.is_complete(ref)]
    return sorted(manifests, key=made, reverse=True)


def made(manifest: Manifest) -> tuple[float, str]:
    """Sorts versions by the time at which they were begun; the key decides within a second."""
    return datetime.fromisoformat(manifest.created).timestamp(), manifest.key


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
            key=lambda r: made(store.read_manifest(r)),
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
