"""FVD: how far the videos of each method, as a set, are from the camera's.

A number of the whole set, not of a clip: it stands among the means alone, and is no part of
`tables/clips.csv`.
"""

from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from model.frechet import frechet_distance
from model.i3d import LEAST_FRAMES, N_FEATURES, I3d
from model.value_range import IMAGES
from stages.evaluation.scores import CAMERA, FRAME, Candidate, Cell, Scores
from storage.stores.rows import Rows
from storage.weights.ref import WeightsRef


class Fvd:
    """Gathers features clip by clip; each of the frames after frame 0."""

    def __init__(self, network: I3d):
        self._network = network
        self._camera: list[Float[Tensor, " d"]] = []
        self._methods: dict[tuple[tuple[str, ...], str], list[Float[Tensor, " d"]]] = {}

    @classmethod
    def start(
        cls, weights: WeightsRef | None, rows: Mapping[str, Rows], device: torch.device
    ) -> "Fvd | None":
        """None without weights. Raises ValueError for clips that are too short."""
        if weights is None:
            return None
        check_length(rows["clip"].spec("rgb").shape[0])
        return cls(I3d(weights.resolve(), device))

    def add(self, camera: Float[Tensor, "t c h w"], videos: Iterable[Candidate]) -> None:
        """A clip with its videos. Raises ValueError for one that is too short."""
        self._camera.append(self._features(camera))
        for protocols, method, video in videos:
            self._methods.setdefault((protocols, method), []).append(self._features(video))

    def scores(self) -> Scores:
        """FVD of every method; empty for a single clip, which has no spread."""
        if len(self._camera) < 2:
            return {}
        true = torch.stack(self._camera)
        return {
            Cell(protocol, CAMERA, FRAME, method, "fvd"): frechet_distance(torch.stack(found), true)
            for (protocols, method), found in self._methods.items()
            for protocol in protocols
        }

    def _features(self, video: Float[Tensor, "t c h w"]) -> Float[Tensor, " d"]:
        return self._network(video[None, 1:], value_range=IMAGES)[0]


def check_length(n_frames: int) -> None:
    """Raises ValueError for clips that are too short, before anything is generated."""
    if n_frames - 1 < LEAST_FRAMES:
        raise ValueError(
            f"evaluation.fvd: clips of {n_frames} frames leave {n_frames - 1} after frame 0, FVD "
            f"needs {LEAST_FRAMES} or more: take longer clips, or evaluation.fvd=null"
        )


def fvd_note(is_measured: bool, n_clips: int) -> str:
    """What the number means."""
    if not is_measured:
        return "FVD was not measured: no weights of I3D were given (docs/weights.md)."
    note = (
        f"FVD: Fréchet distance of I3D's features of {n_clips} videos, the frames after frame 0, "
        "to those of the camera's. Few videos make it too large: compare values of the same clips "
        "and of equal numbers only"
    )
    if n_clips <= N_FEATURES:
        note += f" (papers have 2,048 videos; here are fewer than the {N_FEATURES} features)"
    return f"{note}. It is a number of all clips together, so it has no interval."
