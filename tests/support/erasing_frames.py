"""Makes tests/golden/erasing_tokenizer.npz: frames of the sample, and what is left of them in the
tokens of a tokenizer that erases objects.

    git show 871e604:model/weights/rgb_tokenizer.safetensors > old.safetensors
    PYTHONPATH=.:tests/support python tests/support/erasing_frames.py old.safetensors
"""

import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from repository import ROOT

from model.magvit2.autoencoder import MagvitTokenizer
from model.magvit2.config import MagvitConfig
from model.training.checkpoint import load_model
from simulation.config import demo_sample
from simulation.dataset import make_sample
from simulation.ground_truth import read_ground_truth
from stages.objects.true_objects import true_objects
from stages.tokenizer.images import images_to_rgb, rgb_to_images
from storage.sources.video import Video

GOLDEN = ROOT / "tests" / "golden" / "erasing_tokenizer.npz"
SIDE, N_EPISODES = 128, 3
FRAMES = np.array([0, 50])  # of each episode


def main(weights: Path, sample: Path) -> None:
    make_sample(sample, replace(demo_sample(), n_episodes=N_EPISODES))
    camera, masks = [], []
    for path in sorted(sample.glob("observations/*/*/videos/head_color.mp4")):
        truth = read_ground_truth(sample / "ground_truth" / path.parts[-4] / path.parts[-3])
        with Video(path) as video:
            camera.append(video.frames(FRAMES, (SIDE, SIDE)))
        masks.append(true_objects(truth, FRAMES, (SIDE, SIDE)).masks)
    frames = np.concatenate(camera)
    tokenizer = load_model(weights, MagvitTokenizer, MagvitConfig)[0]
    with torch.no_grad():
        decoded = images_to_rgb(tokenizer.decode_ids(tokenizer.to_ids(rgb_to_images(frames))))
    np.savez_compressed(GOLDEN, camera=frames, decoded=decoded, masks=np.concatenate(masks))


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        main(Path(sys.argv[1]), Path(folder))
