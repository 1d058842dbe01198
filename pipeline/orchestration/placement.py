"""The device of a stage's worker, what it needs in Ray's terms, and the settings that reduce it."""

from stages.base import ResourceName, Resources, Stage

# Ray's name of a resource -> the field of `Resources` that requests it
REQUESTS: dict[str, ResourceName] = {"CPU": "cpus", "GPU": "gpus", "memory": "memory_gb"}


def device_of_stage(stage: Stage) -> str:
    """`cuda` for stages that request a GPU, `cpu` for all others; the same on both backends.

    Raises RuntimeError if a GPU is requested and torch finds none here.
    """
    gpus = stage.resources.gpus
    if not gpus:
        return "cpu"
    import torch  # slow to import, and not every stage needs it

    if not torch.cuda.is_available():
        raise RuntimeError(
            f"stage '{stage.name}' asks for gpus={gpus:g}, but torch finds no CUDA device here. "
            f"{resource_hint(stage, ['GPU'])}".rstrip()
        )
    return "cuda"


def resource_hint(stage: Stage, scarce: list[str]) -> str:
    """Which `--set` options request less of these resources; empty if there are none."""
    settings = [setting for name in scarce if (setting := stage.ask_for_less(REQUESTS[name]))]
    if not settings:
        return ""
    return f"To ask for less: {' '.join(f'--set {setting}' for setting in settings)}"


def scarce_resources(needed: Resources, nodes: list[dict[str, float]]) -> list[str]:
    """The resources of which no node has enough; all of them if no node has them together."""
    amounts = amounts_of(needed)
    scarce = [
        name
        for name, amount in amounts.items()
        if all(node.get(name, 0.0) < amount for node in nodes)
    ]
    return scarce or list(amounts)


def amounts_of(resources: Resources) -> dict[str, float]:
    """Amounts by Ray's names, without those that are zero."""
    amounts = {"CPU": resources.cpus, "GPU": resources.gpus, "memory": resources.memory_gb * 1e9}
    return {name: amount for name, amount in amounts.items() if amount}
