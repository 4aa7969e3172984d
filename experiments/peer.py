"""The peer's side of compare_pytorch.py: Fast-Datafree's own code, imported from a clone of it.

    python experiments/peer.py FOLDER           # of a job; compare_pytorch.py starts it
    python experiments/peer.py FOLDER --check   # how far its logits are from ours

Its arguments are a line of its scripts/fast_cifar.sh, read by the parser of its datafree_kd.py; its `train` teaches the
student, from images of its `FastMetaSynthesizer`. Its `main_worker` is for CUDA and colour images of 32x32, so `run`
does what that does in between: the models, the optimiser, the schedule, and a loop of synthesis and training. That loop
calls `train` for a few steps at a time, to evaluate the student between. Its loader's workers go on while the clock
stands still, by two batches each at most.

What this file bends, from outside: the first layers take as many channels as there are, pictures of one channel are
kept as PNG too, `.cuda()` does nothing where there is no GPU, and two modules that its torchvision had, or that an
incomplete one lacks, are there.
"""

from __future__ import annotations

import random
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import meter as meters
import numpy as np
import torch
from PIL import Image

CODE, PACKAGES = 256, ("torch", "torchvision", "kornia", "numpy")  # its latent's size
BATCH = 500  # evaluated at once


class Peer(NamedTuple):
    """Modules of a clone: its script, its registry of models, and its package."""

    script: ModuleType
    registry: ModuleType
    package: ModuleType


class Pictures:
    """PIL's Image, as far as the peer asks for it, for arrays of one channel too."""

    open = staticmethod(Image.open)

    @staticmethod
    def fromarray(array: np.ndarray) -> Image.Image:
        """A picture of an array [H, W, D]."""
        return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array)


def imported(folder: str) -> Peer:
    """The peer's code from a clone."""
    if not Path(folder, "datafree_kd.py").is_file():
        sys.exit(f"Error: '{folder}' holds no datafree_kd.py; name a clone of zju-vipa/Fast-Datafree.")
    sys.path.insert(0, folder)
    moved = ModuleType("torchvision.models.utils")
    moved.load_state_dict_from_url = torch.hub.load_state_dict_from_url  # where it stood until torchvision 0.10
    unused = ModuleType("torchvision._meta_registrations")  # fails where torchvision's operators cannot be loaded
    for module in (moved, unused):
        sys.modules.setdefault(module.__name__, module)
    if not torch.cuda.is_available():
        torch.nn.Module.cuda = torch.Tensor.cuda = lambda self, *_, **__: self
    import datafree
    import datafree_kd
    import registry

    datafree.utils._utils.Image = Pictures
    return Peer(datafree_kd, registry, datafree)


def arguments(peer: Peer, job: dict[str, Any]) -> Namespace:
    """Those of the line of its script that has this --log_tag, with the job's batch and seed."""
    tag, path = job["tag"], Path(job["peer"], "scripts", "fast_cifar.sh")
    lines = [line.split() for line in path.read_text().splitlines() if line.split()[-2:] == ["--log_tag", tag]]
    if not lines:
        sys.exit(f"Error: No line of '{path}' ends in --log_tag {tag}; give another --tag.")
    args = peer.script.parser.parse_args(lines[0][2:])
    args.batch_size, args.seed, args.gpu = job["batch"], job["seed"], 0 if torch.cuda.is_available() else None
    args.autocast = peer.package.utils.dummy_ctx
    return args


def network(peer: Peer, name: str, job: dict[str, Any]) -> torch.nn.Module:
    """A model of its registry, whose first layer takes the channels that there are."""
    module = peer.registry.get_model(name, num_classes=job["classes"])
    first = next(layer for layer in module.modules() if isinstance(layer, torch.nn.Conv2d))
    first.in_channels = job["image_shape"][-1]
    first.weight = torch.nn.Parameter(first.weight.detach()[:, : first.in_channels].clone())
    return module.to(device())


def device() -> torch.device:
    """The first GPU, or the CPU."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def teacher_of(peer: Peer, job: dict[str, Any]) -> torch.nn.Module:
    """Our teacher in the peer's class."""
    module = network(peer, job["teacher_model"], job)
    module.load_state_dict(torch.load(job["teacher_file"], map_location=device(), weights_only=True))
    return module.eval()


def synthesizer_of(
    peer: Peer, args: Namespace, job: dict[str, Any], teacher: torch.nn.Module, student: torch.nn.Module, pool: str
) -> Any:
    """Its synthesizer for these images, which it keeps in the folder `pool`."""
    from torchvision import transforms

    height, width, channels = job["image_shape"]
    normalizer = peer.package.utils.Normalizer(mean=job["mean"], std=job["std"])
    seen = [transforms.RandomCrop((height, width), padding=4), transforms.RandomHorizontalFlip()]
    seen += [transforms.ToTensor(), transforms.Normalize(job["mean"], job["std"])]
    generator = peer.package.models.generator.Generator(nz=CODE, ngf=64, img_size=height, nc=channels)
    weights = {name: getattr(args, name) for name in ("adv", "bn", "oh", "bn_mmt", "lr_g", "lr_z", "warmup")}
    resets = {name: getattr(args, name) for name in ("reset_l0", "reset_bn", "is_maml")}
    batches = {"synthesis_batch_size": args.batch_size, "sample_batch_size": args.batch_size}
    return peer.package.synthesis.FastMetaSynthesizer(
        *(teacher, student, generator.to(device())),
        **(weights | resets | batches),
        nz=CODE,
        num_classes=job["classes"],
        img_size=(channels, height, width),
        iterations=args.g_steps,
        save_dir=pool,
        transform=transforms.Compose(seen),
        normalizer=normalizer,
        device=device(),
    )


def normalised(images: np.ndarray, job: dict[str, Any]) -> torch.Tensor:
    """uint8 [N, H, W, D] as its networks take them."""
    scaled = (images / np.float32(255) - np.float32(job["mean"])) / np.float32(job["std"])
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), np.float32))


@torch.no_grad()
def logits(module: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Of all images, on the CPU; the module is left in evaluation mode."""
    module.eval()
    return torch.cat([module(some.to(device())).cpu() for some in images.split(BATCH)])


def run(folder: Path) -> None:
    """Distil as its script does, until the meter says that it is over."""
    job, meter = meters.opened(folder)
    torch.set_num_threads(job["threads"])
    peer = imported(job["peer"])
    args = arguments(peer, job)
    random.seed(args.seed)
    torch.manual_seed(args.seed)
    teacher, student = teacher_of(peer, job), network(peer, job["student_model"], job)
    with meter.outside():
        test = np.load(job["test_file"])
        images, labels = normalised(test["images"], job), torch.from_numpy(test["labels"])
    settings = {name: value for name, value in vars(args).items() if isinstance(value, int | float | str | None)}
    with tempfile.TemporaryDirectory(dir=folder) as pool:
        synthesizer = synthesizer_of(peer, args, job, teacher, student, pool)
        for steps in learnt(peer, args, synthesizer, teacher, student, job["every"]):
            if steps:
                with meter.outside():
                    accuracy = float((logits(student, images).argmax(1) == labels).float().mean())
                meter.evaluated(accuracy, steps)
            if meter.over():
                break
        synthesizer.data_iter = None  # its workers read the pool
    meters.close(folder, job, meter, settings, PACKAGES)


def learnt(
    peer: Peer, args: Namespace, synthesizer: Any, teacher: torch.nn.Module, student: torch.nn.Module, every: int
) -> Iterator[int]:
    """The steps that the student has learnt for, after each `every` of them and after each synthesis."""
    criterion = peer.package.criterions.KLDiv(T=args.T)
    optimizer = torch.optim.SGD(student.parameters(), args.lr, weight_decay=args.weight_decay, momentum=args.momentum)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200, eta_min=2e-4)
    steps, steps_of_round = 0, args.kd_steps
    for epoch in range(args.epochs):
        args.current_epoch = epoch
        for _ in range(args.ep_steps // steps_of_round):
            synthesizer.synthesize()
            yield steps
            for begun in range(0, steps_of_round if epoch >= args.warmup else 0, every):
                args.kd_steps = min(every, steps_of_round - begun)
                peer.script.train(synthesizer, [student, teacher], criterion, optimizer, args)
                steps += args.kd_steps
                yield steps
        if epoch >= args.warmup:
            scheduler.step()


def check(folder: Path) -> None:
    """Print the largest difference of the teacher's logits in its class from ours."""
    job, _ = meters.opened(folder)
    probe = np.load(job["probe_file"])
    theirs = logits(teacher_of(imported(job["peer"]), job), normalised(probe["images"], job))
    print(float(np.abs(theirs.numpy() - probe["logits"]).max()))


if __name__ == "__main__":
    (check if "--check" in sys.argv[2:] else run)(Path(sys.argv[1]))
