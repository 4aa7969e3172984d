"""PyTorch modules that are converted in tests, and what PyTorch and jax say of the same images."""

import jax
import jax.numpy as jnp
import numpy as np
import torch

F, nn = torch.nn.functional, torch.nn

SHAPE = (7, 8, 4)
MEAN, STD = (0.4, 0.5, 0.6, 0.3), (0.2, 0.3, 0.25, 0.5)


class Calls(nn.Module):
    """A module of a function, of maps of few channels and of negative numbers too, to one row for each image."""

    def __init__(self, function, *layers):
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x):
        return self.function(x, *self.layers).flatten(1)


def of(layer):
    return Calls(lambda x, layer: layer(x), layer)


def calls(function, *layers):
    return Calls(function, *layers)


def randomised(module):
    """The module with weights and running statistics that are not the initial ones, in eval mode."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, x in module.state_dict(keep_vars=True).items():
            if x.is_floating_point():
                low, high = (0.5, 2.0) if name.endswith("var") else (-0.6, 0.6)
                x.copy_(low + (high - low) * torch.rand(x.shape, generator=generator))
    return module.eval()


def pictures(batch, shape=SHAPE):
    return np.random.default_rng(batch).random((batch, *shape), np.float32)


def prepared(images, mean=MEAN, std=STD):
    """Images as a PyTorch module takes them."""
    return ((images - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2).contiguous()


def of_pytorch(module, images, weights, mean=MEAN, std=STD):
    """PyTorch's logits, and the gradient by the images of their sum by each of the weights [..., C]."""
    images = torch.from_numpy(images).requires_grad_()
    logits = module(prepared(images, mean, std)).movedim(1, -1)
    sums = [(logits * torch.from_numpy(w)).sum() for w in weights]
    gradients = [torch.autograd.grad(x, images, retain_graph=True)[0].numpy() for x in sums]
    return logits.detach().numpy(), gradients


def of_jax(network, variables, images, weights):
    """The same of a network."""

    @jax.jit
    def both(images, weights):
        logits, back = jax.vjp(lambda x: network.apply(variables, x), images)
        return logits, jax.lax.map(lambda w: back(jnp.broadcast_to(w, logits.shape))[0], weights)

    logits, gradients = both(jnp.asarray(images), jnp.asarray(weights))
    return np.asarray(logits), np.asarray(gradients)


def close(found, expected, tolerance=2e-5):
    return np.abs(found - expected).max() <= tolerance * max(np.abs(expected).max(), 1e-3)


class Block(nn.Module):
    """A residual block whose BatchNorm is called twice, and a head of two layers."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6))
        self.conv, self.norm = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.head = nn.Sequential(nn.Linear(12, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        x = self.stem(x)
        y = F.relu(x + self.norm(self.conv(F.relu(self.norm(x)))))
        return self.head(F.adaptive_avg_pool2d(torch.cat([x, y], 1), 1).flatten(1))


class Pixels(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(4, 5, 3, 2, 1), nn.BatchNorm2d(5), nn.Conv2d(5, 3, 1)

    def forward(self, x):
        small = self.head(F.relu(self.norm(self.conv(x))))
        return F.interpolate(small, x.shape[2:], mode="bilinear", align_corners=False)
