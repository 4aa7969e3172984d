"""Every operator of a converted PyTorch module answers as PyTorch does and has its gradients."""

import numpy as np
import pytest

from ssdkd_jax.interop import torch_module

torch, nets = pytest.importorskip("torch"), pytest.importorskip("torch_modules")
F, nn = torch.nn.functional, torch.nn
SHAPE, MEAN, STD = nets.SHAPE, nets.MEAN, nets.STD
calls, of = nets.calls, nets.of


def rows(function):
    """A function of [B, 7, 32], without a channel axis."""
    return nets.Calls(lambda x: function(x.permute(0, 2, 1, 3).reshape(x.shape[0], 7, 32)))


def twice(x, layer):
    return layer(torch.tanh(layer(x)))


def in_place(x):
    x = x * 2
    x[:, 0] += 1
    x[:, :, 2:4] = x[:, :, :2]
    return F.relu_(x.sub_(0.3))


MODULES = {
    "conv1d": calls(lambda x, layer: layer(x.flatten(2)), nn.Conv1d(4, 6, 3, 2, 1, dilation=2, groups=2)),
    "conv": of(nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0))),
    "conv_same": of(nn.Conv2d(4, 6, (2, 3), padding="same", dilation=(1, 2), bias=False)),
    "conv_valid": of(nn.Conv2d(4, 6, 3, padding="valid")),
    "conv_reflect": of(nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect")),
    "conv_depthwise": of(nn.Conv2d(4, 8, 3, groups=4, dilation=2, padding=2)),
    "conv_transpose": of(nn.ConvTranspose2d(4, 6, 3, (2, 3), (1, 2), (1, 0), groups=2)),
    "conv_transpose_dilated": of(nn.ConvTranspose2d(4, 6, (3, 2), 2, dilation=2, bias=False)),
    "conv_transpose1d": calls(lambda x, layer: layer(x.flatten(2)), nn.ConvTranspose1d(4, 2, 3, 2, 1)),
    "linear": of(nn.Linear(8, 5)),
    "linear_twice": calls(twice, nn.Linear(8, 8, bias=False)),
    "bilinear_weights": calls(lambda x, layer: F.linear(x, layer.weight.t() @ layer.weight), nn.Linear(8, 8)),
    "batch_norm": of(nn.BatchNorm2d(4, eps=0.1)),
    "batch_norm_bare": of(nn.BatchNorm2d(4, affine=False)),
    "batch_norm_1d": calls(lambda x, layer: layer(x.mean((2, 3))), nn.BatchNorm1d(4)),
    "batch_norm_1d_3": calls(lambda x, layer: layer(x.flatten(2)), nn.BatchNorm1d(4)),
    "batch_norm_untracked": of(nn.BatchNorm2d(4, track_running_stats=False)),
    "batch_norm_twice": calls(twice, nn.BatchNorm2d(4)),
    "batch_norm_function": calls(lambda x, n: F.batch_norm(x, n.running_mean, n.running_var), nn.BatchNorm2d(4)),
    "instance_norm": of(nn.InstanceNorm2d(4)),
    "instance_norm_affine": of(nn.InstanceNorm2d(4, affine=True, track_running_stats=True)),
    "group_norm": of(nn.GroupNorm(2, 4)),
    "layer_norm": of(nn.LayerNorm((7, 8))),
    "layer_norm_bare": of(nn.LayerNorm(8, elementwise_affine=False)),
    "relu": of(nn.ReLU(inplace=True)),
    "relu6": of(nn.ReLU6()),
    "leaky_relu": of(nn.LeakyReLU(0.2)),
    "elu": of(nn.ELU(0.7)),
    "selu": of(nn.SELU()),
    "celu": of(nn.CELU(0.7)),
    "gelu": of(nn.GELU()),
    "gelu_tanh": of(nn.GELU("tanh")),
    "silu": of(nn.SiLU()),
    "hardswish": of(nn.Hardswish()),
    "hardsigmoid": of(nn.Hardsigmoid()),
    "hardtanh": of(nn.Hardtanh(-0.3, 0.6)),
    "sigmoid": of(nn.Sigmoid()),
    "tanh": of(nn.Tanh()),
    "softmax": of(nn.Softmax(1)),
    "softmax_dtype": calls(lambda x: F.softmax(x, -1, dtype=torch.float32)),
    "log_softmax": of(nn.LogSoftmax(-1)),
    "prelu": of(nn.PReLU(4)),
    "prelu_one": of(nn.PReLU()),
    "mish": of(nn.Mish()),
    "softplus": of(nn.Softplus(2.0, 1.0)),
    "softsign": of(nn.Softsign()),
    "glu": of(nn.GLU(1)),
    "threshold": of(nn.Threshold(0.1, -2.0)),
    "max_pool": of(nn.MaxPool2d(2)),
    "max_pool_padded": of(nn.MaxPool2d(3, 2, 1)),
    "max_pool_ceil": of(nn.MaxPool2d((2, 3), 2, (1, 0), ceil_mode=True)),
    "max_pool_dilated": of(nn.MaxPool2d(3, 2, 1, dilation=2)),
    "max_pool_1d": calls(lambda x, layer: layer(x.flatten(2)), nn.MaxPool1d(3, 2)),
    "avg_pool": of(nn.AvgPool2d(2)),
    "avg_pool_padded": of(nn.AvgPool2d(3, 2, 1)),
    "avg_pool_without_pad": of(nn.AvgPool2d((3, 2), (2, 1), 1, count_include_pad=False)),
    "avg_pool_ceil": of(nn.AvgPool2d(3, 2, 1, ceil_mode=True)),
    "avg_pool_ceil_without_pad": of(nn.AvgPool2d(3, (2, 3), 1, ceil_mode=True, count_include_pad=False)),
    "avg_pool_divisor": of(nn.AvgPool2d(2, divisor_override=3)),
    "adaptive_avg_one": of(nn.AdaptiveAvgPool2d(1)),
    "adaptive_avg": of(nn.AdaptiveAvgPool2d((3, 5))),
    "adaptive_avg_wider": of(nn.AdaptiveAvgPool2d((None, 10))),
    "adaptive_max": of(nn.AdaptiveMaxPool2d((3, 1))),
    "dropout": calls(lambda x, a, b, c: c(b(a(x))), nn.Dropout(0.5), nn.Dropout2d(0.5), nn.AlphaDropout(0.5)),
    "identity": of(nn.Identity()),
    "flatten": calls(lambda x: x.flatten(1, 2).flatten(-2)),
    "view": calls(lambda x: x.view(x.size(0), -1) * 2),
    "view_batch": calls(lambda x: x.reshape(-1, 8).relu().view(x.shape[0], 4, -1)),
    "unflatten": calls(lambda x: x.unflatten(1, (2, 2)).mean(2)),
    "permute": calls(lambda x: x.permute(0, 2, 3, 1).contiguous().view(-1, 7 * 8, 4)),
    "transpose": calls(lambda x: x.transpose(1, -1)),
    "squeeze": calls(lambda x: x.unsqueeze(1).squeeze(1).mean(2, keepdim=True).squeeze(2).unsqueeze(-1)),
    "expand": calls(lambda x: x[:, :1].expand(-1, 3, -1, -1) + x[:, :1].expand_as(x)[:, :3]),
    "repeat": calls(lambda x: x.repeat(1, 2, 1, 1)),
    "arithmetic": calls(lambda x: torch.add(x, x * x, alpha=0.5) - (1 - x) / (x.abs() + 2) + 3),
    "alpha": calls(lambda x: torch.sub(x, x.tanh(), alpha=2) - torch.rsub(x, 1.5, alpha=3)),
    "cat": calls(lambda x: torch.cat([x, x.relu()], 1)),
    "stack": calls(lambda x: torch.stack([x, x.relu()], 2)),
    "chunk": calls(lambda x: torch.cat(x.chunk(3, 2)[::-1], 2)),
    "split": calls(lambda x: x.split([1, 3], 1)[1]),
    "split_size": calls(lambda x: x.split(3, 3)[2]),
    "unbind": calls(lambda x: x.unbind(1)[2]),
    "slice": calls(lambda x: x[:, 1:, ::2, :-1]),
    "select": calls(lambda x: x[:, -1]),
    "index": calls(lambda x: x[:, [2, 0]]),
    "narrow": calls(lambda x: x.narrow(2, 1, 3)),
    "flip": calls(lambda x: x.flip(3).roll(1, 2)),
    "mean": calls(lambda x: x.mean((2, 3))),
    "sum": calls(lambda x: x.sum(1, keepdim=True)),
    "amax": calls(lambda x: x.amax((2, 3)) - x.amin((2, 3)) + x.max(2)[0].max(2).values),
    "variance": calls(lambda x: x.var((2, 3)) + x.std((2, 3), unbiased=False)),
    "pow": calls(lambda x: x**2 + x.pow(3.0) + x.abs().pow(1.5) + 2**x),
    "roots": calls(lambda x: x.abs().add(0.1).sqrt() + x.square().add(1).rsqrt() + x.exp() + (x.abs() + 1).log()),
    "clamp": calls(lambda x: x.clamp(-0.5, 0.5) + x.clamp(min=0) + x.clamp_max(0.1)),
    "where": calls(lambda x: torch.where(x > 0.2, x, -x) + x.masked_fill(x < 0, 2.0)),
    "maximum": calls(lambda x: torch.maximum(x, x.flip(3)) + torch.minimum(x, 0.5 * x)),
    "matmul": calls(lambda x: x @ x.transpose(2, 3)),
    "bmm": rows(lambda x: torch.bmm(x, x.transpose(1, 2))),
    "baddbmm": rows(lambda x: torch.baddbmm(x[:, :, :7], x, x.transpose(1, 2), beta=2, alpha=0.5)),
    "addmm": calls(lambda x, layer: torch.addmm(layer.bias, x.flatten(1), layer.weight.t()), nn.Linear(224, 5)),
    "einsum": calls(lambda x: torch.einsum("bchw,bdhw->bcd", x, x)),
    "normalize": calls(lambda x, layer: F.linear(F.normalize(x), F.normalize(layer.weight)), nn.Linear(8, 5)),
    "nearest": of(nn.Upsample(scale_factor=2)),
    "nearest_size": calls(lambda x: F.interpolate(x, (5, 11))),
    "nearest_fraction": calls(lambda x: F.interpolate(x, scale_factor=1.7)),
    "bilinear": of(nn.Upsample(scale_factor=(2, 1.5), mode="bilinear")),
    "bilinear_aligned": of(nn.Upsample((13, 5), mode="bilinear", align_corners=True)),
    "bilinear_size": calls(lambda x: F.interpolate(x, (5, 11), mode="bilinear")),
    "pad": of(nn.ZeroPad2d((1, 2, 0, 3))),
    "pad_constant": of(nn.ConstantPad2d((1, -1, 2, 0), 0.7)),
    "pad_reflect": of(nn.ReflectionPad2d((1, 2, 3, 0))),
    "pad_replicate": of(nn.ReplicationPad2d((1, 2, 3, 0))),
    "pad_circular": of(nn.CircularPad2d(2)),
    "pixel_shuffle": of(nn.PixelShuffle(2)),
    "pixel_unshuffle": calls(lambda x, layer: layer(x[:, :, :6]), nn.PixelUnshuffle(2)),
    "channel_shuffle": of(nn.ChannelShuffle(2)),
    "attention": calls(lambda x: F.scaled_dot_product_attention(x, x.flip(2), x * 2, is_causal=True)),
    "attention_layer": calls(
        lambda x, layer: layer(*[x.flatten(2).transpose(1, 2)] * 3, need_weights=False)[0],
        nn.MultiheadAttention(4, 2, batch_first=True),
    ),
    "transformer": calls(
        lambda x, layer: layer(x.flatten(2).transpose(1, 2)), nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    ),
    "in_place": calls(in_place),
    "constants": calls(lambda x: x * torch.tensor([1.0, 2.0, 3.0, 4.0]).view(-1, 1, 1) + torch.arange(8) / 8),
    "zeros": calls(lambda x: torch.cat([x, torch.zeros(x.shape[0], 1, 7, 8), x.new_ones(1).expand_as(x)], 1)),
}


class Branches(nn.Module):
    """Several modules on the same images, their rows beside each other: one trace for all of them."""

    def __init__(self, names):
        super().__init__()
        self.branches = nn.ModuleDict({name: MODULES[name] for name in names})

    def forward(self, x):
        return torch.cat([branch(x.clone()) for branch in self.branches.values()], 1)


NAMES, AT_ONCE = list(MODULES), 8


@pytest.mark.parametrize("names", [NAMES[n : n + AT_ONCE] for n in range(0, len(NAMES), AT_ONCE)], ids=" ".join)
def test_operators_answer_as_pytorch_and_have_its_gradients(names):
    module = nets.randomised(Branches(names))
    widths = [module.branches[name](torch.zeros(1, 4, 7, 8)).shape[1] for name in names]
    branch = np.repeat(np.arange(len(names)), widths)
    weights = (branch == np.arange(len(names))[:, None]) * np.cos(np.arange(len(branch)), dtype=np.float32)
    network, variables = torch_module.network(module, SHAPE, MEAN, STD)
    for batch in (1, 3):
        images = nets.pictures(batch)
        found, expected = (
            nets.of_jax(network, variables, images, weights),
            nets.of_pytorch(module, images, weights),
        )
        for n, name in enumerate(names):
            assert nets.close(found[0][:, branch == n], expected[0][:, branch == n]), f"logits of {name}"
            assert nets.close(found[1][n], expected[1][n]), f"gradient of {name}"
