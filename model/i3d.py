"""The features that FVD is measured with: I3D, trained on Kinetics-400.

Carreira and Zisserman 2017, arXiv:1705.07750.

The user provides the weights: the TorchScript file of StyleGAN-V's authors, by their account the
network of the first FVD code; no copy of it was loaded here. Other I3Ds give other distances. A
TorchScript file is a program for torch's own interpreter, unlike all other weights here, which are
tensors alone: see docs/weights.md.
"""

import warnings
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from model.value_range import LEVELS, ValueRange, as_images

SOURCE = "I3D as TorchScript (i3d_torchscript.pt), from `roboscape weights fetch i3d-kinetics400`"
N_FEATURES = 400  # logits of the classes
LEAST_FRAMES = 10  # fewer are too short for its pooling in time


class I3d:
    """Videos -> features. Any size: the network resizes to 224 x 224 px itself."""

    def __init__(self, path: str | Path, device: torch.device | str = "cpu"):
        """Raises FileNotFoundError or ValueError, naming what was expected, if the file is missing
        or is no TorchScript.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such file; FVD needs {SOURCE}")
        try:
            with warnings.catch_warnings():
                # torch.export, which is to take its place, cannot read these files
                warnings.simplefilter("ignore", DeprecationWarning)
                self._network = torch.jit.load(str(path), map_location=device).eval()
        except RuntimeError as error:
            raise ValueError(f"{path}: no TorchScript file; FVD needs {SOURCE}") from error
        self._path, self._device = path, device

    @torch.no_grad()
    def __call__(
        self, videos: Float[Tensor, "b t c h w"], *, value_range: ValueRange
    ) -> Float[Tensor, "b d"]:
        """Logits of each video, on the CPU.

        Raises ValueError for fewer than LEAST_FRAMES frames, and if the file is another network.
        """
        if videos.shape[1] < LEAST_FRAMES:
            raise ValueError(
                f"videos of {videos.shape[1]} frames: FVD needs {LEAST_FRAMES} or more of each"
            )
        (images,) = as_images(videos, value_range=value_range)
        # It takes the 8-bit levels of stored videos, and scales them itself
        levels = ((images.clamp(-1, 1) + 1) * LEVELS).round()
        levels = rearrange(levels, "b t c h w -> b c t h w").to(self._device)
        try:
            features = self._network(levels, rescale=True, resize=True, return_features=True)
        except RuntimeError as error:
            raise ValueError(
                f"{self._path}: it does not run on videos ({_last_line(error)}); FVD needs {SOURCE}"
            ) from error
        found = tuple(getattr(features, "shape", ()))
        if found != (len(videos), N_FEATURES):
            raise ValueError(
                f"{self._path}: its output has shape {found}, expected "
                f"{(len(videos), N_FEATURES)}; FVD needs {SOURCE}"
            )
        return features.float().cpu()


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
