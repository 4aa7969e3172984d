"""Which map of the teacher each map of the student stands for.

Trunk to trunk: among those of one resolution by their place, the last for the last; the first layer for the first.
Within a block, the maps inside the teacher's last block before the one that the block's end stands for.
"""

from __future__ import annotations

from collections.abc import Sequence

from ssdkd_jax.closed_form.joints import Joint

Pairs = dict[Joint, Joint]


def match(teacher: Sequence[Joint], student: Sequence[Joint]) -> list[int]:
    """For each joint of the student, the index of the teacher's."""
    trunk = [place for place, joint in enumerate(student) if joint.trunk]
    teachers = [place for place, joint in enumerate(teacher) if joint.trunk]
    found = dict(zip(trunk, _trunk(teacher, teachers, student, trunk), strict=True))
    begin = 0
    for end in trunk:
        inner = list(range(begin, end))
        found |= zip(inner, _inner(teacher, found[end], student, inner), strict=True)
        begin = end + 1
    rest = range(begin, len(student))
    found |= dict.fromkeys(rest, len(teacher) - 1)
    return [found[place] for place in range(len(student))]


def _trunk(
    teacher: Sequence[Joint], of_teacher: list[int], student: Sequence[Joint], of_student: list[int]
) -> list[int]:
    found, before = [], 0
    for place in of_student:
        resolution = _nearest(student[place].resolution, [teacher[i].resolution for i in of_teacher])
        theirs = [i for i in of_teacher if teacher[i].resolution == resolution]
        ours = [i for i in of_student if student[i].resolution == student[place].resolution]
        rank = ours.index(place)
        if place == of_student[0] and len(ours) > 1:
            index = 0
        elif ours[0] == of_student[0] and len(ours) > 1 and len(theirs) > 1:
            index = spread(rank - 1, len(ours) - 1, len(theirs) - 1) + 1
        else:
            index = spread(rank, len(ours), len(theirs))
        before = max(before, theirs[index])
        found.append(before)
    return found


def _inner(teacher: Sequence[Joint], end: int, student: Sequence[Joint], inner: list[int]) -> list[int]:
    """Inside the block that `end` closes; of a teacher without any, what stands at its end."""
    begin = max((i for i in range(end) if teacher[i].trunk), default=-1)
    theirs = list(range(begin + 1, end)) or [end]
    return [theirs[spread(rank, len(inner), len(theirs))] for rank in range(len(inner))]


def spread(rank: int, ours: int, theirs: int) -> int:
    """The place among `theirs` of the one at `rank` of `ours`: the last for the last, and evenly before."""
    return -(-(rank + 1) * theirs // ours) - 1


def _nearest(resolution: tuple[int, ...], known: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    def distance(other: tuple[int, ...]) -> tuple[int, int]:
        if len(other) != len(resolution):
            return 1, 0
        return 0, sum(abs(a - b) for a, b in zip(resolution, other, strict=True))

    return min(known, key=distance)
