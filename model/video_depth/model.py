"""The network (arXiv:2501.12375, Sec. 3): clips (b t c h w) of normalised frames to depth."""

from typing import Any

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from model.video_depth.config import MAX_FRAMES, VideoDepthConfig
from model.video_depth.encoder import Encoder
from model.video_depth.temporal_head import TemporalHead


class VideoDepth(nn.Module):
    """Video Depth Anything, with all published entries, also unused ones: files load strictly."""

    def __init__(self, config: VideoDepthConfig):
        super().__init__()
        self.config = config
        self.pretrained = Encoder(config)
        self.head = TemporalHead(config)

    def forward(
        self, frames: Float[Tensor, "b t 3 h w"], *, frames_per_step: int = 4, signed: bool = False
    ) -> Float[Tensor, "b t h w"]:
        """Depth >= 0 of every pixel, in `config.units`, of frames from `video.normalised`.

        Frames of a clip see each other. The last, largest layers take `frames_per_step` frames at a
        time: fewer need less memory (see `cost.peak_bytes`). `signed`, for training, leaves out the
        last ReLU, which passes no gradient where the depth is 0: see `losses.depth_loss`.

        Raises ValueError for more than 32 frames (the length of the position tables) or sides that
        are no multiples of 14.
        """
        n_frames, (height, width) = frames.shape[1], frames.shape[-2:]
        if n_frames > MAX_FRAMES:
            raise ValueError(
                f"a clip of {n_frames} frames: a forward pass takes at most {MAX_FRAMES}; "
                "`model.video_depth.video.estimate_depth` with windows='official' takes longer ones"
            )
        grid = self.config.grid(height, width)
        taps = self.pretrained(rearrange(frames, "b t c h w -> (b t) c h w"))
        depth = self.head(taps, grid, n_frames, frames_per_step, signed=signed)
        return rearrange(depth, "(b t) h w -> b t h w", t=n_frames)


def compile_blocks(network: VideoDepth, **options: Any) -> None:
    """Compiles the encoder's blocks, where most of the arithmetic is, in place.

    All blocks share a graph; another number of frames or input size needs another one. `options`
    are those of `torch.compile`.
    """
    for block in network.pretrained.blocks:
        block.compile(dynamic=False, **options)
