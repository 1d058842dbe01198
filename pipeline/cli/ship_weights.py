"""Copies trained weights into `model/weights`, in half precision.

    python -m pipeline.cli.ship_weights                            # after `roboscape run pretrain`
    python -m pipeline.cli.ship_weights vda-tiny spatracker-tiny   # after `train-annotator`

It takes the newest results of this workspace.
"""

import argparse
from pathlib import Path

from model.training.checkpoint import save_half
from model.weights import FOLDER
from pipeline.lineage.graph import find
from pipeline.settings import Settings
from stages.annotator_training.train import ANNOTATOR_FILE
from stages.tokenizer.measure import TOKENIZER_FILE
from stages.world_model.data import WORLD_MODEL_FILE
from storage.stores.results import open_result

PRETRAINED = ("rgb_tokenizer", "depth_tokenizer", "world_model")
# Name in `model/weights` -> the stage that trains it, and the file of its result
SOURCES = {
    "rgb_tokenizer": ("rgb_tokenizer", TOKENIZER_FILE),
    "depth_tokenizer": ("depth_tokenizer", TOKENIZER_FILE),
    "world_model": ("world_model", WORLD_MODEL_FILE),
    "vda-tiny": ("depth_annotator", ANNOTATOR_FILE),
    "spatracker-tiny": ("keypoint_annotator", ANNOTATOR_FILE),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{', '.join(SOURCES)}; default: the first three"
    )
    names = parser.parse_args().names or PRETRAINED
    if unknown := [name for name in names if name not in SOURCES]:
        parser.error(f"no weights {unknown}; there are {list(SOURCES)}")
    stores = Settings().stores
    for name in names:
        try:
            print(ship(name, stores, FOLDER))
        except LookupError as error:
            parser.exit(
                1, f"{name}: {error}\nTrain it first, in this workspace (ROBOSCAPE_HOME).\n"
            )


def ship(name: str, stores: str, folder: Path) -> str:
    """Writes the newest result's weights to the folder, and returns a line that says so.

    stores: their root. Raises LookupError if nothing was trained.
    """
    stage, file = SOURCES[name]
    result = open_result(find(stage, stores))
    target = folder / f"{name}.safetensors"
    digest = save_half(result.file(file), target)
    return f"{target} {target.stat().st_size / 1e6:.1f} MB, SHA-256 {digest}, from {result.ref}"


if __name__ == "__main__":
    main()
