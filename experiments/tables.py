"""Tables and plots of runs: {method: [record of each seed]}, as benchmark.record gives them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

from ssdkd_jax.report import plots

Records = Mapping[str, Sequence[dict]]
Pictures = Mapping[str, Mapping[str, np.ndarray]]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, the first column to the left, all others to the right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))


def spread(values: Sequence[float], form: str = "{:.2f}") -> str:
    """Mean, and the sample standard deviation where there are several."""
    mean = form.format(np.mean(values))
    return f"{mean} ± {form.format(np.std(values, ddof=1))}" if len(values) > 1 else mean


def comparison(of: Records) -> str:
    """A row a method, the most accurate first."""
    header = ("method", "seeds", "accuracy %", "synthesis s", "distillation s", "total s", "compilation s")
    header = (*header, "steps", "images made", "peak memory MB")

    def row(name: str, runs: Sequence[dict]) -> list[str]:
        def column(read: Callable[[dict], float], form: str = "{:.1f}") -> str:
            return form.format(np.mean([read(run) for run in runs]))

        return [
            name,
            str(len(runs)),
            spread([100 * run["accuracy"] for run in runs]),
            column(lambda run: run["synthesis"]),
            column(lambda run: run["distillation"]),
            column(lambda run: run["synthesis"] + run["distillation"]),
            f"{max(run['compilation'] for run in runs):.1f}",
            column(lambda run: run["steps"], "{:.0f}"),
            column(lambda run: run["images"], "{:.0f}"),
            column(lambda run: run["peak_memory_bytes"] / 1e6, "{:.0f}"),
        ]

    ranked = sorted(of, key=lambda name: -np.mean([run["accuracy"] for run in of[name]]))
    return markdown(header, [row(name, of[name]) for name in ranked])


def time_to(run: dict, level: float) -> float | None:
    """Seconds until the first evaluation at which the accuracy is at least `level`; None where there is none."""
    return next((point["seconds"] for point in run["curve"] if point["accuracy"] >= level), None)


def mean_time_to(runs: Sequence[dict], level: float) -> float | None:
    """Mean seconds until an accuracy; None where a run does not arrive."""
    found = [time_to(run, level) for run in runs]
    return None if None in found else float(np.mean(found))


def length(runs: Sequence[dict]) -> float:
    """Mean seconds of whole runs."""
    return float(np.mean([run["curve"][-1]["seconds"] for run in runs]))


def quickest(groups: Sequence[Sequence[dict]], level: float) -> Sequence[dict]:
    """Of runs under several budgets, those that all reach an accuracy first; the longest where none do."""

    def rank(runs: Sequence[dict]) -> tuple[float, float]:
        taken = mean_time_to(runs, level)
        return (math.inf, -length(runs)) if taken is None else (taken, 0.0)

    return min(groups, key=rank)


def reaching(of: Records, level: float) -> str:
    """How long each method takes to an accuracy, in all seeds, and as a multiple of SSD-KD's time."""
    baseline, rows = mean_time_to(of["ssdkd"], level), []
    for name, runs in of.items():
        taken, spent = mean_time_to(runs, level), length(runs)
        never = f"never in {spent:.0f} s" + (f" ({spent / baseline:.1f}x)" if baseline else "")
        times = f"{taken / baseline:.1f}" if taken and baseline else ""
        rows.append([name, str(len(runs)), f"{taken:.1f}" if taken is not None else never, times])
    return markdown(("method", "seeds", "seconds until all seeds have it", "times SSD-KD's"), rows)


def plot_curves(path: Path, of: Records, title: str) -> None:
    """Accuracy over seconds of synthesis and distillation, all methods; thick the mean, thin the seeds."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained", dpi=120)
    for index, (name, runs) in enumerate(of.items()):
        style = dict(color=f"C{index % 10}", linestyle="-" if index < 10 else "--")
        for run in runs:
            axes.plot(*points(run), linewidth=0.6, alpha=0.5, **style)
        count = min(len(run["curve"]) for run in runs)
        mean = np.mean([np.array(points(run))[:, :count] for run in runs], axis=0)
        axes.plot(*mean, marker="o", markersize=3, linewidth=1.8, label=name, **style)
    axes.set(xlabel="seconds of synthesis and distillation", ylabel="accuracy on real test images, %", title=title)
    figure.legend(loc="outside right upper", fontsize=8)
    plots.write(path, figure)


def points(run: dict) -> tuple[list[float], list[float]]:
    """Seconds, and accuracy in percent."""
    return [p["seconds"] for p in run["curve"]], [100 * p["accuracy"] for p in run["curve"]]


def plot_times(path: Path, of: Records, title: str) -> None:
    """Seconds to reach given accuracies in all seeds, a line a method; it ends where not all seeds arrive."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained", dpi=120)
    best = max((p["accuracy"] for runs in of.values() for run in runs for p in run["curve"]), default=1.0)
    levels = np.linspace(0.5 * best, best, 26)
    for index, (name, runs) in enumerate(of.items()):
        taken = [[time_to(run, level) for run in runs] for level in levels]
        mean = [np.mean(row) if None not in row else np.nan for row in taken]
        style = "-" if index < 10 else "--"
        axes.plot(100 * levels, mean, style, color=f"C{index % 10}", marker="o", markersize=3, label=name)
    axes.set(xlabel="accuracy on real test images, %", ylabel="seconds until all seeds have it", yscale="log")
    axes.set_title(title)
    figure.legend(loc="outside right upper", fontsize=8)
    plots.write(path, figure)


def plot_scale(path: Path, of: Mapping[float, Sequence[float]]) -> None:
    """Accuracy over the buffer's share of the real set, both in percent; each seed a point, the line their mean."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained", dpi=120)
    for share, accuracies in of.items():
        axes.plot([share] * len(accuracies), accuracies, ".", color="C0", alpha=0.6)
    axes.plot(list(of), [np.mean(accuracies) for accuracies in of.values()], marker="o", color="C0")
    axes.set(xlabel="slots of the buffer, % of the real training set", ylabel="accuracy on real test images, %")
    axes.set_xscale("log")
    axes.set_xticks(list(of), [f"{share:g}" for share in of])
    plots.write(path, figure)


def plot_histograms(path: Path, previews: Pictures, counts: Mapping[str, Sequence[int]]) -> None:
    """Classes (above) and difficulty, 1 - conf_t (below), of what each method shows the student, as shares."""
    figure, axes = plt.subplots(
        2, len(previews), figsize=(2.2 * len(previews), 4.4), layout="constrained", dpi=110, sharey="row", squeeze=False
    )
    for (above, below), (name, rows) in zip(axes.T, previews.items(), strict=True):
        images = len(rows["label"])
        above.bar(range(len(counts[name])), np.array(counts[name]) / images)
        above.set_title(f"{name}, {images} images", fontsize=8)
        weights = np.full(images, 1 / images)
        below.hist(1 - rows["confidence"], bins=20, range=(0, 1), weights=weights)
        below.set_yscale("log")
        above.set_xlabel("class, as the teacher sees it", fontsize=7)
        below.set_xlabel("1 - confidence of the teacher", fontsize=7)
    axes[0, 0].set_ylabel("share of images")
    axes[1, 0].set_ylabel("share of images")
    plots.write(path, figure)


def plot_grids(path: Path, previews: Pictures, counts: Mapping[str, Sequence[int]]) -> None:
    """A grid a method, side by side; a row a class, as the teacher sees it."""
    grids = {
        name: plots.class_grid(rows["images"], rows["label"], len(counts[name]), per_class=4)
        for name, rows in previews.items()
    }
    height, width = next(iter(grids.values())).shape[:2]
    size = (2.0 * len(grids), 2.0 * height / width + 0.4)
    figure, axes = plt.subplots(1, len(grids), figsize=size, layout="constrained", dpi=150, squeeze=False)
    for place, (name, grid) in zip(axes[0], grids.items(), strict=True):
        place.imshow(grid if grid.shape[-1] == 3 else grid[..., 0], cmap="gray", vmin=0, vmax=255)
        place.set_title(name, fontsize=8)
        place.axis("off")
    plots.write(path, figure)
