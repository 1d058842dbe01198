"""`roboscape checkpoint`: a saved state of a training that runs or was stopped, as a checkpoint."""

from pathlib import Path

from model.training.checkpoint import from_plain, save_model
from model.training.snapshots import Snapshot, best_of, saved_states
from model.training.state_files import DamagedState
from model.world.config import WorldModelConfig
from model.world.dual_branch import DualBranchWorldModel
from pipeline.lineage.graph import find
from pipeline.orchestration.training.retries import working_folder
from stages.training.states import STATES
from stages.training.working_files import read_card
from storage.stores import store


def write_checkpoint(what: str, target: Path, root: str, best: bool) -> str:
    """Writes a saved state of a world model's training, and returns a line that says which.

    The newest state, or with `best` the one of least held-out loss; the averaged weights, if the
    training keeps an average. A damaged newest state is passed over, and the line says so. what:
    the training's store, as `find` takes it. Raises LookupError if there is no such state, and says
    why.
    """
    ref = find(what, root)
    if store.is_complete(ref):
        raise LookupError(
            f"{ref} is complete and has its checkpoint: `roboscape inspect {ref.key}` lists the "
            "files"
        )
    folder = working_folder(ref)
    try:
        plain, card = read_card(folder)
    except FileNotFoundError:
        raise LookupError(
            f"{ref} has no world model in training on this machine: run the command on the machine "
            "that trains it"
        ) from None
    states = saved_states(folder / STATES)
    chosen = [best_of(states)] if best else states[::-1]
    if not any(chosen):
        state = "state measured on held-out clips (watch.validate_every)"
        raise LookupError(f"{ref} has no {state if best else 'saved state (watch.save_every)'} yet")
    config = from_plain(WorldModelConfig, plain, str(ref))
    model = DualBranchWorldModel(config)
    snapshot, skipped = first_sound([state for state in chosen if state is not None], model)
    save_model(target, model, config, card=card | {"state": snapshot.about, "unfinished": str(ref)})
    return f"{target}: step {snapshot.step} of {card['training']['steps']}, {ref}{skipped}"


def first_sound(states: list[Snapshot], model: DualBranchWorldModel) -> tuple[Snapshot, str]:
    """The first of the states that is what was written, read into the model; a note on the others.

    Raises LookupError if all are damaged.
    """
    damaged: list[str] = []
    for state in states:
        try:
            state.load_weights(model)
        except DamagedState as error:
            damaged.append(str(error))
            continue
        return state, "".join(f"; not used: {problem}" for problem in damaged)
    raise LookupError("; ".join(damaged))
