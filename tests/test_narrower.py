"""A teacher's own network with a share of its channels: by name, as a linen module, through every door."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import ssdkd_jax
from ssdkd_jax import closed_form, models, narrowing
from ssdkd_jax.engine.trees import named_leaves
from ssdkd_jax.errors import InputError
from ssdkd_jax.interop import saved, torch_import, torch_layout
from ssdkd_jax.models import shares, widths
from ssdkd_jax.narrowing import regrouping
from ssdkd_jax.run import pipeline
from ssdkd_jax.sources import procedural
from ssdkd_jax.types import Inputs

SHAPE = (16, 16, 3)
INPUTS = Inputs(SHAPE, 5, (0.4,), (0.3,))
SHORT = {"schedule.rounds": 2, "schedule.warmup": 1, "schedule.distill_steps": 2, "synthesis.inner_steps": 1}


def shapes(network):
    return {path: x.shape for path, x in named_leaves(jax.eval_shape(network.init, jax.random.key(0))).items()}


@pytest.mark.parametrize("name", ["wrn16_2", "resnet18", "vgg8", "mobilenetv2", "deeplabv3_resnet_tiny"])
def test_a_network_of_the_zoo_has_half_of_every_channel(name):
    whole, half = (shapes(shares.named(x, INPUTS)) for x in (name, f"{name}@0.5"))
    assert whole.keys() == half.keys()
    for path, shape in whole.items():
        channels = [(a, b) for a, b in zip(shape, half[path], strict=True) if a != b]
        assert channels or shape[-1] == 5, path
        assert all(a == 2 * b for a, b in channels), path


class Net(nn.Module):
    """Two fields that are widths, by any name, among others that are none."""

    classes: int
    maps: tuple[int, ...] = (8, 12)
    hidden: int = 10
    kernel: int = 3
    depth: int = 2
    rate: float = 0.5
    act: str = "relu"

    @nn.compact
    def __call__(self, x, train):
        for features in self.maps:
            x = nn.relu(nn.BatchNorm(not train, momentum=0.9)(nn.Conv(features, (self.kernel,) * 2, 2)(x)))
        x = x.reshape(len(x), -1)
        for _ in range(self.depth):
            x = nn.relu(nn.Dense(self.hidden)(x))
        return nn.Dense(self.classes)(nn.Dropout(self.rate, deterministic=not train)(x))


def test_a_linen_module_is_narrowed_by_the_fields_that_are_its_widths():
    found = widths.narrowed(Net(5), 0.5, SHAPE)
    assert (found.maps, found.hidden) == ((4, 6), 5)
    assert (found.classes, found.kernel, found.depth, found.rate) == (5, 3, 2, 0.5)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (
            tiny.Tiny(5),
            r"'Tiny' cannot be narrowed to 0.5 of its channels: its fields \(classes\), when scaled, do not",
        ),
        (Net(5, maps=(1,), hidden=1), r"'Net' cannot be narrowed .* pass the narrower module itself\."),
    ],
)
def test_a_module_without_a_width_is_refused_in_one_sentence(module, said):
    with pytest.raises(InputError, match=said) as told:
        widths.narrowed(module, 0.5, SHAPE)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("student", [0, 1, 1.5, -0.5, "nan", "2"])
def test_what_is_no_share_is_refused(student):
    teacher = ssdkd_jax.Teacher.from_linen(Net(5), models.bind(Net(5), SHAPE).init(jax.random.key(0)), **kept())
    with pytest.raises(InputError, match=f"The student {student} is no share of its teacher's channels; give a number"):
        ssdkd_jax.distill(teacher, student)


def kept():
    return {"image_shape": SHAPE, "mean": INPUTS.mean, "std": INPUTS.std}


def test_a_function_cannot_be_narrowed():
    weights = jnp.linspace(-1, 1, 768 * 5).reshape(768, 5)
    teacher = ssdkd_jax.Teacher.from_function(lambda w, x: x.reshape(len(x), -1) @ w, weights, image_shape=SHAPE)
    with pytest.raises(InputError, match=r"neither a linen nor a PyTorch module, so it cannot be had with 0\.5"):
        ssdkd_jax.distill(teacher, 0.5)


@pytest.fixture(scope="module")
def teacher():
    network = shares.named("wrn10_1@0.5", INPUTS)
    return ssdkd_jax.Teacher(network, network.init(jax.random.key(0)), INPUTS, "wrn10_1@0.5")


@pytest.mark.usefixtures("one_device")
def test_a_saved_network_teaches_half_of_it_and_the_student_is_loaded_by_its_name(tmp_path, teacher):
    teacher.save(tmp_path / "teacher")
    config = ssdkd_jax.default_config(teacher, 0.5)
    config.update_from_flattened_dict({**SHORT, "student.batch": 8, "synthesis.batch": 8, "buffer.size": 16})
    config.synthesis.width = 4
    config.student.regression = 0.0
    distilled = ssdkd_jax.distill(tmp_path / "teacher", 0.5, config, workdir=tmp_path / "run")
    found = ssdkd_jax.load(tmp_path / "run" / "student")
    assert found.name == "wrn10_1@0.5@0.5" and shapes(found.network)["params.conv1.kernel"][-1] == 4
    images = tiny.images(0, 4, SHAPE)
    np.testing.assert_array_equal(found(images), distilled.student(images))
    with pytest.raises(InputError, match=r"student\.model = 0\.5 there and 0\.75 here"):
        ssdkd_jax.distill(tmp_path / "teacher", 0.75, config, workdir=tmp_path / "run")
    of_command = config.copy_and_resolve_references()
    of_command.teacher.update(model="wrn10_1@0.5", checkpoint=str(tmp_path / "teacher"))
    of_command.student.model = "0.5"
    pipeline.run(of_command, None, tmp_path / "run")  # to the command it is the same run, at its end
    jax.tree.map(np.testing.assert_array_equal, found.variables, saved.load(tmp_path / "run" / "student").variables)


def test_a_linen_student_is_loaded_with_the_module_of_its_teacher(tmp_path):
    whole, half = (shares.named(name, INPUTS, module=Net(5)) for name in ("mine:Net", "mine:Net@0.5"))
    variables = half.init(jax.random.key(0))
    saved.Classifier(half, variables, INPUTS, "mine:Net@0.5").save(tmp_path / "net")
    found = ssdkd_jax.load(tmp_path / "net", Net(5))
    jax.tree.map(np.testing.assert_array_equal, dict(found.variables), dict(variables))
    assert shapes(whole)["params.Conv_1.kernel"] == (3, 3, 8, 12)
    assert shapes(found.network)["params.Conv_1.kernel"] == (3, 3, 4, 6)


def test_a_pytorch_file_of_half_a_network_is_read_by_its_name(tmp_path):
    from ssdkd_jax.interop import torch_files

    network = shares.named("wrn10_1@0.5", INPUTS)
    variables = network.init(jax.random.key(0))
    torch_files.write(tmp_path / "half.safetensors", torch_layout.to_torch(variables, torch_layout.of("wrn10_1@0.5")))
    found = torch_import.load(tmp_path / "half.safetensors", SHAPE[:2], "wrn10_1@0.5")
    jax.tree.map(np.testing.assert_array_equal, dict(found.variables), dict(variables))


def test_half_of_a_zoo_network_in_pairs_is_found_in_closed_form():
    few = models.vgg.VGG(((4,), (6,)), 5)
    narrow, wide = models.bind(few, SHAPE), models.bind(models.vgg.VGG(((8,), (12,)), 5), SHAPE)
    weights = narrow.init(jax.random.key(0))
    leaves = named_leaves(jax.eval_shape(wide.init, jax.random.key(0)))

    def twice(path, x):
        wanted = leaves[jax.tree_util.keystr(path, simple=True, separator=".")].shape
        for axis, (size, needed) in enumerate(zip(x.shape, wanted, strict=True)):
            if size != needed:
                x = jnp.repeat(x, 2, axis) / (2 if axis == x.ndim - 2 else 1)
        return x

    doubled, half = jax.tree_util.tree_map_with_path(twice, weights), shares.narrower(wide, "0.5")
    images, fresh = procedural.source(320, SHAPE)(jax.random.key(7)), tiny.images(1, 8, SHAPE)
    solved = closed_form.solve(wide, doubled, half, half.init(jax.random.key(5)), images)
    np.testing.assert_allclose(half.apply(solved, fresh), narrow.apply(weights, fresh), atol=1e-3)


def test_what_is_tied_is_kept_or_dropped_together():
    weights = {"a": jnp.ones((3, 8)), "b": jnp.ones((3, 4)), "last": jnp.ones((8 + 2 * 4, 5)), "scale": jnp.ones(8)}

    def apply(w, x):
        one, two = x @ w["a"] * w["scale"], (x @ w["b"]).reshape(-1, 4, 1)
        flat = jnp.broadcast_to(two, (len(x), 4, 2)).reshape(len(x), 8)  # channels x positions
        return jnp.concatenate([one, flat], 1) @ w["last"]

    left = narrowing.kept(apply, weights, (2, 3), 0.5, lambda logits: logits)
    masks = left.variables
    assert [int(mask.sum()) for mask in (masks["a"][1], masks["scale"][0], masks["b"][1])] == [4, 4, 2]
    np.testing.assert_array_equal(masks["last"][0], [*masks["a"][1], *np.repeat(masks["b"][1], 2)])
    assert masks["last"][1].all() and masks["a"][0].all()


def test_shapes_are_cut_into_the_least_runs_of_axes():
    assert list(regrouping.blocks((2, 1, 6), (2, 6, 1))) == [([0], [0]), ([2], [1])]
    assert list(regrouping.blocks((4, 3, 5), (2, 6, 5))) == [([0, 1], [0, 1]), ([2], [2])]
