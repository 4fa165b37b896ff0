"""`torchmend recalibrate`: a copy of the file with new statistics, measured by the user's own model."""

import builtins
import hashlib
import sys

import pytest
import torch

import checkpoints
from checkpoints import LAYER, MEAN, VAR, torchmend

USERS = """
import torch
import checkpoints

def make():
    return checkpoints.Network()

class Smaller(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Linear(3, 4)
        self.other = torch.nn.Linear(2, 2)

def small():
    return Smaller()

def narrow():
    model = checkpoints.Network()
    model.head = torch.nn.Linear(32, 4)
    return model

def batches():
    generator = torch.Generator().manual_seed(1)
    for _ in range(6):
        yield torch.randn(8, 3, 8, 8, generator=generator) * 1.7 + 0.3, torch.zeros(8)

as_list = list(batches())
with_a_bad_one = [*as_list[:4], (torch.full((8, 3, 8, 8), float("inf")), None)]

def nothing():
    return 3

def fails():
    raise RuntimeError("no accelerator here")

def leaves():
    raise SystemExit(0)

def needs_more(width):
    return make()

def of_one_channel():
    return [torch.zeros(8, 1, 8, 8)] * 4

def without_their_file():
    yield as_list[0]
    raise FileNotFoundError("data/image_1.png")

def no_metric(model):
    raise KeyError("labels")

def evaluate(model):
    return model(as_list[0][0]).square().mean()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Stand in a folder with a module of the user's, and a checkpoint with one damaged layer."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "users_own.py").write_text(USERS)
    damaged = checkpoints.nan_channels(checkpoints.training_checkpoint())
    checkpoints.save(checkpoints.set_elements(damaged, VAR, float("inf")), tmp_path / "damaged.pth")
    checkpoints.save(checkpoints.training_checkpoint(), tmp_path / "healthy.pth")
    yield tmp_path
    sys.modules.pop("users_own", None)


def run(*arguments, model="users_own:make", data="users_own:batches"):
    given = ("--data", data) if data else ()
    return torchmend("recalibrate", *arguments, "--model", model, *given)


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("damaged"))


def state(path):
    return checkpoints.load(path)["model_state_dict"]


def test_the_copy_holds_what_the_model_gets_on_the_data_and_nothing_else_changes(folder):
    outcome = run("damaged.pth")
    assert (outcome.rc, outcome.stderr) == (0, "")
    assert "Wrote damaged_FIXED.pth: HEALTHY" in outcome.stdout
    before, after = state("damaged.pth"), state("damaged_FIXED.pth")
    model = checkpoints.Network().eval()
    model.load_state_dict(after)
    fed = []
    model.get_submodule(LAYER).register_forward_pre_hook(lambda _, given: fed.append(given[0].detach().double()))
    users_own = sys.modules["users_own"]
    for batch, _ in users_own.as_list:
        model(batch)
    values = torch.cat(fed).transpose(0, 1).flatten(1)
    torch.testing.assert_close(after[VAR].double(), values.var(1), rtol=1e-5, atol=1e-7)
    bad = ~before[MEAN].isfinite()
    torch.testing.assert_close(after[MEAN][bad].double(), values.mean(1)[bad], rtol=1e-5, atol=1e-6)
    assert torch.equal(after[MEAN][~bad], before[MEAN][~bad])
    assert all(torch.equal(after[name], before[name]) for name in before if name not in (MEAN, VAR))


def test_it_can_be_undone_bit_for_bit(folder):
    run("damaged.pth")
    assert torchmend("unfix", "damaged_FIXED.pth").rc == 0
    digests = {
        hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("damaged.pth", "damaged_ORIGINAL.pth")
    }
    assert len(digests) == 1


def test_the_report_tells_rung_batches_and_metric(folder):
    outcome = run("damaged.pth", "--evaluate", "users_own:evaluate", data="users_own:with_a_bad_one")
    assert "64 elements of 64: re-estimated on data" in outcome.stdout
    assert "from 4 batches, 2,048 values a channel; left out: batch 4" in outcome.stdout
    assert "metric nan -> 0." in outcome.stdout


def test_noise_needs_no_data(folder):
    outcome = run("damaged.pth", "--noise", "8,3,8,8", data=None)
    assert outcome.rc == 0
    assert "re-estimated on noise" in outcome.stdout
    assert names(folder) == [
        "damaged.pth",
        "damaged_FIXED.pth",
        "damaged_FIXED.repair.bin",
        "damaged_FIXED.repair.json",
    ]


def test_a_dry_run_writes_nothing(folder):
    outcome = run("damaged.pth", "--dry-run")
    assert (outcome.rc, outcome.stdout.splitlines()[-1]) == (0, "Dry run: nothing was written.")
    assert names(folder) == ["damaged.pth"]


def test_an_existing_output_stays_unless_forced(folder):
    (folder / "out.pth").write_bytes(b"mine")
    assert run("damaged.pth", "-o", "out.pth").rc == 2
    assert (folder / "out.pth").read_bytes() == b"mine"
    assert run("damaged.pth", "-o", "out.pth", "--force").rc == 0


def test_all_writes_healthy_layers_too(folder):
    assert run("healthy.pth", "--layers", "all").rc == 0
    before, after = state("healthy.pth"), state("healthy_FIXED.pth")
    changed = {name.rpartition(".")[2] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"running_mean", "running_var"}


def test_names_of_layers_are_given_with_commas(folder):
    run("healthy.pth", "--layers", f"stem.1,{LAYER}")
    before, after = state("healthy.pth"), state("healthy_FIXED.pth")
    changed = {name.rpartition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"stem.1", LAYER}


def test_a_healthy_file_needs_nothing(folder):
    outcome = run("healthy.pth")
    assert outcome.rc == 0
    assert "Nothing was re-estimated.\nNo file was written." in outcome.stdout
    assert not (folder / "healthy_FIXED.pth").exists()


def test_other_damage_is_left_told_and_makes_it_exit_1(folder):
    damaged = checkpoints.infinite_second_moment(checkpoints.nan_channels(checkpoints.training_checkpoint()))
    checkpoints.save(damaged, folder / "damaged.pth")
    outcome = run("damaged.pth")
    assert outcome.rc == 1
    assert "exp_avg_sq: only running statistics are recalibrated; `torchmend fix` is for the rest" in outcome.stdout
    assert state("damaged_FIXED.pth")[MEAN].isfinite().all()


def test_names_with_a_prefix_in_the_file_are_found(folder):
    whole = checkpoints.load("damaged.pth")
    torch.save({"state_dict": {f"module.{name}": each for name, each in whole["model_state_dict"].items()}}, "ddp.pth")
    assert run("ddp.pth").rc == 0
    fixed = torch.load("ddp_FIXED.pth", weights_only=True)["state_dict"]
    assert torch.equal(fixed[f"module.{VAR}"], _fixed(folder)[VAR])


def _fixed(folder):
    run("damaged.pth")
    return state(folder / "damaged_FIXED.pth")


def test_a_file_in_half_precision_is_patched_in_its_own_type(folder):
    torch.save(
        {name: each.half() if each.is_floating_point() else each for name, each in state("damaged.pth").items()},
        "half.pth",
    )
    assert run("half.pth").rc == 0
    fixed = torch.load("half_FIXED.pth", weights_only=True)
    assert fixed[VAR].dtype == torch.float16
    torch.testing.assert_close(fixed[VAR].float(), _fixed(folder)[VAR], rtol=1e-2, atol=1e-3)


# What cannot be done


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "users_own"}, "--model is 'users_own'. Give module and name"),
        ({"model": "nowhere.models:make"}, "--model nowhere.models:make: there is no module nowhere"),
        ({"model": "users_own:missing"}, "--model users_own:missing: users_own has no missing"),
        ({"data": "users_own:missing"}, "--data users_own:missing: users_own has no missing"),
        ({"model": "users_own:nothing"}, "--model gives a int. It has to give a torch.nn.Module"),
        ({"model": "users_own:small"}, "4 keys are missing: stem.weight, stem.bias, other.weight, other.bias"),
        ({"model": "users_own:narrow"}, "size mismatch for head.weight"),
        ({"model": "users_own.py:make"}, "Give module and name, such as mypackage.models:make_model, not the path"),
        ({"model": "./users_own:make"}, "Give module and name, such as mypackage.models:make_model, not the path"),
        (
            {"model": "users_own:fails"},
            "users_own:fails: calling it without arguments failed with RuntimeError: no acc",
        ),
        ({"model": "users_own:leaves"}, "users_own:leaves: calling it without arguments failed with SystemExit: 0"),
        ({"model": "users_own:needs_more"}, "missing 1 required positional argument: 'width'. The traceback above"),
        ({"data": "users_own:fails"}, "--data users_own:fails: calling it without arguments failed with RuntimeError"),
        ({"data": "users_own:of_one_channel"}, "Running the model failed with RuntimeError: Given groups=1"),
        ({"data": "users_own:without_their_file"}, "Running the model failed with FileNotFoundError: data/image_1.png"),
    ],
    ids=lambda each: "-".join(each.values()) if isinstance(each, dict) else "",
)
def test_what_does_not_fit_is_told_and_nothing_is_written(folder, arguments, message):
    outcome = run("damaged.pth", **arguments)
    assert outcome.rc == 2
    assert message in outcome.stderr
    assert names(folder) == ["damaged.pth"]


def test_a_metric_that_fails_is_told(folder):
    outcome = run("damaged.pth", "--evaluate", "users_own:no_metric")
    assert outcome.rc == 2
    assert "in no_metric" in outcome.stderr
    assert "Running the model failed with KeyError: 'labels'" in outcome.stderr


@pytest.mark.parametrize(
    ("text", "error"), [("def make(:\n", "SyntaxError"), ("raise OSError('no disk')\n", "OSError: no disk")]
)
def test_a_module_that_fails_when_it_is_imported_is_told(folder, text, error):
    (folder / "users_own.py").write_text(text)
    outcome = run("damaged.pth")
    assert outcome.rc == 2
    assert f"--model users_own:make: importing users_own failed with {error}" in outcome.stderr


def test_statistics_of_another_model_in_the_file_are_told_as_such(folder):
    good, bad = checkpoints.training_checkpoint(), checkpoints.load(folder / "damaged.pth")
    good["ema"] = bad["model_state_dict"]
    checkpoints.save(good, folder / "ema.pth")
    outcome = run("ema.pth", "--layers", "all")
    assert outcome.rc == 1
    assert f"{VAR}: it is not in the model that was run; `torchmend fix` is for the others" in outcome.stdout


def test_a_module_that_cannot_import_another_is_not_called_missing(folder):
    (folder / "users_own.py").write_text("import not_installed_anywhere\n")
    outcome = run("damaged.pth")
    assert "importing users_own failed: No module named 'not_installed_anywhere'" in outcome.stderr


@pytest.mark.parametrize("shape", ["8,3,7,8x", "8,,8", ""])
def test_a_shape_that_does_not_serve_writes_nothing(folder, shape):
    outcome = run("damaged.pth", "--noise", shape, data=None)
    assert outcome.rc == 2
    assert "Give whole numbers with commas" in outcome.stderr
    assert names(folder) == ["damaged.pth"]


@pytest.mark.parametrize("given", [(), ("--noise", "8,3,8,8", "--data", "users_own:batches")])
def test_data_or_noise_is_needed_and_not_both(folder, given):
    outcome = torchmend("recalibrate", "damaged.pth", "--model", "users_own:make", *given)
    assert outcome.rc == 2
    assert "Give either --data or --noise" in outcome.stderr


def test_a_damaged_weight_is_told(folder):
    checkpoints.save(checkpoints.nan_weight(checkpoints.load("damaged.pth")), folder / "damaged.pth")
    outcome = run("damaged.pth")
    assert outcome.rc == 2
    assert "is damaged itself: repair it first, from a donor" in outcome.stderr
    assert names(folder) == ["damaged.pth"]


def test_a_file_that_cannot_be_read_is_diagnosed(folder):
    (folder / "damaged.pth").write_bytes(b"")
    outcome = run("damaged.pth")
    assert outcome.rc == 2
    assert "TM9" in outcome.stdout


def test_without_torch_it_says_what_to_install(folder, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return real(name, *rest)

    monkeypatch.delitem(sys.modules, "torchmend.live.recalibrating.files", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    outcome = run("damaged.pth")
    assert outcome.rc == 2
    assert "recalibrate runs the model and needs PyTorch, which is not installed: pip install torch" in outcome.stderr
