"""Clips for PyTorch: a map-style dataset over the stores."""

import os
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch.utils.data import Dataset

from roboscape.arrays import gather, place
from roboscape.joined import JoinedStores


class ClipDataset(Dataset):
    """From `Clips.torch_dataset`: item i is a dict with the arrays of one clip, as tensors."""

    def __init__(self, stores: JoinedStores, rows: Int[np.ndarray, " n"], arrays: tuple[str, ...]):
        if not arrays:
            raise ValueError("no array was named: expected some, such as ['rgb', 'actions']")
        self._stores, self._arrays, ok = stores, arrays, np.ones(len(rows), bool)
        for name in arrays:
            role, spec = place(stores, name)
            if -1 in spec.shape:
                raise ValueError(f"{name}: its lists differ in length, so they make no batch")
            ok &= stores.rows(role).ok[rows]
        self._rows, self._process = rows[ok], os.getpid()
        if len(self._rows) == 0:
            raise ValueError(
                f"{stores.clip.ref}: none of these {len(rows)} clips has {', '.join(arrays)}; "
                "look at the rejected ones, or choose another split"
            )

    @property
    def rows(self) -> Int[np.ndarray, " n"]:
        """The store's row of each item."""
        return self._rows.copy()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: int) -> dict[str, Any]:
        if not -len(self) <= i < len(self):
            raise IndexError(f"{len(self)} clips, none at {i}")
        if "://" in self._stores.root and self._process != os.getpid():
            raise RuntimeError(
                f"{self._stores.root} cannot be read in a forked process: give the DataLoader "
                "multiprocessing_context='spawn'"
            )
        row = self._rows[np.array([i])]
        return {name: _item(gather(self._stores, name, row)) for name in self._arrays}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _process=os.getpid())

    def __repr__(self) -> str:
        specs = [(name, place(self._stores, name)[1]) for name in self._arrays]
        arrays = ", ".join(f"{name} {list(spec.shape)}" for name, spec in specs)
        return f"<ClipDataset of {self._stores.clip.ref}: {len(self)} clips; {arrays}>"


def _item(stacked: np.ndarray) -> Any:
    """The only one of the stacked values, as PyTorch takes it."""
    return str(stacked[0]) if stacked.dtype.kind in "US" else torch.from_numpy(stacked)[0]
