"""One clip: frames, actions and states, and the labels that belong to it, read when asked for."""

from functools import cached_property
from textwrap import shorten
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from roboscape.arrays import gather
from roboscape.joined import JoinedStores
from stages.flags import flagged
from stages.label_quality.measures import flag_names


class Clip:
    """A row of a store of clips, from `Clips`. Arrays are read once, and cannot be written to: copy
    one to change it.

    t frames, h x w px, i actions between two frames, a numbers to an action, p points. Units are
    those of the data set; for AGIBOT-World an action has 16 numbers, the left arm and then the
    right: position in m, quaternion xyzw, both in the base frame, gripper from 0 open to 1 closed.

    Every array raises RejectedClip, with the reason, if a stage rejected the clip, and LookupError
    if there is no store of its stage; `Clips` says which stores belong to it.
    """

    def __init__(self, stores: JoinedStores, row: int):
        self._stores, self._row = stores, row
        self._arrays: dict[str, np.ndarray] = {}

    @property
    def row(self) -> int:
        """Its row in the store, by which the command line names it."""
        return self._row

    @property
    def clip_id(self) -> str:
        """16 hex digits that name the clip for good: the same in every index that has it."""
        return self._stores.index.clip_ids[self._row]

    @cached_property
    def about(self) -> dict[str, Any]:
        """Its row of the index: task, episode, camera, start, texts, skills, files and so on."""
        return self._stores.index.table.slice(self._row, 1).to_pylist()[0]

    @property
    def split(self) -> str:
        """train, val or test: of its whole episode."""
        return self._column("split")

    @property
    def episode(self) -> int:
        """Number of the episode, in the data set."""
        return self._column("episode")

    @property
    def task(self) -> int:
        """Number of the episode's task; -1 where the data set does not say."""
        return self._column("task")

    @property
    def text(self) -> str:
        """What is done in it, in words: its segments' texts, or the task's name without any."""
        return " ".join(self._column("texts")) or self._column("task_name")

    @property
    def rate_hz(self) -> float:
        """Frames per second."""
        return self._stores.clip.rate_hz

    @property
    def ok(self) -> bool:
        """Whether it has frames; `rejected` says why not. Labels may lack even so."""
        return bool(self._stores.clip.ok[self._row])

    @property
    def rejected(self) -> str:
        """Why the stage `clip` rejected it, "" if it did not."""
        return "" if self.ok else self._stores.clip.why_rejected(self._row)

    @property
    def rgb(self) -> UInt8[np.ndarray, "t h w 3"]:
        """The camera's frames."""
        return self["rgb"]

    @property
    def actions(self) -> Float32[np.ndarray, "t i a"]:
        """Commands: `actions[t]` are those that lead into frame t."""
        return self["actions"]

    @property
    def states(self) -> Float32[np.ndarray, "t i a"]:
        """What was measured after each command; the last of `states[t]` is at frame t."""
        return self["states"]

    @property
    def depth(self) -> Float32[np.ndarray, "t h w"]:
        """Inverse depth, larger is nearer; NaN where the annotator knows none. In 1/m, or known up
        to scale and shift, as `depth_units` says.
        """
        return self["depth"]

    @property
    def depth_units(self) -> str:
        """`1/m`, or `relative`: known up to one scale and one shift."""
        return self._stores.rows("depth").spec("inverse_depth").units

    @property
    def tracks(self) -> Float32[np.ndarray, "t p 2"]:
        """Points of frame 0, followed: x, y in px, (0, 0) the centre of the top-left pixel."""
        return self["tracks"]

    @property
    def visible(self) -> Bool[np.ndarray, "t p"]:
        """Whether each point of `tracks` is seen in the frame."""
        return self["visible"]

    @property
    def flags(self) -> tuple[str, ...]:
        """What is odd about its labels, such as `flicker` or `tracks_hidden`; () if nothing is."""
        return tuple(flag_names(int(self["flags"])))

    @property
    def recording_flags(self) -> tuple[str, ...]:
        """What is odd about its recording, such as `count_mismatch`; () if nothing is, or if the
        store of clips records none. docs/reliability.md says what each means.
        """
        if not self.ok:
            raise self._stores.rejected("clip", self._row, "recording_flags")
        found = flagged(self._stores.clip, np.array([self._row]))
        return tuple(name for name, has in found.items() if has[0])

    def __getitem__(self, name: str) -> np.ndarray:
        """An array by the attribute's name, or any array of a store that belongs to the clip:
        `clip["rgb"]`, `clip["depth_tokens"]`, `clip["clip/extrinsics"]`.
        """
        if name not in self._arrays:
            array = gather(self._stores, name, np.array([self._row]))[0, ...]
            array.setflags(write=False)
            self._arrays[name] = array
        return self._arrays[name]

    def picture(self) -> UInt8[np.ndarray, "h w 3"]:
        """A few frames side by side, over their depth and tracks where there are any."""
        from roboscape.drawing import clip_strip

        return clip_strip(self)

    def _column(self, name: str) -> Any:
        if name not in self.about:
            raise LookupError(
                f"the index {self._stores.index.ref} has no column '{name}'; it has "
                f"{', '.join(self.about)}"
            )
        return self.about[name]

    def __repr__(self) -> str:
        about = [f"row {self.row} of {self._stores.clip.ref}"]
        about += [
            f"{name} {self.about[name]}" for name in ("episode", "split") if name in self.about
        ]
        if not self.ok:
            return f"<Clip {self.clip_id}: {', '.join(about)}; rejected: {self.rejected}>"
        t, h, w, _ = self._stores.clip.spec("rgb").shape
        about.append(f"{t} frames of {h} x {w} px at {self.rate_hz:g} Hz")
        said = self.text if {"texts", "task_name"} <= self.about.keys() else ""
        about += [repr(shorten(said, 60, placeholder=" ..."))] if said else []
        return f"<Clip {self.clip_id}: {', '.join(about)}>"

    def _repr_png_(self) -> bytes | None:
        from stages.drawing.pictures import png_bytes

        return png_bytes(self.picture()) if self.ok else None
