"""A world model's checkpoint, and what its card names: clips, tokens and tokenizers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.training.checkpoint import read_header
from stages.evaluation.predict import Networks, networks_of
from storage.stores import store
from storage.stores.records import StoreRef
from storage.stores.results import open_result
from storage.stores.rows import Rows, open_rows


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A world model's checkpoint; the stores that its card names are stored under `root`."""

    path: Path
    root: str
    card: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path, root: str) -> "Checkpoint":
        """The checkpoint of a file; raises ValueError if it is not a world model's."""
        card = read_header(path)["card"]
        if "data" not in card or "tokenizers" not in card:
            raise ValueError(
                f"{path}: its card names no data and no tokenizers; expected a world model's "
                "checkpoint"
            )
        return cls(path=path, root=root, card=card)

    def store(self, name: str) -> StoreRef:
        """The store `stage/key` of the card; raises LookupError if it is not under `root`."""
        ref = StoreRef.at(self.root, *name.split("/", 1))
        if not store.exists(ref):
            raise LookupError(
                f"{self.path} belongs with the store {name}, which is not under {self.root}: set "
                "ROBOSCAPE_HOME or ROBOSCAPE_STORES to where its run wrote it, or make it again "
                "with the same experiment"
            )
        return ref

    def rows(self) -> dict[str, Rows]:
        """The index, the clips and their tokens, by role."""
        roles = ("discover", "clip", *self.card["tokenizers"])
        return {role: open_rows(self.store(self.card["data"][role])) for role in roles}

    def networks(self, rows: Mapping[str, Rows], device: torch.device) -> Networks:
        """The networks; raises ValueError if they and the tokens do not belong together."""
        made_by = self.card["tokenizers"]
        tokenizers = {
            f"{source}_tokenizer": open_result(self.store(made_by[f"{source}_tokens"]))
            for source in ("rgb", "depth")
            if f"{source}_tokens" in made_by
        }
        return networks_of(self.path, rows, tokenizers, device)


def require_usable(rows: Mapping[str, Rows], row: int) -> None:
    """Raises ValueError, with the reason, if one of the stores holds no data in this row."""
    lacking = next((store for store in rows.values() if not store.ok[row]), None)
    if lacking is None:
        return
    found = f"clip {row} has no data in {lacking.ref} ({lacking.why_rejected(row)})"
    usable = np.flatnonzero(np.logical_and.reduce([store.ok for store in rows.values()]))
    if len(usable) == 0:
        raise ValueError(f"{found}, and neither has any other")
    raise ValueError(f"{found}; choose another one, such as row {usable[0]}")
