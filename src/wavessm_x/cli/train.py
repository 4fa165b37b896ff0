"""`wavessm train`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from wavessm_x.cli.common import MODEL_FILE, Exit, show_log
from wavessm_x.config import PRESETS, USUAL_LR, DataConfig, ModelConfig, Precision, Ssm, TrainConfig


def train(  # one parameter a flag
    data_path: Annotated[Path, typer.Option("--data_path", help="Pairs in inp/ and target/, or photographs.")] = Path(
        "DataSetFiles/Main_Dataset"
    ),
    data_path_test: Annotated[
        Path | None, typer.Option("--data_path_test", help="The like, evaluated at the end.")
    ] = None,
    masks: Annotated[
        Path | None, typer.Option("--masks", help="Masks of your own, white where a picture is to be filled.")
    ] = None,
    masked: Annotated[
        bool, typer.Option("--masked/--blind", help="Whether the network is told where the damage is.")
    ] = False,
    dataset_name: Annotated[str, typer.Option("--dataset_name", help="A label for the log.")] = "WaveSSM",
    model_file: Annotated[
        Path, typer.Option("--model_file", help="The checkpoint; logs and pictures lie beside it.")
    ] = MODEL_FILE,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint.")] = False,
    preset: Annotated[str, typer.Option("--preset", help=f"The size of the network: {' or '.join(PRESETS)}.")] = "base",
    lr: Annotated[
        float | None,
        typer.Option("--lr", help=f"The highest learning rate; {USUAL_LR}, or the checkpoint's when it is resumed."),
    ] = None,
    num_iter: Annotated[int, typer.Option("--num_iter", help="Steps to attempt in all.")] = 33000,
    batch_size: Annotated[int, typer.Option("--batch_size")] = 24,
    accumulate: Annotated[int, typer.Option("--accumulate", help="Micro-batches in a step.")] = 1,
    patch_size: Annotated[int, typer.Option("--patch_size", help="Of training patches, in pixels.")] = 256,
    workers: Annotated[int, typer.Option("--workers", help="Processes that load pictures.")] = 4,
    seed: Annotated[int, typer.Option("--seed", help="Of everything random.")] = 42,
    val_every: Annotated[int, typer.Option("--val_every", help="Steps between two validations.")] = 500,
    pictures_every: Annotated[
        int, typer.Option("--pictures_every", help="Steps between two sets of curves and samples.")
    ] = 5000,
    precision: Annotated[Precision, typer.Option("--precision", help="Of the forward pass.")] = "32",
    ema: Annotated[float, typer.Option("--ema", help="Decay of the averaged weights; 0 keeps none.")] = 0.999,
    clip: Annotated[float, typer.Option("--clip", help="The largest gradient norm.")] = 0.5,
    compile_model: Annotated[bool, typer.Option("--compile", help="Compile the network.")] = False,
    loss_weights: Annotated[
        tuple[float, float, float, float, float],
        typer.Option("--loss_weights", help="Of l1, perceptual, ssim, edge and freq."),
    ] = (1.0, 1.0, 1.0, 0.5, 0.3),
    perceptual_weights: Annotated[
        Path | None, typer.Option("--perceptual_weights", help="A file with VGG19's weights.")
    ] = None,
    lpips_weights: Annotated[Path | None, typer.Option("--lpips_weights", help="A file for LPIPS.")] = None,
    wavelet: Annotated[str | None, typer.Option("--wavelet", help="haar, or db1 to db10.")] = None,
    d_state: Annotated[int | None, typer.Option("--d_state", help="States of a channel of a scan.")] = None,
    d_conv: Annotated[int | None, typer.Option("--d_conv", help="Taps before a scan.")] = None,
    expand: Annotated[int | None, typer.Option("--expand", help="Inner channels of a scan, relative.")] = None,
    ssm: Annotated[Ssm, typer.Option("--ssm", help="How scans are computed.")] = "exact",
    use_mamba: Annotated[bool, typer.Option("--use_mamba/--no_mamba", help="Scans in the blocks.")] = True,
    use_fass: Annotated[bool, typer.Option("--use_fass/--no_fass", help="Adapt scans by frequency.")] = True,
    use_ffc: Annotated[bool, typer.Option("--use_ffc/--no_ffc", help="The Fourier refinement.")] = True,
    fass_no_b: Annotated[bool, typer.Option("--fass_no_b", help="Leave B as it is.")] = False,
    fass_no_c: Annotated[bool, typer.Option("--fass_no_c", help="Leave C as it is.")] = False,
    fass_no_delta: Annotated[bool, typer.Option("--fass_no_delta", help="Leave the step size as it is.")] = False,
    half_fft: Annotated[
        bool,
        typer.Option("--half_fft", help="Bring the overflow of the broken trainer back, to see the guard at work."),
    ] = False,
    accelerator: Annotated[str, typer.Option("--accelerator", help="auto, cpu or cuda.")] = "auto",
    devices: Annotated[str, typer.Option("--devices", help="How many, or auto.")] = "auto",
) -> None:
    """Train, or go on with a training."""
    show_log()
    changed = {"wavelet": wavelet, "d_state": d_state, "d_conv": d_conv, "expand": expand}
    model = replace(
        ModelConfig.preset(preset, **{name: value for name, value in changed.items() if value is not None}),
        ssm=ssm,
        masked=masked,
        use_mamba=use_mamba,
        use_fass=use_fass,
        use_ffc=use_ffc,
        fass_no_b=fass_no_b,
        fass_no_c=fass_no_c,
        fass_no_delta=fass_no_delta,
        half_fft=half_fft,
    )
    data = DataConfig(
        data_path=data_path,
        data_path_test=data_path_test,
        masks=masks,
        patch_size=patch_size,
        batch_size=batch_size,
        workers=workers,
        seed=seed,
    )
    config = TrainConfig(
        model_file=model_file,
        dataset_name=dataset_name,
        resume=resume,
        lr=lr,
        num_iter=num_iter,
        val_every=val_every,
        accumulate=accumulate,
        precision=precision,
        clip=clip,
        ema=ema,
        loss_weights=loss_weights,
        perceptual_weights=perceptual_weights,
        lpips_weights=lpips_weights,
        compile=compile_model,
        pictures_every=pictures_every,
    )
    from wavessm_x.training.processes import is_main
    from wavessm_x.training.run import train as run_training

    progress = run_training(
        model, data, config, accelerator=accelerator, devices=int(devices) if devices.isdigit() else devices
    )
    if progress.iteration < num_iter and is_main():  # what launched the others takes any code but 0 for a failure
        raise typer.Exit(Exit.INTERRUPTED)
