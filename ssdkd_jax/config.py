"""Every setting of a run, with its default and meaning; files in configs/ state what differs."""

from __future__ import annotations

import difflib
import re

from ml_collections import ConfigDict, config_dict

from ssdkd_jax import presets


def default() -> ConfigDict:
    """The configuration that every file in configs/ starts from; locked, so that no field can be added."""
    return ConfigDict(
        dict(
            seed=0,  # decides the whole run
            compute="float32",  # or bfloat16; parameters, BatchNorm statistics and losses are float32 all the same
            batch_per_device=False,  # the batches below are of each device: the global ones grow with the devices
            data=dict(
                name="digits",  # digits, fashion_mnist, cifar10, cifar100, scenes, nyuv2
                folder="",  # of the IDX .gz files, or tfds's data directory; '' for tfds's own
                crop=0,  # side of the squares cut at random from real images, and of synthetic ones; 0 for all of it
            ),
            task=dict(
                name="classification",  # or segmentation
                presence=0.02,  # segmentation: the share of its pixels on which an image shows a class at least
            ),
            teacher=dict(
                model="wrn16_1",  # one of models.NAMES, or 'package.module:Class' called with classes=C
                checkpoint="",  # folder of a saved teacher; '' trains one under the workdir first
                epochs=20,
                batch=128,
                lr=0.1,
                weight_decay=5e-4,
                warmup=0.1,  # fraction of the steps in which the learning rate rises
                flip=False,  # mirror the real images at random
                shift=0,  # move them by at most this many pixels
            ),
            student=dict(
                model="wrn10_1",
                batch=128,
                lr=0.1,
                weight_decay=5e-4,
                warmup=0.05,
                temperature=4.0,  # T of the distillation loss
                attention=0.0,  # weight of attention transfer from the teacher's inner maps; 0 for none
                regression=0.0,  # or of the regression of its inner maps on the student's; both 0: logits alone
                update_bn=0,  # batches that renew its BatchNorm statistics before it is judged or saved
            ),
            synthesis=dict(
                batch=128,  # images made per round
                inner_steps=5,  # inversion steps per round
                latent=128,  # Z
                class_code=4.0,  # how far the asked class shifts the mean of z; 0 for z ~ N(0, I)
                width=64,  # channels of the generator's last hidden layer
                doublings=2,  # of the generator's resolution; the image size is a multiple of 2 to this power
                lr_generator=5e-3,
                lr_latent=1e-2,
                start="sequential",  # or reptile, first_order: how the generator begins a round
                lr_meta=1e-2,  # of the outer Adam of the two meta starts
                bn=config_dict.placeholder(float),  # weight of BN match; None: 3 if the teacher has any, else off
                bn_past=0.0,  # share of earlier rounds in the matched statistics; 0 matches each batch alone
                oh=1.0,  # weight of the class targets
                adv=4.0,  # weight of the adversarial term
                flip=False,  # during inversion, teacher and student see the images mirrored at random
                shift=0,  # and moved by at most this many pixels
            ),
            method=dict(  # see presets.py for the settings of each
                name="ssdkd",  # or fast_dfkd, generative (DAFL, ZSKT, DFAD, DFQ), deepinversion, cmi, given
                balance=0.0,  # generative: weight of the batch's class balance
                activation=0.0,  # generative: weight of the teacher's last features
                divergence="kl",  # generative: what the generator maximises; l1 is also what the student then minimises
                lr_pixels=0.1,  # deepinversion: Adam's, on normalised pixels
                tv=1e-3,  # deepinversion: weight of total variation
                js_temperature=3.0,  # deepinversion: of the Jensen-Shannon divergence
                contrast=0.8,  # cmi: weight of the contrastive term
                contrast_temperature=0.2,
                negatives=4096,  # cmi: features of earlier images drawn each round
                memory=40960,  # cmi: features of earlier images kept, at most
                head=256,  # cmi: size of the head's layers
                given=0,  # given: real images shown; 0 for as many as the buffer holds, -1 for all
            ),
            modulation=dict(
                diversity=True,  # phi_div; also class targets and eviction that even out the buffer
                difficulty=False,  # phi_diff; on where a config was measured with it, or is the paper's
                gamma=2.0,  # exponent of phi_diff
                clip=5.0,  # upper bound of phi (mean 1) in the inversion loss
            ),
            buffer=dict(
                size=130,  # N
                half_life=10.0,  # rounds in which a slot's worth halves; 0 for never
            ),
            sampler=dict(
                name="priority",  # uniform, priority, policy_gradient
                alpha=0.3,  # exponent of the priority
                epsilon=0.05,  # nats added to every gap, so that no slot is forgotten
                beta=0.4,  # exponent of the importance weights at the start; 1 at the end
                lr=1e-3,  # of the policy
                entropy=1e-2,  # weight of the policy's entropy bonus
            ),
            views=dict(
                count=8,  # V cached teacher views per slot; 0 runs the teacher in every step
                flip=True,
                shift=2,
                mixup=0.0,  # the share of the student's images that are blended with others; with count=0 alone
                mixup_until=0.98,  # fraction of its steps; BatchNorm statistics are to be of images as they are
            ),
            schedule=dict(
                rounds=40,
                warmup=5,  # rounds that only make images
                distill_steps=50,  # student steps in each later round
                evaluate_every=10,  # rounds
                checkpoint_seconds=30.0,  # between checkpoints; a kill costs at most that and a round
                max_skipped=10,  # steps in a row, each skipped as not finite, that stop the run; 1 stops at the first
            ),
            yardstick_steps=100,  # of the student on as many real images as the buffer holds; 0 leaves it out
            measure_unit=False,  # also time one distillation step with the teacher in the loop, from logits alone
        )
    ).lock()


def fashion_mnist(teacher: str, student: str) -> ConfigDict:
    """The shared part of Fashion-MNIST's configs: the teacher's recipe, its hints, a buffer of 10 % of the real set.

    Args:
        teacher, student: of `models.NAMES`.
    """
    config = default()
    config.data.update(name="fashion_mnist", folder="/usr/share/datasets/fashion-mnist")
    config.teacher.update(model=teacher, epochs=8, batch=128, lr=0.2, flip=True)
    config.student.update(model=student, batch=128, temperature=20.0, lr=0.2, weight_decay=1e-4, regression=10.0)
    config.synthesis.update(
        batch=128, inner_steps=12, width=32, latent=256, class_code=2.0, adv=1.0, flip=True, shift=2
    )
    config.buffer.update(size=6000, half_life=24.0)
    config.views.update(count=0, mixup=0.5)
    config.sampler.name = "uniform"
    config.yardstick_steps = 0
    return config


PAIRS = ("resnet34_resnet18", "vgg11_resnet18", "wrn40_2_wrn16_1", "wrn40_2_wrn40_1", "wrn40_2_wrn16_2")


def cifar(name: str, pair: str) -> ConfigDict:
    """The shared part of cifar10 and cifar100: a pair of the paper, a buffer of 5,000 (10 % of the real set).

    The teacher's recipe is the one that reaches the accuracy published for this family: weight
    decay 5e-4 and 200 epochs.

    Args:
        name: 'cifar10' or 'cifar100'.
        pair: TEACHER_STUDENT, one of `PAIRS`, or TEACHER_STUDENT,METHOD with a method of presets.py.

    Raises:
        ValueError: for another pair or method, with the nearest one.
    """
    pair, _, method = pair.partition(",")
    if pair not in PAIRS:
        near = difflib.get_close_matches(pair, PAIRS, n=1, cutoff=0)[0]
        raise ValueError(f"Unknown pair '{pair}'; did you mean '{near}'? Known: {', '.join(PAIRS)}.")
    teacher, student = re.findall(r"wrn\d+_\d+|[a-z]+\d+", pair)
    config = default()
    config.data.name = name
    config.teacher.update(model=teacher, epochs=200, batch=128, lr=0.1, weight_decay=5e-4, flip=True, shift=4)
    config.student.update(model=student, batch=256)
    config.synthesis.update(batch=256, inner_steps=5, latent=256)
    config.buffer.size = 5000
    config.views.shift = 4
    config.modulation.difficulty = True
    config.schedule.update(rounds=220, warmup=20, distill_steps=200, evaluate_every=10)
    return presets.apply(config, method or "ssdkd")
