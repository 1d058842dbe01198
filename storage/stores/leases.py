"""Who uses the stores under a root: leases of live users, and notes of what the ended ones used.

    <root>/leases/<id>.json    a live user, written again every HEARTBEAT_S; a killed one's stays
    <root>/uses/<id>.json      a user that has ended, with the stores that it used

A root may be shared by workspaces and machines that do not know of each other, on a disk or in a
bucket, so what is agreed on is agreed on there. A lease names its stores by what is done with them:
`uses` (reads), `makes`, `removes`. Two leases that exclude each other are never held together: each
user first writes its lease, then reads those of the others, and steps back if one is in its way. Of
two that meet at least one sees the other.
"""

import random
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from storage.errors import StoreError, StoreInUse, UnreadableRecord
from storage.files import open_files
from storage.processes import HEARTBEAT_S, HEARTBEAT_TIMEOUT_S, ProcessName
from storage.stores.records import StoreRef, encode_document, read_document

LEASES, USES = "leases", "uses"
POLL_S = 2.0  # between two looks at the lease that is in the way
ALL = frozenset({"*"})  # every store under the root, and what no store names


@dataclass(frozen=True, kw_only=True)
class User:
    """Who holds a lease, and what for. Stores are named `stage/key`.

    home: the workspace. run: id of the run's journal there; empty for a command. what: in words.
    """

    id: str
    home: str
    run: str
    what: str
    since: float
    process: ProcessName = field(default_factory=ProcessName)
    uses: frozenset[str] = frozenset()
    makes: frozenset[str] = frozenset()
    removes: frozenset[str] = frozenset()

    @property
    def stores(self) -> frozenset[str]:
        return self.uses | self.makes

    def in_the_way_of(self, other: "User") -> frozenset[str]:
        """The stores that the two cannot have together."""
        return (self.makes & other.makes) | _removed(self, other) | _removed(other, self)

    def to_json(self) -> dict[str, Any]:
        names = {name: sorted(getattr(self, name)) for name in ("uses", "makes", "removes")}
        return asdict(self) | names

    @staticmethod
    def from_json(plain: dict[str, Any]) -> "User":
        names = {name: frozenset(map(str, plain[name])) for name in ("uses", "makes", "removes")}
        return User(
            id=str(plain["id"]),
            home=str(plain["home"]),
            run=str(plain["run"]),
            what=str(plain["what"]),
            since=float(plain["since"]),
            process=ProcessName(**plain["process"]),
            **names,
        )

    def __str__(self) -> str:
        since = datetime.fromtimestamp(self.since).astimezone().isoformat(" ", "seconds")
        return f"{self.what} of the workspace {self.home} ({self.process}, since {since})"


def _removed(remover: User, other: User) -> frozenset[str]:
    """What `remover` may delete although `other` has it."""
    has = other.stores | other.removes
    return has if remover.removes == ALL else remover.removes & has


@dataclass(frozen=True, kw_only=True)
class Record:
    """A lease or a use as it was found: its user, or why it cannot be read."""

    path: str
    modified: float
    user: User | None
    error: str = ""

    def alive(self, now: float) -> bool:
        """Whether its user still runs. One that cannot be read may."""
        if self.user is None:
            return True
        if (runs := self.user.process.runs) is None:
            return now - self.modified < HEARTBEAT_TIMEOUT_S
        return runs


def read_records(root: str, folder: str) -> list[Record]:
    """All leases (or uses) under the root, readable or not."""
    files, found = open_files(root), []
    for info in files.walk(folder):
        if not info.path.endswith(".json"):
            continue  # being written
        try:
            user, error = User.from_json(read_document(files, info.path)), ""
        except FileNotFoundError:
            continue  # ended meanwhile
        except (StoreError, OSError, ValueError, TypeError, KeyError, AttributeError) as problem:
            user, error = None, f"{type(problem).__name__}: {problem}"
        found.append(Record(path=info.path, modified=info.modified, user=user, error=error))
    return found


class Lease:
    """This process's lease, from `hold`; written again at intervals for as long as it is held."""

    def __init__(self, root: str, user: User):
        self.root, self.user = root, user
        self.path = f"{LEASES}/{user.id}.json"
        self._lock = threading.Lock()

    def write(self, **changes: frozenset[str]) -> None:
        with self._lock:
            self.user = replace(self.user, **changes)
            content = encode_document(self.user.to_json())
            open_files(self.root).write(self.path, [content])

    def others(self) -> tuple[list[User], list[Record]]:
        """The other users that are alive; and the leases that cannot be read, whose may be."""
        others = [record for record, alive in self._records() if alive]
        return [r.user for r in others if r.user], [r for r in others if r.user is None]

    def retire_dead(self) -> None:
        """Ends the leases of killed processes."""
        for record, alive in self._records():
            if record.user is not None and not alive:
                retire(self.root, record.user)

    def _records(self) -> list[tuple[Record, bool]]:
        """The other leases, and whether each one's user is alive."""
        self.write()
        records = read_records(self.root, LEASES)
        # Now by the clock that stamps the files, which may be another machine's
        now = next((r.modified for r in records if r.path == self.path), time.time())
        return [(r, r.alive(now)) for r in records if r.path != self.path]

    def acquire(
        self,
        *,
        uses: Iterable[str] = (),
        makes: Iterable[str] = (),
        removes: Iterable[str] = (),
        wait: Callable[[str], None] | None = None,
    ) -> None:
        """Adds these stores to what is held, if no live user is in the way.

        Else waits for it, with a message to `wait`; without `wait` raises StoreInUse. Raises
        UnreadableRecord for what is to be removed while a lease cannot be read.
        """
        before, said = self.user, ""
        wanted = {
            "uses": before.uses | frozenset(uses),
            "makes": before.makes | frozenset(makes),
            "removes": before.removes | frozenset(removes),
        }
        while True:
            self.write(**wanted)
            try:
                if (message := self._obstacle()) is None:
                    return
                if wait is None:
                    raise StoreInUse(f"{message}. Wait for it, or stop it, and try again.")
            except BaseException:
                self.write(uses=before.uses, makes=before.makes, removes=before.removes)
                raise
            # Two that meet both step back, for different times
            self.write(uses=before.uses, makes=before.makes, removes=before.removes)
            if message != said:
                wait(f"{message}; waiting until it is done (Ctrl-C gives up)")
                said = message
            time.sleep(POLL_S * random.uniform(1, 2))

    def _obstacle(self) -> str | None:
        """What is in the way of what is held now, in words."""
        others, unreadable = self.others()
        for other in others:
            if self.user.removes == ALL or other.removes == ALL:
                return f"{self.root} is in use by {other}"
            if stores := sorted(self.user.in_the_way_of(other)):
                more = f" and {len(stores) - 1} more" if len(stores) > 1 else ""
                verb = "made" if stores[0] in other.makes else "used"
                return f"{stores[0]}{more} is being {verb} by {other}"
        if self.user.removes and unreadable:
            raise unreadable_record(self.root, unreadable[0])
        return None

    @contextmanager
    def making(self, ref: StoreRef, wait: Callable[[str], None] | None) -> Iterator[None]:
        """Only one user at a time makes a store: see `acquire`."""
        self.acquire(uses={str(ref)}, makes={str(ref)}, wait=wait)
        try:
            yield
        except BaseException:
            with suppress(StoreError, OSError):  # a full disk must not hide the error itself
                self._made(ref)
            raise
        self._made(ref)

    def _made(self, ref: StoreRef) -> None:
        self.write(makes=self.user.makes - {str(ref)})


@contextmanager
def hold(
    root: str, *, home: str, what: str, run: str = "", every_s: float = HEARTBEAT_S
) -> Iterator[Lease]:
    """A lease at the root for as long as the block lasts; what a run used is noted after it."""
    user = User(
        id=f"{run or 'command'}-{uuid.uuid4().hex[:12]}",
        home=home,
        run=run,
        what=what,
        since=time.time(),
    )
    lease, over = Lease(root, user), threading.Event()
    lease.write()

    def beat() -> None:
        while not over.wait(every_s):
            try:
                lease.write()
            except Exception:  # a share that fails for a while must not end the run
                continue

    thread = threading.Thread(target=beat, daemon=True, name=f"lease-{user.id}")
    thread.start()
    try:
        yield lease
    finally:
        over.set()
        thread.join()
        try:
            retire(root, lease.user)
        except Exception as error:  # it counts as a killed user's: nothing is lost
            print(f"{root}/{lease.path} stays: {error}", file=sys.stderr)


def retire(root: str, user: User) -> None:
    """Ends a lease; of a run's, what it used stays noted."""
    files = open_files(root)
    if user.run and user.stores:
        kept = replace(user, uses=user.stores, makes=frozenset(), removes=frozenset())
        files.write(f"{USES}/{user.id}.json", [encode_document(kept.to_json())])
    files.delete(f"{LEASES}/{user.id}.json")


def unreadable_record(root: str, record: Record) -> UnreadableRecord:
    return UnreadableRecord(
        f"{root}/{record.path} cannot be read ({record.error}): it may be the record of a run that "
        "needs stores here. Restore it, or delete the file if no such run is left, and try again."
    )


@contextmanager
def removing(refs: Sequence[StoreRef], *, home: str, what: str) -> Iterator[None]:
    """Keeps others off stores of one root while parts of them are deleted.

    Raises StoreInUse if a live user has one of them.
    """
    with hold(refs[0].root, home=home, what=what) as lease:
        lease.acquire(removes=map(str, refs))
        yield
