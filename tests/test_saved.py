"""Saved networks: what they are fed, and notes that a stranger wrote."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from test_scripts import environment

from ssdkd_jax.engine import checkpoint, manifest
from ssdkd_jax.interop import saved, stablehlo

NOTE = {"model": "tiny:Tiny", "classes": 3, "image_shape": list(tiny.SHAPE), "mean": [0.4], "std": [0.3]}
MARK = "unusual_normalisation"


@pytest.fixture(scope="module")
def folder(teacher_variables, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved")
    saved.save(path, teacher_variables, NOTE)
    return path


@pytest.fixture(scope="module")
def network(folder):
    return saved.load(folder, "tiny:Tiny")


@pytest.fixture
def raw(rng):
    return rng.integers(0, 256, (5, *tiny.SHAPE), np.uint8)


def expected(network, raw):
    """The logits of raw / 255, by the module alone."""
    normalised = (raw.astype(np.float32) / 255 - 0.4) / np.float32(0.3)
    return tiny.Tiny(3).apply(network.variables, normalised, False)


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray, lambda x: x.tolist()])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_of_any_width_and_bytes_have_the_same_answer(network, raw, kind, dtype):
    np.testing.assert_allclose(network(raw), expected(network, raw), atol=1e-4)
    np.testing.assert_allclose(network(jnp.asarray(raw)), expected(network, raw), atol=1e-4)
    np.testing.assert_allclose(network(kind((raw / 255).astype(dtype))), expected(network, raw), atol=2e-2)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda x: x.astype(np.float32), r"values from 0 to 255 and are to lie in \[0, 1\]; .*uint8"),
        (lambda x: x / 255 * 1.01, r"from 0 to 1\.01 "),
        (lambda x: (x / 255 - 0.4) / 0.3, r"from -1\.33333 to 2 .*not normalised"),
        (lambda x: np.where(x > 250, np.nan, x / 255), "from nan to nan"),
        (lambda x: np.where(x > 250, np.inf, x / 255), "from 0 to inf"),
        (lambda x: x.astype(np.int32), "of type int32; give uint8"),
        (lambda x: x.astype(np.int8), "of type int8; give uint8"),
        (lambda x: x > 100, "of type bool; give uint8"),
        (lambda x: x.astype(np.complex64), "of type complex64; give uint8"),
        (lambda x: x.astype(str), "of type <U3; give uint8"),
        (lambda x: [x[0], x[1, :4]], "one array of equal sizes"),
        (lambda x: x[0], r"shape \[8, 8, 1\], but the network takes \[B, 8, 8, 1\]"),
        (lambda x: x[..., 0], r"shape \[5, 8, 8\], but"),
        (lambda x: x.transpose(0, 3, 1, 2), r"shape \[5, 1, 8, 8\], but .*channels last"),
        (lambda x: x.repeat(3, -1), r"shape \[5, 8, 8, 3\], but"),
        (lambda x: x.repeat(2, 1), r"shape \[5, 16, 8, 1\], but"),
    ],
)
def test_other_images_are_one_sentence(network, raw, wrong, sentence):
    raw[0, 0, 0], raw[1, 0, 0] = 0, 255
    with pytest.raises(ValueError, match=sentence) as error:
        network(wrong(raw))
    assert str(error.value).endswith(".")
    assert "\n" not in str(error.value)


def test_resampled_images_may_leave_the_range_a_little(network, raw):
    images = raw / np.float32(255)
    np.testing.assert_allclose(network(images * 1.0009), network(images), atol=0.1)


def test_under_jit_bytes_are_scaled_and_floats_elsewhere_become_nan(network, raw):
    raw[0, 0, 0] = 255
    np.testing.assert_allclose(jax.jit(network)(raw), expected(network, raw), atol=1e-4)
    mixed = np.concatenate([raw / 255, raw]).astype(np.float32)
    found = np.asarray(jax.jit(network)(mixed))
    np.testing.assert_allclose(found[:5], expected(network, raw), atol=1e-4)
    assert np.isnan(found[5:]).all()
    with pytest.raises(ValueError, match="of type int32"):
        jax.jit(network)(raw.astype(np.int32))


def test_a_program_of_floats_answers_nan_to_an_image_of_bytes(network, raw):
    raw[0, 0, 0] = 255
    artefact = stablehlo.serialize(network.network, network.variables, tiny.SHAPE, "float32")
    mixed = np.concatenate([raw / 255, raw]).astype(np.float32)
    found = np.asarray(jax.export.deserialize(bytearray(artefact)).call(mixed))
    np.testing.assert_allclose(found[:5], expected(network, raw), atol=1e-4)
    assert np.isnan(found[5:]).all()


def test_a_network_of_pixels_takes_images_of_any_size(tmp_path, raw):
    variables = tiny.Pixels(3).init(jax.random.key(0), jnp.zeros((1, *tiny.SHAPE)), False)
    saved.save(tmp_path, variables, {**NOTE, "model": "tiny:Pixels"})
    network = saved.load(tmp_path, "tiny:Pixels")
    assert network(raw.repeat(2, 1)).shape == (5, 16, 8, 3)
    with pytest.raises(ValueError, match=r"takes \[B, H, W, 1\]"):
        network(raw.repeat(2, 3))


def rewrite(folder, **fields):
    """The note of a saved folder changed, with a digest that matches: what a stranger can do."""
    path = checkpoint.newest(folder) / manifest.NAME
    body = {name: value for name, value in json.loads(path.read_text()).items() if name != "sha256"}
    body["note"] = {name: value for name, value in {**body["note"], **fields}.items() if value != "gone"}
    path.write_text(json.dumps({**body, "sha256": manifest._digest(body)}))


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("model", ["gone", None, 3, "", ["wrn10_1"], "x" * 10**6, "wrn10_1\n"]),
        ("classes", ["gone", "3", 3.0, True, None, 0, -1, 10**30, [3]]),
        ("image_shape", ["gone", [8, 8], [8, 8, 1, 1], [8, 8, 10**9], [8, -8, 1], [8.0, 8, 1], "881", 8, {}]),
        ("mean", ["gone", 0.4, "0.4", [], ["0.4"], [True], [[0.4]], [None], [10**400]]),
        ("std", ["gone", 0.3, [], {}]),
    ],
)
def test_a_note_of_missing_or_mistyped_fields_is_one_sentence(tmp_path, monkeypatch, teacher_variables, field, values):
    saved.save(tmp_path, teacher_variables, NOTE)
    monkeypatch.setattr(jax, "eval_shape", lambda *_: pytest.fail("traced"))
    for value in values:
        rewrite(tmp_path, **{field: value})
        with pytest.raises(ValueError, match=rf"note in '{tmp_path}' describes no network: its '{field}' is") as error:
            saved.load(tmp_path, "tiny:Tiny")
        assert len(str(error.value)) < 400
        rewrite(tmp_path, **NOTE)


@pytest.mark.parametrize("note", [[], 3, "wrn10_1", None])
def test_a_note_of_another_type(teacher_variables, tmp_path, note):
    with pytest.raises(ValueError, match="The note describes no network: its 'model' is missing"):
        saved.save(tmp_path, teacher_variables, note)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("mean", "std", "sentence"),
    [
        ([77.85], [95.88], "divide them by 255"),
        ([0.4], [95.88], "divide them by 255"),
        ([0.0012], [0.0014], "divided by 255 twice, multiply"),
        ([-0.4], [0.3], "not its negative"),
        ([float("nan")], [0.3], "do not normalise 1 channels"),
        ([0.4], [float("inf")], "do not normalise 1 channels"),
        ([0.4], [0.0], "with std above 0"),
        ([0.4, 0.4], [0.3], "do not normalise 1 channels"),
        ([0.4], [0.3] * 3, "do not normalise 1 channels"),
    ],
)
def test_a_normalisation_that_images_cannot_have(tmp_path, teacher_variables, mean, std, sentence):
    with pytest.raises(ValueError, match=sentence):
        saved.save(tmp_path, teacher_variables, {**NOTE, "mean": mean, "std": std})
    with pytest.raises(ValueError, match=sentence):
        saved.note("tiny:Tiny", tiny.INPUTS._replace(mean=mean, std=std))
    saved.save(tmp_path, teacher_variables, NOTE)
    rewrite(tmp_path, mean=mean, std=std)
    with pytest.raises(ValueError, match=sentence):
        saved.load(tmp_path, "tiny:Tiny")


def test_an_unusual_normalisation_that_is_meant_is_marked_and_loads(tmp_path, teacher_variables):
    inputs = tiny.INPUTS._replace(mean=(0.0,), std=(1 / 255,))
    note = saved.note("tiny:Tiny", inputs, meant=True)
    saved.save(tmp_path, teacher_variables, note)
    assert saved.load(tmp_path, "tiny:Tiny").note == {**NOTE, "mean": [0.0], "std": [1 / 255], **{MARK: True}}
    assert MARK not in saved.note("tiny:Tiny", tiny.INPUTS, meant=True)


@pytest.mark.parametrize(
    "name", ["wrn60004_1", "wrn10_100000", "wrn1000000000000_1", f"wrn10_{'1' * 5000}", "wrn10_\u00b2"]
)
def test_a_model_too_large_to_trace_is_one_sentence(tmp_path, teacher_variables, monkeypatch, name):
    saved.save(tmp_path, teacher_variables, NOTE)
    rewrite(tmp_path, model=name[:200])
    monkeypatch.setattr(jax, "eval_shape", lambda *_: pytest.fail("traced"))
    with pytest.raises(ValueError, match=r"depth of at most 100 and a width of 1 to 32|Unknown model 'wrn10_\u00b2'"):
        saved.load(tmp_path)


@pytest.mark.parametrize("named", ["resnet18", "tiny:Linear", "wrn10_1"])
def test_another_model_than_the_saved_one_is_named(folder, named):
    with pytest.raises(ValueError, match=rf"holds a 'tiny:Tiny', not the '{named}' that was named"):
        saved.load(folder, named)


def test_a_script_that_logs_at_info_sees_its_own_lines_and_no_flood_of_orbax(folder, tmp_path):
    code = (
        "import logging, sys\nlogging.basicConfig(level=logging.INFO, stream=sys.stdout)\n"
        "from absl import logging as absl_logging\nfrom ssdkd_jax.interop import saved\n"
        "found = saved.load(sys.argv[1], 'tiny:Tiny')\nsaved.save(sys.argv[2], found.variables, found.note)\n"
        "logging.info('of my own')\nabsl_logging.info('of my own')\nlogging.getLogger('mine').info('of my own')"
    )
    arguments = [sys.executable, "-c", code, str(folder), str(tmp_path)]
    ended = subprocess.run(arguments, env=environment(tmp_path / "cache"), capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    lines = [line for line in ended.stdout.splitlines() if not line.startswith("INFO:jax")]
    assert lines == [f"INFO:{name}:of my own" for name in ("root", "absl", "mine")]
