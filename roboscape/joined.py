"""Which stores belong together: a store of clips, and the labels and tokens made from it.

A role's store is the newest complete one of that stage that was made from these clips and, where it
was made from other joined stores too (keypoints from a depth, say), from those that are joined. So
arrays of two versions of the labels are never mixed. It is found from the stores' manifests.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from pipeline.lineage.graph import newest_complete
from roboscape.errors import RejectedClip
from storage.stores.records import Manifest, StoreRef
from storage.stores.rows import ClipRows, IndexRows, Rows, open_rows

ROLES = ("depth", "keypoints", "label_quality", "rgb_tokens", "depth_tokens")


class JoinedStores:
    """Opened as they are needed; a role that `named` has is that store. Can be pickled."""

    def __init__(self, clip: ClipRows, named: Mapping[str, StoreRef]):
        self.clip, self._named = clip, dict(named)
        self._refs: dict[str, StoreRef | None] = {}
        self._rows: dict[str, Rows] = {}

    @property
    def root(self) -> str:
        return self.clip.ref.root

    @cached_property
    def index(self) -> IndexRows:
        index = self.clip.index
        assert isinstance(index, IndexRows), index
        return index

    def rows(self, role: str) -> Rows:
        """Raises LookupError if there is no such store."""
        if role == "clip":
            return self.clip
        if role == "discover":
            return self.index
        if role not in self._rows:
            self._rows[role] = open_rows(self.ref(role))
        return self._rows[role]

    def ref(self, role: str) -> StoreRef:
        """Raises LookupError, saying what there is, if no complete store belongs to the clips."""
        if role not in ROLES:
            raise LookupError(f"no store '{role}' is joined to clips; there is: {', '.join(ROLES)}")
        found = self.find(role)
        if found is None:
            raise LookupError(self._nothing(role))
        return found

    def find(self, role: str) -> StoreRef | None:
        if role in self._named:
            return self._named[role]
        if role not in self._refs:
            fits = [each for each in newest_complete(self.root, role) if self._belongs(each)]
            self._refs[role] = StoreRef.at(self.root, role, fits[0].key) if fits else None
        return self._refs[role]

    def _belongs(self, manifest: Manifest) -> bool:
        """Whether those of its inputs that are joined here are these very stores."""
        keys = manifest.input_keys
        known = {"discover": self.index.ref, "clip": self.clip.ref}
        known |= {role: ref for role in keys if role in ROLES and (ref := self.find(role))}
        shared = keys.keys() & known.keys()
        return bool(shared) and all(keys[role] == known[role].key for role in shared)

    def _nothing(self, role: str) -> str:
        others = newest_complete(self.root, role)
        made_from = [
            f"{role}/{each.key} ("
            + ", ".join(
                f"{name}/{key}" for name, key in each.input_keys.items() if name != "discover"
            )
            + ")"
            for each in others
        ]
        there = f"those in {self.root} are made from others: {'; '.join(made_from)}"
        return (
            f"no complete store '{role}' is made from {self.clip.ref} and the labels joined to it; "
            + (there if others else f"there is none in {self.root}: its stage has not run")
        )

    def rejected(self, role: str, row: int, what: str) -> RejectedClip:
        """The error, with its first reason, for a row that the role's store lacks."""
        at = self.rows(role)
        reject = next((r for r in at.rejected if r.row == row), None)
        # A row that an input lacked says only which input that was.
        while reject is not None and (lacking := reject.lacking_input):
            at = self.rows(lacking)
            reject = next((r for r in at.rejected if r.row == row), None)
        return RejectedClip(
            f"clip {self.clip.clip_ids[row]} (row {row}) has no {what}: {at.ref} rejected it "
            f"({at.why_rejected(row)})"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_rows": {}}
