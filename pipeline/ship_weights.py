"""Copies the newest `pretrain` results into `model/weights`, halved: python -m pipeline.ship_weights

Run it after `roboscape run pretrain`, in the same workspace.
"""

from model.checkpoint import save_half
from model.weights import FOLDER
from pipeline.lineage import find
from pipeline.settings import Settings
from stages.train_tokenizer import TOKENIZER_FILE
from stages.train_world_model import WORLD_MODEL_FILE
from storage.results import open_result

FILES = {"rgb_tokenizer": TOKENIZER_FILE, "depth_tokenizer": TOKENIZER_FILE, "world_model": WORLD_MODEL_FILE}


def main() -> None:
    for stage, name in FILES.items():
        result = open_result(find(stage, Settings().stores))
        target = FOLDER / f"{stage}.safetensors"
        digest = save_half(result.file(name), target)
        print(f"{target} {target.stat().st_size / 1e6:.1f} MB, SHA-256 {digest}, from {result.ref}")


if __name__ == "__main__":
    main()
