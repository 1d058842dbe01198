"""Artifacts in Prefect: pages, tables and progress bars, shown with a run and its task."""

import json
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.context import FlowRunContext, TaskRunContext

from pipeline.lineage.reach import GATE

Kind = Literal["markdown", "table", "progress"]


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The run of Prefect, and its task, that artifacts are shown with; None: with none."""

    flow_run: UUID | None = None
    task_run: UUID | None = None


def here() -> Owner:
    """The run and the task that this code runs in."""
    task, flow = TaskRunContext.get(), FlowRunContext.get()
    flow_run = flow.flow_run.id if flow is not None and flow.flow_run is not None else None
    if task is None:
        return Owner(flow_run=flow_run)
    return Owner(flow_run=task.task_run.flow_run_id or flow_run, task_run=task.task_run.id)


def create(kind: Kind, data: Any, *, key: str, description: str, owner: Owner | None = None) -> str:
    """Creates an artifact and returns its id. owner: by default what this code runs in.

    Raises PrefectGone if the server is gone.
    """
    owner = owner or here()
    artifact = ArtifactCreate(
        type=kind,
        key=key,
        description=description,
        data=json.dumps(data) if kind == "table" else data,
        flow_run_id=owner.flow_run,
        task_run_id=owner.task_run,
    )
    return str(GATE.talk(lambda: get_client(sync_client=True).create_artifact(artifact)).id)


def update(artifact: str, data: Any, description: str | None = None) -> None:
    """Replaces the artifact's data. Raises PrefectGone if the server is gone."""
    change = ArtifactUpdate(data=data)
    if description is not None:
        change.description = description
    client: Any = get_client(sync_client=True)
    GATE.talk(lambda: client.update_artifact(UUID(artifact), change))
