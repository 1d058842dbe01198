"""A generated video and its clip: frames, the actions that led to them, and PSNR."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int
from torch import Tensor

from model.metrics import frame_psnr
from model.value_range import IMAGES
from stages.tokenizer.images import Source


@dataclass(frozen=True, kw_only=True)
class Course:
    """The actions that lead into each frame, in the data set's units; frame 0's are its start."""

    actions: Float32[np.ndarray, "t i a"]
    n_given: int  # frames with given actions; in later frames the last pose is held
    own: bool  # whether the actions are the clip's


@dataclass(frozen=True, kw_only=True)
class GeneratedVideo:
    """Images in [-1, 1] by source, `rgb` and perhaps `depth`; frame 0 of `predicted` is given."""

    clip_id: str
    course: Course
    tokens: Mapping[Source, Int[Tensor, "n gh gw"]]
    predicted: Mapping[Source, Float[Tensor, "n c h w"]]
    true: Mapping[Source, Float[Tensor, "t c h w"]]  # the clip's own, decoded from its tokens

    @property
    def psnr(self) -> float | None:
        """Mean in dB over the predicted frames with a true one; None under other actions."""
        if not self.course.own:
            return None
        true, predicted = self.true["rgb"], self.predicted["rgb"]
        n = min(len(true), len(predicted))
        ours, wanted = predicted[None, 1:n], true[None, 1:n]
        return frame_psnr(ours, wanted, value_range=IMAGES).mean().item()

    @property
    def held(self) -> bool:
        """Whether it is longer than its actions."""
        return self.course.n_given < len(self.course.actions)

    @property
    def notes(self) -> list[str]:
        """How the video was made, a few words each."""
        own = self.course.own
        notes = ["under its own actions" if own else "under other actions than its own"]
        if self.held:
            notes.append(f"from frame {self.course.n_given} on the last action is held")
        if self.psnr is not None:
            notes.append(f"PSNR {self.psnr:.1f} dB against its decoded frames")
        return notes
