"""Every store leads back to the episode files, and is found by any of its names."""

import io
import shutil
from pathlib import Path

import pytest
from machinery import Machinery
from rich.console import Console
from toys import Total

from pipeline.cli.lineage import print_lineage
from pipeline.lineage import page
from pipeline.lineage.graph import ancestry, find
from pipeline.orchestration.recipe import declared_inputs, describe, output_ref
from storage.files import open_files
from storage.stores import store
from storage.stores.records import StoreRef, encode_document, read_document
from storage.stores.rows import open_rows


@pytest.fixture
def depth(machinery: Machinery) -> StoreRef:
    upstream = machinery.upstream()
    machinery.run(machinery.brightness(), upstream)
    return output_ref(machinery.brightness(), upstream, machinery.root)


def test_ancestors_come_before_what_was_made_from_them_each_once(depth: StoreRef):
    nodes = ancestry(depth)
    assert [n.manifest.stage for n in nodes] == ["discover", "clip", "depth"]
    assert nodes[-1].inputs == {"discover": nodes[0].ref, "clip": nodes[1].ref}


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


def test_a_moved_workspace_keeps_its_lineage(depth: StoreRef, machinery: Machinery, tmp_path: Path):
    before = [str(node.ref) for node in ancestry(depth)]
    root = str(shutil.move(machinery.root, tmp_path / "moved"))
    nodes = ancestry(find("depth", root))
    assert [str(node.ref) for node in nodes] == before
    assert {node.ref.root for node in nodes} == {root}


def test_a_copy_never_reads_the_place_that_it_was_copied_from(
    depth: StoreRef, machinery: Machinery, tmp_path: Path
):
    """Also where older manifests hold addresses, and the old place is still there."""
    copy = StoreRef.under(str(shutil.copytree(machinery.root, tmp_path / "copy")), depth.uri)
    path = Path(copy.uri, "manifest.json")
    content = read_document(open_files(copy.uri), path.name)
    content["inputs"] = {role: each.uri for role, each in machinery.upstream().items()}
    content["index_uri"] = content["inputs"]["discover"]
    path.write_bytes(encode_document(content))
    assert [node.ref.root for node in ancestry(copy)] == [copy.root] * 3
    assert open_rows(copy).clip_ids == open_rows(depth).clip_ids
    shutil.rmtree(Path(copy.root, "stores", "clip"))
    shutil.rmtree(Path(copy.root, "stores", "discover"))
    with pytest.raises(FileNotFoundError, match=f"no store {copy.root}/stores/discover"):
        ancestry(copy)
    with pytest.raises(FileNotFoundError, match=f"no store {copy.root}/stores/discover"):
        _ = open_rows(copy).clip_ids


def test_an_input_under_another_root_is_refused(
    depth: StoreRef, machinery: Machinery, tmp_path: Path
):
    elsewhere = StoreRef.under(str(tmp_path / "elsewhere"), depth.uri)
    with pytest.raises(ValueError, match=r"input 'clip' is .*expected one under .*elsewhere"):
        describe(machinery.brightness(), {"clip": machinery.upstream()["clip"]}, elsewhere)


def test_a_label_of_the_graph_holds_any_text():
    text = page.mermaid_text('a"] --> b["<script>')
    assert '"' not in text and "<" not in text and "[" not in text
    assert page.mermaid_text("world_model") == "world_model"
