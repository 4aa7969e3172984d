"""Files are written whole or not at all; nothing is written through a link."""

import hashlib
import os
import stat
import tracemalloc

import numpy as np
import pytest
import runs
import tiny

from ssdkd_jax.engine import checkpoint, files, saver, workdir
from ssdkd_jax.report import masks, plots, progress

MINE = b"export PATH=mine\n"


@pytest.fixture
def mine(tmp_path):
    """A file that the user owns, in a folder of its own."""
    path = tmp_path / "home" / "mine"
    path.parent.mkdir()
    path.write_bytes(MINE)
    yield path
    assert path.read_bytes() == MINE
    assert [p.name for p in path.parent.iterdir()] == ["mine"]


def grid(path):
    plots.write(path, plots.grid(np.zeros((4, 6, 1), np.uint8), "title"))


def histograms(path):
    plots.write(path, plots.histograms(np.array([1, 2]), np.array([0.5, 0.25])))


def table(path):
    masks.write_table(path, ["ground"], {"teacher": {"miou": 0.5, "iou_0": 0.5}})


WRITERS = [lambda path: files.write_json(path, {"a": 1}), grid, histograms, table]


@pytest.mark.parametrize("write", WRITERS)
def test_a_link_in_place_of_a_file_is_replaced_and_its_target_left_alone(tmp_path, mine, write):
    path, partial, lost = (tmp_path / name for name in ("out", "out.partial", "lost"))
    path.symlink_to(mine)
    partial.symlink_to(mine)
    write(path)
    assert stat.S_ISREG(path.lstat().st_mode)
    assert path.stat().st_size
    path.unlink()
    path.symlink_to(lost)
    write(path)
    assert not lost.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home", "out", "out.partial"]


def test_a_file_that_cannot_be_written_keeps_what_it_was(tmp_path, monkeypatch):
    files.write_bytes(tmp_path / "a", b"before")
    monkeypatch.setattr(files.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left on device"):
        files.write_bytes(tmp_path / "a", b"after")
    assert (tmp_path / "a").read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def soft_link(path, target):
    path.symlink_to(target)


def dangling(path, target):
    path.symlink_to(target.with_name("none"))


def hard_link(path, target):
    path.hardlink_to(target)


def pipe(path, _):
    os.mkfifo(path)


def folder(path, _):
    path.mkdir()


@pytest.mark.parametrize(
    ("stand", "kind"),
    [
        (soft_link, "a link"),
        (dangling, "a link"),
        (hard_link, "a file that has another name elsewhere"),
        (pipe, "a pipe or a device"),
        (folder, "a folder"),
    ],
)
def test_what_stands_for_the_lock_and_is_no_file_of_its_own_is_refused(tmp_path, mine, stand, kind):
    run = tmp_path / "run"
    run.mkdir()
    stand(run / ".lock", mine)
    with pytest.raises(ValueError, match=f"'{run}/.lock' is {kind}, not a plain file of its own; remove it"):
        workdir.claim(run)
    (run / ".lock").rmdir() if stand is folder else (run / ".lock").unlink()


def test_a_file_that_is_no_lock_is_not_truncated(tmp_path):
    (tmp_path / ".lock").write_bytes(MINE)
    with pytest.raises(
        ValueError, match=r"\.lock' is not the lock of a run; move it away, or choose another folder\.$"
    ):
        workdir.claim(tmp_path)
    assert (tmp_path / ".lock").read_bytes() == MINE


@pytest.mark.parametrize("name", workdir.FOLDERS)
def test_a_folder_of_a_run_that_is_a_link_is_refused_and_nothing_lands_behind_it(tmp_path, mine, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(mine.parent)
    sentence = rf"'{tmp_path}/run/{name}' is a link, and nothing is written through one; remove it, or name"
    for write in (
        lambda path: workdir.claim(path.parent),
        progress.Board,
        lambda path: saver.Saver(path, 0.0),
        lambda path: checkpoint.save(path, 1, {"w": np.ones(2)}),
    ):
        with pytest.raises(ValueError, match=sentence):
            write(tmp_path / "run" / name)


def test_a_run_may_lie_behind_a_link(tmp_path):
    (tmp_path / "big").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "big")
    workdir.claim(tmp_path / "run").close()
    checkpoint.save(tmp_path / "run" / "checkpoints", 1, {"w": np.ones(2)})
    assert tiny.tree_equal(
        checkpoint.restore(tmp_path / "big" / "checkpoints", {"w": np.ones(2)})[1], {"w": np.ones(2)}
    )


def test_the_log_of_a_run_is_not_continued_through_a_link(tmp_path, mine, monkeypatch):
    monkeypatch.setattr(runs.subprocess, "run", lambda *_, stdout, **__: os.write(stdout.fileno(), b"a line\n"))
    for _ in range(2):
        runs.execute("distill.py", tiny.make_config(), tmp_path, tmp_path / "log.txt")
    assert (tmp_path / "log.txt").read_bytes() == b"a line\na line\n"
    for stand in (soft_link, hard_link):
        stand(tmp_path / stand.__name__, mine)
        with pytest.raises(ValueError, match="not a plain file of its own"):
            runs.execute("distill.py", tiny.make_config(), tmp_path, tmp_path / stand.__name__)
        (tmp_path / stand.__name__).unlink()


@pytest.mark.parametrize("stand", [soft_link, pipe, folder])
def test_only_plain_files_are_read(tmp_path, mine, stand):
    stand(tmp_path / "a", mine)
    with pytest.raises(ValueError, match="not a plain file of its own"):
        files.read_bytes(tmp_path / "a")
    with pytest.raises(ValueError, match="not a plain file of its own"):
        files.digest(tmp_path / "a")


def test_a_digest_takes_a_piece_of_a_file_at_a_time(tmp_path):
    content = np.random.default_rng(0).bytes(8_000_000)
    (tmp_path / "a").write_bytes(content)
    tracemalloc.start()
    try:
        assert files.digest(tmp_path / "a") == (len(content), hashlib.sha256(content).hexdigest())
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
