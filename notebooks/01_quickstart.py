# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/ssdkd-jax/ssdkd_jax/blob/main/notebooks/01_quickstart.ipynb)
#
# # Quickstart: a student without data
#
# You own a trained classifier, the *teacher*. Its training images are gone, or you may not touch them. You want a
# smaller network, the *student*, that answers as the teacher does.
#
# This notebook shows the whole way on handwritten digits:
#
# 1. train a teacher on real digits;
# 2. make images from the teacher alone, and watch them emerge;
# 3. teach a student with such images, and with nothing else;
# 4. compare the two on real digits, which the student has never seen.
#
# It takes a few minutes on two CPU cores. A GPU is not needed.

# %%
import importlib.util
import subprocess
import sys

REPOSITORY = "git+https://github.com/ssdkd-jax/ssdkd_jax"

if importlib.util.find_spec("ssdkd_jax") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", f"ssdkd_jax[data] @ {REPOSITORY}"], check=True)

import flax
import jax

import ssdkd_jax

print(f"ssdkd_jax {ssdkd_jax.__version__}, jax {jax.__version__}, flax {flax.__version__}")
print(f"runs on {jax.device_count()} x {jax.devices()[0].device_kind} ({jax.default_backend()})")

# %% [markdown]
# ## A teacher
#
# scikit-learn brings 1,797 digits along. 1,297 of them train the teacher; 500 judge it, and later the student.

# %%
import matplotlib.pyplot as plt
import numpy as np

from ssdkd_jax import data

digits = data.load("digits")


def show(rows, titles, columns=16):
    """Images, a row a title."""
    _, axes = plt.subplots(len(rows), figsize=(9, 0.85 * len(rows)), layout="constrained", squeeze=False)
    for row, title, ax in zip(rows, titles, axes[:, 0], strict=True):
        ax.imshow(np.hstack([np.pad(image[..., 0], 1, constant_values=255) for image in row[:columns]]), cmap="gray")
        ax.set_title(title, fontsize=9, loc="left")
        ax.axis("off")


show([digits.train_images], ["real digits, which only the teacher sees"])

# %% [markdown]
# The teacher is a small WideResNet. Any network will do: the next notebook takes one from PyTorch. Here the package's
# own trainer makes it and saves it in a folder, and `Teacher.load` reads it.

# %%
import tempfile
from pathlib import Path

from ssdkd_jax.run import teacher as training

settings = ssdkd_jax.config.default()
settings.data.name = "digits"
settings.teacher.update(model="wrn16_1", epochs=7, batch=64, shift=1)

folder = Path(tempfile.mkdtemp())
training.train(settings, digits, folder)
teacher = ssdkd_jax.Teacher.load(folder / "teacher")

# %% [markdown]
# The line above tells how `ssdkd_jax` sees the teacher. Its BatchNorm layers matter: they remember the mean and the
# variance of the data, and new images are made to match them.

# %% [markdown]
# ## Images from the teacher alone
#
# `synthesize` takes the teacher and gives images. No student is there yet, and no real image. A generator is trained to
# paint what the teacher is sure of and what fits its BatchNorm statistics. It works in rounds of 64 images and carries
# over what it has learnt. The newest images come first, so read from the end, they tell how images emerge.

# %%
made = ssdkd_jax.synthesize(teacher, 640)
made

# %%
by_round = made.images[::-1].reshape(10, 64, 16, 16, 1), made.labels[::-1].reshape(10, 64)
stages = (1, 2, 4, 7, 10)
show(
    [by_round[0][stage - 1][np.argsort(by_round[1][stage - 1], kind="stable")][::4] for stage in stages],
    [f"round {stage}, from class 0 on the left to class 9 on the right" for stage in stages],
)

# %% [markdown]
# **What to see:** the first images are blobs and waves. Strokes come within a few rounds, and some of the later images
# pass for digits. They need not be pretty: they need to show a student what the teacher reacts to.

# %% [markdown]
# ## A student
#
# One call does it all. It makes images round by round, keeps a small buffer of them balanced by class, and teaches the
# student from that buffer. `wrn10_1` has less than half the teacher's parameters.
#
# `evaluate` is optional. Here the real test digits *judge* the student on the way; they never teach it. `on_round` is
# optional too: we keep what each round reports.

# %%
reports = []
distilled = ssdkd_jax.distill(
    teacher,
    "wrn10_1",
    evaluate=(digits.test_images, digits.test_labels),
    on_round=lambda rounds, metrics: reports.append(metrics),
)
distilled

# %%
distilled.plot_curves()

# %% [markdown]
# **What to see:** the blue line, the student on real digits, ends close to the dashed line, the teacher. The orange
# line is the agreement of the two on freshly made images. It needs no data, so you have it where the blue line is
# missing. It lies lower since fresh images are harder: they are made to set the two networks apart. The seconds are
# those of the machine that ran this notebook, with other work on it.

# %%
figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
axes.plot(range(1, len(reports) + 1), [report["bn"] for report in reports], marker="o", markersize=3)
axes.set(xlabel="round", ylabel="BatchNorm mismatch", title="new images against the teacher", ylim=(0, None))
plt.show()

# %% [markdown]
# **What to see:** the mismatch drops fast while the generator warms up, then levels off. A curve that stays high tells
# of images unlike the teacher's data.

# %%
distilled.plot_images()

# %% [markdown]
# **What to see:** the buffer at the end, a row a class. Every class is there, and the images of a row differ.

# %%
distilled.plot_histograms()

# %% [markdown]
# **What to see:** on the left, equal bars: the buffer evicts images of classes that it has too many of. On the right,
# difficulty: a peak of images of which the teacher is sure, and a broad tail of those that lie near its borders between
# classes.

# %% [markdown]
# ## The two side by side
#
# `compare` counts on any images, here on the 500 real digits.

# %%
ssdkd_jax.compare(teacher, distilled.student, digits.test_images, digits.test_labels)

# %%
told, said = (jax.nn.softmax(network(digits.test_images)) for network in (teacher, distilled.student))
far = np.argsort(-np.abs(told - said).max(-1))[:16]
show([digits.test_images[far]], ["the 16 real digits on which the two differ most"])
print("teacher", *np.argmax(told[far], -1))
print("student", *np.argmax(said[far], -1))
print("label  ", *digits.test_labels[far])

# %% [markdown]
# The student was taught by images that nobody ever wrote, and reads handwriting nearly as well as its teacher.
#
# ## Keep it
#
# A saved student is called as the teacher is: with images, uint8 or in [0, 1].

# %%
distilled.student.save(folder / "student")
student = ssdkd_jax.load(folder / "student")
print(student)
print("says", np.argmax(student(digits.test_images[:10]), -1), "of", digits.test_labels[:10])

# %% [markdown]
# ## Next
#
# - `ssdkd_jax.distill(teacher, student, workdir="run")` keeps a run, and goes on with it after an interruption.
# - `ssdkd_jax.default_config(teacher, student)` gives the settings of this run, to change any of them.
# - `02_your_own_teacher` starts from a PyTorch network, and has no data at all.
