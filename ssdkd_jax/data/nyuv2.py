"""NYUv2 with 13 classes as a tfds builder, from files that the user has: nothing is downloaded.

1,449 labelled images (Silberman et al., ECCV 2012), 795 to train and 654 to test; the 13 classes are those of
Couprie et al. (ICLR 2013), by way of the 40 of Gupta et al. (CVPR 2013). Stored with the shorter side at 256
pixels, images bilinear and masks nearest, as the peers evaluate them.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ssdkd_jax.errors import InputError, MissingError, needs

with needs("data"):
    import tensorflow_datasets as tfds
    from scipy.io import loadmat, whosmat

SIDE = 256
NUMBERS = 2**20  # at most in a .mat of splits or classes
NAMES = (
    *("bed", "books", "ceiling", "chair", "floor", "furniture", "objects"),
    *("picture", "sofa", "table", "tv", "wall", "window"),
)
# The class of 13, from 1, of each of the 40 (0 for none): class13Mapping.mat of Handa's nyuv2-meta-data.
OF_40 = np.frombuffer(
    bytes((0, 12, 5, 6, 1, 4, 9, 10, 12, 13, 6, 8, 6, 13, 10, 6, 13, 6, 7, 7))
    + bytes((5, 7, 3, 2, 6, 11, 7, 7, 7, 7, 7, 7, 6, 7, 7, 7, 7, 7, 7, 6, 7)),
    np.uint8,
)
IMAGES = 1449
LABELLED, MAPPING = "nyu_depth_v2_labeled.mat", "classMapping40.mat"
INSTRUCTIONS = f"""one of
  image/{{train,test}}/*.png with seg13/{{train,test}}/*.png of the same names (nyuv2-python-toolkit, CMI);
  480_640/IMAGE/N.png with nyuv2-meta-data/{{train,test}}_labels_13/new_nyu_class13_%04d.png, N one less,
    and nyuv2-meta-data/splits.mat (DFAD);
  {LABELLED}, splits.mat and {MAPPING} (the original).
Labels of pixels are 1 to 13, and 0 where there is none."""
Pair = tuple[np.ndarray, np.ndarray]
Layout = dict[str, Callable[[], Iterator[tuple[str, Pair]]]]


class Nyuv2(tfds.core.GeneratorBasedBuilder):
    """'image' uint8 [H, W, 3] and 'mask' uint8 [H, W, 1] with classes 0 to 12, and 255 where there is none."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = INSTRUCTIONS

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "mask": tfds.features.Image(shape=(None, None, 1)),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, manager: tfds.download.DownloadManager) -> dict:
        return {split: self._generate_examples(pairs) for split, pairs in layout(Path(manager.manual_dir)).items()}

    def _generate_examples(self, pairs: Callable[[], Iterator[tuple[str, Pair]]]) -> Iterator[tuple[str, dict]]:
        for key, (image, label) in pairs():
            mask = label.astype(np.uint8) - 1  # 0 becomes 255
            yield key, {"image": _png(image, Image.Resampling.BILINEAR), "mask": _png(mask, Image.Resampling.NEAREST)}


def prepare(source: str | Path, folder: str | None = None) -> None:
    """Prepare the set from the files in `source` in tfds's data directory `folder` (None is tfds's own).

    Raises:
        FileNotFoundError: where `source` holds none of the known layouts, or not all of one.
        ValueError: where an image and its mask differ in size, or a mask in what it may hold.
    """
    layout(Path(source))
    config = tfds.download.DownloadConfig(manual_dir=Path(source))
    Nyuv2(data_dir=folder, file_format="array_record").download_and_prepare(download_config=config)


def layout(folder: Path) -> Layout:
    """{split: function that yields (key, (image uint8 [H, W, 3], label [H, W] in 0 to 13))} of a user's folder.

    Raises:
        FileNotFoundError: where it is none of the known layouts.
    """
    if (folder / "seg13").is_dir():
        return {split: lambda split=split: _folders(folder, split) for split in ("train", "test")}
    if (folder / "nyuv2-meta-data").is_dir():
        return {split: lambda split=split: _numbered(folder, split) for split in ("train", "test")}
    if (folder / LABELLED).is_file():
        return {split: lambda split=split: _original(folder, split) for split in ("train", "test")}
    raise MissingError(f"'{folder}' does not hold NYUv2 in a known layout; it is to be {INSTRUCTIONS}")


def _folders(folder: Path, split: str) -> Iterator[tuple[str, Pair]]:
    for path in sorted((folder / "seg13" / split).glob("*.png")):
        yield path.stem, _pair(_read(folder / "image" / split / path.name, "RGB"), _read(path), path)


def _numbered(folder: Path, split: str) -> Iterator[tuple[str, Pair]]:
    meta = folder / "nyuv2-meta-data"
    for image_id in _image_ids(meta / "splits.mat", split):
        path = meta / f"{split}_labels_13" / f"new_nyu_class13_{image_id:04d}.png"
        image = _read(folder / "480_640" / "IMAGE" / f"{image_id - 1}.png", "RGB")
        yield f"{image_id:04d}", _pair(image, _read(path), path)


def _original(folder: Path, split: str) -> Iterator[tuple[str, Pair]]:
    with needs("data"):
        import h5py

    of_894 = np.concatenate([[0], _numbers(folder / MAPPING, "mapClass", len(OF_40) - 1)])
    image_ids = _image_ids(folder / "splits.mat", split)
    with h5py.File(folder / LABELLED) as file:
        for image_id in image_ids:  # MATLAB's axes come in reverse: [3, W, H] and [W, H]
            image, label = file["images"][image_id - 1].T, file["labels"][image_id - 1].T
            if label.max(initial=0) >= len(of_894):
                raise InputError(
                    f"{folder / LABELLED} has a label {label.max()} that {MAPPING} lacks; use another copy of them."
                )
            yield f"{image_id:04d}", _pair(image, OF_40[of_894[label]], folder / LABELLED)


def _image_ids(path: Path, split: str) -> list[int]:
    """The images of a split, counted from 1."""
    return _numbers(path, f"{split}Ndxs", IMAGES).tolist()


def _numbers(path: Path, name: str, most: int) -> np.ndarray:
    """The array `name` of a .mat file as int [M], each in [0, most]; its size is looked at before it is unpacked."""
    _present(path)
    try:
        (shape,) = (shape for found, shape, _ in whosmat(path) if found == name)
        if math.prod(shape) > NUMBERS:
            raise InputError(f"{list(shape)} numbers")
        array = loadmat(path, variable_names=[name])[name].ravel()
        whole = array.astype(np.int64)
        if (whole != array).any() or whole.min(initial=0) < 0 or whole.max(initial=0) > most:
            raise InputError(f"numbers other than 0 to {most}")
    except Exception as error:  # whatever a hostile file makes the reader raise
        raise InputError(f"{path} does not hold '{name}' of NYUv2 ({error}); use another copy of it.") from error
    return whole


def _present(path: Path) -> Path:
    if not path.is_file():
        raise MissingError(f"Missing {path}; NYUv2 is to be {INSTRUCTIONS}")
    return path


def _read(path: Path, mode: str | None = None) -> np.ndarray:
    _present(path)
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert(mode) if mode else image)
    except (OSError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise InputError(f"{path} is no whole image ({error}); use another copy of it.") from error


def _pair(image: np.ndarray, label: np.ndarray, path: Path) -> Pair:
    if label.shape != image.shape[:2] or label.max(initial=0) > len(NAMES):
        raise InputError(
            f"The mask in {path} has shape {list(label.shape)} and labels up to {label.max(initial=0)}, where the "
            f"image has {list(image.shape[:2])} and there are {len(NAMES)} classes; use another copy of it."
        )
    return image, label


def _png(array: np.ndarray, resample: Image.Resampling) -> io.BytesIO:
    """The array as PNG, its shorter side `SIDE` pixels; the longer is rounded down, as torchvision does."""
    height, width = array.shape[:2]
    short = min(height, width)
    png = io.BytesIO()
    Image.fromarray(array).resize((width * SIDE // short, height * SIDE // short), resample).save(png, "PNG")
    png.seek(0)
    return png
