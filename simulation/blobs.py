# MuJoCo's functions are compiled and have no stubs.
# pyright: reportAttributeAccessIssue=false
"""Where moving geoms can be in a picture: spheres around them, and the pixels that these cover."""

import mujoco
import numpy as np
from jaxtyping import Bool, Float

from simulation.scene import Camera


class Blobs:
    """Spheres that together contain every moving geom; long geoms get several small ones."""

    def __init__(self, model: mujoco.MjModel):
        geoms, offsets, radii = [], [], []
        for g in np.flatnonzero(model.geom_group == 1):
            size, kind = model.geom_size[g], model.geom_type[g]
            if kind in (mujoco.mjtGeom.mjGEOM_CAPSULE, mujoco.mjtGeom.mjGEOM_CYLINDER):
                n = max(int(np.ceil(size[1] / size[0])), 1)
                along = (2 * np.arange(n) + 1 - n) / n * size[1]
                radius = float(np.hypot(size[0], size[1] / n))
                if kind == mujoco.mjtGeom.mjGEOM_CAPSULE:
                    radius += size[0] * 0.3
            else:
                along, radius = np.zeros(1), float(model.geom_rbound[g])
            for a in along:
                geoms.append(g)
                offsets.append((0, 0, a))
                radii.append(radius)
        self.geoms, self.offsets, self.radii = np.array(geoms), np.array(offsets), np.array(radii)

    def at(self, data: mujoco.MjData) -> tuple[Float[np.ndarray, "k 3"], Float[np.ndarray, " k"]]:
        turn = data.geom_xmat[self.geoms].reshape(-1, 3, 3)
        return data.geom_xpos[self.geoms] + np.einsum("kij,kj->ki", turn, self.offsets), self.radii


def covered_pixels(
    camera: Camera,
    centres: Float[np.ndarray, "k 3"],
    radii: Float[np.ndarray, " k"],
    margin_px: float,
) -> Bool[np.ndarray, " n"]:
    """Pixels in the boxes around projected spheres: a superset of those that their geoms cover."""
    c = camera
    mask = np.zeros((c.height, c.width), bool)
    local = (centres - c.position_m) @ c.rotation
    for (x, y, z), r in zip(local, radii, strict=True):
        if z < -r:
            continue
        z0 = max(z - r, 0.05)  # the sphere's nearest depth gives its largest extent
        xs = [(x + s * r) / d * c.fx + c.cx for s in (-1, 1) for d in (z0, z + r)]
        ys = [(y + s * r) / d * c.fy + c.cy for s in (-1, 1) for d in (z0, z + r)]
        x0, x1 = max(int(min(xs) - margin_px), 0), int(max(xs) + margin_px) + 1
        y0, y1 = max(int(min(ys) - margin_px), 0), int(max(ys) + margin_px) + 1
        mask[y0 : max(y1, 0), x0 : max(x1, 0)] = True
    return mask.ravel()
