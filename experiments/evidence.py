"""The evidence around SSD-KD, part by part: benchmark, ablation, data scale, synthetic against real, pictures.

    python experiments/evidence.py --config=configs/digits.py --workdir=runs/evidence --budgets=60s,600 --seeds=3

    benchmark  every method under the same budgets, as benchmark.py does it
    ablation   phi off / diversity / difficulty / both x uniform / priority / policy gradient (Table 4 of the paper)
    scale      the buffer as 1, 2, 5, 10, 20 % of the real training set (Fig. 4)
    real       at the buffer's scale: synthetic images, real ones with and without the teacher (Fig. 1)
    pictures   class and difficulty histograms, and image grids, of the benchmark's methods (Figs. 2 and 5)

--parts chooses, repeated for several; finished runs are not run again. Each part writes PART.json and PART.md, and its
plots beside them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import benchmark
import numpy as np
import plans
import runs
import tables
from absl import flags
from ml_collections import ConfigDict

from ssdkd_jax import build, data, presets, sampler
from ssdkd_jax.cli import launch
from ssdkd_jax.engine import files
from ssdkd_jax.errors import MissingError

PHI = {"off": (False, False), "diversity": (True, False), "difficulty": (False, True), "both": (True, True)}
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2)
STEPS = flags.DEFINE_integer("steps", 0, "Distillation steps of each run of ablation, scale and real; 0: the config's.")


def main() -> None:
    """Run the parts that are asked for."""
    workdir, config = Path(launch.WORKDIR.value), launch.config()
    runs.begin(workdir, config)
    for part in PARTS.value:
        KNOWN[part](workdir, with_steps(config, STEPS.value))


def with_steps(config: ConfigDict, steps: int) -> ConfigDict:
    """`config` with as many rounds as `steps` distillation steps take; none asked for, as it is."""
    if not steps:
        return config
    plan = config.schedule
    return plans.configured(config, schedule__rounds=plan.warmup + max(1, round(steps / plan.distill_steps)))


def the_benchmark(workdir: Path, config: ConfigDict) -> None:
    """Every method under the same budgets."""
    del config  # budgets decide the steps
    methods, seeds, budgets = benchmark.METHODS.value, benchmark.SEEDS.value, benchmark.BUDGETS.value
    benchmark.compare(workdir, launch.config(), methods, seeds, budgets)


def seeds_of(workdir: Path, config: ConfigDict, variants: Mapping[str, ConfigDict]) -> dict[str, list[dict]]:
    """Folder of a variant -> the summaries of its seeds, all with one teacher; seed by seed."""
    teacher = str(runs.train_teacher(workdir, config).resolve())
    planned = [
        runs.Run(f"{folder}/{seed}", plans.configured(each, seed=seed, teacher__checkpoint=teacher, measure_unit=False))
        for seed in range(benchmark.SEEDS.value)
        for folder, each in variants.items()
    ]
    found: dict[str, list[dict]] = {}
    for run, summary in zip(planned, runs.run_all(workdir, planned), strict=True):
        if summary:
            found.setdefault(str(Path(run.folder).parent), []).append(summary)
    return found


def evenness(summaries: list[dict]) -> str:
    """The smallest and the largest class that runs ended with, on average; '' without runs."""
    if not summaries:
        return ""
    smallest, largest = (np.mean([of(s["class_counts"]) for s in summaries]) for of in (min, max))
    return f"{smallest:.0f} to {largest:.0f}"


def percent(summaries: list[dict], name: str = "student_accuracy") -> str:
    """Mean and spread of an accuracy, in percent; '' without runs."""
    return tables.spread([100 * s[name] for s in summaries]) if summaries else ""


def save(workdir: Path, part: str, found: Mapping[str, list[dict]], text: str) -> None:
    """PART.json, a list of seeds for each variant, and PART.md."""
    fields = ("seed", "student_accuracy", "real_subset_accuracy", "teacher_accuracy", "buffer_size", "class_counts")
    fields = (*fields, "seconds", "clock")
    records = {name: [{field: s[field] for field in fields} for s in summaries] for name, summaries in found.items()}
    files.write_json(workdir / f"{part}.json", records)
    files.write_text(workdir / f"{part}.md", text + "\n")


def ablation(workdir: Path, config: ConfigDict) -> None:
    """The two terms of phi, and the three samplers."""
    config = plans.configured(config, yardstick_steps=0)
    variants = {
        f"ablation/{name}/{rule}": plans.configured(
            config, modulation__diversity=div, modulation__difficulty=diff, sampler__name=rule
        )
        for name, (div, diff) in PHI.items()
        for rule in sampler.SAMPLERS
    }
    found = seeds_of(workdir, config, variants)
    rows = []
    for name in PHI:
        cells = [found.get(f"ablation/{name}/{rule}", []) for rule in sampler.SAMPLERS]
        rows.append([name, *map(percent, cells), evenness([run for cell in cells for run in cell])])
    save(workdir, "ablation", found, tables.markdown(("phi", *sampler.SAMPLERS, "smallest to largest class"), rows))


def scale(workdir: Path, config: ConfigDict) -> None:
    """The buffer's size; batches shrink with it where it is smaller than they are."""
    images = len(data.load(config.data.name, config.data.folder).train_images)
    sizes = {share: round(share * images) for share in SHARES}
    variants = {
        f"scale/{size}": plans.configured(
            config,
            yardstick_steps=0,
            buffer__size=size,
            synthesis__batch=min(config.synthesis.batch, size),
            student__batch=min(config.student.batch, size),
        )
        for size in sizes.values()
    }
    found = seeds_of(workdir, config, variants)
    rows = [[f"{100 * share:.0f}", str(size), percent(found.get(f"scale/{size}", []))] for share, size in sizes.items()]
    save(workdir, "scale", found, tables.markdown(("% of the real set", "slots", "accuracy %"), rows))
    of_share = {100 * share: found.get(f"scale/{size}", []) for share, size in sizes.items()}
    of_share = {share: [100 * s["student_accuracy"] for s in runs] for share, runs in of_share.items() if runs}
    tables.plot_scale(workdir / "scale.png", of_share)


def real(workdir: Path, config: ConfigDict) -> None:
    """Synthetic images beside real ones, at the buffer's scale and at full scale."""
    steps = build.student_steps(config)
    variants = {"real/synthetic": plans.configured(config, yardstick_steps=steps)}
    for name in ("real_small", "real"):
        variants[f"real/{name}"] = presets.apply(plans.configured(config, yardstick_steps=0), name)
    found = seeds_of(workdir, config, variants)
    rows = [
        ["SSD-KD, synthetic images", percent(found.get("real/synthetic", []))],
        ["as many real images, distilled", percent(found.get("real/real_small", []))],
        [
            "as many real images, labels without the teacher",
            percent(found.get("real/synthetic", []), "real_subset_accuracy"),
        ],
        ["all real images, distilled", percent(found.get("real/real", []))],
        ["teacher", percent(found.get("real/synthetic", []), "teacher_accuracy")],
    ]
    save(workdir, "real", found, tables.markdown(("student of", "accuracy %"), rows))


def pictures(workdir: Path, config: ConfigDict) -> None:
    """What each method of the benchmark showed the student, seed 0 of the first budget."""
    del config  # the runs are there
    folder = workdir / benchmark.parsed(benchmark.BUDGETS.value[0]).folder
    seeds = {name: folder / name / "0" for name in benchmark.METHODS.value}
    finished = {name: path for name, path in seeds.items() if (path / "summary.json").exists()}
    previews = {name: dict(np.load(path / "shown.npz")) for name, path in finished.items()}
    counts = {name: json.loads((path / "summary.json").read_text())["class_counts"] for name, path in finished.items()}
    if not previews:
        raise MissingError(f"No finished run of the benchmark in {folder}; run --parts=benchmark first.")
    tables.plot_histograms(workdir / "histograms.png", previews, counts)
    tables.plot_grids(workdir / "grids.png", previews, counts)


KNOWN: dict[str, Callable[[Path, ConfigDict], None]] = {
    "benchmark": the_benchmark,
    "ablation": ablation,
    "scale": scale,
    "real": real,
    "pictures": pictures,
}
PARTS = flags.DEFINE_multi_enum("parts", list(KNOWN), list(KNOWN), "Which parts; repeat the flag for several.")


if __name__ == "__main__":
    launch.launch(main)
