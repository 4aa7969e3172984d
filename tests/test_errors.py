"""What a user can get wrong, each answered in one sentence."""

import jax
import numpy as np
import pytest
import tiny

from ssdkd_jax import build, checks, config, models
from ssdkd_jax.engine import optimization, parallel, supervised
from ssdkd_jax.tasks import classification


def message(error):
    return str(error.value)


def check(teacher_variables, inputs=tiny.INPUTS, **fields):
    settings = tiny.make_config(**fields)
    student = build.network(settings.student.model, inputs, None)
    checks.check(settings, inputs, tiny.teacher_network(), teacher_variables, student)


def test_the_tiny_configuration_itself_passes(teacher_variables):
    check(teacher_variables)


@pytest.mark.parametrize("batch", ["synthesis__batch", "student__batch"])
def test_a_buffer_smaller_than_a_batch(teacher_variables, batch):
    with pytest.raises(ValueError, match=r"buffer\.size = 20 is smaller than a batch .*24.*; make it"):
        tiny.job(tiny.make_config(**{batch: 24}), teacher_variables, None)


@pytest.mark.eight_devices
@pytest.mark.parametrize("batch", ["synthesis", "student"])
def test_a_batch_that_does_not_divide_by_the_devices(teacher_variables, batch):
    with pytest.raises(ValueError, match=rf"{batch}\.batch = 12 does not divide by the 8 devices; use a multiple of 8"):
        build.choices(tiny.make_config(**{f"{batch}__batch": 12}), tiny.CLASSES)


def test_one_device_takes_any_batch(one_device):
    build.choices(tiny.make_config(synthesis__batch=11, student__batch=13), tiny.CLASSES)


def test_class_counts_that_differ(teacher_variables):
    with pytest.raises(ValueError, match="teacher answers 3 classes but the student and the data have 5"):
        check(teacher_variables, tiny.INPUTS._replace(classes=5))


def test_blended_images_and_cached_answers(teacher_variables):
    with pytest.raises(ValueError, match=r"views\.mixup = 0\.5 .* views\.count = 3 caches .* set one of them to 0\."):
        tiny.job(tiny.make_config(views__mixup=0.5, views__count=3), teacher_variables, None)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_statistics_of_earlier_rounds_alone(teacher_variables, share):
    with pytest.raises(ValueError, match=rf"synthesis\.bn_past = {share} is not a number of at least 0 and below 1"):
        tiny.job(tiny.make_config(synthesis__bn_past=share), teacher_variables, None)


def test_a_run_that_is_all_warmup():
    with pytest.raises(ValueError, match=r"schedule\.warmup = 4 leaves none of the 4 rounds"):
        build.choices(tiny.make_config(schedule__warmup=4), tiny.CLASSES)


@pytest.mark.parametrize("shape", [(10, 8, 1), (8, 30, 1)])
def test_an_image_size_that_a_wrn_cannot_take(shape):
    inputs = tiny.INPUTS._replace(image_shape=shape)
    wide = tiny.make_config(teacher__model="wrn10_1", student__model="wrn10_1")
    teacher = models.bind(models.by_name("wrn10_1", 3), tiny.SHAPE)
    with pytest.raises(ValueError, match=rf"divisible by 4, not \({shape[0]}, {shape[1]}\)"):
        variables = jax.eval_shape(lambda: teacher.init(jax.random.key(0)))
        network = build.network("wrn10_1", inputs, None)
        checks.check(wide, inputs, network, variables, network)


@pytest.mark.parametrize("name", ["resnet18", "vgg8", "mobilenetv2"])
@pytest.mark.parametrize("shape", [(4, 8, 3), (8, 7, 1)])
def test_an_image_that_is_too_small_for_the_zoo(name, shape):
    network = models.bind(models.by_name(name, 3), shape)
    with pytest.raises(
        ValueError, match=rf"at least 8x8 pixels, not of shape \(1, {shape[0]}, {shape[1]}, {shape[2]}\)"
    ):
        jax.eval_shape(network.init, jax.random.key(0))


def test_an_image_size_that_the_generator_cannot_make():
    generator = models.bind(models.Generator((10, 8, 1), 2), (6,))
    with pytest.raises(ValueError, match=r"divisible by 4, not \(10, 8\)"):
        jax.eval_shape(generator.init, jax.random.key(0))


@pytest.mark.parametrize(("name", "near"), [("wrn16x1", "wrn16_1"), ("resnet81", "resnet18"), ("wrn40-2", "wrn40_2")])
def test_an_unknown_model_is_answered_with_the_nearest_and_the_list(name, near):
    with pytest.raises(ValueError, match=f"Unknown model '{name}'; did you mean '{near}.* vgg8, .*wrn40_2"):
        models.by_name(name, 10)


@pytest.mark.parametrize("name", ["no_such_package:Net", "tiny:NoSuchClass"])
def test_a_model_that_cannot_be_imported(name):
    with pytest.raises(ValueError, match=f"Cannot import model '{name}' .*'package.module:Class'"):
        models.by_name(name, 10)


def test_a_wrn_depth_that_does_not_exist():
    network = models.bind(models.by_name("wrn17_1", 3), tiny.SHAPE)
    with pytest.raises(ValueError, match="WRN depth 17 is not 6 n \\+ 4"):
        jax.eval_shape(network.init, jax.random.key(0))


def test_an_unknown_sampler():
    with pytest.raises(ValueError, match=r"sampler\.name = 'greedy' is not one of uniform, priority, policy_gradient"):
        build.choices(tiny.make_config(sampler__name="greedy"), tiny.CLASSES)


def test_an_unknown_start():
    with pytest.raises(ValueError, match=r"synthesis\.start = 'maml' is not one of sequential, reptile, first_order"):
        build.choices(tiny.make_config(synthesis__start="maml"), tiny.CLASSES)


def assign(config):
    config.student.temprature = 4.0


def update(config):
    config.student.update(temprature=4.0)


@pytest.mark.parametrize("write", [assign, update])
def test_an_unknown_field_in_a_config_file_names_the_nearest(write):
    with pytest.raises((AttributeError, KeyError), match='Did you mean "temperature"'):
        write(config.default())


@pytest.mark.parametrize("rows", [7, 8])
def test_supervised_training_needs_a_whole_batch_and_stops_at_a_loss_that_is_not_finite(rows):
    network = models.bind(tiny.Linear(3), tiny.SHAPE, axis=parallel.AXIS)
    recipe = supervised.Recipe(1, 8, optimization.sgd(0.1, 10, 0.0, 0.1), lambda key, image: image)
    state = optimization.init(network, recipe.tx, jax.random.key(0))
    state = state.replace(variables=jax.tree.map(lambda x: np.nan * x, state.variables))
    images, labels = np.zeros((rows, *tiny.SHAPE), np.uint8), np.zeros(rows, np.int32)
    expected = {
        7: (ValueError, "7 images are fewer than one batch of 8; lower the batch size"),
        8: (FloatingPointError, "'loss' is nan in epoch 1, step 1 .*: lower the learning rate"),
    }[rows]
    with pytest.raises(expected[0], match=expected[1]):
        supervised.fit(
            network,
            classification.make(3, 1.0),
            recipe,
            parallel.to_devices(state),
            images,
            labels,
            jax.random.key(0),
            lambda *_: pytest.fail("saved"),
        )


def test_every_sentence_ends_once(teacher_variables):
    with pytest.raises(ValueError) as error:
        tiny.job(tiny.make_config(synthesis__batch=24), teacher_variables, None)
    assert message(error).endswith(".")
    assert "\n" not in message(error)
