# MuJoCo's functions are compiled and have no stubs.
# pyright: reportAttributeAccessIssue=false
"""Ray-cast pictures of a scene: RGB, metric depth and geom ids.

Only NumPy and MuJoCo's `mj_multiRay`, no OpenGL, so it runs in a bare container. It is fast since
all still geoms are rendered once per episode (with 2x2 supersampling); per frame, rays are cast
only where moving geoms or their shadows can be, and only against those. A moving camera needs the
still geoms again in each frame, there with two samples a pixel. One point light with shadows,
hemisphere ambient light, edge anti-aliasing, a little sensor blur and noise.
"""

from dataclasses import dataclass

import cv2
import mujoco
import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, UInt8

from simulation.blobs import Blobs, covered_pixels
from simulation.scene import TABLE_TOP_M, Camera, Scene

STILL = np.array([1, 0, 0, 0, 0, 0], np.uint8)  # MuJoCo geom groups
MOVING = np.array([0, 1, 0, 0, 0, 0], np.uint8)
NOTHING = -1  # geom id of a pixel that sees no geom
FAR_M = 20.0
GAMMA = 1 / 2.0
# Sub-pixel offsets: a rotated grid, a regular one, and half of that
_CORNERS = ((-0.125, -0.375), (0.375, -0.125), (0.125, 0.375), (-0.375, 0.125))
_QUARTERS = ((-0.25, -0.25), (0.25, -0.25), (-0.25, 0.25), (0.25, 0.25))
_DIAGONAL = ((-0.25, -0.25), (0.25, 0.25))


@dataclass(frozen=True, kw_only=True)
class Picture:
    rgb: UInt8[np.ndarray, "h w 3"]
    depth_m: Float32[np.ndarray, "h w"]  # along the optical axis; FAR_M where nothing is seen
    geom: Int32[np.ndarray, "h w"]


@dataclass(frozen=True, kw_only=True)
class _Hits:
    """Where rays hit geoms; one row per ray."""

    geom: Int32[np.ndarray, " n"]
    distance: Float[np.ndarray, " n"]
    normal: Float[np.ndarray, "n 3"]


def pixel_rays(
    camera: Camera, x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, " n"]]:
    """Unit directions through pixels in the base frame, and their depth per unit of distance."""
    u, v = (x - camera.cx) / camera.fx, (y - camera.cy) / camera.fy
    local = np.stack([u, v, np.ones_like(x)], axis=1)
    local /= np.linalg.norm(local, axis=1, keepdims=True)
    return local @ camera.rotation.T, local[:, 2]


class Renderer:
    """Renders one scene, frame by frame, each from its `qpos` and camera alone."""

    def __init__(self, scene: Scene):
        self.scene, self.model = scene, scene.model
        self.data = mujoco.MjData(scene.model)
        self.light = np.array(scene.light.position_m)
        self.rgba = scene.model.geom_rgba[:, :3].astype(np.float32)
        self.texture = _value_noise(scene.texture_seed)
        self.table, self.floor, self.wall = (
            scene.model.geom(n).id for n in ("table", "floor", "wall")
        )
        self.noise = np.random.default_rng(scene.texture_seed)
        self.blobs = Blobs(scene.model)
        self._render_still(scene.camera, _QUARTERS)

    def render(self, qpos: Float[np.ndarray, " q"], camera: Camera) -> Picture:
        """The picture of one frame; in order, since the sensor noise is one random sequence."""
        if camera is not self.camera:
            self._render_still(camera, _DIAGONAL)
        self.data.qpos[:] = qpos
        mujoco.mj_kinematics(self.model, self.data)
        centres, radii = self.blobs.at(self.data)
        image = self._shadowed_still(centres, radii)
        geom, depth = self.still_geom.copy(), self.still_depth.copy()

        # Moving geoms where they are in front of the still ones.
        near = np.flatnonzero(covered_pixels(self.camera, centres, radii, margin_px=2.0))
        hits = self._cast(self.camera.position_m, self.rays[near], MOVING)
        seen = (hits.geom >= 0) & (hits.distance * self.axial[near] < depth[near])
        at = near[seen]
        geom[at] = hits.geom[seen]
        depth[at] = (hits.distance[seen] * self.axial[at]).astype(np.float32)
        plain = image.copy()
        image[at] = self._shade_moving(self.rays[at], _take(hits, seen))
        self._smooth_edges(image, plain, geom)
        size = (self.camera.height, self.camera.width)
        return Picture(
            rgb=self._develop(image.reshape(*size, 3)),
            depth_m=depth.reshape(size),
            geom=geom.reshape(size),
        )

    # Still geoms

    def _render_still(self, camera: Camera, offsets: tuple[tuple[float, float], ...]) -> None:
        """What the camera sees of the still geoms; offsets: of each pixel's samples."""
        self.camera = camera
        y, x = np.divmod(np.arange(camera.width * camera.height), camera.width)
        self.x, self.y = x.astype(np.float64), y.astype(np.float64)
        self.rays, self.axial = pixel_rays(camera, self.x, self.y)
        mujoco.mj_kinematics(self.model, self.data)
        hits = self._cast(camera.position_m, self.rays, STILL)
        self.still_geom = hits.geom
        depth = np.where(hits.geom >= 0, hits.distance * self.axial, FAR_M)
        self.still_depth = depth.astype(np.float32)
        self.lit, self.dark = np.zeros((2, len(x), 3), np.float32)
        for dx, dy in offsets:
            lit, dark = self._shade_still(*pixel_rays(camera, self.x + dx, self.y + dy)[:1])
            self.lit += lit / len(offsets)
            self.dark += dark / len(offsets)
        points = camera.position_m + self.rays * hits.distance[:, None]
        low = np.abs(points[:, 2] - TABLE_TOP_M) < 0.035
        self.on_table = (hits.geom >= 0) & low & (points[:, 0] < 1.2)
        self.from_light = _unit(points - self.light)
        self.light_distance = np.linalg.norm(points - self.light, axis=1)

    def _shade_still(self, rays: Float[np.ndarray, "n 3"]) -> tuple[np.ndarray, np.ndarray]:
        """Colours of still geoms with the lamp (and the shadows of still geoms), and without it."""
        hits = self._cast(self.camera.position_m, rays, STILL)
        points = self.camera.position_m + rays * hits.distance[:, None]
        colour = self.rgba[hits.geom] * self._pattern(hits.geom, points)[:, None]
        shadow = self._in_shadow(points, STILL)
        direct, ambient, _ = self._light_on(points, hits.normal, rays)
        white = np.array(self.scene.light.white, np.float32)
        dark = colour * ambient[:, None] * white
        return dark + colour * (direct * ~shadow)[:, None] * white, dark

    def _pattern(
        self, geom: Int32[np.ndarray, " n"], p: Float[np.ndarray, "n 3"]
    ) -> Float32[np.ndarray, " n"]:
        """Brightness of textures that are fixed in the world: grain on the table, tiled floor."""
        n = len(self.texture)
        noise = lambda u, v: self.texture[u.astype(int) % n, v.astype(int) % n]  # noqa: E731
        fine, coarse = noise(p[:, 0] * 180, p[:, 1] * 900), noise(p[:, 0] * 120, p[:, 1] * 120)
        grain = 0.86 + 0.14 * fine + 0.10 * coarse
        checks = np.floor(p[:, :2] / 0.35).sum(axis=1) % 2
        tile = 0.9 + 0.12 * checks * (0.9 + 0.2 * noise(p[:, 0] * 90, p[:, 1] * 90))
        plain = 0.95 + 0.08 * noise(p[:, 1] * 60, p[:, 2] * 60)
        out = np.where(geom == self.table, grain, np.where(geom == self.floor, tile, 1.0))
        return np.where(geom == self.wall, plain, out).astype(np.float32)

    def _shadowed_still(
        self, centres: Float[np.ndarray, "k 3"], radii: Float[np.ndarray, " k"]
    ) -> np.ndarray:
        """The still geoms' colours, with the moving geoms' shadows on table and tray."""
        drop = (TABLE_TOP_M - self.light[2]) / np.minimum(centres[:, 2] - self.light[2], -0.1)
        falls = self.light + (centres - self.light) * drop[:, None]
        slant = np.linalg.norm(falls - self.light, axis=1) / (self.light[2] - TABLE_TOP_M)
        shaded = covered_pixels(self.camera, falls, radii * drop * slant, margin_px=3.0)
        maybe = np.flatnonzero(shaded & self.on_table)
        hits = self._cast(self.light, self.from_light[maybe], MOVING)
        shadow = np.zeros((self.camera.height, self.camera.width), np.float32)
        shadow.ravel()[maybe] = (hits.geom >= 0) & (hits.distance < self.light_distance[maybe])
        shadow = cv2.GaussianBlur(shadow, (0, 0), 0.0055 * self.camera.width).ravel()[:, None]
        return self.lit + np.where(self.on_table[:, None], shadow, 0) * (self.dark - self.lit)

    # Moving geoms

    def _shade_moving(
        self, rays: Float[np.ndarray, "n 3"], hits: _Hits
    ) -> Float32[np.ndarray, "n 3"]:
        points = self.camera.position_m + rays * hits.distance[:, None]
        direct, ambient, shine = self._light_on(points, hits.normal, rays)
        open_ = (~self._in_shadow(points, MOVING)).astype(np.float32)
        diffuse = self.rgba[hits.geom] * (ambient + direct * open_)[:, None]
        colour = diffuse + (0.22 * shine * open_)[:, None]
        return colour * np.array(self.scene.light.white, np.float32)

    def _smooth_edges(
        self, image: np.ndarray, still: np.ndarray, geom: Int32[np.ndarray, " n"]
    ) -> None:
        """Casts four more rays in each pixel on a moving geom's outline; changes `image`."""
        camera, grid = self.camera, geom.reshape(self.camera.height, self.camera.width)
        edge = np.zeros_like(grid, bool)
        for a, b in (((slice(1, None), slice(None)), (slice(-1), slice(None))),
                     ((slice(None), slice(1, None)), (slice(None), slice(-1)))):  # fmt: skip
            change = grid[a] != grid[b]
            edge[a] |= change
            edge[b] |= change
        moves = self.model.geom_group[grid] == 1
        touched = cv2.dilate(moves.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
        at = np.flatnonzero(edge & touched & (grid != NOTHING))
        x, y = self.x[at], self.y[at]
        rays = np.concatenate([pixel_rays(camera, x + dx, y + dy)[0] for dx, dy in _CORNERS])
        hits = self._cast(camera.position_m, rays, MOVING)
        behind = np.tile(self.still_depth[at] / self.axial[at], len(_CORNERS))
        seen = (hits.geom >= 0) & (hits.distance < behind)
        colour = np.tile(still[at], (len(_CORNERS), 1))
        colour[seen] = self._shade_moving(rays[seen], _take(hits, seen))
        image[at] = colour.reshape(len(_CORNERS), -1, 3).mean(axis=0)

    # Rays and light

    def _cast(
        self, origin: Float[np.ndarray, " 3"], rays: Float[np.ndarray, "n 3"], group: np.ndarray
    ) -> _Hits:
        n = len(rays)
        geom, distance, normal = np.full(n, -1, np.int32), np.full(n, -1.0), np.zeros(3 * n)
        if n:
            vec = np.ascontiguousarray(rays, np.float64).ravel()
            with_static, no_body = int(group[0]), -1
            mujoco.mj_multiRay(
                self.model, self.data, origin, vec, group, with_static, no_body,
                geom, distance, normal, n, FAR_M,
            )  # fmt: skip
        return _Hits(geom=geom, distance=distance, normal=normal.reshape(n, 3))

    def _in_shadow(
        self, points: Float[np.ndarray, "n 3"], group: np.ndarray
    ) -> Bool[np.ndarray, " n"]:
        way = points - self.light
        length = np.linalg.norm(way, axis=1)
        hits = self._cast(self.light, way / length[:, None], group)
        return (hits.geom >= 0) & (hits.distance < length - 3e-3)

    def _light_on(
        self,
        points: Float[np.ndarray, "n 3"],
        normal: Float[np.ndarray, "n 3"],
        rays: Float[np.ndarray, "n 3"],
    ) -> tuple[Float32[np.ndarray, " n"], Float32[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
        """The lamp's diffuse light, ambient light and highlight at surface points, for albedo 1."""
        light = self.scene.light
        away = (normal * rays).sum(axis=1, keepdims=True) > 0
        normal = np.where(away, -normal, normal).astype(np.float32)
        to_light = _unit(self.light - points).astype(np.float32)
        facing = np.clip((normal * to_light).sum(axis=1), 0, 1)
        half = _unit(to_light - rays.astype(np.float32))
        shine = np.clip((normal * half).sum(axis=1), 0, 1) ** 32
        ambient = light.ambient * (0.8 + 0.3 * normal[:, 2] - 0.15 * normal[:, 0])
        return (light.strength * facing).astype(np.float32), ambient.astype(np.float32), shine

    def _develop(self, image: Float32[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """Linear light -> 8-bit picture, with a camera's slight blur and noise."""
        image = cv2.GaussianBlur(image, (0, 0), 0.0017 * self.camera.width)
        tone = np.clip(image / (1 + 0.12 * image), 0, 1) ** GAMMA
        noise = self.noise.standard_normal(tone.shape, dtype=np.float32) * np.float32(0.9)
        return np.clip(tone * 255 + noise + 0.5, 0, 255).astype(np.uint8)


def _take(hits: _Hits, which: Bool[np.ndarray, " n"]) -> _Hits:
    return _Hits(geom=hits.geom[which], distance=hits.distance[which], normal=hits.normal[which])


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def _value_noise(seed: int, size: int = 256) -> Float32[np.ndarray, "n n"]:
    """Smooth periodic noise in [0, 1]: the sum of five random grids, coarse to fine."""
    rng, total = np.random.default_rng(seed), np.zeros((size, size))
    for cells in (4, 8, 16, 32, 64):
        grid = rng.standard_normal((cells, cells))
        at, part = np.divmod(np.linspace(0, cells, size, endpoint=False), 1)
        i, f = at.astype(int), part * part * (3 - 2 * part)
        j = (i + 1) % cells
        rows = grid[i] * (1 - f)[:, None] + grid[j] * f[:, None]
        total += (rows[:, i] * (1 - f) + rows[:, j] * f) / cells**0.8
    return ((total - total.min()) / np.ptp(total)).astype(np.float32)
