"""PyTorch teachers of the experiments: their networks, how they are trained, and how their accuracy is counted."""

import numpy as np
import pytest
from protocol import Recipe

from ssdkd_jax.data import Dataset

torch = pytest.importorskip("torch")
torch_networks, torch_training = (pytest.importorskip(name) for name in ("torch_networks", "torch_training"))
NETWORKS = sorted(torch_networks.NETWORKS)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """PyTorch's threads wait for each other, which takes long where others compute, too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def bright_and_dark(count):
    """Images whose class is whether they are bright, and their labels."""
    rng = np.random.default_rng(count)
    labels = (np.arange(count) % 2).astype(np.int32)
    return (rng.integers(0, 100, (count, 8, 8, 1)) + 150 * labels[:, None, None, None]).astype(np.uint8), labels


@pytest.fixture(scope="module")
def dataset():
    """A set of two classes that a pixel tells apart."""
    return Dataset(*bright_and_dark(300), *bright_and_dark(60), 2, (0.5,), (0.25,))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_answers_images_of_any_of_the_sizes(name):
    for size, channels, classes in ((16, 1, 5), (28, 3, 10), (40, 3, 26)):
        module = torch_networks.NETWORKS[name](channels, classes, size).eval()
        assert module(torch.zeros(2, channels, size, size)).shape == (2, classes)


@pytest.mark.parametrize("norm", ["none", "batch", "group"])
@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in ("LeNet", "AllConv")])
def test_a_network_has_the_normalisation_that_it_is_asked_for(name, norm):
    module = torch_networks.NETWORKS[name](1, 10, 16, norm=norm)
    counts = [
        sum(isinstance(part, kind) for part in module.modules()) for kind in (torch.nn.BatchNorm2d, torch.nn.GroupNorm)
    ]
    convolutions = [part for part in module.modules() if isinstance(part, torch.nn.Conv2d)]
    assert counts == [len(convolutions) * (norm == kind) for kind in ("batch", "group")]
    assert all((part.bias is None) == (norm != "none") for part in convolutions)


def test_a_network_learns_and_is_left_as_it_is_used(dataset):
    torch.manual_seed(0)
    module = torch_networks.Cnn(1, 2, 8, widths=(4,), hidden=8, drop=0.2, norm="batch")
    recipe = Recipe(seen=6400, lr=0.01, optimiser="adam", smoothing=0.1, shift=1, flip=True)
    before = torch_training.accuracy(module.eval(), *dataset[2:4], torch_training.Normalised((0.5,), (0.25,)))
    torch_training.train(module, dataset, recipe, 0)
    assert not module.training
    after = torch_training.accuracy(module, *dataset[2:4], torch_training.normalisation(recipe, dataset))
    assert after == 1.0 > before


def test_the_same_key_trains_the_same_network(dataset):
    def weights(key):
        torch.manual_seed(0)
        module = torch_networks.LeNet(1, 2, 8, width=2)
        torch_training.train(module, dataset, Recipe(seen=1024, lr=0.1, shift=2, flip=True), key)
        return np.concatenate([part.detach().numpy().ravel() for part in module.parameters()])

    first, again, other = weights(0), weights(0), weights(1)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-4


def test_images_are_normalised_by_the_recipe_or_by_the_data(dataset):
    images = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    found = torch_training.Normalised((0.1, 0.2, 0.3), (0.5, 0.25, 1.0))(torch.tensor(images)).numpy()
    expected = (images / 255 - np.array([0.1, 0.2, 0.3])) / np.array([0.5, 0.25, 1.0])
    np.testing.assert_allclose(found, expected.transpose(0, 3, 1, 2), atol=1e-6)
    assert torch_training.normalisation(Recipe(1, 0.1), dataset) == ((0.5,), (0.25,))
    assert torch_training.normalisation(Recipe(1, 0.1, mean=0.0, std=1.0), dataset) == ((0.0,), (1.0,))


def test_every_image_is_seen_as_often_as_the_others():
    seen = list(torch_training.batches(256, 5, torch.Generator().manual_seed(0)))
    assert [len(part) for part in seen] == [128] * 5
    for first in (0, 2):
        assert sorted(torch.cat(seen[first : first + 2]).tolist()) == list(range(256))
    assert [len(part) for part in torch_training.batches(50, 3, torch.Generator())] == [50] * 3


def test_augmented_images_are_moved_and_mirrored_ones():
    images = torch.tensor(np.random.default_rng(0).integers(1, 255, (40, 6, 6, 1)), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    assert torch_training.augmented(images, Recipe(1, 0.1), generator) is images
    mirrored = torch_training.augmented(images, Recipe(1, 0.1, flip=True), generator)
    turned = [torch.equal(new, old.flip(1)) for new, old in zip(mirrored, images, strict=True)]
    kept = [torch.equal(new, old) for new, old in zip(mirrored, images, strict=True)]
    assert all(a != b for a, b in zip(turned, kept, strict=True)) and 5 < sum(turned) < 35
    padded = torch.nn.functional.pad(images, (0, 0, 2, 2, 2, 2))
    places = {(0, 0)}
    for _ in range(30):
        moved = torch_training.augmented(images, Recipe(1, 0.1, shift=2), generator)
        at = [(i, j) for i in range(5) for j in range(5) if torch.equal(moved, padded[:, i : i + 6, j : j + 6])]
        assert len(at) == 1
        places.update(at)
    assert len(places) > 12


def test_the_optimiser_is_the_one_that_the_recipe_names_and_its_rate_rises_and_falls():
    module = torch.nn.Linear(1, 1)
    sgd, schedule = torch_training.optimisation(module, Recipe(1, 0.4, weight_decay=0.1), 100)
    adam, _ = torch_training.optimisation(module, Recipe(1, 0.4, "adam", 0.1), 100)
    assert (type(sgd), type(adam)) == (torch.optim.SGD, torch.optim.AdamW)
    assert sgd.defaults["nesterov"] and {sgd.defaults["weight_decay"], adam.defaults["weight_decay"]} == {0.1}
    rates = []
    for _ in range(100):
        rates.append(sgd.param_groups[0]["lr"])
        sgd.step()
        schedule.step()
    assert max(rates) == pytest.approx(0.4) and rates[0] < 0.02 and rates[-1] < 1e-3
    assert int(np.argmax(rates)) == pytest.approx(25, abs=1)


def test_accuracy_is_the_share_that_is_right():
    def brightness(x):
        return torch.eye(4)[(255 * x[:, 0, 0, 0]).round().long()]

    classes, labels = np.arange(1200) % 4, np.arange(1200) % 3
    images = np.broadcast_to(classes[:, None, None, None], (1200, 2, 2, 1)).astype(np.uint8)
    found = torch_training.accuracy(brightness, images, labels, torch_training.Normalised((0.0,), (1.0,)))
    assert found == (classes == labels).mean() == 0.25
