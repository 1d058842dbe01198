"""A generated video beside its clip: the frames, the actions that led to them, and their PSNR."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int
from torch import Tensor

from model.metrics import frame_psnr
from stages.tokenizer.images import Source


@dataclass(frozen=True, kw_only=True)
class Course:
    """The actions that lead into each frame, in the data set's units; those into frame 0 say where
    it starts.
    """

    actions: Float32[np.ndarray, "t i a"]
    n_given: (
        int  # the actions of this many frames were given; in those after, the last pose is held
    )
    own: bool  # they are the clip's


@dataclass(frozen=True, kw_only=True)
class GeneratedVideo:
    """Images in [-1, 1] by source, `rgb` and perhaps `depth`; frame 0 of `predicted` is the given
    one.
    """

    clip_id: str
    course: Course
    tokens: Mapping[Source, Int[Tensor, "n gh gw"]]
    predicted: Mapping[Source, Float[Tensor, "n c h w"]]
    true: Mapping[Source, Float[Tensor, "t c h w"]]  # the clip's own, decoded from its tokens

    @property
    def psnr(self) -> float | None:
        """Mean over the predicted frames that have a true one, in dB; None under actions that are
        not the clip's.
        """
        n = min(len(self.true["rgb"]), len(self.predicted["rgb"]))
        if not self.course.own:
            return None
        return (
            frame_psnr(self.predicted["rgb"][None, 1:n], self.true["rgb"][None, 1:n]).mean().item()
        )

    @property
    def held(self) -> bool:
        """Whether it is longer than its actions."""
        return self.course.n_given < len(self.course.actions)

    @property
    def notes(self) -> list[str]:
        """How it was made, in a few words each."""
        own = self.course.own
        said = ["under its own actions" if own else "under other actions than its own"]
        if self.held:
            said.append(f"from frame {self.course.n_given} on the last action is held")
        if self.psnr is not None:
            said.append(f"PSNR {self.psnr:.1f} dB against its decoded frames")
        return said
