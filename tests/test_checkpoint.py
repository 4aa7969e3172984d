"""Checkpoints are whole or not at all, and say so when they do not fit."""

import fcntl
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny

from ssdkd_jax import models
from ssdkd_jax.engine import checkpoint, workdir
from ssdkd_jax.interop import saved


def tree(scale):
    return {
        "w": scale * np.arange(6, dtype=np.float32).reshape(2, 3),
        "n": np.int32(scale),
        "key": np.array([scale, 2**32 - 1], np.uint32),
    }


def files_of(folder, step):
    every = (p for p in (folder / f"step_{step:08d}").rglob("*") if p.is_file() and p.stat().st_size)
    return sorted(p for p in every if p.name != "manifest.json")


def cut_short(folder):
    largest = max(files_of(folder, 2), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])


def flip_a_byte(folder):
    largest = max(files_of(folder, 2), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(bytes(content))


def lose_a_file(folder):
    files_of(folder, 2)[0].unlink()


def lose_the_manifest(folder):
    (folder / "step_00000002" / "manifest.json").unlink()


def cut_the_manifest(folder):
    path = folder / "step_00000002" / "manifest.json"
    path.write_text(path.read_text()[:20])


DAMAGES = [cut_short, flip_a_byte, lose_a_file, lose_the_manifest, cut_the_manifest]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    checkpoint.save(folder, 1, tree(1), {"at": 1})
    checkpoint.save(folder, 2, tree(2), {"at": 2})
    return folder


@pytest.fixture
def copied(two, tmp_path):
    return shutil.copytree(two, tmp_path / "copy")


def test_a_train_state_comes_back_bit_for_bit(teacher_variables, tmp_path):
    state = jax.tree.map(np.asarray, tiny.first_state(tiny.job(tiny.make_config(), teacher_variables)))
    odd = jax.tree.map(lambda x: np.asarray(x) if x.dtype.kind != "f" else x + x.dtype.type(1 / 3), state)
    checkpoint.save(tmp_path, 3, odd, {"seconds": {"a": 0.1}})
    step, back, note = checkpoint.restore(tmp_path, jax.eval_shape(lambda: state))
    assert (step, note) == (3, {"seconds": {"a": 0.1}})
    assert tiny.tree_equal(back, odd)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(odd), strict=True):
        assert a.dtype == b.dtype


def test_a_buffer_without_cached_views_is_saved_and_told_from_one_with(tmp_path):
    without = {"w": np.ones(2, np.float32), "logits": np.zeros((4, 0, 3), np.float32)}
    checkpoint.save(tmp_path, 1, without)
    _, restored, _ = checkpoint.restore(tmp_path, without)
    assert restored["logits"].shape == (4, 0, 3)
    np.testing.assert_array_equal(restored["w"], without["w"])
    cached = without | {"logits": np.zeros((4, 2, 3), np.float32)}
    with pytest.raises(ValueError, match="lacks array 'logits'"):
        checkpoint.restore(tmp_path, cached)
    checkpoint.save(tmp_path, 2, cached)
    with pytest.raises(ValueError, match=r"'logits' has shape \(4, 2, 3\), expected \(4, 0, 3\)"):
        checkpoint.restore(tmp_path, without)


def test_the_newest_whole_checkpoint_is_used(copied):
    step, values, note = checkpoint.restore(copied, tree(0))
    assert (step, note) == (2, {"at": 2})
    assert tiny.tree_equal(values, tree(2))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_is_passed_over_for_the_one_before(copied, damage):
    damage(copied)
    step, values, note = checkpoint.restore(copied, tree(0))
    assert (step, note) == (1, {"at": 1})
    assert tiny.tree_equal(values, tree(1))


def test_each_file_of_the_newest_cut_short_or_with_a_flipped_byte_is_passed_over_and_named(copied, caplog):
    for path in [*files_of(copied, 2), copied / "step_00000002" / "manifest.json"]:
        content = path.read_bytes()
        for at in {0, len(content) // 2, len(content) - 1}:
            path.write_bytes(content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :])
            assert checkpoint.restore(copied, tree(0))[0] == 1, (path, at)
            path.write_bytes(content[:at])
            assert checkpoint.restore(copied, tree(0))[0] == 1, (path, at)
        path.write_bytes(content)
        assert any(str(path) in record.getMessage() for record in caplog.records)
    assert checkpoint.restore(copied, tree(0))[0] == 2


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (cut_short, "is cut short or grown: .* bytes instead of"),
        (flip_a_byte, "has changed bytes: its SHA-256 differs"),
        (lose_a_file, "is gone"),
        (cut_the_manifest, r"00000002/manifest\.json is cut short or has changed"),
    ],
)
def test_damages_are_told_apart(copied, damage, sentence):
    damage(copied)
    with pytest.raises(checkpoint.Damaged, match=sentence):
        checkpoint.verify(copied / "step_00000002")


def test_what_a_save_that_was_cut_short_left_behind_is_swept_away_and_nothing_else(copied):
    ours, unmarked, in_use = (copied / f".ssdkd_jax_{number:016x}" for number in range(3))
    for folder in (ours, unmarked, in_use, copied / "20251126"):
        folder.mkdir()
        (folder / "file").write_text("x")
    for folder in (ours, in_use):
        shutil.copy(copied / "step_00000002" / "SSDKD_JAX", folder)
    with (in_use / "SSDKD_JAX").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        checkpoint.save(copied, 5, tree(5))
    assert not ours.exists()
    assert all((folder / "file").exists() for folder in (unmarked, in_use, copied / "20251126"))
    assert checkpoint.steps(copied) == [2, 5]


def test_a_full_disk_while_orbax_writes_is_an_oserror_and_keeps_the_checkpoint_before(copied, monkeypatch):
    def fail(self, path, *_, **__):
        (path.parent / f"{path.name}.orbax-checkpoint-tmp").mkdir()
        raise ValueError("RESOURCE_EXHAUSTED: Error writing: No space left on device [os_error_code='28']")

    monkeypatch.setattr(ocp.AsyncCheckpointer, "save", fail)
    with pytest.raises(OSError, match="No space left on device") as error:
        checkpoint.save(copied, 3, tree(3))
    assert workdir.explain(error.value).startswith("The disk is full ([Errno 28] No space left on device")
    assert sorted(p.name for p in copied.iterdir()) == ["step_00000001", "step_00000002"]
    assert checkpoint.restore(copied, tree(0))[0] == 2


def test_only_damaged_checkpoints_are_an_error_that_names_the_folder(copied):
    (copied / "step_00000001" / "manifest.json").unlink()
    flip_a_byte(copied)
    with pytest.raises(ValueError, match=r"Every checkpoint in .*copy is damaged; delete that folder"):
        checkpoint.restore(copied, tree(0))


def test_an_empty_or_missing_folder_has_nothing_to_restore(tmp_path):
    assert checkpoint.restore(tmp_path / "none", tree(0)) is None


def test_only_the_newest_are_kept_and_a_step_can_be_saved_again(copied):
    checkpoint.save(copied, 2, tree(5))
    checkpoint.save(copied, 3, tree(3))
    assert checkpoint.steps(copied) == [2, 3]
    assert sorted(p.name for p in copied.iterdir()) == ["step_00000002.1", "step_00000003"]
    (copied / "step_00000003" / "manifest.json").unlink()
    assert tiny.tree_equal(checkpoint.restore(copied, tree(0))[1], tree(5))


@pytest.mark.parametrize(
    ("like", "sentence"),
    [
        ({**tree(0), "extra": np.zeros(1)}, "lacks array 'extra'"),
        ({"w": tree(0)["w"], "n": tree(0)["n"]}, "holds the unexpected array 'key'"),
        ({**tree(0), "w": np.zeros((3, 2))}, r"'w' has shape \(2, 3\), expected \(3, 2\)"),
    ],
)
def test_another_structure_is_an_error_that_names_the_array(two, like, sentence):
    with pytest.raises(ValueError, match=f"of another model or configuration: (it )?{sentence}"):
        checkpoint.restore(two, like)


def test_a_checkpoint_that_declares_far_more_than_is_expected_is_refused_before_it_is_read(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, {"w": np.zeros(3_000_000, np.int8)})
    monkeypatch.setattr(ocp.PyTreeCheckpointer, "restore", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(ValueError, match="of another model or configuration: it holds 3000000 numbers"):
        checkpoint.restore(tmp_path, {"w": np.zeros(5, np.int8)})


NOTE = {"classes": 3, "image_shape": [8, 8, 1], "mean": [0.4], "std": [0.3]}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A saved WRN: (folder, its variables)."""
    folder = tmp_path_factory.mktemp("model")
    network = models.bind(models.by_name("wrn10_1", 3), tiny.SHAPE, (0.4,), (0.3,))
    variables = network.init(jax.random.key(0))
    saved.save(folder, variables, {**NOTE, "model": "wrn10_1"})
    return folder, variables, network


def test_a_saved_model_loads_and_answers_as_it_did(model):
    folder, variables, network = model
    images = tiny.images(0, 2)
    loaded = saved.load(folder)
    assert tiny.tree_equal(dict(loaded.variables), jax.tree.map(np.asarray, dict(variables)))
    np.testing.assert_array_equal(loaded(images), jax.jit(network.apply)(variables, images))


def test_a_model_of_another_architecture_is_an_error_that_names_the_array(model, tmp_path):
    saved.save(tmp_path, model[1], {**NOTE, "model": "wrn16_1"})
    with pytest.raises(ValueError, match=r"another model or configuration: it lacks array '\S+block1_layer1\S+'"):
        saved.load(tmp_path)


def test_a_damaged_model_is_an_error(model, tmp_path):
    folder = shutil.copytree(model[0], tmp_path / "m")
    largest = max(files_of(folder, 0), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"The model in '.*' is damaged"):
        saved.load(folder)


def test_a_missing_model_is_an_error_that_names_the_script(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No saved model in .* a run, `ssdkd import` or `save` left"):
        saved.load(tmp_path)


def test_a_saved_name_never_imports_code_on_its_own(tmp_path):
    network = models.bind(tiny.Tiny(3), tiny.SHAPE)
    saved.save(tmp_path, network.init(jax.random.key(0)), {**NOTE, "model": "tiny:Tiny"})
    with pytest.raises(ValueError, match="'tiny:Tiny', not of this package; name it in the call"):
        saved.load(tmp_path)
    assert saved.load(tmp_path, "tiny:Tiny")(jnp.zeros((1, *tiny.SHAPE))).shape == (1, 3)
