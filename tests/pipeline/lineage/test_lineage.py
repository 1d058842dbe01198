"""Every store leads back to the episode files, and is found by any of its names."""

import io
from pathlib import Path

import pytest
from machinery import Machinery
from rich.console import Console
from toys import Total

from pipeline.cli.lineage import print_lineage
from pipeline.lineage.graph import ancestry, find
from pipeline.orchestration.recipe import declared_inputs, describe, output_ref
from storage.stores import store
from storage.stores.records import StoreRef


@pytest.fixture
def depth(machinery: Machinery) -> StoreRef:
    upstream = machinery.upstream()
    machinery.run(machinery.brightness(), upstream)
    return output_ref(machinery.brightness(), upstream, machinery.root)


def test_ancestors_come_before_what_was_made_from_them_each_once(depth: StoreRef):
    nodes = ancestry(depth)
    assert [n.manifest.stage for n in nodes] == ["discover", "clip", "depth"]
    assert nodes[-1].manifest.inputs == {"discover": nodes[0].ref.uri, "clip": nodes[1].ref.uri}


def test_a_store_is_found_by_key_prefix_stage_path_and_any_file_in_it(
    depth: StoreRef, machinery: Machinery
):
    some_file = next(p for p in (Path(depth.uri) / "parts").rglob("zarr.json"))
    for name in (
        depth.key,
        depth.key[:6],
        "depth",
        f"depth/{depth.key[:4]}",
        depth.uri,
        str(some_file),
    ):
        assert find(name, machinery.root).uri == depth.uri
    with pytest.raises(LookupError, match=r"no store .ffff.*clip, depth, discover"):
        find("ffff", machinery.root)


def test_the_tree_names_every_key_and_the_parameters(depth: StoreRef, machinery: Machinery):
    text = io.StringIO()
    print_lineage(depth.key, machinery.root, Console(file=text, width=300), parameters=True)
    for node in ancestry(depth):
        assert node.ref.key in text.getvalue()
    assert "gain = 2.0" in text.getvalue() and "episode files" in text.getvalue()


def test_a_stage_takes_only_what_it_declares(depth: StoreRef, machinery: Machinery):
    offered = {"depth": depth, **machinery.upstream()}
    assert declared_inputs(Total(), offered) == {"depth": depth}
    with pytest.raises(
        ValueError,
        match=r"declares inputs \['depth'\], but the flow offers only \['clip', 'discover'\]",
    ):
        declared_inputs(Total(), machinery.upstream())


def test_fields_that_are_no_part_of_the_key_do_not_change_it(machinery: Machinery):
    upstream = machinery.upstream()
    a = output_ref(machinery.brightness(), upstream, machinery.root)
    from toys import Brightness

    assert output_ref(Brightness(faults="elsewhere"), upstream, machinery.root) == a
    assert output_ref(Brightness(gain=2.5), upstream, machinery.root) != a
    manifest = describe(machinery.brightness(), upstream, a)
    assert (
        "faults" not in manifest.parameters
        and manifest.n_clips == store.read_manifest(upstream["clip"]).n_clips
    )
