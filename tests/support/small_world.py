"""A trained pipeline in small: stores of clips and tokens, tokenizers and a world model, all
weights random.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from small_stores import SIDE, T, new_result, square_clips, write_clips, write_index
from small_stores import run_stage as run

from model.magvit2.autoencoder import MagvitTokenizer
from model.magvit2.batched import encode_frames
from model.magvit2.config import tiny as tiny_tokenizer
from model.training.checkpoint import save_model
from model.world.config import tiny as tiny_world
from model.world.dual_branch import DualBranchWorldModel
from simulation.ground_truth import GroundTruth, write_ground_truth
from simulation.scene import Camera
from stages.evaluation.stage import Evaluate
from stages.tokenizer.images import images_of
from stages.tokenizer.measure import TOKENIZER_FILE
from stages.world_model.data import WORLD_MODEL_FILE
from storage.stores.records import StoreRef
from storage.stores.results import Result, open_writer
from storage.stores.rows import open_rows

REJECTED = 3
SQUARE_RED = 230  # red level of the clips' square
SPLITS = ["test", "val", "val", "val", "train", "val", "val"]
USABLE = [1, 2, 5, 6]  # of split val; row REJECTED is rejected


@dataclass
class World:
    """Stores and checkpoints with random weights, as the pipeline would write them."""

    root: Path
    rows: dict[str, StoreRef]
    results: dict[str, StoreRef]

    def evaluate(self, **changes) -> Result:
        return run(
            self.root,
            Evaluate(**{"n_clips": 3, "n_pictures": 2, **changes}),
            self.rows,
            self.results,
        )


def make_world(root: Path) -> World:
    torch.manual_seed(0)
    arrays, index = square_clips(len(SPLITS)), write_index(root, SPLITS)
    arrays["clip"]["frame_index"] = np.tile(np.arange(T), (len(SPLITS), 1))
    clip = write_clips(
        index, "clip", arrays["clip"], rejected=(REJECTED,), inputs={"discover": index.uri}
    )
    depth = write_clips(
        index, "depth", arrays["depth"], upstream=(REJECTED,), inputs={"clip": clip.uri}
    )
    rows, results = {"discover": index, "clip": clip, "depth": depth}, {}
    for source, of in (("rgb", "clip"), ("depth", "depth")):
        tokenizer = MagvitTokenizer(tiny_tokenizer(patch=8)).eval()
        ref = new_result(root, f"{source}_tokenizer", [], {of: rows[of]})
        results[f"{source}_tokenizer"] = ref
        seal(ref, TOKENIZER_FILE, tokenizer, tokenizer.config, {"source": source})
        ids = np.stack(
            [encode_frames(tokenizer, clip).numpy() for clip in images_of(source, arrays[of])]
        )
        name = f"{source}_tokens"
        rows[name] = write_clips(
            index,
            name,
            {name: ids},
            upstream=(REJECTED,),
            inputs={of: rows[of].uri, "tokenizer": ref.uri},
        )
    data = {role: str(ref) for role, ref in rows.items() if role != "depth"}
    results["world_model"] = add_world_model(root, results, depth_branch=True, data=data)
    return World(root, rows, results)


def add_world_model(
    root: Path, results: dict[str, StoreRef], *, depth_branch: bool, **card
) -> StoreRef:
    config = tiny_world(n_layers=1, d_model=16, n_heads=1, grid=(4, 4), depth_branch=depth_branch)
    data = {
        role: StoreRef.at(str(root), *name.split("/"))
        for role, name in card.get("data", {}).items()
    }
    ref = new_result(root, "world_model", [depth_branch, *card], data)
    statistics = {"action_mean": [16.0] * 16, "action_std": [8.0] * 16}
    made_by = {
        f"{source}_tokens": str(results[f"{source}_tokenizer"]) for source in ("rgb", "depth")
    }
    network = DualBranchWorldModel(config)
    for weight in network.parameters():  # fresh modulation is zero; here actions must matter
        torch.nn.init.normal_(weight, std=0.3)
    seal(ref, WORLD_MODEL_FILE, network, config, {**statistics, "tokenizers": made_by, **card})
    return ref


def seal(ref: StoreRef, name: str, network, config, card: dict) -> None:
    writer = open_writer(ref)
    save_model(writer.path / name, network, config, card=card)
    writer.finish({})


def write_square_truth(world: World) -> None:
    """Exact ground truth of the usable clips' square, beside the episodes, as object 0."""
    clips = open_rows(world.rows["clip"])
    for row in USABLE:
        inside = clips.read(("rgb",), row)["rgb"][..., 0] == SQUARE_RED
        places = np.zeros((T, 2, 3))
        places[:, 1, 0] = np.linspace(0, 1, T)  # it moves
        truth = GroundTruth(
            depth_m=np.ones((T, SIDE, SIDE), np.float16),
            geom=inside.astype(np.uint8),
            geom_position_m=places,
            geom_axes=np.tile(np.eye(3), (T, 2, 1, 1)),
            geom_body=("world", "object0"),
            cameras=T * (
                Camera(
                    width=SIDE, height=SIDE, fx=1.0, fy=1.0, cx=0.0, cy=0.0,
                    position_m=np.zeros(3), rotation=np.eye(3),
                ),
            ),
            labels={"objects": {"object0": {"kind": "box", "words": "orange box"}}},
        )  # fmt: skip
        write_ground_truth(world.root / "ground_truth" / "327" / str(648600 + row), truth)
