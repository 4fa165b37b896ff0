"""Losses, optimizer, schedule, scores and log together: a picture is learned pixel by pixel."""

import torch
from skimage import data

from wavessm_x.losses import TERMS, Losses
from wavessm_x.metrics import scores
from wavessm_x.optim import make_optimizer, make_scheduler
from wavessm_x.watching import CsvLog, curves, read, samples

STEPS = 132


def photograph():
    return torch.from_numpy(data.chelsea()[96:128, 146:178].copy()).permute(2, 0, 1).float() / 255


class Picture(torch.nn.Module):
    """A picture whose pixels are its weights."""

    def __init__(self, start):
        super().__init__()
        self.pixels = torch.nn.Parameter(start[None].clone())


def test_a_damaged_photograph_is_learned_back(tmp_path):
    target = photograph()
    mask = torch.zeros(1, 32, 32)
    mask[:, 10:22, 5:25] = 1
    damaged = torch.where(mask.bool(), 0.5, target)
    model, losses = Picture(damaged), Losses((1.0, 1.0, 1.0, 0.5, 0.3), STEPS)
    optimizer = make_optimizer(model, 1e-2, 0.0)
    scheduler = make_scheduler(optimizer, STEPS)
    with CsvLog(tmp_path / "log.csv") as log:
        for iteration in range(STEPS):
            optimizer.zero_grad()
            total, parts = losses(model.pixels, target[None], iteration)
            total.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            values = {"lr": scheduler.get_last_lr()[0], "grad_norm": norm.item(), "iter_time": 0.0, "gpu_mem_mb": 0.0}
            optimizer.step()
            scheduler.step()
            log.write(
                iteration + 1,
                {"total_loss": total.item(), **values},
                {name: part.item() for name, part in parts.items()},
            )
    output = model.pixels[0].detach()
    before, after = scores(damaged, target, mask), scores(output, target, mask)
    assert after["psnr_masked"] > before["psnr_masked"] + 20
    assert after["ssim_masked"] > 0.99 > before["ssim_masked"]
    columns = read(tmp_path / "log.csv")
    for name in TERMS:
        started = [value for value in columns[f"loss_{name}"] if value]
        assert bool(started) is (name != "perceptual")
        assert all(value <= started[0] / 5 for value in started[-5:])
    history = [{"iteration": STEPS, "val_loss": columns["total_loss"][-1], **after}]
    drawn = curves(tmp_path / "log.csv", history, tmp_path / "visualizations")
    samples(tmp_path / "visualizations" / f"samples_iter{STEPS}.png", [damaged], [mask], [output], [target])
    assert {path.name for path in (tmp_path / "visualizations").iterdir()} == {
        *(path.name for path in drawn),
        f"samples_iter{STEPS}.png",
    }
