"""What is wrong with a run, in words, told from its indicators: a table of symptoms with what helps. Ours.

The bounds were chosen on runs of digits, with planted faults and without (experiments/health.py). They are loose: what
is named is a failure, not a shortcoming.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

log = logging.getLogger(__name__)
Found = Mapping[str, float]


class Symptom(NamedTuple):
    """Something that goes wrong in runs.

    Attributes:
        name: of the symptom.
        needs: names of the indicators by which it is seen; where one is missing, it is not looked for.
        there: indicators -> whether it is there.
        sentence: what to say, with the indicators' values in its braces.
        knob: what helps.
    """

    name: str
    needs: tuple[str, ...]
    there: Callable[[Found], bool]
    sentence: str
    knob: str


ON_THE_WAY = (
    Symptom(
        "unsure teacher",
        ("fresh_confidence", "chance"),
        lambda f: f["fresh_confidence"] < f["chance"] + 0.3 * (1 - f["chance"]),
        "The teacher is unsure of all fresh images (mean probability of its class {fresh_confidence:.2f})",
        "check that its weights, mean and std are those it was trained with; else give the images more "
        "synthesis.inner_steps, or a lower synthesis.adv",
    ),
    Symptom(
        "images alike",
        ("fresh_spread",),
        lambda f: f["fresh_spread"] < 2.5,
        "Fresh images are nearly alike (they differ in {fresh_spread:.1f} directions)",
        "lower synthesis.lr_generator, or give the student procedural images (student.procedural)",
    ),
    Symptom(
        "images of a class alike",
        ("fresh_within",),
        lambda f: f["fresh_within"] < 0.1,
        "Fresh images of a class are nearly alike ({fresh_within:.0%} of their variance is within classes)",
        "lower synthesis.lr_generator or synthesis.class_code",
    ),
    Symptom(
        "statistics not matched",
        ("fresh_bn_sd",),
        lambda f: f["fresh_bn_sd"] > 0.07,
        "Fresh images stay {fresh_bn_sd:.2f} standard deviations from the means that the teacher's BatchNorms hold",
        "check that its statistics, mean and std are its own; else lower synthesis.lr_generator or raise synthesis.bn",
    ),
)
AT_THE_END = (
    Symptom(
        "few classes",
        ("taught_balance",),
        lambda f: f["taught_balance"] < 0.6,
        "The images that the student was taught from are of few classes (balance {taught_balance:.2f})",
        "raise synthesis.oh or synthesis.inner_steps, or lower synthesis.adv",
    ),
    Symptom(
        "class missing",
        ("taught_balance", "taught_least"),
        lambda f: f["taught_balance"] >= 0.6 and f["taught_least"] < 0.05,
        "Of one class there are hardly any images to teach from ({taught_least:.2f} times its share)",
        "ask whether the teacher has learnt that class; if so, raise synthesis.oh or synthesis.inner_steps",
    ),
    Symptom(
        "student does not follow",
        ("taught_agreement", "chance"),
        lambda f: f["taught_agreement"] < max(0.5, 2 * f["chance"]),
        "The student agrees with its teacher on {taught_agreement:.0%} of the images that it was taught from",
        "take a larger student, more schedule.rounds, or another student.lr",
    ),
    Symptom(
        "student learnt its images by heart",
        ("taught_agreement", "agreement"),
        lambda f: f["taught_agreement"] - f["agreement"] > 0.35,
        "The student agrees on {taught_agreement:.0%} of the images that it was taught from, but on {agreement:.0%} of "
        "fresh ones",
        "raise buffer.size, or give it procedural images (student.procedural)",
    ),
    Symptom(
        "hard answers",
        ("taught_softness",),
        lambda f: f["taught_softness"] < 0.03,
        "At student.temperature the teacher's answers are one class alone (entropy {taught_softness:.4f} of log C)",
        "raise student.temperature",
    ),
    Symptom(
        "steps skipped",
        ("skipped",),
        lambda f: f["skipped"] > 0.01,
        "{skipped:.1%} of all steps were skipped, since they were not finite",
        "lower student.lr or synthesis.lr_generator",
    ),
)


def found(symptoms: tuple[Symptom, ...], indicators: Found) -> dict[str, str]:
    """Name -> what to say, for each symptom that is there.

    >>> found(AT_THE_END, {"taught_agreement": 0.98, "agreement": 0.95, "chance": 0.1})
    {}
    >>> list(found(AT_THE_END, {"taught_softness": 0.0}))
    ['hard answers']
    """
    return {
        one.name: f"{one.sentence.format(**indicators)}; {one.knob}."
        for one in symptoms
        if all(name in indicators for name in one.needs) and one.there(indicators)
    }


def whole(indicators: Found, classes: int) -> list[str]:
    """What to say of a run at its end; each sentence is also logged."""
    said = list(found(ON_THE_WAY + AT_THE_END, {**indicators, "chance": 1 / classes}).values())
    for sentence in said:
        log.warning(sentence)
    return said


class Watch:
    """Says on the way what is wrong, each symptom once it has been there twice running."""

    def __init__(self, classes: int) -> None:
        self.chance, self.before, self.said = 1 / classes, set[str](), set[str]()

    def look(self, indicators: Found, rounds: int) -> None:
        """Log what is there after so many rounds, and was there at the look before."""
        there = found(ON_THE_WAY, {**indicators, "chance": self.chance})
        for name in (self.before - self.said) & there.keys():
            log.warning("After round %d: %s", rounds, there[name])
            self.said.add(name)
        self.before = set(there)
