"""A PyTorch module with a share of its channels is PyTorch's own module of those widths."""

import jax
import numpy as np
import pytest

import ssdkd_jax
from ssdkd_jax import closed_form, models
from ssdkd_jax.engine.trees import named_leaves
from ssdkd_jax.errors import InputError
from ssdkd_jax.interop import torch_module
from ssdkd_jax.models import conformance
from ssdkd_jax.sources import procedural

torch, nets = pytest.importorskip("torch"), pytest.importorskip("torch_modules")
F, nn = torch.nn.functional, torch.nn
SHAPE, MEAN, STD = (8, 8, 3), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


class Flat(nn.Module):
    """Convolutions, a map flattened into a fixed number, and two dense layers."""

    def __init__(self, width):
        super().__init__()
        self.conv, self.norm, self.second = (
            nn.Conv2d(3, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.Conv2d(width, 2 * width, 3),
        )
        self.dense, self.head, self.width = nn.Linear(2 * width * 4, 6 * width), nn.Linear(6 * width, 5), width
        self.spare = nn.Linear(2, 2)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.norm(self.conv(x))), 2)
        return self.head(F.relu(self.dense(F.relu(self.second(x)).view(-1, 2 * self.width * 4))))


class Residual(nn.Module):
    """Sums, filters of single channels, groups, gates, and a concatenation."""

    def __init__(self, width):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.deep = nn.Conv2d(width, 2 * width, 3, padding=1, groups=width)
        self.gate = nn.Linear(2 * width, 2 * width)
        self.back, self.grouped = nn.Conv2d(2 * width, width, 1), nn.Conv2d(width, width, 3, padding=1, groups=2)
        self.scale = nn.Parameter(torch.ones(width, 1, 1))
        self.join, self.join_norm = nn.Conv2d(2 * width, width, 1), nn.GroupNorm(2, width)
        self.head = nn.Linear(width, 5)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        y = self.deep(x)
        y = y * torch.sigmoid(self.gate(y.mean((2, 3))))[:, :, None, None]
        y = x + self.scale * self.back(F.relu6(y))
        z = self.join_norm(self.join(torch.cat([F.relu(self.grouped(y)), x], 1)))
        return self.head(F.adaptive_avg_pool2d(z, 1).flatten(1))


class Shuffled(nn.Module):
    """Halves of a map, one of which goes on as it is, channels shuffled, and a gate over halves."""

    def __init__(self, width):
        super().__init__()
        self.stem, self.inner = nn.Conv2d(3, 2 * width, 3, 2, 1), nn.Conv2d(width, width, 3, padding=1)
        self.gated, self.norm, self.head = (
            nn.Conv2d(2 * width, 4 * width, 1),
            nn.BatchNorm2d(2 * width),
            nn.Linear(2 * width, 5),
        )

    def forward(self, x):
        one, two = self.stem(x).chunk(2, 1)
        x = torch.cat([one, F.relu(self.inner(two))], 1)
        x = x.view(x.shape[0], 2, x.shape[1] // 2, 4, 4).transpose(1, 2).reshape(x.shape[0], -1, 4, 4)
        x = F.glu(self.gated(x), 1)
        first = x[:, : x.shape[1] // 2]
        return self.head(self.norm(torch.cat([F.relu(first), x[:, x.shape[1] // 2 :]], 1)).mean((2, 3)))


class Attention(nn.Module):
    """Patches, an embedding of positions, heads cut out of one layer, LayerNorms."""

    def __init__(self, width):
        super().__init__()
        self.patches, self.places = nn.Conv2d(3, 2 * width, 4, 4), nn.Parameter(0.1 * torch.randn(1, 4, 2 * width))
        self.norm, self.qkv, self.out = (
            nn.LayerNorm(2 * width),
            nn.Linear(2 * width, 6 * width),
            nn.Linear(2 * width, 2 * width),
        )
        self.wide, self.back, self.head = (
            nn.Linear(2 * width, 3 * width),
            nn.Linear(3 * width, 2 * width),
            nn.Linear(2 * width, 5),
        )

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        batch, tokens, width = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(batch, tokens, 3, 2, width // 2).permute(2, 0, 3, 1, 4).unbind(0)
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width)
        x = x + self.out(seen)
        return self.head((x + self.back(F.gelu(self.wide(x)))).mean(1))


class Padded(nn.Module):
    """A shortcut that pads channels, pixels that were channels, and a transposed convolution."""

    def __init__(self, width):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.up, self.deep = nn.ConvTranspose2d(2 * width, width, 2, 2), nn.Conv2d(width, 4 * width, 3, padding=1)
        self.head, self.width = nn.Linear(width, 5), width

    def forward(self, x):
        x, half = F.relu(self.first(x)), self.width // 2
        x = F.relu(self.second(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, half, half)))
        return self.head(F.pixel_shuffle(self.deep(self.up(x)), 2).mean((2, 3)))


def converted(module):
    return torch_module.network(nets.randomised(module), SHAPE, MEAN, STD)


@pytest.mark.parametrize(("kind", "width"), [(Flat, 6), (Residual, 8), (Shuffled, 8), (Attention, 8), (Padded, 8)])
def test_half_of_a_module_is_pytorchs_own_module_of_half_its_widths(kind, width):
    network, _ = converted(kind(width))
    narrow = network.narrower(0.5, None, "float32")
    variables = jax.tree.map(lambda x: x + 0.05, narrow.init(jax.random.key(0)))
    own = kind(width // 2).eval()
    own.load_state_dict({key: torch.from_numpy(np.array(x)) for key, x in narrow.as_torch(variables).items()})
    images = nets.pictures(3, SHAPE)
    with torch.no_grad():
        expected = own(nets.prepared(torch.from_numpy(images), MEAN, STD)).numpy()
    assert nets.close(jax.jit(narrow.apply)(variables, images), expected)
    assert conformance.check(narrow, SHAPE, "narrow") == []


def test_its_batch_norms_are_trained_as_pytorchs():
    narrow = converted(Residual(8))[0].narrower(0.5, None, "float32")
    variables, images = narrow.init(jax.random.key(0)), nets.pictures(6, SHAPE)
    own = Residual(4)
    own.load_state_dict({key: torch.from_numpy(np.array(x)) for key, x in narrow.as_torch(variables).items()})
    expected = own.train()(nets.prepared(torch.from_numpy(images), MEAN, STD)).detach().numpy()
    logits, updated = jax.jit(narrow.train)(variables, images)
    assert nets.close(logits, expected)
    statistics, count = updated["batch_stats"]["norm"], 6 * 64
    assert nets.close(statistics["mean"], own.norm.running_mean.numpy())
    unbiased = 0.9 + (statistics["var"] - 0.9) * count / (count - 1)
    assert nets.close(unbiased, own.norm.running_var.numpy())
    assert jax.tree.map(np.shape, updated) == jax.tree.map(np.shape, variables)


@pytest.mark.parametrize("share", [0.75, 0.35, 0.01])
def test_any_share_leaves_at_least_one_channel_of_each_kind(share):
    narrow = converted(Residual(8))[0].narrower(share, None, "float32")
    shapes = {path: x.shape for path, x in named_leaves(narrow.init(jax.random.key(0))).items()}
    width = 2 * max(1, round(4 * share))  # the groups of two lose as many
    assert shapes["params.stem.weight"] == (width, 3, 3, 3)
    assert shapes["params.head.weight"][0] == 5 and shapes["params.grouped.weight"][0] % 2 == 0


def repeated(module, twice):
    """The state dict of `twice`, each of whose channels is one of `module`'s, and stands there two times."""
    state = module.state_dict()
    for key, wide in twice.state_dict().items():
        x = state[key].float()
        for axis, (size, wanted) in enumerate(zip(x.shape, wide.shape, strict=True)):
            if size != wanted and key == "dense.weight" and axis == 1:  # channels x positions
                x = x.unflatten(1, (-1, 4)).repeat_interleave(2, 1).flatten(1) / 2
            elif size != wanted:
                x = x.repeat_interleave(2, axis) / (2 if axis == 1 else 1)
        state[key] = x.to(wide.dtype)
    return state


def test_a_teacher_whose_channels_come_in_equal_pairs_is_found_again_in_half_of_it():
    few, twice = nets.randomised(Flat(4)), Flat(8)
    twice.load_state_dict(repeated(few, twice))
    network, weights = torch_module.network(twice.eval(), SHAPE, MEAN, STD)
    narrow, fresh = network.narrower(0.5, None, "float32"), nets.pictures(8, SHAPE)
    images = procedural.source(320, SHAPE)(jax.random.key(7))
    solved = closed_form.solve(network, weights, narrow, narrow.init(jax.random.key(1)), images)
    np.testing.assert_allclose(narrow.apply(solved, fresh), network.apply(weights, fresh), atol=1e-3)
    with torch.no_grad():
        expected = few(nets.prepared(torch.from_numpy(fresh), MEAN, STD)).numpy()
    np.testing.assert_allclose(narrow.apply(solved, fresh), expected, atol=1e-3)


def summed(x, conv, head):
    return head(conv(x).cumsum(1).flatten(1))


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), "has no channels of which 0.5 could be kept"),
        (
            nets.calls(summed, nn.Conv2d(3, 4, 1), nn.Linear(256, 5)),
            r"cannot be narrowed to 0\.5: the operation 'cumsum' in forward \(Calls\)",
        ),
    ],
    ids=["linear", "cumsum"],
)
def test_what_cannot_be_narrowed_is_told_in_one_sentence_with_its_place(module, said):
    with pytest.raises(InputError, match=said) as told:
        converted(module)[0].narrower(0.5, None, "float32")
    assert str(told.value).endswith(".") and "\n" not in str(told.value)


def interrupted(rounds, metrics):
    if rounds == 1:
        raise KeyboardInterrupt


@pytest.mark.usefixtures("one_device")
def test_a_teacher_teaches_its_own_network_narrower_and_pytorch_takes_it(tmp_path):
    teacher = ssdkd_jax.Teacher.from_torch_module(nets.randomised(Flat(6)), image_shape=SHAPE, mean=MEAN, std=STD)
    config = ssdkd_jax.default_config(teacher, 0.5)
    config.schedule.update(rounds=2, warmup=1, distill_steps=2)
    config.synthesis.update(inner_steps=1, width=4)
    distilled = ssdkd_jax.distill(teacher, 0.5, config, workdir=tmp_path / "run")
    student, images = distilled.student, nets.pictures(4, SHAPE)
    assert student.name == "PyTorch Flat@0.5" and student.parameters < teacher.parameters / 2
    student.export(tmp_path / "student.pth")
    own = Flat(3).eval()
    own.load_state_dict(torch.load(tmp_path / "student.pth", weights_only=True))
    with torch.no_grad():
        assert nets.close(student(images), own(nets.prepared(torch.from_numpy(images), MEAN, STD)).numpy())
    assert (tmp_path / "run" / "student.safetensors").is_file()
    cut = ssdkd_jax.distill(teacher, 0.5, config, workdir=tmp_path / "cut", on_round=interrupted)
    again = ssdkd_jax.distill(teacher, 0.5, config, workdir=tmp_path / "cut")
    assert not cut.finished and again.finished
    jax.tree.map(np.testing.assert_array_equal, student.variables, again.student.variables)
    with pytest.raises(InputError, match=r"student.model = 0.5 there and 0.25 here"):
        ssdkd_jax.distill(teacher, 0.25, config, workdir=tmp_path / "run")


def test_counted_parameters_are_those_of_a_quarter():
    network, variables = converted(Attention(8))
    narrow = network.narrower(0.5, None, "float32").init(jax.random.key(0))
    assert 0.2 < models.parameter_count(narrow) / models.parameter_count(variables) < 0.35
