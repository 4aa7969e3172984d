"""The NYUv2 builder on a miniature of each of the three layouts that users have."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import test_configs
from PIL import Image
from scipy.io import savemat

from ssdkd_jax import build, data
from ssdkd_jax.data import nyuv2
from ssdkd_jax.engine import evaluation, loop, optimization, parallel, supervised
from ssdkd_jax.report import machine, progress
from ssdkd_jax.run import teacher as teachers

CONFIG = Path(__file__).parents[1] / "configs" / "nyuv2.py"
SPLITS = {"train": [2, 5, 3], "test": [1, 4]}
HEIGHT, WIDTH = 48, 64


@pytest.fixture(scope="module")
def arrays():
    """Images and masks (0 for none, then 1 to 13) by number from 1; a mask of 6x8 patches."""
    rng = np.random.default_rng(0)
    numbers = sorted(SPLITS["train"] + SPLITS["test"])
    images = {n: rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8) for n in numbers}
    masks = {n: rng.integers(0, 14, (6, 8), dtype=np.uint8).repeat(8, 0).repeat(8, 1) for n in numbers}
    return images, masks


def write_png(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write_splits(path):
    savemat(path, {f"{split}Ndxs": np.array(numbers)[:, None] for split, numbers in SPLITS.items()})


def toolkit(folder, images, masks):
    for split, numbers in SPLITS.items():
        for n in numbers:
            write_png(folder / "image" / split / f"{n:05d}.png", images[n])
            write_png(folder / "seg13" / split / f"{n:05d}.png", masks[n])


def dfad(folder, images, masks):
    for split, numbers in SPLITS.items():
        for n in numbers:
            write_png(folder / "480_640" / "IMAGE" / f"{n - 1}.png", images[n])
            write_png(folder / "nyuv2-meta-data" / f"{split}_labels_13" / f"new_nyu_class13_{n:04d}.png", masks[n])
    write_splits(folder / "nyuv2-meta-data" / "splits.mat")


def original(folder, images, masks):
    """The labelled .mat as MATLAB writes it; its 894 labels go to one of the 40 classes for each of the 13."""
    h5py = pytest.importorskip("h5py")
    one_of_40 = np.array([list(nyuv2.OF_40).index(c) for c in range(14)])
    of_894 = 1 + np.arange(894) % 40
    label = {n: (one_of_40[mask] + 40 * (mask > 0)).astype(np.uint16) for n, mask in masks.items()}
    with h5py.File(folder / nyuv2.LABELLED, "w") as file:
        file["images"] = np.stack([images[n].T for n in sorted(images)])
        file["labels"] = np.stack([label[n].T for n in sorted(label)])
    savemat(folder / nyuv2.MAPPING, {"mapClass": of_894[None]})
    write_splits(folder / "splits.mat")


def resized(array, resample):
    return np.asarray(Image.fromarray(array).resize((341, 256), resample))


@pytest.mark.parametrize("write", [toolkit, dfad, original])
def test_each_layout_gives_the_images_and_masks_of_its_splits(write, arrays, tmp_path):
    (tmp_path / "source").mkdir()
    write(tmp_path / "source", *arrays)
    nyuv2.prepare(tmp_path / "source", str(tmp_path / "tfds"))
    read = data.load("nyuv2", str(tmp_path / "tfds"))
    images, masks = arrays
    assert (read.classes, read.names[0], read.names[-1]) == (13, "bed", "window")
    assert "tensorflow" not in sys.modules
    for split, x, y in (
        ("train", read.train_images, read.train_labels),
        ("test", read.test_images, read.test_labels),
    ):
        expected = {resized(images[n], Image.Resampling.BILINEAR).tobytes(): n for n in SPLITS[split]}
        found = [expected[image.tobytes()] for image in x]
        assert sorted(found) == sorted(SPLITS[split])
        for n, mask in zip(found, y, strict=True):
            label = resized(masks[n], Image.Resampling.NEAREST).astype(int)
            np.testing.assert_array_equal(mask, np.where(label == 0, 255, label - 1))
        assert (y.dtype, y.shape[1:]) == (np.uint8, (256, 341))


def test_the_classes_of_the_forty_are_those_of_their_names():
    by_name = {1: "wall", 2: "floor", 4: "bed", 5: "chair", 6: "sofa", 7: "table", 9: "window", 11: "picture"}
    by_name |= {22: "ceiling", 23: "books", 25: "tv", 3: "furniture", 40: "objects"}
    assert len(nyuv2.OF_40) == 41
    assert {n: nyuv2.NAMES[nyuv2.OF_40[n] - 1] for n in by_name} == by_name


def test_a_folder_of_another_layout_is_answered_with_the_known_ones(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not hold NYUv2 in a known layout; it is to be one of") as error:
        nyuv2.prepare(tmp_path)
    assert all(part in str(error.value) for part in ("seg13/{train,test}", "480_640/IMAGE", "nyu_depth_v2_labeled.mat"))


def test_a_missing_image_and_a_mask_that_does_not_fit_are_named(arrays, tmp_path):
    toolkit(tmp_path, *arrays)
    pairs = nyuv2.layout(tmp_path)["train"]
    write_png(tmp_path / "seg13" / "train" / "00003.png", np.full((HEIGHT, WIDTH), 14, np.uint8))
    with pytest.raises(ValueError, match=r"00003\.png has shape \[48, 64\] and labels up to 14, where"):
        list(pairs())
    (tmp_path / "image" / "train" / "00002.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"Missing .*image/train/00002\.png"):
        list(pairs())


def test_nyuv2_that_is_not_prepared_is_an_error_that_names_the_way(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"no prepared 'nyuv2' in {tmp_path}; run once: .*--name=nyuv2"):
        data.load("nyuv2", str(tmp_path))


@pytest.mark.slow
def test_the_whole_path_at_full_width_on_the_miniature(arrays, tmp_path, one_device):
    """From the builder through both DeepLabs to an evaluation, a step of each; `-m slow -s` tells the cost."""
    (tmp_path / "source").mkdir()
    dfad(tmp_path / "source", *arrays)
    nyuv2.prepare(tmp_path / "source", str(tmp_path / "tfds"))
    read = data.load("nyuv2", str(tmp_path / "tfds"))
    config = test_configs.get_config(CONFIG)
    config.teacher.batch = config.student.batch = config.synthesis.batch = 2
    config.buffer.size, config.synthesis.inner_steps = 3, 1
    config.schedule.update(rounds=1, warmup=0, distill_steps=1)
    crop = config.data.crop
    inputs = build.Inputs((crop, crop, 3), read.classes, read.mean, read.std)
    seconds = progress.Stopwatch()

    network, task = build.network(config.teacher.model, inputs), build.task(config, inputs.classes)
    recipe = teachers.recipe_of(config, 2)._replace(epochs=1)
    heard = []
    with seconds("teacher, one step, compiled"):
        state = parallel.to_devices(optimization.init(network, recipe.tx, jax.random.key(0)))
        some = read.train_images[:2], read.train_labels[:2], jax.random.key(1)
        state = supervised.fit(network, task, recipe, state, *some, lambda *args: heard.append(args[2]))
    assert np.isfinite(heard[0]["loss"])

    teacher = parallel.to_host(state.variables)
    with seconds("compilation of a round"):
        job = build.job(config, inputs, network, teacher)
        first = parallel.to_devices(loop.first(job.method, job.network, job.tx, 0))
        programs = loop.compile_round(job.method, job.step, job.plan, first, state.variables)
    metrics = []
    after, _ = loop.run(programs, job.plan, first, state.variables, seconds, lambda *args: metrics.append(args[2]))
    assert metrics[0]["filled"] == 2
    assert int(parallel.unreplicate(after.student.step)) == 1
    buffer = parallel.to_host(after.method.buffer)
    assert buffer.shards.rows.images.shape == (3, crop, crop, 3)

    with seconds("evaluation of two images, compiled"):
        evaluate = evaluation.make(job.network, task, read.test_images, read.test_labels, 1)
        scores = evaluate(after.student.variables)
    assert 0 <= scores["miou"] <= 1
    assert scores["loss"] > 0
    print(
        {name: round(value, 2) for name, value in seconds.seconds.items()}, machine.peak_memory_bytes() / 2**30, "GiB"
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"trainNdxs": np.zeros((2**20 + 1, 1), np.uint8)}, r"\[1048577, 1\] numbers"),
        ({"trainNdxs": np.array([[1450]])}, "numbers other than 0 to 1449"),
        ({"trainNdxs": np.array([[-1.5]])}, "numbers other than 0 to 1449"),
        ({"trainNdxs": "one"}, "splits.mat does not hold 'trainNdxs'"),
        ({"others": np.zeros(3)}, "splits.mat does not hold 'trainNdxs'"),
    ],
)
def test_a_mat_file_of_a_stranger_is_one_sentence(tmp_path, content, sentence):
    savemat(tmp_path / "splits.mat", content, do_compression=True)
    with pytest.raises(ValueError, match=sentence):
        nyuv2._image_ids(tmp_path / "splits.mat", "train")
    (tmp_path / "splits.mat").write_bytes(b"MATLAB 5.0" + bytes(200))
    with pytest.raises(ValueError, match="does not hold 'trainNdxs'"):
        nyuv2._image_ids(tmp_path / "splits.mat", "train")


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_an_image_that_is_none_is_one_sentence(tmp_path, content):
    (tmp_path / "1.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"1\.png is no whole image"):
        nyuv2._read(tmp_path / "1.png")
