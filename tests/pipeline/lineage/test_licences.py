"""Non-commercial weights are named on every page, tree and manifest downstream, nowhere else."""

import io
from dataclasses import dataclass
from pathlib import Path

import pytest
from machinery import Machinery
from rich.console import Console
from toys import Brightness, Total, say_nothing

from pipeline.cli.inspect import print_store
from pipeline.cli.lineage import print_lineage
from pipeline.cli.run import print_limits
from pipeline.lineage import page
from pipeline.orchestration import dataset_stage
from pipeline.orchestration.recipe import describe, output_ref
from storage.stores import cleanup, store
from storage.stores.records import StoreRef
from storage.stores.results import open_result
from storage.weights.ref import WeightsRef

TEXT = (
    "made with spatracker (CC-BY-NC-4.0): treat it, and what is made from it, as not for "
    "commercial use"
)


@dataclass(frozen=True, kw_only=True)
class Labels(Brightness):
    """Labels made with two third-party weights files."""

    tracker: WeightsRef
    encoder: WeightsRef


@pytest.fixture
def labels(tmp_path: Path) -> Labels:
    refs = {}
    for role, name, licence in (
        ("tracker", "spatracker", "CC-BY-NC-4.0"),
        ("encoder", "vda-vits", "Apache-2.0"),
    ):
        (tmp_path / name).write_text(name)
        refs[role] = WeightsRef.of(tmp_path / name, licence=licence)
    return Labels(**refs)


@pytest.fixture
def made(machinery: Machinery, labels: Labels) -> dict[str, StoreRef]:
    """Clips, labels made from them with the weights, and a result made from the labels alone."""
    upstream = machinery.upstream()
    machinery.run(labels, upstream)
    depth = {"depth": output_ref(labels, upstream, machinery.root)}
    total = output_ref(Total(), depth, machinery.root)
    store.create(total, describe(Total(), depth, total))
    dataset_stage.run_dataset(Total(), depth, total, say_nothing)
    return {**upstream, **depth, "evaluation": total}


def page_of(ref: StoreRef) -> str:
    result = None if store.read_manifest(ref).kind == "clips" else open_result(ref)
    return page.markdown(ref, "Completed", {}, result)


def printed(show, *arguments) -> str:
    text = io.StringIO()
    show(*arguments, Console(file=text, width=300))
    return text.getvalue()


def test_pages_of_the_labels_and_of_all_that_is_made_from_them_say_so(made: dict[str, StoreRef]):
    for stage in ("depth", "evaluation"):
        assert f"> **Non-commercial**: {TEXT}." in page_of(made[stage]), stage
        assert "| CC-BY-NC-4.0, **non-commercial** |" in page_of(made[stage])
        assert "| Apache-2.0 |" in page_of(made[stage])
    for stage in ("discover", "clip"):
        assert "ommercial" not in page_of(made[stage]), stage


def test_the_tree_and_inspect_say_so(made: dict[str, StoreRef], machinery: Machinery):
    for stage in ("depth", "evaluation"):
        assert f"non-commercial: {TEXT}" in printed(print_lineage, made[stage].key, machinery.root)
        assert f"non-commercial: {TEXT}" in printed(
            print_store, made[stage].key, None, machinery.root
        )
    assert "ommercial" not in printed(print_lineage, made["clip"].key, machinery.root)
    assert "ommercial" not in printed(print_store, made["clip"].key, None, machinery.root)


def test_a_store_says_so_itself_when_its_ancestors_are_gone(
    made: dict[str, StoreRef], machinery: Machinery
):
    cleanup.delete(made["depth"])
    assert store.read_manifest(made["evaluation"]).attributes["non_commercial"] == {
        "spatracker": "CC-BY-NC-4.0"
    }
    assert TEXT in printed(print_store, made["evaluation"].key, None, machinery.root)


def test_a_run_says_so_before_it_begins(labels: Labels, machinery: Machinery):
    assert f"Non-commercial: {TEXT}" in printed(print_limits, [labels])
    assert printed(print_limits, [machinery.brightness()]) == ""
