"""LPIPS, where the user has its weights."""

from dataclasses import dataclass

import torch

from model.lpips import Lpips, load_lpips
from storage.weights.ref import WeightsRef


@dataclass(frozen=True, kw_only=True)
class LpipsWeights:
    """The two files of LPIPS (AlexNet): `model/lpips.py` says where they come from."""

    trunk: WeightsRef
    linear: WeightsRef

    def load(self, device: torch.device) -> Lpips:
        return load_lpips(self.trunk.resolve(), self.linear.resolve()).to(device)
