"""Checkpoints that Lightning writes: named and judged as what they are, repaired, and loaded back by Lightning."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from checkpoints import torchmend
from differences import changed, changed_elements, flat
from torchmend.doctor.diagnosing import diagnose_file
from torchmend.doctor.file_source import FileSource
from torchmend.doctor.fixing import fix_file
from torchmend.facts.plans import Rung
from torchmend.facts.tensors import Role

lightning = pytest.importorskip("lightning.pytorch")
callbacks = pytest.importorskip("lightning.pytorch.callbacks")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

INF, NAN = float("inf"), float("nan")


class Tiny(lightning.LightningModule):
    def __init__(self, width: int = 8, lr: float = 1e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 1))

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        loss = self.net(batch[0]).square().mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    def train_dataloader(self) -> Any:
        images = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images), batch_size=8)


QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


def trainer(folder: Path, *extra: Any, steps: int = 2) -> Any:
    monitored = callbacks.ModelCheckpoint(dirpath=folder / "kept", monitor="loss")
    return lightning.Trainer(max_steps=steps, default_root_dir=folder, callbacks=[monitored, *extra], **QUIET)


def fitted(folder: Path, *extra: Any) -> Any:
    lightning.seed_everything(0)
    running = trainer(folder, *extra)
    running.fit(Tiny())
    return running


@pytest.fixture
def healthy(tmp_path) -> Path:
    path = tmp_path / "run.ckpt"
    fitted(tmp_path).save_checkpoint(path)
    return path


@pytest.fixture
def broken(tmp_path) -> Path:
    """What Lightning saves when one bad batch went through BatchNorm, and an optimizer's state broke."""
    running = fitted(tmp_path)
    running.lightning_module.net[1].running_mean[2] = INF
    running.lightning_module.net[1].running_var[3] = NAN
    first = running.optimizers[0].param_groups[0]["params"][0]
    running.optimizers[0].state[first]["exp_avg_sq"].view(-1)[5] = -1.0
    path = tmp_path / "run.ckpt"
    running.save_checkpoint(path)
    return path


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=False)


def test_a_healthy_checkpoint_is_healthy(healthy):
    diagnosis = diagnose_file(healthy, verify_checksums=True)
    assert diagnosis.healthy
    assert not diagnosis.findings


def test_its_parts_are_containers_with_the_names_of_the_module(healthy):
    saved = load(healthy)
    with FileSource(healthy) as source:
        names = [ref.name for ref in source.refs if ref.container == "state_dict"]
        assert names == list(saved["state_dict"])
        assert set(source.contents.optimizers) == {"optimizer_states.0"}
        moments = {ref.param for ref in source.refs if ref.role is Role.FIRST_MOMENT}
        assert moments == {f"state_dict.{name}" for name, _ in Tiny().named_parameters()}
        others = {ref.role for ref in source.refs if ref.container.startswith("callbacks")}
        assert others == {Role.METADATA}
        scalars = {scalar.dotted: scalar.value for scalar in source.scalars}
        assert (scalars["hyper_parameters.width"], scalars["global_step"]) == (8, 2)
        assert scalars["lr_schedulers.0.step_size"] == 1
        assert scalars["loops.fit_loop.epoch_progress.total.completed"] == 1


def test_a_best_score_that_was_never_set_is_a_remark_and_no_error(tmp_path):
    running = fitted(tmp_path, callbacks.EarlyStopping("validation", strict=False, check_on_train_epoch_end=False))
    running.save_checkpoint(tmp_path / "run.ckpt")
    diagnosis = diagnose_file(tmp_path / "run.ckpt")
    assert diagnosis.healthy
    assert [finding.severity.label for finding in diagnosis.findings] == ["note"]


def test_a_repaired_checkpoint_is_loaded_by_lightning_and_differs_only_where_planned(broken, tmp_path):
    assert torchmend("diagnose", broken).rc == 1
    assert torchmend("fix", broken).rc == 0
    fixed = tmp_path / "run_FIXED.ckpt"
    before, after = load(broken), load(fixed)
    one, other = flat(before), flat(after)
    planned = {"state_dict.net.1.running_mean": [2], "state_dict.net.1.running_var": [3],
               **{f"optimizer_states.0.state.0.{moment}": [5] for moment in ("exp_avg", "exp_avg_sq")}}  # fmt: skip
    assert changed(before, after) == planned.keys()
    assert {path: changed_elements(one[path], other[path]) for path in planned} == planned
    assert diagnose_file(fixed, verify_checksums=True).healthy
    model = Tiny.load_from_checkpoint(fixed).eval()
    assert model.net(torch.ones(2, 3)).isfinite().all()
    trainer(tmp_path / "next", steps=4).fit(Tiny(), ckpt_path=fixed, weights_only=False)


@pytest.fixture
def averaged(tmp_path) -> Path:
    path = tmp_path / "run.ckpt"
    fitted(tmp_path, callbacks.EMAWeightAveraging(update_every_n_steps=1)).save_checkpoint(path)
    return path


def test_with_weight_averaging_the_state_dict_is_the_average_and_the_model_stands_beside(averaged):
    with FileSource(averaged) as source:
        told = {ref.container: ref.averaged for ref in source.refs if ref.role.is_learned}
        assert told == {"state_dict": True, "current_model_state": False}
        moments = {ref.param.split(".")[0] for ref in source.refs if ref.role is Role.FIRST_MOMENT}
        assert moments == {"current_model_state"}
    assert diagnose_file(averaged).healthy


@pytest.mark.parametrize(
    ("damaged", "other", "rung"),
    [("current_model_state", "state_dict", Rung.AVERAGED_COPY), ("state_dict", "current_model_state", Rung.LIVE_TWIN)],
)
def test_each_of_the_two_is_mended_from_the_other(averaged, damaged, other, rung):
    saved = load(averaged)
    saved[damaged]["net.0.weight"][0, 1] = NAN
    saved[damaged]["net.1.running_var"][4] = INF
    torch.save(saved, averaged)
    outcome = fix_file(averaged)
    after = load(outcome.output)
    assert changed(saved, after) == {f"{damaged}.net.0.weight", f"{damaged}.net.1.running_var"}
    assert after[damaged]["net.0.weight"][0, 1] == saved[other]["net.0.weight"][0, 1]
    assert after[damaged]["net.1.running_var"][4] == saved[other]["net.1.running_var"][4]
    assert {edit.rung for edit in outcome.plan.edits} == {rung}


def test_the_average_of_the_older_callback_is_an_averaged_copy(tmp_path):
    lightning.seed_everything(0)
    swa = callbacks.StochasticWeightAveraging(1e-3, swa_epoch_start=1)
    running = lightning.Trainer(
        max_epochs=3, enable_checkpointing=False, callbacks=[swa], default_root_dir=tmp_path, **QUIET
    )
    running.fit(Tiny())
    running.save_checkpoint(tmp_path / "run.ckpt")
    with FileSource(tmp_path / "run.ckpt") as source:
        told = {ref.container: ref.averaged for ref in source.refs if ref.role.is_learned}
    assert told == {"state_dict": False, "callbacks.StochasticWeightAveraging.average_model_state": True}
    assert diagnose_file(tmp_path / "run.ckpt").healthy
