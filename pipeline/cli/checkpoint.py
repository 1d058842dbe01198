"""A saved state of a training that runs or was stopped, as a checkpoint: for `generate`, or to
start another from.
"""

from pathlib import Path

from model.training.checkpoint import from_plain, save_model
from model.training.snapshots import best_of, saved_states
from model.world.config import WorldModelConfig
from model.world.dual_branch import DualBranchWorldModel
from pipeline.lineage.graph import find
from pipeline.orchestration.training.retries import working_folder
from stages.training.run import STATES
from stages.training.working_files import read_card
from storage.stores import store


def write_checkpoint(what: str, target: Path, root: str, best: bool) -> str:
    """Writes the newest saved state of a world model's training, or the one with the least held-out
    loss.

    what: the training's store, as `find` takes it. Returns a line that says which state it was.
    Averaged weights where the training keeps an average. Raises LookupError if there is no such
    state, and says why.
    """
    ref = find(what, root)
    if store.is_complete(ref):
        raise LookupError(
            f"{ref} is complete: its checkpoint is a file of it (`roboscape lineage {ref.key}` names it)"
        )
    folder = working_folder(ref)
    try:
        plain, card = read_card(folder)
    except FileNotFoundError:
        raise LookupError(
            f"{ref} holds no training of a world model that has begun, or it runs on another machine: ask there"
        ) from None
    states = saved_states(folder / STATES)
    snapshot = best_of(states) if best else (states or [None])[-1]
    if snapshot is None:
        how = (
            "was measured on held-out clips (watch.validate_every)"
            if best
            else "is there (watch.save_every)"
        )
        raise LookupError(f"{ref}: no saved state {how} yet")
    config = from_plain(WorldModelConfig, plain, str(ref))
    model = DualBranchWorldModel(config)
    snapshot.load_weights(model)
    save_model(target, model, config, card=card | {"state": snapshot.about, "unfinished": str(ref)})
    return f"{target}: step {snapshot.step} of {card['training']['steps']}, {ref}"
