"""The comparison with the peer's PyTorch code: its clock, levels, order and tables, and each side at tiny size.

The peer's side needs a clone of it, named by SSDKD_PEER, and what it imports.
"""

import json
import os
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import levels
import meter
import numpy as np
import ours
import pytest
import test_scripts
import tiny
import turns

from ssdkd_jax import models
from ssdkd_jax.errors import InputError
from ssdkd_jax.interop import saved

PEER = os.environ.get("SSDKD_PEER", "")


def curve(*points):
    """Of (seconds, accuracy)."""
    return [{"seconds": seconds, "accuracy": accuracy} for seconds, accuracy in points]


def run(side, seed, *points, spent=99.0):
    """What run.json holds of a run whose curve goes through (seconds, accuracy) points."""
    return {"side": side, "seed": seed, "curve": curve(*points), "seconds_inside": spent}


RUNS = {
    "peer_256": [run("peer", 0, (40, 0.8), (60, 0.9), (80, 0.9)), run("peer", 1, (50, 0.5), (70, 0.9), spent=70.0)],
    "ours": [run("ours", 1, (10, 0.9), (20, 0.9)), run("ours", 0, (12, 0.9), (20, 0.9))],
    "ours_random_start": [run("ours", 0, (10, 0.3))],
}


def test_a_level_counts_when_two_evaluations_in_a_row_have_it():
    points = curve((1, 0.5), (2, 0.9), (3, 0.8), (4, 0.9), (5, 0.95), (6, 0.7))
    assert meter.reached(points, 0.9) == 4
    assert meter.reached(points, 0.8) == 2
    assert meter.reached(points, 0.93) is None
    assert meter.reached(points[:2], 0.9) is None
    assert meter.reached([], 0.1) is None


def test_the_meter_stands_still_outside_and_ends_the_run_at_the_highest_level_or_the_budget():
    ticks = count(10.0)
    watch = meter.Meter(9.0, [0.8, 0.5], 30.0, now=lambda: next(ticks))
    assert watch.seconds == 1.0
    with watch.outside():
        for _ in range(6):
            next(ticks)
    assert watch.seconds == 3.0  # asking for the time is a tick, too
    watch.evaluated(0.9, 5)
    assert not watch.over()
    watch.evaluated(0.9, 6)
    assert watch.over()
    assert [point["steps"] for point in watch.curve] == [5, 6]
    spent = meter.Meter(0.0, [1.0], 30.0, now=lambda: 30.0)
    assert spent.over()


def test_the_runs_alternate_seed_by_seed():
    known = turns.variants(tiny.make_config(), [256, 128], every=4)
    names = ["peer_256", "ours", "peer_128", "ours_random_start", "ours_fast_dfkd"]
    assert [variant.name for variant in known] == names
    order = [(variant.name, seed) for variant, seed in turns.planned(known, [], 2)]
    assert order == [(name, seed) for seed in range(2) for name in names]
    assert [variant.name for variant, _ in turns.planned(known, ["ours", "peer_128"], 1)] == names[1:3]
    with pytest.raises(InputError, match="'theirs'; known are peer_256, ours,"):
        turns.planned(known, ["theirs"], 1)


def test_the_variants_of_ours_differ_in_start_and_method_alone():
    configs = {v.name: v.config for v in turns.variants(tiny.make_config(), [8], every=4) if v.config}
    starts = {name: config.student.start for name, config in configs.items()}
    assert starts == {"ours": "teacher", "ours_random_start": "random", "ours_fast_dfkd": "teacher"}
    assert configs["ours_fast_dfkd"].method.name == "fast_dfkd"
    assert {config.schedule.evaluate_every for config in configs.values()} == {2}


def test_the_tables_pair_the_seeds_and_mark_bounds():
    seconds = levels.seconds(RUNS, [0.85]).splitlines()[2:]
    assert seconds[0] == "| peer_256 | 0, 1 | > 65.0 (60.0, > 70.0) | 90.00 at 80, 90.00 at 70 |"
    assert seconds[1] == "| ours | 1, 0 | 11.0 (10.0, 12.0) | 90.00 at 20, 90.00 at 20 |"
    assert seconds[2] == "| ours_random_start | 0 | > 99.0 | 30.00 at 10 |"
    ratios = levels.ratios(RUNS, [0.85]).splitlines()[2:]
    assert ratios == ["| peer_256 / ours | > 6.00 (5.00, > 7.00) |", "| peer_256 / ours_random_start | - |"]


def test_the_plot_is_written_also_of_a_run_without_a_point(tmp_path):
    nothing = {"peer_128": [run("peer", 0)]}
    for name, runs in (("curves", {**RUNS, **nothing}), ("nothing", nothing)):
        levels.plot(tmp_path / f"{name}.png", runs, [0.85])
        assert (tmp_path / f"{name}.png").stat().st_size


def job(folder, **fields):
    """A job of one seed on random images, written into its folder."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    shape = fields["image_shape"]
    images, labels = (
        rng.integers(0, 256, (20, *shape), np.uint8),
        rng.integers(0, fields.get("classes", tiny.CLASSES), 20),
    )
    np.savez(folder / "test.npz", images=images, labels=labels.astype(np.int32))
    shared = {"seed": 0, "threads": 1, "levels": [2.0], "seconds": 600.0, "test_file": str(folder / "test.npz")}
    (folder / "job.json").write_text(json.dumps({**shared, **fields}))
    return images


def test_our_side_runs_to_its_end_and_evaluates_each_round(tmp_path, monkeypatch, teacher, one_device):
    plain = {**tiny.PLAIN, "schedule__evaluate_every": 1, "student__start": "teacher"}
    config = tiny.make_config(**plain, teacher__checkpoint=str(tmp_path / "teacher"))
    saved.save(tmp_path / "teacher", teacher.variables, saved.note("tiny:Tiny", tiny.INPUTS))
    job(tmp_path, image_shape=tiny.SHAPE)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    monkeypatch.setenv(meter.STARTED, str(time.time()))
    ours.run(tmp_path)
    found = json.loads((tmp_path / "run.json").read_text())
    assert [point["steps"] for point in found["curve"]] == [2, 4, 6]
    assert 0 < found["curve"][0]["seconds"] < found["curve"][-1]["seconds"] <= found["seconds_inside"]
    assert found["seconds_outside"] > 0
    assert found["settings"]["student"]["start"] == "teacher"
    assert found["versions"]["jax"]


def test_our_side_stops_when_its_seconds_are_spent(tmp_path, monkeypatch, teacher, one_device):
    config = tiny.make_config(**tiny.PLAIN, teacher__checkpoint=str(tmp_path / "teacher"))
    saved.save(tmp_path / "teacher", teacher.variables, saved.note("tiny:Tiny", tiny.INPUTS))
    job(tmp_path, image_shape=tiny.SHAPE, seconds=1.0)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    monkeypatch.setenv(meter.STARTED, "0")
    ours.run(tmp_path)
    assert json.loads((tmp_path / "run.json").read_text())["curve"] == []


@pytest.mark.skipif(not PEER, reason="SSDKD_PEER names no clone of zju-vipa/Fast-Datafree")
def test_the_peer_has_the_teacher_s_logits_and_its_student_learns(tmp_path):
    shape, normal = (16, 16, 1), {"mean": [0.3], "std": [0.4]}
    inputs = tiny.build.Inputs(shape, 10, tuple(normal["mean"]), tuple(normal["std"]))
    network = models.bind(models.by_name("wrn16_1", 10), shape, inputs.mean, inputs.std)
    teacher = saved.Classifier(network, network.init(tiny.jax.random.key(0)), inputs, "wrn16_1")
    files = {f"{name}_file": str(tmp_path / f"{name}.{end}") for name, end in (("teacher", "pth"), ("probe", "npz"))}
    named = {"teacher_model": "wrn16_1", "student_model": "wrn16_1", "peer": PEER, "tag": "wrn-5"}
    sizes = {"classes": 10, "batch": 8, "every": 2, "seconds": 60.0, "levels": [0.0]}
    images = job(tmp_path, image_shape=shape, **normal, **files, **named, **sizes)
    teacher.export(files["teacher_file"])
    np.savez(files["probe_file"], images=images, logits=np.asarray(teacher(images)))
    script = Path(test_scripts.ROOT) / "experiments" / "peer.py"
    for words in (["--check"], []):
        command = [sys.executable, str(script), str(tmp_path), *words]
        done = subprocess.run(command, env={**os.environ, meter.STARTED: str(time.time())}, capture_output=True)
        assert not done.returncode, done.stderr.decode()
        if words:
            assert float(done.stdout.split()[-1]) < turns.CLOSE
    found = json.loads((tmp_path / "run.json").read_text())
    assert [point["steps"] for point in found["curve"]] == [2, 4]
    assert found["settings"]["g_steps"] == 5 and found["settings"]["batch_size"] == 8
