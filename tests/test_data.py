"""The readers of real images, on files that the tests write."""

import gzip
import io
import struct
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from ssdkd_jax import data


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def test_digits_are_doubled_to_sixteen_pixels_and_split_in_two(digits):
    assert digits.train_images.shape == (1297, 16, 16, 1)
    assert digits.test_images.shape == (500, 16, 16, 1)
    assert digits.train_images.dtype == np.uint8
    assert digits.train_labels.dtype == np.int32
    assert digits.train_images.max() == 255
    blocks = digits.train_images[..., 0].reshape(-1, 8, 2, 8, 2)
    assert (blocks == blocks[:, :, :1, :, :1]).all()


def test_digits_splits_hold_every_image_once(digits):
    from sklearn.datasets import load_digits

    def counted(images):
        return sorted(image.tobytes() for image in images)

    raw = np.round(load_digits().images * 255 / 16).astype(np.uint8)
    both = np.concatenate([digits.train_images, digits.test_images])[:, ::2, ::2, 0]
    assert counted(both) == counted(raw)


def test_digits_splits_have_the_same_shares_of_classes(digits):
    train, test = (np.bincount(labels) / len(labels) for labels in (digits.train_labels, digits.test_labels))
    np.testing.assert_allclose(train, test, atol=0.002)


def test_digits_normalisation_is_that_of_the_training_images(digits):
    x = digits.train_images / 255
    assert x.mean() == pytest.approx(digits.mean[0], abs=0.002)
    assert x.std() == pytest.approx(digits.std[0], abs=0.002)


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def fashion(tmp_path, rng):
    """A folder laid out as Debian's dataset-fashion-mnist, and its arrays."""
    arrays = {}
    for split, count in (("train", 7), ("t10k", 4)):
        arrays[split] = rng.integers(0, 256, (count, 28, 28)).astype(np.uint8), rng.integers(0, 10, count)
        write_idx(tmp_path / f"{split}-images-idx3-ubyte.gz", arrays[split][0])
        write_idx(tmp_path / f"{split}-labels-idx1-ubyte.gz", arrays[split][1].astype(np.uint8))
    return tmp_path, arrays


def test_fashion_mnist_reads_the_four_idx_files(fashion):
    folder, arrays = fashion
    read = data.load("fashion_mnist", str(folder))
    np.testing.assert_array_equal(read.train_images[..., 0], arrays["train"][0])
    np.testing.assert_array_equal(read.test_images[..., 0], arrays["t10k"][0])
    np.testing.assert_array_equal(read.train_labels, arrays["train"][1])
    np.testing.assert_array_equal(read.test_labels, arrays["t10k"][1])
    assert (read.classes, read.train_images.dtype, read.train_labels.dtype) == (10, np.uint8, np.int32)


def test_a_missing_idx_file_is_named(fashion):
    missing = fashion[0] / "t10k-labels-idx1-ubyte.gz"
    missing.unlink()
    with pytest.raises(FileNotFoundError, match=f"Missing {missing}"):
        data.load("fashion_mnist", str(fashion[0]))


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(bytes([0, 0, 8, 1]) + struct.pack(">I", 9) + b"12345678"),
        gzip.compress(bytes([0, 0, 8, 1]) + struct.pack(">I", 9) + b"123456789")[:-6],
        gzip.compress(bytes([0, 0, 13, 1]) + struct.pack(">I", 4) + b"1234"),
        gzip.compress(b""),
        b"not gzip",
    ],
    ids=["too few bytes", "gzip cut short", "not bytes", "empty", "not gzip"],
)
def test_a_damaged_idx_file_is_named(tmp_path, content):
    path = tmp_path / "x-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path} is not a whole gzipped IDX file"):
        data.read_idx(path)


@pytest.mark.parametrize(
    ("header", "body", "sentence"),
    [
        (bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**31, 2**31, 2**31), b"", "bytes by its header, more than"),
        (bytes([0, 0, 8, 2]) + struct.pack(">2I", 2**16, 2**15), b"", "bytes by its header, more than"),
        (bytes([0, 0, 8, 255]) + bytes(4 * 255), b"", "header of"),
        (bytes([0, 0, 8, 0]), b"", "header of"),
        (bytes([0, 0, 8, 1]) + struct.pack(">I", 9), bytes(2**28), "is not a whole gzipped"),
    ],
    ids=["giant axes", "two gigabytes", "255 axes", "no axis", "a bomb behind nine bytes"],
)
def test_no_more_of_an_idx_file_is_unpacked_than_its_header_says(tmp_path, header, body, sentence):
    path = tmp_path / "x-ubyte.gz"
    path.write_bytes(gzip.compress(header + body, 1))
    del body
    tracemalloc.start()
    with pytest.raises(ValueError, match=sentence):
        data.read_idx(path)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_damage_within_the_deflated_bytes_is_named(tmp_path):
    path = tmp_path / "x-ubyte.gz"
    content = bytearray(gzip.compress(bytes([0, 0, 8, 1]) + struct.pack(">I", 4096) + bytes(range(256)) * 16))
    content[12:40] = b"\xff" * 28
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not a whole gzipped IDX file"):
        data.read_idx(path)


@pytest.mark.parametrize(
    ("file", "array"),
    [
        ("t10k-labels-idx1-ubyte.gz", np.full(4, 10, np.uint8)),
        ("t10k-labels-idx1-ubyte.gz", np.zeros(5, np.uint8)),
        ("train-images-idx3-ubyte.gz", np.zeros(7, np.uint8)),
    ],
)
def test_idx_files_that_do_not_belong_together(fashion, file, array):
    write_idx(fashion[0] / file, array)
    with pytest.raises(ValueError, match="which is not Fashion-MNIST; fetch it again"):
        data.load("fashion_mnist", str(fashion[0]))


def test_a_missing_data_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"No folder {tmp_path}/none; install"):
        data.load("fashion_mnist", str(tmp_path / "none"))


def test_an_unknown_data_set_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"data\.name = 'mnist' is not one of digits, fashion_mnist, cifar10"):
        data.load("mnist")


def write_cifar10(folder, images):
    """A prepared array_record set of CIFAR-10's layout, {split: uint8 [M, 32, 32, 3]}, label i % 10."""
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(32, 32, 3)),
            "label": tfds.features.ClassLabel(num_classes=10),
        }
    )

    class Cifar10(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("3.0.2")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {split: self._generate_examples(split) for split in images}

        def _generate_examples(self, split):
            for i, image in enumerate(images[split]):
                png = io.BytesIO()
                Image.fromarray(image).save(png, "PNG")
                png.seek(0)
                yield i, {"id": f"{split}_{i}", "image": png, "label": i % 10}

    Cifar10(data_dir=str(folder), file_format="array_record").download_and_prepare()


def test_cifar10_is_read_from_a_prepared_tfds_folder_without_tensorflow(tmp_path, rng):
    images = {s: rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8) for s, n in (("train", 12), ("test", 5))}
    write_cifar10(tmp_path, images)
    read = data.load("cifar10", str(tmp_path))
    for split, got, labels in (
        ("train", read.train_images, read.train_labels),
        ("test", read.test_images, read.test_labels),
    ):
        assert got.dtype == np.uint8
        assert labels.dtype == np.int32
        position = {image.tobytes(): i for i, image in enumerate(images[split])}
        found = [position[image.tobytes()] for image in got]
        assert sorted(found) == list(range(len(images[split])))
        np.testing.assert_array_equal(labels, np.array(found) % 10)
    assert "tensorflow" not in sys.modules


def test_cifar_that_is_not_prepared_is_an_error_that_names_the_way(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no prepared 'cifar100' in {tmp_path}; run once"):
        data.load("cifar100", str(tmp_path))


def test_building_and_training_import_neither_real_data_nor_tensorflow():
    code = (
        "import sys, ssdkd_jax.build, ssdkd_jax.engine.loop\n"
        "bad = [m for m in sys.modules if m == 'ssdkd_jax.data' or m.split('.')[0] in"
        " ('tensorflow', 'tensorflow_datasets', 'sklearn')]\n"
        "assert 'ssdkd_jax.engine.loop' in sys.modules\n"
        "print(bad)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert (ended.returncode, ended.stdout.strip()) == (0, "[]"), ended.stderr
