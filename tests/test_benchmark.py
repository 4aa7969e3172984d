"""The tables of the benchmark, its budgets, and both scripts from end to end on tiny networks."""

import json
import os
import threading
from types import SimpleNamespace

import benchmark
import evidence
import numpy as np
import plans
import pytest
import runs
import tables
import test_scripts

from ssdkd_jax import build, presets
from ssdkd_jax import config as defaults
from ssdkd_jax.errors import InputError
from ssdkd_jax.run import pictures
from ssdkd_jax.types import Preview


def record(*points, **fields):
    """A run whose curve goes through (seconds, accuracy) points."""
    curve = [{"seconds": seconds, "accuracy": accuracy} for seconds, accuracy in points]
    numbers = {"synthesis": 1.0, "distillation": 2.0, "compilation": 3.0, "steps": 4, "images": 5}
    return {"accuracy": points[-1][1], "curve": curve, "peak_memory_bytes": 6e6, **numbers, **fields}


RECORDS = {
    "slow": [record((10.0, 0.5), (40.0, 0.8)), record((10.0, 0.6), (40.0, 0.9))],
    "ssdkd": [record((3.0, 0.6), (9.0, 0.9)), record((3.0, 0.8), (9.0, 0.94))],
    "lost": [record((5.0, 0.7), (9.0, 0.7)), record((5.0, 0.2), (9.0, 0.3))],
}


BUDGETED = ["60s/ssdkd/0", "60s/ssdkd/2", "60s/ssdkd/10", "60s/dafl/0", "200s/dafl/0", "600/real/1"]


def test_the_comparison_ranks_by_mean_accuracy_and_shows_the_spread():
    lines = tables.comparison(RECORDS).splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == ["ssdkd", "slow", "lost"]
    assert "| 92.00 ± 2.83 | 1.0 | 2.0 | 3.0 | 3.0 | 4 | 5 | 6 |" in lines[2]


def test_the_time_to_an_accuracy_is_that_of_all_seeds_or_never():
    assert tables.time_to(RECORDS["slow"][0], 0.8) == 40.0
    assert tables.time_to(RECORDS["slow"][0], 0.81) is None
    rows = tables.reaching(RECORDS, 0.7).splitlines()[2:]
    assert rows[0] == "| slow | 2 | 40.0 | 6.7 |"
    assert rows[1] == "| ssdkd | 2 | 6.0 | 1.0 |"
    assert rows[2] == "| lost | 2 | never in 9 s (1.5x) |  |"


def test_a_method_with_several_budgets_counts_with_the_one_under_which_it_arrives_first():
    long, longer = [record((50.0, 0.7), (90.0, 0.9))], [record((70.0, 0.7), (200.0, 0.8))]
    assert tables.quickest([RECORDS["lost"], longer, long], 0.7) is long
    assert tables.quickest([RECORDS["lost"], longer, long], 0.95) is longer


def test_runs_of_earlier_calls_stand_in_the_tables_in_order(tmp_path):
    summary = {
        **{"score": "accuracy", "student_accuracy": 0.9, "teacher_accuracy": 0.95, "clock": "cpu"},
        **{"seconds": {"synthesis": 3.0, "distillation": 6.0}, "distillation_steps": 5, "synthetic_images": 7},
        **{"config": {"schedule": {"rounds": 4}}, "peak_memory_bytes": 8},
    }
    parts = [*BUDGETED, "scale/13/0", "pace/ssdkd"]
    for part in parts:
        seed = int(part.split("/")[-1]) if part[-1].isdigit() else 0
        curve = [{"synthesis": s, "distillation": 2 * s, "accuracy": 0.3 * s} for s in (1.0, 2.0, 3.0)]
        (tmp_path / part).mkdir(parents=True)
        (tmp_path / part / "summary.json").write_text(json.dumps({**summary, "seed": seed, "curve": curve}))
    found = benchmark.finished(tmp_path)
    runs_of = {f"{budget}/{name}": seeds for budget, of in found.items() for name, seeds in of.items()}
    assert [f"{folder}/{run['seed']}" for folder, seeds in runs_of.items() for run in seeds] == BUDGETED
    benchmark.write(tmp_path, found)
    text = (tmp_path / "benchmark.md").read_text()
    assert text.count("## Budget") == 3
    assert text.count("SSD-KD at a third of its time: 30.00 %") == 1
    assert "| dafl | 1 | 3.0 | 1.0 |" in text


def test_accuracy_between_evaluations_is_linear_and_zero_at_the_start():
    run = record((4.0, 0.4), (8.0, 0.8))
    assert benchmark.accuracy_at(run, 2.0) == pytest.approx(0.2)
    assert benchmark.accuracy_at(run, 6.0) == pytest.approx(0.6)
    assert benchmark.accuracy_at(run, 99.0) == pytest.approx(0.8)


@pytest.mark.parametrize("name", presets.PRESETS)
def test_a_budget_of_steps_is_the_same_for_every_method(name):
    config = presets.apply(defaults.default(), name)
    fitted = benchmark.fitted(config, benchmark.parsed("4000"), None)
    assert build.student_steps(fitted) == pytest.approx(4000, abs=config.schedule.distill_steps / 2)
    assert fitted.schedule.warmup == config.schedule.warmup
    assert 1 <= (fitted.schedule.rounds - fitted.schedule.warmup) // fitted.schedule.evaluate_every <= 24


def test_a_budget_of_seconds_is_filled_at_the_measured_pace():
    pace = benchmark.Pace(synthesis=0.5, distillation=2.0)
    config = plans.configured(defaults.default(), schedule__rounds=40, schedule__warmup=10)
    plan = benchmark.fitted(config, benchmark.parsed("100s"), pace).schedule
    assert plan.rounds * 0.5 + (plan.rounds - plan.warmup) * 2.0 == pytest.approx(100, abs=2.5)
    assert plan.warmup / plan.rounds == pytest.approx(0.25, abs=0.02)


def test_a_budget_may_be_that_of_some_methods_alone():
    assert benchmark.parsed("400s:dafl+zskt") == ("400s", 400, True, ("dafl", "zskt"))
    assert benchmark.parsed("600") == ("600", 600, False, ())
    with pytest.raises(ValueError, match="Budget '5 min' is neither seconds"):
        benchmark.parsed("5 min")
    with pytest.raises(ValueError, match=r"method = 'dafi' is not one of .* did you mean 'dafl'"):
        benchmark.parsed("400s:zskt+dafi")


def test_the_ablation_tells_how_even_the_classes_ended():
    rows = Preview(images=None, label=np.array([0, 0, 2, 2, 2]), confidence=None)
    assert pictures.class_counts(rows, 4) == [2, 0, 3, 0]
    assert evidence.evenness([{"class_counts": [2, 0, 3]}, {"class_counts": [4, 2, 9]}]) == "1 to 6"
    assert evidence.evenness([]) == ""


PROCESSORS = getattr(os, "sched_getaffinity", lambda _: {0})(0)


@pytest.mark.skipif(len(PROCESSORS) < 2, reason="needs two processors that Linux lets a process choose")
def test_runs_at_once_keep_to_processors_of_their_own_and_their_order(monkeypatch, tmp_path):
    def run_one(workdir, run, prefix):
        together.wait(timeout=60)
        return {"folder": run.folder, "prefix": prefix, "cores": tuple(os.sched_getaffinity(0))}

    together = threading.Barrier(2)
    monkeypatch.setattr(runs, "JOBS", SimpleNamespace(value=2))
    monkeypatch.setattr(runs, "run_one", run_one)
    found = list(runs.run_all(tmp_path, [runs.Run(name, None) for name in "abcd"]))
    assert [(run["folder"], run["prefix"]) for run in found] == [
        (name, f"[{number}/4]") for number, name in enumerate("abcd", 1)
    ]
    cores = [set(run["cores"]) for run in found]
    assert cores[0].isdisjoint(cores[1]) and cores[2].isdisjoint(cores[3])
    assert cores[0] | cores[1] == PROCESSORS


def test_more_runs_at_once_than_processors_are_refused():
    assert runs.shared_out([1, 3, 4], 2) == [[1, 4], [3]]
    with pytest.raises(ValueError, match="--jobs=4, but this process may use 3 processors"):
        runs.shared_out([1, 3, 4], 4)


@pytest.mark.slow
@pytest.mark.parametrize(("parts", "lines"), [(("benchmark", "pictures"), 3), (("real",), 3), (("scale",), 5)])
def test_each_part_of_the_evidence_is_written_and_not_run_twice(tmp_path, cache, parts, lines):
    fields = {"teacher__model": "tiny:Tiny", "synthesis__batch": 16, "student__batch": 16, "schedule__distill_steps": 2}
    arguments = [
        f"--workdir={tmp_path}",
        *test_scripts.overrides(**fields),
        *("--seeds=1", "--budgets=4", "--methods=ssdkd,dafl,real_small", "--steps=4"),
        f"--jobs={min(2, len(PROCESSORS))}",
        *(f"--parts={part}" for part in parts),
    ]
    code, out, err = test_scripts.finish(test_scripts.start(cache, "evidence.py", *arguments))
    assert code == 0, err
    assert len(out.strip().splitlines()) == lines
    for path in tmp_path.glob("*.png"):
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    CHECKS[parts[0]](tmp_path)
    code, out, err = test_scripts.finish(test_scripts.start(cache, "evidence.py", *arguments))
    assert (code, out) == (0, ""), err


@pytest.mark.slow
def test_the_switch_of_methods_serves_masks_too(tmp_path, cache):
    fields = {"teacher__model": "tiny:Pixels", "student__model": "tiny:Pixels", "teacher__epochs": 1}
    methods = ("ssdkd", "fast_dfkd_5", "dfad")
    arguments = (f"--workdir={tmp_path}", "--seeds=1", "--budgets=4", f"--methods={','.join(methods)}")
    overrides = test_scripts.overrides(**fields, schedule__distill_steps=2)
    config = test_scripts.ROOT / "configs" / "scenes.py"
    code, _, err = test_scripts.finish(test_scripts.start(cache, "benchmark.py", *arguments, *overrides, config=config))
    assert code == 0, err
    found = json.loads((tmp_path / "benchmark.json").read_text())["budgets"]["4"]
    assert found.keys() == set(methods)
    assert all(run["steps"] == 4 and 0 <= run["accuracy"] <= 1 for (run,) in found.values())


def check_benchmark(folder):
    assert {path.name for path in folder.glob("*.png")} == {f"{n}.png" for n in ("accuracy_4", "times_4", *PICTURES)}
    found = json.loads((folder / "benchmark.json").read_text())["budgets"]["4"]
    assert found.keys() == {"ssdkd", "dafl", "real_small"}
    assert found["real_small"][0]["images"] == 0
    assert [run["steps"] for (run,) in found.values()] == [4, 4, 4]
    assert all(run["synthesis"] + run["distillation"] > 0 and run["compilation"] > 0 for (run,) in found.values())


def check_real(folder):
    rows = (folder / "real.md").read_text().strip().splitlines()[2:]
    assert len(rows) == 5
    assert all(0 <= float(row.split("|")[2]) <= 100 for row in rows)


def check_scale(folder):
    found = json.loads((folder / "scale.json").read_text())
    assert [run["buffer_size"] for (run,) in found.values()] == [13, 26, 65, 130, 259]
    assert (folder / "scale.png").exists()


PICTURES = ("histograms", "grids")
CHECKS = {"benchmark": check_benchmark, "real": check_real, "scale": check_scale}


def test_a_run_of_another_config_in_the_same_folder_is_refused_before_any_is_started(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "execute", lambda *_: pytest.fail("started"))
    monkeypatch.setattr(runs, "CLOCK", SimpleNamespace(value="wall"))
    monkeypatch.setattr(runs, "JOBS", SimpleNamespace(value=1))
    config = defaults.default()
    done = {"config": plans.configured(config, data__folder="elsewhere").to_dict(), "score": "accuracy"}
    (tmp_path / "60s" / "dafl" / "1").mkdir(parents=True)
    (tmp_path / "60s" / "dafl" / "1" / "summary.json").write_text(json.dumps(done))
    planned = [runs.Run("60s/dafl/0", config), runs.Run("60s/dafl/1", plans.configured(config, student__lr=0.2))]
    with pytest.raises(InputError, match=r"60s/dafl/1' holds another run \(student\.lr = 0\.1 there and 0\.2 here\)"):
        list(runs.run_all(tmp_path, planned))
    assert list(runs.run_all(tmp_path, [runs.Run("60s/dafl/1", config)])) == [done]

    runs.begin(tmp_path, config)
    runs.begin(tmp_path, config)
    with pytest.raises(InputError, match=r"holds another run \(seed = 0 there and 3 here\); choose another --workdir"):
        runs.begin(tmp_path, plans.configured(config, seed=3))
    monkeypatch.setattr(runs, "CLOCK", SimpleNamespace(value="cpu"))
    with pytest.raises(InputError, match="--clock = wall there and cpu here"):
        runs.begin(tmp_path, config)
