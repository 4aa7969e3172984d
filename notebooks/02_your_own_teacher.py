# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/ssdkd-jax/ssdkd_jax/blob/main/notebooks/02_your_own_teacher.ipynb)
#
# # Your own teacher, and no data
#
# You have a PyTorch network of your own. Its data are gone. This notebook
#
# 1. plays the past: it trains such a network, then deletes the images;
# 2. turns the network into a teacher, as it is;
# 3. distils a student from it without a single image;
# 4. reads how well that went, still without data;
# 5. reveals held-out digits, and checks whether the reading was right;
# 6. exports the student.
#
# It takes a few minutes on two CPU cores.

# %%
import importlib.util
import subprocess
import sys

REPOSITORY = "git+https://github.com/ssdkd-jax/ssdkd_jax"

if importlib.util.find_spec("ssdkd_jax") is None:
    wanted = f"ssdkd_jax[data,torch] @ {REPOSITORY}"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", wanted], check=True)

import jax
import torch

import ssdkd_jax

print(f"ssdkd_jax {ssdkd_jax.__version__}, jax {jax.__version__}, torch {torch.__version__}")
print(f"runs on {jax.device_count()} x {jax.devices()[0].device_kind} ({jax.default_backend()})")

# %% [markdown]
# ## The past: a network and its data
#
# Plain PyTorch, nothing of `ssdkd_jax`. The network is of no known family: each stage keeps its input beside what it
# adds, with SiLU and average pooling.

# %%
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F

MEAN, STD = 0.3053, 0.3760  # of the training images, in [0, 1]


class Grow(nn.Module):
    """Half the resolution, twice the channels: what came in, and what a convolution makes of it."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return F.avg_pool2d(torch.cat([x, F.silu(self.norm(self.conv(x)))], dim=1), 2)


class MyNet(nn.Module):
    """16x16 digits to ten logits."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32))
        self.stages = nn.Sequential(Grow(32), Grow(64), Grow(128))
        self.head = nn.Linear(256, 10)

    def forward(self, x):
        return self.head(self.stages(self.stem(x)).mean((2, 3)))


# %%
pixels, labels = load_digits(return_X_y=True)
images = np.round(pixels.reshape(-1, 8, 8, 1) * 255 / 16).astype(np.uint8).repeat(2, 1).repeat(2, 2)
images, held_out_images, labels, held_out_labels = train_test_split(
    images, labels, test_size=500, random_state=0, stratify=labels
)

torch.manual_seed(0)
net = MyNet()
x = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - MEAN) / STD
y = torch.from_numpy(labels)
epochs, batch = 12, 64
optimizer = torch.optim.AdamW(net.parameters())
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=epochs * (len(y) // batch))
for _ in range(epochs):
    for rows in torch.randperm(len(y))[: len(y) // batch * batch].split(batch):
        loss = F.cross_entropy(net(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
net.eval()
print(f"loss of the last batch: {loss:.4f}")

# %% [markdown]
# Now the images go. What stays is the network, and two numbers that every owner of a network knows: the mean and the
# standard deviation by which its inputs were normalised. (500 held-out digits wait in a drawer for the reveal. Nothing
# opens it before.)

# %%
drawer = held_out_images, held_out_labels
del pixels, images, labels, held_out_images, held_out_labels, x, y, rows, loss

# %% [markdown]
# ## The teacher
#
# `from_torch_module` follows the network's graph and makes a jax function of it. It compares the logits of the two
# before it answers, so a network that it cannot follow is an error here, not a bad student later.

# %%
teacher = ssdkd_jax.Teacher.from_torch_module(net, image_shape=(16, 16, 1), mean=[MEAN], std=[STD])

# %% [markdown]
# **What to read in this line:** how many BatchNorms it found. They hold all that is left of the data, and images are
# made to match them. With none, distillation works from the logits alone, and is harder.
#
# PyTorch is not needed from here on.
#
# ## Distil
#
# No `evaluate`, no image, no label. The settings follow from the two networks.

# %%
del net
distilled = ssdkd_jax.distill(teacher, "wrn10_1")

# %%
distilled.plot_images()

# %% [markdown]
# **What to see:** the student's whole schooling, a row a class as the teacher sees it. Do the rows differ from each
# other, and the images of a row too? Both are good signs. Noise, or one image again and again, are bad ones. Some
# images look like digits; they need not.
#
# ## How well did it go?
#
# You have nothing to measure accuracy on. These *indicators* need no data. They are taken on fresh images: made as the
# student's were, but never shown to it.

# %%
MEANINGS = {
    "agreement": "both networks say the same class; 1 is best",
    "fresh_kl": "how far the student's probabilities are from the teacher's, in nats; 0 is best",
    "fresh_confidence": "how sure the teacher is of the fresh images; near 1/classes, they mean nothing to it",
    "fresh_balance": "1: all classes are equally frequent; lower: some are hardly ever made",
    "fresh_bn": "BatchNorm mismatch of the fresh images at the end",
    "fresh_bn_first": "the same after the first round; the end should lie well below",
    "taught_agreement": "the agreement on images that the student was taught from",
}
for name, meaning in MEANINGS.items():
    print(f"{name:17} {distilled.indicators[name]:6.3f}   {meaning}")
print(*distilled.health or ["No symptom of a failed run."], sep="\n")

# %% [markdown]
# **How to read them, in this order:**
#
# 1. *Are the images any good?* `fresh_bn` well below `fresh_bn_first`, `fresh_confidence` far above 1/10, and
#    `fresh_balance` near 1. If not, no student can learn from them: run more rounds first.
# 2. *Has the student learnt them?* `agreement` high and `fresh_kl` low. If they still improve at the end, train longer.
#
# `agreement` is no accuracy. Fresh images are made to be hard, near the teacher's borders between classes and where the
# two networks differ. On the real digits the two agreed more often in all our runs. Compare it between runs of one
# teacher, and do not read it as a promise.

# %%
distilled.plot_curves()

# %% [markdown]
# **What to see:** does the curve still climb at its end? Then more `rounds` help. One point is one batch of
# fresh images, so a few percent up or down are noise. (The seconds are those of a busy machine.)

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(1, 4, figsize=(11, 2.6), layout="constrained")
for name, ax in zip(("fresh_kl", "fresh_confidence", "fresh_balance", "fresh_bn"), axes, strict=True):
    values = [point[name] for point in distilled.history]
    ax.plot([point["round"] for point in distilled.history], values, marker="o")
    ax.set(title=name, xlabel="round", ylim=(0, 1.1 * max(values)))

# %% [markdown]
# **What to see:** `fresh_kl` falls, `fresh_balance` stays near 1. `fresh_confidence` need not reach 1: an image of
# which the teacher is not quite sure tells the student more.

# %%
distilled.plot_histograms()

# %% [markdown]
# **What to see:** equal bars on the left. One that is missing is a class that the student was never taught.
#
# ## The reveal
#
# Open the drawer: 500 real digits, which neither network has seen.

# %%
held_out_images, held_out_labels = drawer
found = ssdkd_jax.compare(teacher, distilled.student, held_out_images, held_out_labels)
for name, value in found.items():
    print(f"{name:17} {value:8.4g}")

# %%
figure, axes = plt.subplots(figsize=(6, 2), layout="constrained")
bars = {
    "agreement on fresh images": distilled.indicators["agreement"],
    "agreement on real digits": found["agreement"],
    "student's accuracy": found["student_accuracy"],
    "teacher's accuracy": found["teacher_accuracy"],
}
axes.barh(list(bars), list(bars.values()), color=["C1", "C0", "C0", "gray"])
axes.bar_label(axes.containers[0], fmt="%.3f", padding=3)
axes.set(xlim=(0, 1.25), xticks=(0, 0.5, 1))
axes.invert_yaxis()

# %% [markdown]
# **What to see:** orange is what we knew without data, blue what is true. The student has never seen a real digit, and
# reads them as well as its teacher does, or nearly. The indicator was the more cautious number.
#
# ## Take it with you
#
# A student of the zoo has a twin in PyTorch: `.safetensors` holds its state dict. `.stablehlo` is a program of its own,
# which jax runs without this package.

# %%
import tempfile
from pathlib import Path

folder = Path(tempfile.mkdtemp())
for name in ("student.safetensors", "student.stablehlo"):
    takes = distilled.student.export(folder / name)
    print(f"{name}: {(folder / name).stat().st_size / 1e3:.0f} kB, takes {takes}")

# %%
from jax import export
from safetensors.numpy import load_file

state = load_file(folder / "student.safetensors")
weights = [name for name in sorted(state) if name.endswith("weight")]
print(len(state), "tensors, such as", *[f"{name} {list(state[name].shape)}" for name in weights[-2:]])

program = export.deserialize(bytearray((folder / "student.stablehlo").read_bytes()))
answers = np.argmax(program.call(held_out_images), -1)
print(f"the program's accuracy: {np.mean(answers == held_out_labels):.3f}")
