"""The network: frames, depth and query points in; positions and visibility in every frame out.

Follows SpatialTracker (arXiv:2404.04319): section 3.1 makes triplane features of every frame,
section 3.2 refines the points' positions over windows of frames. Internal positions are (x, y, z)
in cells, see `triplane`. Clips in a batch must have their queries in the same frames.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from model.spatial_tracker.codes import (
    FOURIER,
    MOTION,
    fourier_code,
    motion_code,
    position_code,
    sine_table,
)
from model.spatial_tracker.config import STRIDE, SpatialTrackerConfig
from model.spatial_tracker.correlation import correlate, pyramid, sample
from model.spatial_tracker.encoder import FrameEncoder
from model.spatial_tracker.triplane import (
    DepthRange,
    Planes,
    along_planes,
    depth_range,
    plane_head,
    splat,
)
from model.spatial_tracker.updater import UpdateTransformer

FIRST_VISIBILITY = 10.0  # initial logit of all points
FIRST_SUPPORT = 0.1  # initial channels of all support tokens, which therefore stay equal
SUPPORT_STEP = 0.01  # share of the support tokens' output that is added to them

PointFeatures = list[Tensor]  # of points, one per plane


class WindowTracks(NamedTuple):
    """One window's refinements, with gradients, for training.

    Frames after the clip's end repeat its last one.
    """

    start: int  # the window's first frame in the clip
    points: list[int]  # the queries that are in it, sorted by frame
    tracks: Float[Tensor, "i b s p 3"]  # x, y px and depth after every iteration
    visibility: Float[Tensor, "b s p"]  # logits after the last


class TrackerOutput(NamedTuple):
    """Whole tracks, without gradients, and their windows: a later one overwrites an earlier one."""

    tracks: Float[Tensor, "b t p 3"]  # x, y px and depth; 0 where not covered
    visibility: Float[Tensor, "b t p"]  # logits; 0 where not covered
    covered: Bool[Tensor, "t p"]  # frames that a window tracked the point in: all from its query on
    query_frames: Int[Tensor, " p"]
    depth_range: DepthRange
    windows: tuple[WindowTracks, ...]


class Refined(NamedTuple):
    """A refined window, in cells."""

    cells: list[Float[Tensor, "b s p 3"]]  # after every iteration
    visibility: Float[Tensor, "b s p"]  # logits after the last
    support: Float[Tensor, "b j d"]


@dataclass
class CarriedState:
    """What the points start their next window with; new ones start from their queries."""

    cells: Float[Tensor, "b s p 3"]
    visibility: Float[Tensor, "b s p"]
    features: PointFeatures
    support: Float[Tensor, "b j d"]

    @classmethod
    def at_queries(
        cls, queries: Float[Tensor, "b p 3"], config: SpatialTrackerConfig
    ) -> "CarriedState":
        b, p, _ = queries.shape
        return cls(
            cells=repeat(queries, "b p i -> b s p i", s=config.window).clone(),
            visibility=queries.new_full((b, config.window, p), FIRST_VISIBILITY),
            features=[queries.new_zeros(b, p, config.latent) for _ in Planes._fields],
            support=queries.new_full((b, config.support_tokens, config.hidden), FIRST_SUPPORT),
        )

    def advance(self, points: list[int], made: Refined) -> None:
        self.cells[:, :, points] = next_start(made.cells[-1].detach())
        self.visibility[:, :, points] = next_start(made.visibility.detach())
        self.support = made.support.detach()


class SpatialTracker(nn.Module):
    """Encoder, triplanes and update transformer. Entry names are those of the published file."""

    def __init__(self, config: SpatialTrackerConfig):
        super().__init__()
        self.config = config
        width = config.latent
        self.fnet = FrameEncoder(config)
        self.embedConv = nn.Conv2d(width + FOURIER, width, 3, padding=1)
        self.headyz, self.headxz = plane_head(width), plane_head(width)
        self.zeroMLPflow = nn.Linear(MOTION, config.motion)
        self.updateformer = UpdateTransformer(config)
        self.norm = nn.GroupNorm(1, width)
        self.ffeat_updater = nn.Sequential(nn.Linear(width, width), nn.GELU())
        self.ffeatyz_updater = nn.Sequential(nn.Linear(width, width), nn.GELU())
        self.ffeatxz_updater = nn.Sequential(nn.Linear(width, width), nn.GELU())
        self.vis_predictor = nn.Sequential(nn.Linear(width, 1))
        # Untrained, the network does not move points: to the motion code, whose fastest wave turns
        # 154 times per cell, random steps would be noise
        for last in (self.zeroMLPflow, self.updateformer.flow_head[-1]):
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    def forward(
        self,
        frames: Float[Tensor, "b t 3 h w"],
        depth: Float[Tensor, "b t h w"],
        query_frames: Int[Tensor, " p"],
        query_points: Float[Tensor, "b p 3"],
        *,
        iterations: int | None = None,
        attention_dtype: torch.dtype = torch.float32,
    ) -> TrackerOutput:
        """Tracks of points that are given by a frame, and by x, y px and depth in it.

        Frames are 0..255; depth (not inverse), in any unit, is above 0.01 where known, and not
        constant. `query_frames`, on the CPU, are those of all clips. `iterations` are the config's
        unless given. Raises ValueError for clips that are too short, or whose size does not divide
        into cells.
        """
        t, (height, width), window = frames.shape[1], frames.shape[-2:], self.config.window
        self.config.check_length(t)
        self.config.check_size(height, width)
        scale = depth_range(depth, width // STRIDE)
        z = scale.to_cells(depth[..., ::STRIDE, ::STRIDE])
        queries = to_cells(query_points, scale)
        order = torch.argsort(query_frames, stable=True)

        state = CarriedState.at_queries(queries, self.config)
        maps, n_old, windows = None, 0, []
        for start in range(0, t - window // 2, window // 2):
            points = order[query_frames[order] < start + window].tolist()
            if not points:
                continue
            # Features of the window's frames, and of its new points
            maps = self.map_window(frames, z, start, maps)
            planes = self.triplane(maps, z[:, padded(start, window, t)])
            new = points[n_old:]
            found = query_features(planes, query_frames[new] - start, queries[:, new])
            for of_all, of_new in zip(state.features, found, strict=True):
                of_all[:, new] = of_new
            # The published network has masks in the order of the given queries, not of `points`
            masked = points if self.config.own_flags else list(range(len(points)))
            made = self.refine(
                planes,
                state.cells[:, :, points],
                [f[:, points] for f in state.features],
                track_mask(start, window, t, query_frames[masked], n_old).to(frames),
                state.visibility[:, :, points],
                state.support,
                iterations=self.config.iterations if iterations is None else iterations,
                attention_dtype=attention_dtype,
            )
            tracks = torch.stack([from_cells(each, scale) for each in made.cells])
            windows.append(WindowTracks(start, points, tracks, made.visibility))
            state.advance(points, made)
            n_old = len(points)
        return TrackerOutput(*assemble(windows, t, queries), query_frames, scale, tuple(windows))

    def map_window(
        self,
        frames: Float[Tensor, "b t 3 h w"],
        z: Float[Tensor, "b t gh gw"],
        start: int,
        previous: Float[Tensor, "b s c gh gw"] | None,
    ) -> Float[Tensor, "b s c gh gw"]:
        """Features on the xy plane of a window's frames; the first half is from the previous one.

        A pixel's place is coded relative to the range of z in the first window that has its frame.
        """
        t, window = frames.shape[1], self.config.window
        first = 0 if previous is None else window // 2  # the first new frame of the window
        volume = torch.stack(_with_xy(z[:, padded(start, window, t)]), dim=-1)
        code = rearrange(fourier_code(volume)[:, first:], "b s h w k -> b s k h w")
        features = self.fnet(frames[:, start + first : start + window])
        features = features[:, padded(0, window - first, features.shape[1])]
        joined = torch.cat([features, code], dim=2)
        maps = self.embedConv(joined.flatten(0, 1)).unflatten(0, joined.shape[:2])
        return maps if previous is None else torch.cat([previous[:, window // 2 :], maps], dim=1)

    def triplane(self, maps: Float[Tensor, "b s c gh gw"], z: Float[Tensor, "b s gh gw"]) -> Planes:
        """The xy features, and projections along x and y of the volume that depth makes of them."""
        (b, s), n_cells = z.shape[:2], z.shape[-1]
        flat, flat_z = maps.flatten(0, 1), z.flatten(0, 1)
        yz = self.headyz(splat(flat, flat_z, n_cells))
        xz = self.headxz(splat(flat.mT, flat_z.mT, n_cells))
        return Planes(maps, yz.unflatten(0, (b, s)), xz.unflatten(0, (b, s)))

    def refine(
        self,
        planes: Planes,
        cells: Float[Tensor, "b s p 3"],
        features: PointFeatures,
        mask: Float[Tensor, "s p"],
        visibility: Float[Tensor, "b s p"],
        support: Float[Tensor, "b j d"],
        *,
        iterations: int,
        attention_dtype: torch.dtype = torch.float32,
    ) -> Refined:
        """One window's positions, by repeated correction of those that its points start with.

        Gradients of an iteration's positions reach its own step only, and earlier ones through the
        features (RAFT). Raises ValueError for a window of another length than the config's.
        """
        b, s, p, _ = cells.shape
        if s != self.config.window:
            raise ValueError(
                f"window of {s} frames: the network is built for {self.config.window}; build it "
                f"with replace(config, window={s}), its weights fit any window"
            )
        levels = [pyramid(plane.flatten(0, 1), self.config.correlation_levels) for plane in planes]
        updaters = (self.ffeat_updater, self.ffeatyz_updater, self.ffeatxz_updater)
        features = [repeat(f, "b p c -> b s p c", s=s) for f in features]
        flags = (own_flags if self.config.own_flags else dealt_flags)(mask, visibility)
        code = self.codes(cells, planes)
        made = []
        for _ in range(iterations):
            cells = cells.detach()
            motion = self.zeroMLPflow(motion_code(cells - cells[:, :1]))
            correlation = self.correlation(levels, cells, features)
            total = torch.stack(features).sum(0)
            tokens = torch.cat([motion, correlation, total, flags], dim=-1) + code
            update, changed = self.updateformer(tokens, support, attention_dtype)
            support = support + SUPPORT_STEP * changed
            step = self.norm(update[..., 3:].flatten(0, 2)).unflatten(0, (b, s, p))
            features = [f + updater(step) for f, updater in zip(features, updaters, strict=True)]
            cells = cells + update[..., :3]
            made.append(cells)
        return Refined(made, self.vis_predictor(torch.stack(features).sum(0))[..., 0], support)

    def codes(self, cells: Float[Tensor, "b s p 3"], planes: Planes) -> Float[Tensor, "b s p k"]:
        """Codes to add to the tokens: of each point's first place, and of the window's frames."""
        size = (planes.xy.shape[-2], planes.xy.shape[-1])
        where = position_code(cells[:, 0, :, :2], size, self.config.token)[:, None]
        when = sine_table(cells.shape[1], self.config.token, cells)[:, None]
        return where + when

    def correlation(
        self, levels: list[list[Tensor]], cells: Float[Tensor, "b s p 3"], features: PointFeatures
    ) -> Float[Tensor, "b s p k"]:
        """Each point's correlation with its neighbourhood, summed over the planes."""
        radius = self.config.correlation_radius
        parts = [
            correlate(maps, places.flatten(0, 1), feature.flatten(0, 1), radius)
            for maps, places, feature in zip(levels, along_planes(cells), features, strict=True)
        ]
        return sum(parts[1:], parts[0]).unflatten(0, cells.shape[:2])


def query_features(
    planes: Planes, frames: Int[Tensor, " p"], queries: Float[Tensor, "b p 3"]
) -> tuple[Float[Tensor, "b p c"], ...]:
    """The planes' features at each query in its frame of the window, or at the nearest border."""
    b, s = planes.xy.shape[:2]
    index = torch.arange(len(frames), device=queries.device)
    found = []
    for plane, places in zip(planes, along_planes(queries), strict=True):
        # In all frames: less work than a map for each point
        everywhere = repeat(places, "b p i -> (b s) p 1 i", s=s)
        values = sample(plane.flatten(0, 1), everywhere, outside="border")
        values = rearrange(values, "(b s) c p 1 -> b s p c", b=b)
        found.append(values[:, frames.to(queries.device), index])
    return tuple(found)


def track_mask(
    start: int, window: int, n_frames: int, query_frames: Int[Tensor, " p"], n_old: int
) -> Bool[Tensor, "s p"]:
    """The frames of a window in which points are tracked: from their query to the clip's end.

    The first `n_old` points were in the window before, which has tracked them in this one's first
    half.
    """
    frames = torch.arange(start, start + window)[:, None]
    mask = (frames >= query_frames) & (frames < n_frames)
    mask[: window // 2, :n_old] = False
    return mask


def own_flags(
    mask: Float[Tensor, "s p"], visibility: Float[Tensor, "b s p"]
) -> Float[Tensor, "b s p 2"]:
    """Two channels of a token: the point's track mask and visibility."""
    return torch.stack([mask.expand(visibility.shape), visibility], dim=-1)


def dealt_flags(
    mask: Float[Tensor, "s p"], visibility: Float[Tensor, "b s p"]
) -> Float[Tensor, "b s p 2"]:
    """The same two channels as the published network was trained with them.

    All masks and then all visibilities, point by point, form one row that is dealt out in pairs:
    each of the first half of the points gets two masks, mostly of other points, and each of the
    second half two visibilities.
    """
    row = torch.cat([mask.expand(visibility.shape), visibility], dim=2).mT  # (b, 2 p, s)
    b, s, p = visibility.shape
    return row.reshape(b, p, s, 2).transpose(1, 2)


def padded(start: int, length: int, n_frames: int) -> list[int]:
    """Frames [start, start + length); after the clip's end, its last frame."""
    return [min(frame, n_frames - 1) for frame in range(start, start + length)]


def next_start(x: Float[Tensor, "b s *any"]) -> Float[Tensor, "b s *any"]:
    """The start of the next window: the second half of this one, then its last frame repeated."""
    half = x.shape[1] // 2
    return torch.cat([x[:, half:], x[:, -1:].expand(-1, half, *x.shape[2:])], dim=1)


def assemble(
    windows: list[WindowTracks], n_frames: int, queries: Float[Tensor, "b p 3"]
) -> tuple[Float[Tensor, "b t p 3"], Float[Tensor, "b t p"], Bool[Tensor, "t p"]]:
    """Tracks, visibility logits and coverage of a clip from its windows."""
    b, n_points, _ = queries.shape
    tracks = queries.new_zeros(b, n_frames, n_points, 3)
    logits = queries.new_zeros(b, n_frames, n_points)
    covered = torch.zeros(n_frames, n_points, dtype=torch.bool, device=queries.device)
    for start, points, found, visibility in windows:
        n = min(n_frames - start, visibility.shape[1])
        tracks[:, start : start + n, points] = found[-1, :, :n].detach()
        logits[:, start : start + n, points] = visibility[:, :n].detach()
        covered[start : start + n, points] = True
    return tracks, logits, covered


def to_cells(points: Float[Tensor, "b *any 3"], scale: DepthRange) -> Float[Tensor, "b *any 3"]:
    """(x px, y px, depth) in cells."""
    return torch.cat([points[..., :2] / STRIDE, scale.to_cells(points[..., 2:])], dim=-1)


def from_cells(cells: Float[Tensor, "b *any 3"], scale: DepthRange) -> Float[Tensor, "b *any 3"]:
    """(x px, y px, depth) of cells."""
    return torch.cat([cells[..., :2] * STRIDE, scale.to_depth(cells[..., 2:])], dim=-1)


def _with_xy(z: Float[Tensor, "b s gh gw"]) -> tuple[Tensor, Tensor, Tensor]:
    """x, y and z of every cell."""
    y, x = (torch.arange(n, dtype=z.dtype, device=z.device) for n in z.shape[-2:])
    return x.expand(z.shape), y[:, None].expand(z.shape), z
