"""`roboscape verify`: whether what is stored is what was written."""

from rich.console import Console

from pipeline.lineage.graph import find
from storage.stores import cleanup, store
from storage.stores.records import StoreRef
from storage.stores.verify import unbound, verify


def print_verified(what: str | None, root: str, out: Console, *, full: bool) -> bool:
    """Prints each fault of the store, or of all stores, and returns whether there is none.

    Raises LookupError if there is no such store.
    """
    refs = [find(what, root)] if what else cleanup.list_stores(root)
    damaged = [ref for ref in refs if not print_verified_store(ref, out, full=full)]
    if not refs:
        out.print(f"no store in {root}", markup=False)
    if damaged:
        names = " ".join(map(str, damaged)) if len(damaged) == 1 else ""
        out.print(
            f"{len(damaged)} of {len(refs)} stores are damaged: "
            f"`{' '.join(['roboscape repair', names]).strip()}` makes again what is"
        )
    return not damaged


def print_verified_store(ref: StoreRef, out: Console, *, full: bool) -> bool:
    """Prints whether a store is sound, and each fault; returns whether it is."""
    problems = verify(ref, "full" if full else "quick")
    state = "" if store.is_complete(ref) else " (incomplete; what is there)"
    out.print(f"{'damaged' if problems else 'sound':<8} {ref}{state}", markup=False)
    for problem in problems:
        out.print(f"  {problem}", markup=False)
    if full and not problems and not state and (note := unbound(ref)):
        out.print(f"  {note}", markup=False)
    return not problems
