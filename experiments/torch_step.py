"""The distillation step of our students in PyTorch, eager: gather a batch, mirror it, learn from cached logits."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
import torch_zoo

SLOTS, TEMPERATURE, WARM, ENOUGH = 5000, 4.0, 5, 1.0


def seconds(student: str, compute: str, batch: int) -> float:
    """Of one step, averaged over as many as take `ENOUGH` seconds."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    network = torch_zoo.by_name(student).to(device, memory_format=torch.channels_last).train()
    optimiser = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    images = torch.randint(0, 256, (SLOTS, 3, 32, 32), dtype=torch.uint8, device=device)
    answers = torch.randn(SLOTS, 10, device=device)

    def step() -> None:
        slots = torch.randint(0, SLOTS, (batch,), device=device)
        x = (images[slots].float() / 255 - 0.5) / 0.25
        mirrored = torch.rand(batch, 1, 1, 1, device=device) < 0.5
        x = torch.where(mirrored, x.flip(3), x).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device, torch.bfloat16, enabled=compute == "bfloat16"):
            logits = network(x).float()
        wanted = F.softmax(answers[slots] / TEMPERATURE, 1)
        loss = F.kl_div(F.log_softmax(logits / TEMPERATURE, 1), wanted, reduction="batchmean") * TEMPERATURE**2
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    def timed(steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            step()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    timed(WARM)
    steps, taken = 0, 0.0
    while taken < ENOUGH:
        taken, steps = taken + timed(10), steps + 10
    return taken / steps
