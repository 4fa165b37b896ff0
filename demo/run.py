"""Train on photographs until one batch overflows, repair the checkpoint, go on under the guard, and measure it all.

What one sees are the commands that a user would type; all files are in .demo.
"""

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import photographs
from torch import Tensor, nn
from unprotected import Unprotected, said, validated

from wavessm_x.data import Datasets, Sample
from wavessm_x.restoring import Restorer
from wavessm_x.watching import grid

FOLDER = Path(".demo")
PHOTOGRAPHS = FOLDER / "photographs"
BROKEN, FIXED, RESET = (FOLDER / f"wavessm_x{name}.pth" for name in ("", "_FIXED", "_RESET"))
PICTURE = FOLDER / "restored.png"
BEFORE, AFTER, IN_ALL = 150, 50, 350
"""Steps before the fault, after it, and in the whole training."""
SHOWN = 4
"""Rows of the picture."""


def main() -> None:
    """Run the whole story."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    shutil.rmtree(FOLDER, ignore_errors=True)
    count = photographs.write_pairs(PHOTOGRAPHS)

    _chapter(
        f"1. A network learns to restore {count} pieces of photographs, grainy and scratched; nothing protects it."
    )
    stages = _train_and_break()

    _chapter("2. What is wrong with its checkpoint?")
    _run("torchmend", "diagnose", str(BROKEN))

    _chapter("3. Repair it.")
    _run("torchmend", "fix", str(BROKEN))
    stages.add("torchmend fix", Restorer.load(FIXED).model)
    _run("torchmend", "fix", str(BROKEN), "--strategy", "reset", "-o", str(RESET), quiet=True)
    stages.add("reset to 0/1", Restorer.load(RESET).model)

    _chapter("4. Go on from the repaired one, with all protections.")
    _run(
        *("wavessm", "train", "--resume", "--model_file", str(FIXED), "--data_path", str(PHOTOGRAPHS), "--blind"),
        *("--preset", "tiny", "--ssm", "ssd", "--patch_size", "48", "--batch_size", "4", "--lr", "0.002"),
        *("--num_iter", str(IN_ALL), "--val_every", "75", "--workers", "0", "--accelerator", "cpu"),
    )
    stages.add("resumed", Restorer.load(FIXED).model)

    _chapter("5. What the network was worth, on pieces that it was not trained on")
    stages.tell()


class Stages:
    """What the network was worth, from stage to stage, and what it makes of a few pictures.

    Args:
        datasets: Whose validation pictures are restored.
    """

    def __init__(self, datasets: Datasets) -> None:
        self._datasets = datasets
        self._worth: dict[str, str] = {}
        self._restored: dict[str, list[Tensor]] = {}

    def add(self, label: str, model: nn.Module) -> None:
        """Measure a network."""
        logging.disable(logging.WARNING)  # what fails has been said when it was trained
        self._worth[label] = said(validated(model, self._datasets))
        logging.disable(logging.NOTSET)
        model.eval()
        self._restored[label] = [model(each["image"][None])[0].detach() for each in self._shown()]

    def tell(self) -> None:
        """Print all of it, and draw the picture."""
        for label, worth in self._worth.items():
            print(f"  {label:<16} {worth}")
        shown = self._shown()
        given, wanted = ([each[key] for each in shown] for key in ("image", "target"))
        grid(PICTURE, {"given": given, **self._restored, "original": wanted})
        print(f"\nSee {PICTURE}: what each stage makes of {SHOWN} pictures; magenta is NaN.")

    def _shown(self) -> list[Sample]:
        return [self._datasets.validation[number] for number in range(SHOWN)]


def _train_and_break() -> Stages:
    """Train, meet a picture whose spectrum overflows, train on, and save as training loops do."""
    training = Unprotected(PHOTOGRAPHS, IN_ALL)
    stages = Stages(training.datasets)
    training.train(BEFORE)
    stages.add("before the fault", training.model)
    loss = training.meet(photographs.large())
    print(f"iteration {training.iteration}: loss {loss}, at one large, smooth scan; GradScaler skips the step")
    training.train(AFTER)
    training.save(BROKEN)
    stages.add("broken", training.model)
    return stages


def _run(*command: str, quiet: bool = False) -> None:
    """Run a command of this environment, and show it and what it says."""
    program = Path(sys.executable).with_name(command[0])
    if not quiet:
        print(f"$ {' '.join(command)}", flush=True)
    subprocess.run([program, *command[1:]], check=False, capture_output=quiet)


def _chapter(text: str) -> None:
    print(f"\n{text}\n")


if __name__ == "__main__":
    main()
