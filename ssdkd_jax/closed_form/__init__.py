"""A student that starts from its teacher: solved for in closed form, layer by layer, on some hundred images.

Both networks are traced, whatever they were written in. Each map that the student's linear layers make stands for a map
of the teacher (`matching`). Of its channels those are kept from which the others are best told. The layers are their
ridge least-squares fit on what the student itself has there, and BatchNorm does as the teacher's does.

The parts are known from structured pruning with feature reconstruction (ThiNet, Luo et al., ICCV 2017; channel pruning,
He et al., ICCV 2017). The start of a data-free distillation from inverted or procedural images is ours.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ssdkd_jax.closed_form import fitting, joints, matching, observation
from ssdkd_jax.closed_form.graph import trace
from ssdkd_jax.closed_form.images import StartImages, StartName
from ssdkd_jax.engine.trees import named_leaves
from ssdkd_jax.errors import InputError
from ssdkd_jax.types import Array, Network, Variables

__all__ = ["StartImages", "StartName", "solve", "start"]

log = logging.getLogger(__name__)
JUDGE = 8  # one image of so many only judges
WORTH = 0.5  # of the loss of the student that came, which a solved start must be below


def solve(
    teacher: Network, teacher_variables: Variables, student: Network, variables: Variables, images: Array
) -> Variables:
    """The variables of a student that does as its teacher, as far as least squares bring it.

    The same arguments give the same bits on the same machine.

    Args:
        variables: of the student; what cannot be solved for stays as it is.
        images: [N, H, W, D] in [0, 1], N at least 8.

    Raises:
        InputError: where one of the two has no linear layer that can be solved for.
    """
    networks = ((teacher, teacher_variables), (student, variables))
    of_teacher, of_student = (trace(network.apply, weights, images.shape) for network, weights in networks)
    theirs, ours = joints.found_in(of_teacher), joints.found_in(of_student)
    for name, found in (("teacher", theirs), ("student", ours)):
        if not found:
            raise InputError(f"The {name} has no convolution or dense layer that a start could be solved from or for.")
    partners = [theirs[place] for place in matching.match(theirs, ours)]
    wanted = [(partner, joint.resolution) for partner, joint in zip(partners, ours, strict=True)]
    seen = observation.observe(of_teacher, named_leaves(teacher_variables), images, wanted)
    channels = observation.kept(ours, partners, seen)
    goals = [x.of(kept) for x, kept in zip(seen, channels, strict=True)]
    solved = fitting.fit(of_student, named_leaves(variables), ours, goals, images)
    return jax.tree.unflatten(jax.tree.structure(variables), list(solved.values()))


def start(
    teacher: Network,
    teacher_variables: Variables,
    student: Network,
    variables: Variables,
    images: Array,
    loss: Callable[[Array, Array], Array],
) -> Variables:
    """The solved variables; those that came where these have no more than twice their loss on images kept apart.

    A start that is worth less is in the way: what least squares leave of a network learns badly.

    Never an error: one line says why a student starts as it came.

    Args:
        loss: (teacher logits, student logits) -> [B].
    """
    judging = np.arange(len(images)) % JUDGE == 0
    answers, student_apply = jax.jit(teacher.apply)(teacher_variables, images[judging]), jax.jit(student.apply)

    def judged(candidate: Variables) -> float:
        return float(jnp.mean(loss(answers, student_apply(candidate, images[judging]))))

    try:
        solved = solve(teacher, teacher_variables, student, variables, images[~judging])
        before, after = judged(variables), judged(solved)
    except Exception as error:  # of networks that nobody has foreseen
        log.warning("The student's start could not be solved for (%s); it starts as it came.", error)
        return variables
    if not after < WORTH * before:
        log.warning(
            "The solved start has a loss of %.3g, the one that came %.3g: too little; it is left out.", after, before
        )
        return variables
    log.info("The student starts from its teacher: loss %.3g, from %.3g.", after, before)
    return solved
