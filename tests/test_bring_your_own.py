"""A PyTorch teacher in, a PyTorch student out: the whole way, on Fashion-MNIST."""

import json
from pathlib import Path

import numpy as np
import pytest
from test_scripts import finish, start

from ssdkd_jax import data

FOLDER = Path("/usr/share/datasets/fashion-mnist")
NAME = "wrn10_1"
CONFIG = {
    "teacher.model": NAME,
    "student.model": NAME,
    "student.batch": 64,
    "synthesis.batch": 64,
    "synthesis.inner_steps": 3,
    "buffer.size": 800,
    "buffer.half_life": 5,
    "schedule.rounds": 20,
    "schedule.warmup": 4,
    "schedule.distill_steps": 30,
    "schedule.evaluate_every": 10,
    "measure_unit": False,
}


def normalised(torch, dataset, images):
    """uint8 [M, H, W, 1] as PyTorch's float [M, 1, H, W]."""
    return (torch.tensor(images).permute(0, 3, 1, 2) / 255 - dataset.mean[0]) / dataset.std[0]


def train(torch, model, dataset, steps=300, batch=64):
    """A quick teacher: PyTorch's own training loop."""
    images, labels = normalised(torch, dataset, dataset.train_images), torch.from_numpy(dataset.train_labels).long()
    optimizer = torch.optim.SGD(model.train().parameters(), 0.1, momentum=0.9)
    for rows in torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[: steps * batch].split(batch):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
        optimizer.step()
    return model.eval()


def accuracy(torch, model, dataset):
    """Share of the test images that PyTorch gets right."""
    with torch.no_grad():
        images = normalised(torch, dataset, dataset.test_images)
        predicted = torch.cat([model(part).argmax(1) for part in images.split(500)]).numpy()
    return float((predicted == dataset.test_labels).mean())


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_a_pytorch_teacher_becomes_a_pytorch_student_of_the_same_accuracies(tmp_path, cache):
    torch = pytest.importorskip("torch")
    import torch_zoo

    def run(script, *arguments, config=None):
        code, out, err = finish(start(cache, script, *arguments, config=config))
        assert code == 0, err
        return out.strip().splitlines()[-1]

    def measured(folder):
        return json.loads(run("evaluate.py", f"--checkpoint={folder}", config="configs/fashion_mnist.py"))["accuracy"]

    torch.manual_seed(0)
    dataset = data.load("fashion_mnist", str(FOLDER))
    theirs = train(torch, torch_zoo.by_name(NAME, 10, 1), dataset)
    torch.save({"state_dict": theirs.state_dict(), "epoch": 1}, tmp_path / "teacher.pth")
    mean, std = dataset.mean[0], dataset.std[0]
    source, teacher = tmp_path / "teacher.pth", tmp_path / "teacher"
    norm = (f"--mean={mean}", f"--std={std}", "--image_size=28")
    run("import_torch.py", f"--checkpoint={source}", f"--output={teacher}", f"--model={NAME}", *norm)
    expected = accuracy(torch, theirs, dataset)
    assert expected > 0.6
    assert round(measured(teacher), 4) == round(expected, 4)

    settings = [f"--config.{name}={value}" for name, value in CONFIG.items()]
    given = f"--config.teacher.checkpoint={teacher}"
    workdir = tmp_path / "run"
    run("distill.py", f"--workdir={workdir}", given, *settings, config="configs/fashion_mnist.py")
    summary = json.loads((workdir / "summary.json").read_text())
    assert round(summary["teacher_accuracy"], 4) == round(expected, 4)
    assert summary["student_accuracy"] > 0.5

    run("export.py", f"--checkpoint={workdir / 'student'}", f"--output={tmp_path / 'student.pth'}")
    student = torch_zoo.by_name(NAME, 10, 1)
    student.load_state_dict(torch.load(tmp_path / "student.pth", weights_only=True))
    assert round(accuracy(torch, student, dataset), 4) == round(summary["student_accuracy"], 4)
    assert not np.allclose(student.fc.weight.detach(), theirs.fc.weight.detach())
