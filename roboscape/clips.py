"""The clips of a store: by row or id, in slices and splits, for PyTorch and as a table."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, overload

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int

from roboscape.arrays import gather, place
from roboscape.clip import Clip
from roboscape.joined import ROLES, JoinedStores
from stages.clip_choice import needs_labels
from stages.flag_counts import has_any
from stages.flags import all_flagged, check_names
from stages.label_quality.measures import flag_names

if TYPE_CHECKING:
    import roboscape.dataset


class Clips:
    """Clips of one store, all or some, from `Workspace.clips`.

    `len` counts rows and `clips[i]` is the i-th of them, rejected ones too, so that in the whole
    store i is the row by which the command line names the clip. Iterating gives those that have
    frames.

    Labels belong to the clips by this rule: depth, keypoints, label_quality and tokens are each the
    newest complete store that was made from this store of clips and, where it was made from another
    of these stores too, from the one that is joined. `stores` names them; `Workspace.clips` takes
    others by name.
    """

    def __init__(self, stores: JoinedStores, rows: Int[np.ndarray, " n"] | None = None):
        self._stores = stores
        self._rows = np.arange(stores.clip.n) if rows is None else rows

    @property
    def rows(self) -> Int[np.ndarray, " n"]:
        """The store's row of each."""
        return self._rows.copy()

    @property
    def ok(self) -> Bool[np.ndarray, " n"]:
        """Which of them have frames: those that the stage `clip` did not reject."""
        return self._stores.clip.ok[self._rows]

    @property
    def store(self) -> str:
        """`clip/KEY`."""
        return str(self._stores.clip.ref)

    @property
    def stores(self) -> dict[str, str]:
        """The stores that belong to the clips: role -> `stage/key`, without what is not there."""
        found = {role: self._stores.find(role) for role in ROLES}
        return {"clip": self.store} | {role: str(ref) for role, ref in found.items() if ref}

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, which: int | np.integer | str) -> Clip: ...

    @overload
    def __getitem__(self, which: slice | Sequence[int] | np.ndarray) -> "Clips": ...

    def __getitem__(
        self, which: "int | np.integer | str | slice | Sequence[int] | np.ndarray"
    ) -> "Clip | Clips":
        """One `Clip` by place or clip id; some `Clips` by a slice, places, or a mask.

        Raises IndexError or LookupError for one that is not among them.
        """
        if isinstance(which, str):
            return Clip(self._stores, self._row_of(which))
        if isinstance(which, int | np.integer):
            if not -len(self) <= which < len(self):
                raise IndexError(f"{self.store}: {len(self)} clips, none at {which}")
            return Clip(self._stores, int(self._rows[which]))
        places = which if isinstance(which, slice) else np.asarray(which)
        if isinstance(places, np.ndarray) and places.size == 0:
            places = places.astype(int)
        return Clips(self._stores, self._rows[places])

    def __iter__(self) -> Iterator[Clip]:
        return (Clip(self._stores, row) for row in self._rows[self.ok].tolist())

    def select(
        self,
        *,
        split: str | None = None,
        flagged: bool | None = None,
        drop_flags: Sequence[str] = (),
    ) -> "Clips":
        """Some of the clips, by what is known of them.

        split: train, val or test.
        flagged: True for clips whose labels have a flag, False for those with labels and no flag.
        drop_flags: leave out clips with one of these flags of recording or labels, and those that
        were rejected, as `world_model.drop_flags` does; docs/reliability.md lists all flags.
        Raises LookupError for flags of labels if no label_quality belongs to the clips, ValueError
        for a flag that does not exist.
        """
        keep = np.ones(len(self), bool)
        if split is not None:
            keep &= self._splits() == split
        if flagged is not None:
            quality = self._stores.rows("label_quality")
            keep &= quality.ok[self._rows]
            keep[keep] = (quality.gather("flags", self._rows[keep]) > 0) == flagged
        if drop_flags:
            check_names("drop_flags", drop_flags)
            roles = ("clip", "label_quality") if needs_labels(tuple(drop_flags)) else ("clip",)
            stores = {role: self._stores.rows(role) for role in roles}
            for store in stores.values():
                keep &= store.ok[self._rows]
            found = all_flagged(stores, self._rows[keep])
            keep[keep] = ~has_any(found, drop_flags, int(keep.sum()))
        return self[keep]

    def stack(self, name: str) -> np.ndarray:
        """An array of all clips that have it, stacked: (n, *shape). Names as in `Clip`.

        Raises LookupError if no such store belongs to the clips.
        """
        role, _ = place(self._stores, name)
        return gather(self._stores, name, self._rows[self._stores.rows(role).ok[self._rows]])

    def torch_dataset(
        self,
        arrays: Sequence[str],
        *,
        split: str | None = None,
        drop_flagged: bool = False,
        drop_flags: Sequence[str] = (),
    ) -> "roboscape.dataset.ClipDataset":
        """A map-style PyTorch dataset of those clips that have all these arrays.

        arrays: names as in `Clip`, or `discover/COLUMN` for a column of the index, such as
        `discover/clip_id`. An item is a dict of them: tensors, and text as str. Several workers of
        a DataLoader can read it; from a bucket with `multiprocessing_context="spawn"`.
        split: train, val or test; all if None.
        drop_flagged: leave out clips whose labels have a flag, as `world_model.drop_flagged` does.
        drop_flags: leave out clips with one of these flags, as in `select`.
        Raises LookupError for an array that no store has, ValueError if no clip is left.
        """
        from roboscape.dataset import ClipDataset

        chosen = self if split is None else self.select(split=split)
        chosen = chosen.select(flagged=False) if drop_flagged else chosen
        chosen = chosen.select(drop_flags=drop_flags)
        return ClipDataset(chosen._stores, chosen._rows, tuple(arrays))

    def to_frame(self) -> pa.Table:
        """The index of these clips, rejected ones too, as a table (`.to_pandas()` for pandas).

        Its columns stand after `row` and `ok`, and before `reason` and `detail` of what the stage
        `clip` rejected, `flags` of label_quality (null where a clip has no labels), and
        `recording_flags` (null where it was rejected).
        """
        table = self._stores.index.table.take(pa.array(self._rows))
        rejects = {reject.row: reject for reject in self._stores.clip.rejected}
        of_row = [rejects.get(row) for row in self._rows.tolist()]
        table = table.add_column(0, "ok", pa.array(self.ok))
        table = table.add_column(0, "row", pa.array(self._rows))
        for name in ("reason", "detail"):
            values = [None if reject is None else getattr(reject, name) for reject in of_row]
            table = table.append_column(name, pa.array(values, pa.string()))
        table = table.append_column("flags", pa.array(self._flags(), pa.list_(pa.string())))
        recorded = pa.array(self._recording_flags(), pa.list_(pa.string()))
        return table.append_column("recording_flags", recorded)

    def _recording_flags(self) -> list[list[str] | None]:
        found = all_flagged({"clip": self._stores.clip}, self._rows[self.ok])
        made = [[name for name, has in found.items() if has[i]] for i in range(int(self.ok.sum()))]
        of_made = iter(made)
        return [next(of_made) if ok else None for ok in self.ok]

    def _flags(self) -> list[list[str] | None]:
        if self._stores.find("label_quality") is None:
            return [None] * len(self)
        quality = self._stores.rows("label_quality")
        has = quality.ok[self._rows]
        bits = iter(quality.gather("flags", self._rows[has]).tolist())
        return [flag_names(next(bits)) if each else None for each in has]

    def _splits(self) -> np.ndarray:
        return self._stores.index.gather("split", self._rows)

    def _row_of(self, clip_id: str) -> int:
        ids = self._stores.index.clip_ids
        row = next((row for row in self._rows.tolist() if ids[row] == clip_id), None)
        if row is None:
            among = f"among these {len(self)} of {len(ids)}" if clip_id in ids else "in its index"
            raise LookupError(
                f"{self.store}: clip '{clip_id}' is not {among}; ids look like {ids[0]}"
            )
        return row

    def __repr__(self) -> str:
        t, h, w, _ = self._stores.clip.spec("rgb").shape
        whole = "" if len(self) == self._stores.clip.n else f" of {self._stores.clip.n}"
        splits, rows = Counter(self._splits().tolist()), set(self._rows.tolist())
        rejects = self._stores.clip.rejected
        reasons = Counter(reject.reason for reject in rejects if reject.row in rows)
        parts = [
            f"{len(self)}{whole} clips, " + ", ".join(f"{n} {name}" for name, n in splits.items()),
            f"{t} frames of {h} x {w} px at {self._stores.clip.rate_hz:g} Hz",
        ]
        if reasons:
            rejected = ", ".join(f"{n} {reason}" for reason, n in reasons.most_common())
            parts.append(f"rejected: {rejected}")
        return f"<Clips {self.store}: {'; '.join(parts)}>"
