"""The committed protocol is well formed, and what is none is refused; how long runs take."""

from collections import Counter
from itertools import count
from pathlib import Path

import pacing
import protocol
import pytest
import robustness_tables
import sets
import test_scripts

from ssdkd_jax.errors import InputError, MissingError
from ssdkd_jax.models import shares

FILE = test_scripts.ROOT / "experiments" / "protocols" / "robustness.toml"
PAIRS = protocol.read(FILE).pairs
HELD = [pair for pair in PAIRS.values() if pair.role == "held"]
TINY = """
seconds = 9
[[pair]]
name = "a"
role = "held"
data = "digits"
network = { name = "LeNet" }
recipe = { seen = 10, lr = 0.1 }
student = "0.5"
"""


def test_four_teachers_serve_for_tuning_and_at_least_twelve_are_held_back():
    assert Counter(pair.role for pair in PAIRS.values()).keys() == set(protocol.ROLES)
    assert len(PAIRS) - len(HELD) == 4 and len(HELD) >= 12
    assert protocol.read(FILE).seconds == 300
    assert list(protocol.read(FILE).of("held")) == [pair.name for pair in HELD]


def test_the_held_back_are_of_many_kinds():
    shapes = [sets.known(pair.data) for pair in HELD]
    assert {shape.shape[0] for shape in shapes} >= {16, 20, 24, 28, 32, 40}
    assert {shape.classes for shape in shapes} >= {5, 10, 20, 26}
    assert sum(shape.shape[-1] == 3 for shape in shapes) >= 6
    assert sum("rare" in pair.data for pair in HELD) >= 2 and any("letters" in pair.data for pair in HELD)
    assert len({pair.network["name"] for pair in HELD}) >= 8
    assert sum(shares.share_of(pair.student) is None for pair in HELD) >= 4 <= sum("0." in p.student for p in HELD)


@pytest.mark.parametrize("field", ["weight_decay", "smoothing", "shift", "flip"])
def test_some_of_the_held_back_are_trained_with_each_remedy_and_some_without(field):
    assert 2 <= sum(bool(getattr(pair.recipe, field)) for pair in HELD) <= len(HELD) - 2


def test_a_protocol_is_read_as_it_is_written(tmp_path):
    (tmp_path / "some.toml").write_text(TINY)
    recipe = protocol.Recipe(seen=10, lr=0.1)
    pair = protocol.Pair("a", "held", "digits", {"name": "LeNet"}, recipe, "0.5")
    assert protocol.read(tmp_path / "some.toml") == protocol.Protocol(9.0, {"a": pair})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("seconds =", "is no protocol"),
        (TINY.replace("seconds = 9", ""), "is no protocol .'seconds'"),
        (TINY.replace("lr = 0.1", "rate = 0.1"), "unexpected keyword argument 'rate'"),
        (TINY.replace('data = "digits"', ""), "missing 1 required .* 'data'"),
        (TINY.replace("held", "other"), "a role that is not one of tuning, held"),
        (TINY + TINY.split("\n", 2)[-1], "has a name twice"),
    ],
)
def test_what_is_no_protocol_is_refused(tmp_path, text, told):
    (tmp_path / "some.toml").write_text(text)
    with pytest.raises(InputError, match=told):
        protocol.read(tmp_path / "some.toml")
    with pytest.raises(MissingError, match="There is no protocol"):
        protocol.read(Path(tmp_path / "other.toml"))


@pytest.mark.parametrize("what", ["parameters", "flops"])
def test_a_student_of_more_than_half_is_refused(what):
    half = {f"{who}_{cost}": size for cost in ("parameters", "flops") for who, size in (("teacher", 8), ("student", 4))}
    protocol.check_costs("a", half)
    with pytest.raises(InputError, match=f"The student of a has 0.625 of its teacher's {what}"):
        protocol.check_costs("a", half | {f"student_{what}": 5})


def test_a_run_ends_after_the_round_in_which_its_seconds_are_over():
    ticks = count(100.0)
    on_round = pacing.until(2.0, now=lambda: next(ticks))
    on_round(1, {})
    on_round(2, {})
    with pytest.raises(KeyboardInterrupt):
        on_round(3, {})


def test_rounds_fit_into_the_seconds():
    ticks = [10.0, 15.0, 16.0, 20.0, 22.0, 24.0]  # compiled by 15, warm by 16, then one of 4 and two of 2 seconds
    assert pacing.rounds(ticks, 2, 40.0) == 2 + 1 + 15
    assert pacing.rounds(ticks, 2, 11.9) == 2 + 1
    assert pacing.rounds(ticks, 2, 1.0) == 2 + 1


def record(pair, label, seed, student, failed=None):
    """A run of a teacher that is right in 90 %."""
    sizes = {"teacher_parameters": 200, "student_parameters": 50, "teacher_flops": 10.0, "student_flops": 4.0}
    scores = {"teacher_accuracy": 0.9, "student_accuracy": student, "agreement": 0.95}
    told = {"seconds": 60.0, "finished": True, "failed": failed, "student": "0.5"}
    return {"pair": pair, "label": label, "seed": seed, **sizes, **scores, **told}


def test_the_table_tells_the_points_that_are_lost_their_median_and_the_worst():
    runs = [
        *(record("b", "ours", 0, 0.89), record("b", "ours", 1, 0.87), record("a", "ours", 0, 0.8)),
        *(record("c", "ours", 0, 0.895), record("a", "fast", 0, 0.7), record("b", "fast", 0, 0.5, "Not finite.")),
    ]
    assert robustness_tables.whole(runs, ["a", "b", "c"]).splitlines() == [
        "| teacher -> student | parameters % | FLOPs % | teacher % "
        "| ours: points lost | seconds | fast: points lost | seconds |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| a -> 0.5 | 25 | 40 | 90.00 | 10.00 | 60 | 20.00 | 60 |",
        "| b -> 0.5 | 25 | 40 | 90.00 | 2.00 ± 1.41 | 60 ± 0 | failed | 60 |",
        "| c -> 0.5 | 25 | 40 | 90.00 | 0.50 | 60 |  |  |",
        "| median of pairs |  |  |  | 2.00 |  | failed |  |",
        "| worst run |  |  |  | 10.00 |  | failed |  |",
    ]


def test_a_run_is_told_in_a_line():
    done = record("a", "ours", 0, 0.89)
    assert robustness_tables.line(done) == (
        "a, ours, seed 0: teacher 90.00 %, student 89.00 %, agreement 95.00 %, 60 s"
    )
    assert robustness_tables.line(done | {"finished": False}).endswith("60 s, ended by the clock")
    assert robustness_tables.line(done | {"failed": "Not finite."}) == "a, ours, seed 0: Not finite."


def test_a_run_tells_how_far_its_snapshot_is_from_the_best_and_what_it_says_of_itself():
    curve = [
        {"round": 2, "accuracy": 0.95, "snapshot": 2},
        {"round": 4, "accuracy": 0.90, "snapshot": 4},
        {"round": 6, "accuracy": 0.88, "snapshot": 6},
        {"round": 8, "accuracy": 0.80, "snapshot": 6},
    ]
    summary = {"curve": curve, "health": ["Images are alike (1.0); change it."]}
    runs = [
        {"pair": "a", "label": "ours", "seed": seed, "fresh_agreement": f, "agreement": a, "summary": summary}
        for seed, (f, a) in enumerate([(0.1, 0.2), (0.5, 0.3), (0.9, 0.6)])
    ]
    assert robustness_tables.kept_below_best(runs[0]) == pytest.approx(2.0)  # the first third does not count
    assert robustness_tables.kept_below_best({"summary": {}}) is None
    told = robustness_tables.remarks(runs)
    assert told[:3] == [
        "The kept snapshot is within 0.3 points of the best in 0 of 3 runs.",
        "Rank correlation of agreement on fresh and on real images over 3 runs: 1.00.",
        "3 of 3 runs say that something is wrong.",
    ]
    assert told[3] == "- a, ours, seed 0: Images are alike (1.0)."
