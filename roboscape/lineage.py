"""What a store was made from, back to the episode files, and what was made from it."""

import io
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pipeline.lineage.graph import Node, ancestry, descendants, read_node, source_of
from storage.stores.records import StoreRef


class Lineage:
    """One store in the graph of all, from `Workspace.lineage`; its text is the tree behind it."""

    def __init__(self, ref: StoreRef):
        self._ref, self._node = ref, read_node(ref)

    @property
    def store(self) -> str:
        """`stage/KEY`."""
        return str(self._ref)

    @property
    def uri(self) -> str:
        """Where it is."""
        return self._ref.uri

    @property
    def complete(self) -> bool:
        """Whether all of it is made."""
        return self._node.complete

    @property
    def parameters(self) -> dict[str, Any]:
        """The stage's parameters, by name; those of its parts as dicts inside."""
        return self._node.manifest.parameters

    @property
    def code(self) -> dict[str, Any]:
        """Commit, and versions of Python and of the libraries."""
        return self._node.manifest.code

    @property
    def weights(self) -> list[dict[str, Any]]:
        """Weights files that its stage used itself: name, sha256, licence."""
        return self._node.manifest.weights

    @property
    def inputs(self) -> dict[str, str]:
        """What it was made from directly: role -> `stage/KEY`."""
        return dict(self._node.manifest.inputs)

    @property
    def source(self) -> str:
        """The episode files behind it, in words."""
        return source_of(ancestry(self._ref))

    def upstream(self) -> pa.Table:
        """Everything that it was made from, inputs first: one row a store.

        Columns: stage, key, version, complete, created, commit, clips, weights, parameters (as
        JSON), uri.

        Raises FileNotFoundError if a store on the way has been deleted.
        """
        return _table(ancestry(self._ref)[:-1])

    def downstream(self) -> pa.Table:
        """Everything in the workspace that was made from it; columns as `upstream` has them."""
        return _table(descendants(self._ref))

    def tree(self, *, parameters: bool = False) -> str:
        """As `roboscape lineage` prints it, with `parameters` those of every store, too."""
        from rich.console import Console

        from pipeline.lineage.tree import lineage_tree

        text = io.StringIO()
        # In a notebook Rich would show it at once, and leave the text empty.
        console = Console(
            file=text, width=1000, color_system=None, highlight=False, force_jupyter=False
        )
        console.print(lineage_tree(ancestry(self._ref), parameters))
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines())

    def __repr__(self) -> str:
        try:
            tree = self.tree()
        except FileNotFoundError as error:  # deleted: what is there is shown all the same
            tree = f"{self.uri}\n{self.store}, made from {self.inputs}; of these, {error}"
        made = ", ".join(str(node.ref) for node in descendants(self._ref))
        return f"{tree}\nmade from it: {made or 'nothing yet'}"


def _table(nodes: Sequence[Node]) -> pa.Table:
    manifests = [node.manifest for node in nodes]
    return pa.table(
        {
            "stage": pa.array([m.stage for m in manifests], pa.string()),
            "key": pa.array([m.key for m in manifests], pa.string()),
            "version": pa.array([m.version for m in manifests], pa.int64()),
            "complete": pa.array([node.complete for node in nodes], pa.bool_()),
            "created": pa.array([m.created for m in manifests], pa.string()),
            "commit": pa.array([m.code.get("commit") for m in manifests], pa.string()),
            "clips": pa.array([m.n_clips for m in manifests], pa.int64()),
            "weights": pa.array(
                [[w["name"] for w in m.weights] for m in manifests], pa.list_(pa.string())
            ),
            "parameters": pa.array([json.dumps(m.parameters) for m in manifests], pa.string()),
            "uri": pa.array([node.ref.uri for node in nodes], pa.string()),
        }
    )
