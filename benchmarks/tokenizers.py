"""Which tokenizer keeps objects: layouts and losses at equal CPU time, on simulated episodes.

    python benchmarks/tokenizers.py                      # all variants, 150 s each: an hour
    python benchmarks/tokenizers.py --variants 'full recipe' plain --seconds 500
    python benchmarks/tokenizers.py --episodes 4 --held-out 2 --seconds 2     # that it runs

Each variant trains from random weights on frames of one sample and is measured on frames of
another, by the measures of stage `token_quality`. Objects are those of at least 40 px of 128 x 128.
The last rows are frames with all objects filled in (what a tokenizer shows that erases them) and,
for each layout, nothing at all lost but the size.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from measuring import Conditions
from torch import Tensor

from model.magvit2.autoencoder import MagvitTokenizer
from model.magvit2.config import tiny
from model.magvit2.losses import TokenizerLossConfig, tokenizer_loss
from simulation.config import demo_sample
from simulation.dataset import make_sample
from simulation.ground_truth import read_ground_truth
from stages.drawing.markdown import markdown_table
from stages.objects.masks import TrueObjects
from stages.objects.sightings import without_objects
from stages.objects.true_objects import true_objects
from stages.token_quality.measures import ClipQuality, DecodedClip, means, measure
from stages.tokenizer.images import detail_map, rgb_to_images
from storage.sources.video import Video

BATCH, LEARNING_RATE, WARMUP_STEPS, LEAST_RATE = 8, 3e-3, 50, 0.02
TRAIN_HZ, HELD_OUT_EVERY = 4.0, 10  # all frames of one sample, every tenth of the other's 10 Hz


@dataclass(frozen=True, kw_only=True)
class Recipe:
    size: int = 96  # px
    patch: int = 8  # side of a token's cell, px
    detail: float = 6.0  # weight of `detail_map`
    loss: TokenizerLossConfig = field(
        default_factory=lambda: TokenizerLossConfig(chroma=2.0, cell_colour=9.0)
    )


PLAIN = {"detail": 0.0, "loss": TokenizerLossConfig()}
VARIANTS = {
    "full recipe": Recipe(),
    "without cell_colour": Recipe(loss=TokenizerLossConfig(chroma=2.0)),
    "without detail_weight": Recipe(detail=0.0),
    "without chroma": Recipe(loss=TokenizerLossConfig(cell_colour=9.0)),
    "plain": Recipe(**PLAIN),
    "128 px": Recipe(size=128),
    "128 px, plain": Recipe(size=128, **PLAIN),
    "64 px": Recipe(size=64),
    "128 px, cells of 16 px": Recipe(size=128, patch=16),
    "128 px, cells of 16 px, plain": Recipe(size=128, patch=16, **PLAIN),
}


@dataclass(frozen=True, kw_only=True)
class Episode:
    video: Path
    numbers: Int[np.ndarray, " t"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seconds", type=float, default=150, help="CPU time of each training")
    parser.add_argument("--episodes", type=int, default=160, help="to train on")
    parser.add_argument("--held-out", type=int, default=30, help="episodes to measure on")
    parser.add_argument("--samples", type=Path, help="folder that keeps the episodes")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    conditions = Conditions(torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        run(asked, asked.samples or Path(folder))
    print(f"\n{conditions}")


def run(asked: argparse.Namespace, folder: Path) -> None:
    """Makes the samples, trains and measures each variant, prints the table."""
    sample = demo_sample()
    train = replace(
        sample, n_episodes=asked.episodes, seed=1000, rate_hz=TRAIN_HZ, ground_truth=False
    )
    make_sample(folder / "train", train)
    make_sample(folder / "held-out", replace(sample, n_episodes=asked.held_out))
    trained_on = list(episodes(folder / "train", 1))
    held_out = list(episodes(folder / "held-out", HELD_OUT_EVERY))
    lines = []
    for name in asked.variants:
        recipe = VARIANTS[name]
        tokenizer, steps = trained(recipe, trained_on, asked.seconds)
        clips = [decoded_clip(episode, recipe.size, tokenizer) for episode in held_out]
        lines.append((name, f"{steps}", *numbers([measure(clip) for clip in clips])))
        print(f"{name}: {lines[-1]}", flush=True)
    erased = [erased_clip(episode, VARIANTS["128 px"].size) for episode in held_out]
    lines.append(("frames with all objects filled in", "", *numbers([measure(c) for c in erased])))
    n = sum(len(measure(clip).seen) for clip in erased)
    print(f"\n{len(held_out)} held-out episodes, {n} sightings; {asked.seconds:g} CPU s each\n")
    columns = (
        "",
        "steps",
        "whole frame",
        "inside objects",
        "named rightly",
        "ΔE76",
        "colours kept",
    )
    print(markdown_table(columns, lines))


def numbers(clips: list[ClipQuality]) -> tuple[str, ...]:
    found = means(clips)
    return (
        f"{found['psnr']:.1f} dB",
        f"{found['objects_psnr']:.1f} dB",
        f"{found['objects_named']:.0%}",
        f"{found['objects_colour_error']:.1f}",
        f"{found['colour_kept']:.2f}",
    )


# Data


def episodes(root: Path, every: int) -> Iterator[Episode]:
    for path in sorted(root.glob("observations/*/*/videos/head_color.mp4")):
        with Video(path) as video:
            yield Episode(video=path, numbers=np.arange(0, len(video.times_s), every))


def images_of(episode: Episode, size: int) -> Float[Tensor, "t c i i"]:
    """Squeezed to a square as stage `clip` does it, in [-1, 1]."""
    with Video(episode.video) as video:
        return rgb_to_images(video.frames(episode.numbers, (size, size)))


def objects_of(episode: Episode, size: int) -> TrueObjects:
    root, task, number = episode.video.parents[4], *episode.video.parts[-4:-2]
    truth = read_ground_truth(root / "ground_truth" / task / number)
    return true_objects(truth, episode.numbers, (size, size))


def decoded_clip(episode: Episode, size: int, tokenizer: MagvitTokenizer) -> DecodedClip:
    camera = images_of(episode, size)
    with torch.no_grad():
        decoded = tokenizer.decode_ids(tokenizer.to_ids(camera))
    objects, name = objects_of(episode, size), episode.video.parts[-3]
    return DecodedClip(clip_id=name, camera=camera, decoded=decoded, objects=objects)


def erased_clip(episode: Episode, size: int) -> DecodedClip:
    camera, objects = images_of(episode, size), objects_of(episode, size)
    decoded, name = without_objects(camera, objects.masks), episode.video.parts[-3]
    return DecodedClip(clip_id=name, camera=camera, decoded=decoded, objects=objects)


# Training


def trained(recipe: Recipe, data: list[Episode], seconds: float) -> tuple[MagvitTokenizer, int]:
    """A tokenizer after so much CPU time, and its steps."""
    images = torch.cat([images_of(episode, recipe.size) for episode in data])
    detail = torch.from_numpy(detail_map(images)) if recipe.detail else None
    torch.manual_seed(0)
    network = MagvitTokenizer(tiny(recipe.patch)).train()
    optimizer = torch.optim.AdamW(
        network.parameters(), LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.01
    )
    draws, started, steps = np.random.default_rng(0), time.process_time(), 0
    while (done := (time.process_time() - started) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate(done, steps)
        chosen = torch.from_numpy(draws.integers(0, len(images), BATCH))
        weight = None if detail is None else 1 + recipe.detail * detail[chosen].float() / 255
        loss = batch_loss(network, images[chosen], weight, recipe.loss)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        steps += 1
    return network.eval(), steps


def rate(done: float, steps: int) -> float:
    """Of the peak: a warm-up by steps, then a cosine by time."""
    return min(1, (steps + 1) / WARMUP_STEPS) * max(LEAST_RATE, 0.5 + 0.5 * np.cos(np.pi * done))


def batch_loss(
    network: MagvitTokenizer,
    images: Float[Tensor, "b c h w"],
    weight: Float[Tensor, "b h w"] | None,
    config: TokenizerLossConfig,
) -> Float[Tensor, ""]:
    return tokenizer_loss(images, network(images), config, pixel_weight=weight).total


if __name__ == "__main__":
    main()
