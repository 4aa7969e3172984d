"""Which checkpoints a folder holds, where it may lie, and what is deleted from it: ours, and nothing else."""

import hashlib
import json
import re
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny

from ssdkd_jax import models
from ssdkd_jax.engine import checkpoint, checkpoint_folder, files
from ssdkd_jax.engine.trees import named_leaves
from ssdkd_jax.interop import saved

NOTE = {"model": "wrn10_1", "classes": 3, "image_shape": [8, 8, 1], "mean": [0.4], "std": [0.3]}


def tree(scale):
    return {"w": scale * np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.int32(scale)}


def save_as_version_0_1_did(folder, step, values, note):
    """Orbax's folder, and a manifest beside it."""
    path = folder / f"{step:08d}"
    with ocp.PyTreeCheckpointer() as writer:
        writer.save(path, values)
    contents = {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}
    body = {
        "files": {name: [len(content), hashlib.sha256(content).hexdigest()] for name, content in contents.items()},
        "note": note,
    }
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    (folder / f"{step:08d}.json").write_text(json.dumps({**body, "sha256": digest}, indent=2))


def contents(folder):
    """Every file below a folder, or where a link points to, by its name there."""
    return {
        str(p.relative_to(folder)): p.readlink() if p.is_symlink() else p.read_bytes()
        for p in folder.rglob("*")
        if p.is_symlink() or p.is_file()
    }


def test_what_version_0_1_saved_is_read_verified_and_superseded(tmp_path):
    for step in (1, 2):
        save_as_version_0_1_did(tmp_path, step, tree(step), {"at": step})
    assert checkpoint.steps(tmp_path) == [1, 2]
    assert checkpoint.verify(checkpoint.newest(tmp_path)) == {"at": 2}
    step, values, note = checkpoint.restore(tmp_path, tree(0))
    assert (step, note) == (2, {"at": 2})
    assert tiny.tree_equal(values, tree(2))
    checkpoint.save(tmp_path, 2, tree(5), {"at": 5})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000001", "00000001.json", "step_00000002"]
    checkpoint.save(tmp_path, 3, tree(3))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000002", "step_00000003"]


def test_a_damaged_checkpoint_of_version_0_1_is_passed_over(tmp_path):
    for step in (1, 2):
        save_as_version_0_1_did(tmp_path, step, tree(step), {"at": step})
    (tmp_path / "00000002" / "manifest.ocdbt").write_bytes(b"")
    assert checkpoint.restore(tmp_path, tree(0))[0] == 1


def test_what_version_0_1_left_unmerged_below_a_path_with_brackets_is_damaged(tmp_path):
    folder = tmp_path / "sweep[1]"
    folder.mkdir()
    save_as_version_0_1_did(folder, 1, tree(1), {})
    with pytest.raises(ValueError, match=r"00000001 holds no arrays that orbax can read"):
        checkpoint.restore(folder, tree(0))
    checkpoint.save(folder, 0, tree(2))
    assert tiny.tree_equal(checkpoint.restore(folder, tree(0))[1], tree(2))


def test_a_model_that_version_0_1_saved_is_loaded(tmp_path):
    network = models.bind(models.by_name("wrn10_1", 3), tiny.SHAPE, (0.4,), (0.3,))
    variables = dict(network.init(jax.random.key(0)))
    save_as_version_0_1_did(tmp_path, 0, named_leaves(variables), NOTE)
    loaded = saved.load(tmp_path)
    assert loaded.note == NOTE
    assert tiny.tree_equal(dict(loaded.variables), jax.tree.map(np.asarray, variables))


BODY = {"files": {}, "note": {}}


@pytest.mark.parametrize(
    "manifest",
    [
        "{}",
        "[" * 100_000,
        json.dumps({"results": [1, 2]}),
        json.dumps({**BODY, "sha256": "0" * 64}),
        json.dumps({"files": 3, "note": {}, "sha256": hashlib.sha256(b'{"files": 3, "note": {}}').hexdigest()}),
    ],
    ids=["empty", "deep", "results", "another digest", "another shape"],
)
def test_what_a_user_keeps_beside_checkpoints_is_neither_counted_nor_deleted(tmp_path, manifest):
    for name in ("20251126", "00000007", "step_00000009", "step_00000001", ".ssdkd_jax_0123456789abcdef"):
        (tmp_path / name / "data").mkdir(parents=True)
        (tmp_path / name / "data" / "notes.txt").write_text("mine")
    (tmp_path / "00000008.orbax-checkpoint-tmp-1").mkdir()
    (tmp_path / "step_00000010").write_text("mine")
    for name in ("20251126.json", "00000012.json", "20251126/manifest.json"):
        (tmp_path / name).write_text(manifest)
    before = contents(tmp_path)
    for scale in (1, 2, 3):
        checkpoint.save(tmp_path, 1, tree(scale), keep=1)
    assert checkpoint.steps(tmp_path) == [1]
    assert tiny.tree_equal(checkpoint.restore(tmp_path, tree(0))[1], tree(3))
    assert before.items() <= contents(tmp_path).items()
    assert (tmp_path / "00000008.orbax-checkpoint-tmp-1").is_dir()


def test_the_one_just_saved_stays_though_others_have_higher_numbers(tmp_path):
    checkpoint.save(tmp_path, 7, tree(7))
    checkpoint.save(tmp_path, 3, tree(3), keep=1)
    assert checkpoint.steps(tmp_path) == [3, 7]


def test_a_superseded_checkpoint_with_files_of_the_user_stays(tmp_path, caplog):
    checkpoint.save(tmp_path, 1, tree(1))
    (tmp_path / "step_00000001" / "notes.txt").write_text("mine")
    before = contents(tmp_path)
    checkpoint.save(tmp_path, 2, tree(2), keep=1)
    assert before.items() <= contents(tmp_path).items()
    assert "step_00000001 holds files that were not there" in caplog.text
    assert checkpoint.restore(tmp_path, tree(0))[0] == 2


@pytest.mark.parametrize("name", [".", "arrays", "arrays/d", "arrays/_METADATA", "manifest.json", "arrays/more"])
def test_a_link_within_a_checkpoint_is_damage_and_neither_followed_nor_deleted(tmp_path, name):
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    for step in (1, 2):
        checkpoint.save(folder, step, tree(step))
    path = folder / "step_00000002" / name
    if path.exists():
        path.rename(elsewhere)
    else:
        elsewhere.write_text("mine")
    path.symlink_to(elsewhere)
    before = contents(tmp_path)
    with pytest.raises(checkpoint.Damaged, match=rf"{re.escape(str(path))} is a link; a checkpoint is a folder of "):
        checkpoint.verify(folder / "step_00000002")
    assert checkpoint.restore(folder, tree(0))[0] == 1
    checkpoint.save(folder, 3, tree(3), keep=1)
    assert {k: v for k, v in before.items() if "step_00000001" not in k}.items() <= contents(tmp_path).items()


ODD = [
    "sweep[1]",
    "[!a]",
    "back\\slash",
    "st*r",
    "dou**ble",
    "wh?t",
    "a b",
    "ü漢",
    "100%",
    "a{b,c}",
    "#",
    "gs:",
    "\udcff",
    "\n",
]


@pytest.mark.parametrize("name", ODD, ids=ascii)
def test_any_path_works(tmp_path, name):
    folder = tmp_path / name / "checkpoints"
    for scale in (1, 2):
        checkpoint.save(folder, 1, tree(scale), {"at": name})
    assert tiny.tree_equal(checkpoint.restore(folder, tree(0))[1], tree(2))
    moved = shutil.move(tmp_path / name, tmp_path / "plain")
    assert checkpoint.restore(moved / "checkpoints", tree(0))[2] == {"at": name}


def test_a_pattern_in_the_path_takes_nothing_from_a_neighbour_that_it_matches(tmp_path):
    checkpoint.save(tmp_path / "sweep1", 1, tree(1) | {"other": np.ones(3)})
    checkpoint.save(tmp_path / "sweep*", 1, tree(2))
    assert checkpoint.read(checkpoint.newest(tmp_path / "sweep*")).keys() == tree(2).keys()


def test_what_reads_back_otherwise_is_no_checkpoint(tmp_path, monkeypatch):
    folder = tmp_path / "sweep[1]"
    checkpoint.save(folder, 1, tree(1))
    before = contents(folder)
    monkeypatch.setattr(files, "PLAIN", re.compile("(?s).*"))  # orbax then leaves its files unmerged, without a word
    with pytest.raises(
        ValueError, match=r"What was written to .*sweep\[1\] reads back otherwise: '[nw]' is None instead"
    ):
        checkpoint.save(folder, 1, tree(2))
    assert contents(folder) == before


def test_a_note_reads_back_as_json_has_it(tmp_path):
    checkpoint.save(tmp_path, 1, tree(1), {"by class": {2: 0.5, 10: 0.25}, "shape": (8, 8)})
    assert checkpoint.restore(tmp_path, tree(0))[2] == {"by class": {"2": 0.5, "10": 0.25}, "shape": [8, 8]}
    with pytest.raises(TypeError, match="not JSON serializable"):
        checkpoint.save(tmp_path, 1, tree(2), {"a": object()})
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000001"]


def test_two_editions_of_a_number_are_told_apart_by_their_order(tmp_path):
    checkpoint.save(tmp_path / "one", 1, tree(1))
    checkpoint.save(tmp_path / "two", 1, tree(2))
    folder = tmp_path / "one"
    shutil.copytree(tmp_path / "two" / "step_00000001", folder / "step_00000001.1")
    assert checkpoint.steps(folder) == [1]
    assert checkpoint.newest(folder).name == "step_00000001.1"
    assert tiny.tree_equal(checkpoint.restore(folder, tree(0))[1], tree(2))
    (folder / "step_00000001.1" / "manifest.json").unlink()
    assert tiny.tree_equal(checkpoint.restore(folder, tree(0))[1], tree(1))
    assert [stored.edition for stored in checkpoint_folder.found(folder)] == [0, 1]
