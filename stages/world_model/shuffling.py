"""Training clips with the depth or the actions of another clip: controls for studies.

What a network gains from depth that belongs to the video is what it loses by depth of another one.
One trained on another clip's actions cannot be steered: its ΔPSNR is what chance alone gives.
"""

from typing import Literal

import numpy as np
from jaxtyping import Int

from stages.batches import raw_draws

Shuffled = Literal["none", "depth", "actions"]


def partners(rows: Int[np.ndarray, " n"], seed: int) -> dict[int, int]:
    """Of each row another one, drawn at random once: each is the partner of exactly one.

    Raises ValueError for fewer than two rows.
    """
    if len(rows) < 2:
        raise ValueError(f"shuffled: {len(rows)} training clip, expected 2 or more to shuffle")
    order = rows[np.argsort(raw_draws(len(rows), "partners", seed), kind="stable")]
    return dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
