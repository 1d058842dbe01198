"""The first frame of a clip, and actions -> a generated video of any length.

The free-running protocol of evaluation, for the clip's actions or the user's. After the last given
action its pose is held; beyond the world model's window the KV cache slides.
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from model.magvit2.batched import decode_frames, encode_frames
from model.training.device import step_generator
from model.world.cache import FrameTokens
from model.world.config import SamplingConfig
from model.world.sampling import rollout
from stages.base import Progress
from stages.evaluation.generated_video import Course, GeneratedVideo
from stages.evaluation.predict import SAMPLING_ROLE, Networks
from stages.tokenizer.images import READS, Source, images_of
from stages.world_model.data import pick_substeps

DECODED_AT_ONCE = 16  # frames between two reports of progress


def plan_course(
    own: Float32[np.ndarray, "t s a"],
    given: Float32[np.ndarray, "t2 s2 a"] | None,
    n_frames: int | None,
    n_substeps: int,
) -> Course:
    """The clip's actions, or those given instead, with `n_substeps` a frame.

    Without `n_frames` there are as many frames as actions. A single action of a frame is repeated
    for all its sub-steps. Raises ValueError if there is nothing to predict, or if too few sub-steps
    are given.
    """
    chosen = own if given is None else given
    n = len(chosen) if n_frames is None else n_frames
    if n < 2:
        raise ValueError(f"{n} frames: frame 0 is given, so expected 2 or more")
    if 1 < chosen.shape[1] < n_substeps:
        raise ValueError(
            f"the actions have {chosen.shape[1]} sub-steps a frame, the world model reads "
            f"{n_substeps}: give as many, or one, which is repeated"
        )
    if chosen.shape[1] == 1:
        actions = np.repeat(chosen, n_substeps, axis=1)
    else:
        actions = pick_substeps(chosen[None], n_substeps)[0]
    n_given = min(n, len(actions))
    held = np.broadcast_to(actions[-1:, -1:], (n - n_given, *actions.shape[1:]))
    return Course(
        actions=np.concatenate([actions[:n_given], held]), n_given=n_given, own=given is None
    )


def generate_video(
    networks: Networks,
    clip_id: str,
    true: FrameTokens,
    course: Course,
    sampling: SamplingConfig,
    seed: int,
    progress: Progress,
) -> GeneratedVideo:
    """The video of this clip under these actions; `true` holds the clip's tokens.

    Progress counts the frames that are generated and those that are decoded.
    """
    actions = networks.stats.normalise(torch.from_numpy(course.actions))[None].to(networks.device)
    n, sources = len(course.actions), by_source(true)
    total = n - 1 + len(sources) * (n + true.rgb.shape[1])
    done = 0

    def advance(by: int, note: str) -> None:
        nonlocal done
        done += by
        progress(done, total, note)

    def on_frame(t: int) -> None:
        advance(1, f"frame {t}")

    noise = step_generator(seed, 0, SAMPLING_ROLE)
    advance(0, "generating")
    made = rollout(networks.world, true[:1], actions, sampling, noise, on_frame=on_frame)

    def decode(source: Source, ids: Int[Tensor, "t gh gw"]) -> Float[Tensor, "t c h w"]:
        tokenizer = networks.tokenizer(source)
        chunks = []
        for chunk in ids.split(DECODED_AT_ONCE):
            chunks.append(decode_frames(tokenizer, chunk).cpu())
            advance(len(chunk), "decoding")
        return torch.cat(chunks)

    return GeneratedVideo(
        clip_id=clip_id,
        course=course,
        tokens={source: ids.cpu() for source, ids in by_source(made).items()},
        predicted={source: decode(source, ids) for source, ids in by_source(made).items()},
        true={source: decode(source, ids) for source, ids in sources.items()},
    )


def by_source(tokens: FrameTokens) -> dict[Source, Int[Tensor, "t gh gw"]]:
    """The tokens of a batch of one clip, by source."""
    found: dict[Source, Tensor] = {"rgb": tokens.rgb[0]}
    if tokens.depth is not None:
        found["depth"] = tokens.depth[0]
    return found


def encode_clip(networks: Networks, arrays: Mapping[str, np.ndarray]) -> FrameTokens:
    """The tokens of one clip that has no token store, from the arrays that `READS` names.

    Raises ValueError if its frames have another size than those that the model was trained on.
    """
    grid = tuple(networks.world.config.grid)

    def encode(source: Source) -> Int[Tensor, "1 t gh gw"]:
        tokenizer = networks.tokenizer(source)
        images = images_of(source, {name: arrays[name][None] for name in READS[source][1]})[0]
        cell = tokenizer.config.downscale
        if tuple(images.shape[-2:]) != tuple(cell * n for n in grid):
            raise ValueError(
                f"{source} frames of {tuple(images.shape[-2:])} px: the world model reads {grid} "
                f"tokens of {cell} px; make clips of size {cell * grid[0]}"
            )
        return encode_frames(tokenizer, images)[None].long().to(networks.device)

    return FrameTokens(encode("rgb"), encode("depth") if networks.has_depth else None)
