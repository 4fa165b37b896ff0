"""`guarded` in a real loop of Fabric."""

import pytest
import torch

from adapters.runs import BATCHES, INF, NAN, Written, hooks_of, is_finite, loader, loss_of, network, rows
from live.guard.training import same

fabric_module = pytest.importorskip("lightning.fabric")

from lightning.fabric.plugins.precision import MixedPrecision  # noqa: E402

from torchmend.adapters.fabric import guarded  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning")


class Run:
    """A network, an optimizer and a scheduler in a loop of Fabric, guarded or not."""

    def __init__(self, is_guarded=True, options=(), **of_fabric):
        torch.manual_seed(0)
        self.fabric = fabric_module.Fabric(accelerator="cpu", devices=1, **of_fabric)
        self.plain = network()
        optimizer = torch.optim.AdamW(self.plain.parameters(), 1e-2)
        self.model, self.optimizer = self.fabric.setup(self.plain, optimizer)
        self.scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.99)
        self.guard = None
        if is_guarded:
            self.guard = guarded(self.fabric, self.model, self.optimizer, scheduler=self.scheduler, **dict(options))
        self.losses = []

    def epoch(self, data, parts=1):
        for at, (batch,) in enumerate(self.fabric.setup_dataloaders(loader(data))):
            loss = loss_of(self.model, batch)
            self.losses.append(float(loss.detach()))
            self.fabric.backward(loss)
            if (at + 1) % parts == 0:
                self.fabric.clip_gradients(self.model, self.optimizer, max_norm=1.0, error_if_nonfinite=False)
                self.optimizer.step()
                self.scheduler.step()
                self.optimizer.zero_grad()
        return self


PRECISIONS = ["32-true", "bf16-mixed"]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("is_guarded", [True, False])
def test_a_run_goes_through_a_poisoned_batch_that_kills_it_without(is_guarded, bad, precision):
    run = Run(is_guarded, precision=precision).epoch(rows(bad=bad))
    assert is_finite(run.plain) == is_guarded
    if is_guarded:
        assert (run.guard.steps, run.guard.events.counts) == (BATCHES, {"refuse": 1})
        assert run.scheduler.last_epoch == BATCHES - 1


def test_a_scaler_on_the_cpu_is_held_and_losses_are_told_without_its_factor():
    written = Written()
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    run = Run(options={"writer": written}, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    run.epoch(rows(bad=NAN))
    assert is_finite(run.plain)
    assert run.scheduler.last_epoch == BATCHES - 1
    assert scaler.get_scale() == 128.0
    assert written.losses == pytest.approx(run.losses, nan_ok=True)


def test_a_window_of_accumulation_is_refused_whole():
    run = Run().epoch(rows(bad=NAN), parts=4)
    assert is_finite(run.plain)
    assert (run.guard.steps, run.scheduler.last_epoch) == (2, 1)


def test_a_clean_run_ends_as_it_does_without_to_the_last_bit():
    with_it, without = (Run(is_guarded).epoch(rows()).epoch(rows(), parts=2) for is_guarded in (True, False))
    assert same(with_it.plain.state_dict(), without.plain.state_dict())
    assert same(with_it.optimizer.state_dict(), without.optimizer.state_dict())


def test_damaged_statistics_are_repaired_before_an_evaluation():
    run = Run().epoch(rows())
    run.plain[1].running_mean[0] = NAN
    with torch.no_grad():
        assert run.model.eval()(rows()).isfinite().all()


def test_the_guard_is_saved_and_loaded_as_state(tmp_path):
    first = Run().epoch(rows(bad=NAN))
    first.fabric.save(tmp_path / "run.ckpt", {"model": first.model, "guard": first.guard})
    second = Run()
    second.fabric.load(tmp_path / "run.ckpt", {"model": second.model, "guard": second.guard})
    assert second.guard.steps == BATCHES
    assert repr(second.guard.state_dict()) == repr(first.guard.state_dict())
    second.epoch(rows())
    assert (second.guard.steps, second.guard.events.counts["refuse"]) == (2 * BATCHES, 1)


def test_detaching_leaves_no_hook():
    run = Run()
    run.guard.detach()
    assert hooks_of(run.plain) == 0
    assert not is_finite(run.epoch(rows(bad=NAN)).plain)
