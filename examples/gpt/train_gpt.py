"""Train a small GPT on characters: one file, one loop, and one line that guards it.

python examples/gpt/train_gpt.py
python examples/gpt/train_gpt.py --plant 60             # one batch in which nothing counts: its mean is 0/0
python examples/gpt/train_gpt.py --plant 60 --no-guard  # the same without the guard: every weight is NaN from there on

The text is made here: lines like `7 x 8 = 56`, of which only what follows the `=` counts in the loss.

Shapes: B sequences, T characters, C channels, H heads, V characters that there are.
"""

import argparse
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import torchmend


@dataclass(frozen=True)
class Options:
    """What the command line can change."""

    steps: int = 200
    until: int = 0
    """Stop there, as if interrupted; 0 goes on to the end."""
    batch: int = 16
    accumulate: int = 2
    length: int = 48
    layers: int = 2
    heads: int = 4
    channels: int = 64
    lr: float = 3e-3
    warm_up: int = 20
    clip: float = 1.0
    dtype: str = "float32"
    evaluate_every: int = 50
    checkpoint: str = ""
    resume: bool = False
    plant: int = -1
    """The step whose first batch is poisoned."""
    guard: bool = True
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    seed: int = 0


# Data


class Text:
    """Lines of arithmetic as numbers of characters, and which of them count.

    Args:
        lines: How many.
        seed: Of the generator that makes them.
    """

    CHARACTERS = "\n 0123456789+-x="

    def __init__(self, lines: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        a, b, kinds = (torch.randint(0, most, (lines,), generator=generator).tolist() for most in (10, 10, 3))
        text, counts = "", []
        for x, y, kind in zip(a, b, kinds, strict=True):
            question, answer = f"{x} {'+-x'[kind]} {y} =", f" {(x + y, x - y, x * y)[kind]}\n"
            text += question + answer
            counts += [0.0] * len(question) + [1.0] * len(answer)
        self.characters = torch.tensor([self.CHARACTERS.index(each) for each in text])
        self.counts = torch.tensor(counts)

    def batch(self, size: int, length: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return pieces of the text, the characters that follow, and which of those count; each of shape (B, T)."""
        generator = torch.Generator().manual_seed(seed)
        starts = torch.randint(0, len(self.characters) - length - 1, (size, 1), generator=generator)
        at = starts + torch.arange(length)
        return self.characters[at], self.characters[at + 1], self.counts[at + 1]


# The network


class Block(nn.Module):
    """Attention and a small network, each beside a residual path."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attention, self.projection = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Mix what came before into each place."""
        b, t, c = x_BTC.shape
        q_BHTK, k_BHTK, v_BHTK = (
            each.view(b, t, self.heads, c // self.heads).transpose(1, 2)
            for each in self.attention(self.norm_1(x_BTC)).chunk(3, dim=2)
        )
        mixed_BHTK = functional.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, is_causal=True)
        x_BTC = x_BTC + self.projection(mixed_BHTK.transpose(1, 2).reshape(b, t, c))
        result: Tensor = x_BTC + self.mlp(self.norm_2(x_BTC))
        return result


class GPT(nn.Module):
    """A decoder-only transformer."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        channels, count = options.channels, len(Text.CHARACTERS)
        self.characters, self.places = nn.Embedding(count, channels), nn.Embedding(options.length, channels)
        self.blocks = nn.Sequential(*(Block(channels, options.heads) for _ in range(options.layers)))
        self.norm, self.head = nn.LayerNorm(channels), nn.Linear(channels, count, bias=False)

    def forward(self, characters_BT: Tensor) -> Tensor:
        """Return the logits of the character that follows each; shape (B, T, V)."""
        places_T = torch.arange(characters_BT.shape[1], device=characters_BT.device)
        x_BTC = self.characters(characters_BT) + self.places(places_T)
        logits_BTV: Tensor = self.head(self.norm(self.blocks(x_BTC)))
        return logits_BTV


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor], options: Options) -> Tensor:
    """Return the mean cross-entropy of the characters that count; NaN where none does."""
    given_BT, wanted_BT, counts_BT = (each.to(options.device) for each in batch)
    dtype = getattr(torch, options.dtype)
    with torch.autocast(torch.device(options.device).type, dtype, enabled=dtype is not torch.float32):
        logits_BTV = model(given_BT)
    losses_BT = functional.cross_entropy(logits_BTV.float().transpose(1, 2), wanted_BT, reduction="none")
    return (losses_BT * counts_BT).sum() / counts_BT.sum()


# The loop


def train(options: Options) -> float:
    """Train, and return the last loss on text that was not trained on."""
    torch.manual_seed(options.seed)
    text, validation = Text(20_000, seed=1), Text(2_000, seed=2)
    model = GPT(options).to(options.device)
    optimizer = torch.optim.AdamW(model.parameters(), options.lr, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine(step, options))
    scaler = torch.amp.GradScaler(torch.device(options.device).type, enabled=options.dtype == "float16")
    if options.guard:
        torchmend.Guard(model, optimizer, scaler=scaler, scheduler=scheduler)  # the one added line

    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler}
    start = load(options, parts) if options.resume else 0
    score = math.nan
    for step in range(start, options.until or options.steps):
        optimizer.zero_grad()
        for part in range(options.accumulate):
            given, wanted, counts = text.batch(options.batch, options.length, seed=step * options.accumulate + part)
            if step == options.plant and part == 0:
                counts = torch.zeros_like(counts)
            loss = loss_of(model, (given, wanted, counts), options) / options.accumulate
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), options.clip)
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()

        if (step + 1) % options.evaluate_every == 0 or step + 1 == (options.until or options.steps):
            score = evaluate(model, validation, options)
            print(f"step {step + 1}: validation loss {score:.4f}, learning rate {scheduler.get_last_lr()[0]:.2e}")
            save(options, parts, step + 1)
    return score


def cosine(step: int, options: Options) -> float:
    """Return what the learning rate is multiplied by: up in a line, down in half a wave."""
    if step < options.warm_up:
        return (step + 1) / options.warm_up
    done = (step - options.warm_up) / max(options.steps - options.warm_up, 1)
    return 0.05 + 0.95 * (1 + math.cos(math.pi * min(done, 1.0))) / 2


@torch.no_grad()
def evaluate(model: nn.Module, text: Text, options: Options) -> float:
    """Return the mean loss of eight batches of another text."""
    model.eval()
    batches = (text.batch(options.batch, options.length, seed) for seed in range(8))
    losses = [float(loss_of(model, batch, options)) for batch in batches]
    model.train()
    return sum(losses) / len(losses)


def save(options: Options, parts: dict[str, Any], step: int) -> None:
    """Write a checkpoint, if there is a name for one."""
    if options.checkpoint:
        torch.save({"step": step, **{name: each.state_dict() for name, each in parts.items()}}, options.checkpoint)


def load(options: Options, parts: dict[str, Any]) -> int:
    """Go on from a checkpoint; return how many steps it has behind it."""
    state = torch.load(Path(options.checkpoint), map_location=options.device, weights_only=True)
    for name, each in parts.items():
        each.load_state_dict(state[name])
    return int(state["step"])


def options_from(arguments: list[str] | None = None) -> Options:
    """Read the command line: an option for each field."""
    parser = argparse.ArgumentParser(description="Train a small GPT on arithmetic.")
    for each in fields(Options):
        name = f"--{each.name.replace('_', '-')}"
        if isinstance(each.default, bool):
            parser.add_argument(name, action=argparse.BooleanOptionalAction, default=each.default)
        else:
            parser.add_argument(name, type=type(each.default), default=each.default)
    return Options(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    train(options_from())
