"""The log file: its columns, and what a crash and a resume leave of it."""

import math

import pytest

from wavessm_x.watching.csvlog import COLUMNS, CsvLog, LogError, read

HEADER = (
    "iteration,timestamp,total_loss,lr,grad_norm,iter_time,gpu_mem_mb,"
    "loss_l1,loss_perceptual,loss_ssim,loss_edge,loss_freq"
)
PARTS = {"l1": 0.1, "perceptual": 0.0, "ssim": 0.2, "edge": 0.3, "freq": 0.4}


def write(log, iteration, **changed):
    values = {"total_loss": 1 / 3, "lr": 1e-4, "grad_norm": 2.5, "iter_time": 0.25, "gpu_mem_mb": 0.0}
    log.write(iteration, values | changed, PARTS)


def made(path, iterations):
    with CsvLog(path, clock=lambda: "2030-01-02T03:04:05.678+00:00") as log:
        for iteration in iterations:
            write(log, iteration)
    return path


def test_a_file_has_a_header_and_lines_in_its_order(tmp_path):
    path = made(tmp_path / "logs" / "training_a.csv", [10])
    line = "10,2030-01-02T03:04:05.678+00:00,0.3333333333333333,0.0001,2.5,0.25,0.0,0.1,0.0,0.2,0.3,0.4"
    assert path.read_text() == f"{HEADER}\n{line}\n"


def test_a_line_is_in_the_file_as_soon_as_it_is_written(tmp_path):
    log = CsvLog(tmp_path / "log.csv")
    write(log, 10)
    assert read(tmp_path / "log.csv")["iteration"] == [10]
    log.close()


def test_what_was_written_is_read_back_exactly_nan_and_inf_with_it(tmp_path):
    with CsvLog(tmp_path / "log.csv") as log:
        write(log, 10, total_loss=float("nan"), grad_norm=float("inf"))
        write(log, 20, lr=0.1 + 0.2)
    columns = read(tmp_path / "log.csv")
    assert set(columns) == set(COLUMNS) - {"timestamp"}
    assert math.isnan(columns["total_loss"][0])
    assert columns["grad_norm"][0] == math.inf
    assert columns["lr"][1] == 0.1 + 0.2


@pytest.mark.parametrize(("resume_at", "kept"), [(0, []), (20, [10, 20]), (25, [10, 20]), (99, [10, 20, 30])])
def test_a_resumed_training_cuts_off_what_came_after_its_checkpoint(tmp_path, resume_at, kept):
    path = made(tmp_path / "log.csv", [10, 20, 30])
    before = path.read_text().splitlines()
    with CsvLog(path, resume_at=resume_at) as log:
        assert path.read_text().splitlines() == before[: 1 + len(kept)]
        write(log, 100)
    assert read(path)["iteration"] == [*kept, 100]


def test_a_line_that_a_crash_left_half_written_is_dropped(tmp_path):
    path = made(tmp_path / "log.csv", [10, 20])
    path.write_text(path.read_text()[:-15])
    assert read(path)["iteration"] == [10]
    with CsvLog(path, resume_at=20) as log:
        write(log, 30)
    assert read(path)["iteration"] == [10, 30]


def test_a_line_cut_just_before_its_end_is_dropped_too(tmp_path):
    path = made(tmp_path / "log.csv", [10, 20])
    path.write_text(path.read_text()[:-1])
    assert read(path)["iteration"] == [10]


@pytest.mark.parametrize("before", [None, ""])
def test_a_resume_without_a_log_begins_one(tmp_path, before):
    path = tmp_path / "log.csv"
    if before is not None:
        path.write_text(before)
    CsvLog(path, resume_at=50).close()
    assert path.read_text() == f"{HEADER}\n"


def test_a_new_training_does_not_write_over_the_log_of_another(tmp_path):
    path = made(tmp_path / "log.csv", [10])
    before = path.read_bytes()
    with pytest.raises(LogError, match=r"log\.csv has the log of another training"):
        CsvLog(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", ["step,loss\n1,2\n", HEADER.replace("loss_edge,", "") + "\n", "\x00\x01"])
def test_a_file_with_other_columns_is_refused_and_left_alone(tmp_path, text):
    path = tmp_path / "log.csv"
    path.write_text(text)
    with pytest.raises(LogError, match=r"log\.csv begins with .*; a log begins with iteration,"):
        CsvLog(path, resume_at=10)
    assert path.read_text() == text


@pytest.mark.parametrize("line", ["20,now,x,1,1,1,1,1,1,1,1,1", "20,now,1", "", "ten,now,1,1,1,1,1,1,1,1,1,1"])
def test_a_damaged_line_in_the_middle_is_named(tmp_path, line):
    path = made(tmp_path / "log.csv", [10, 30])
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], line, *lines[2:], ""]))
    with pytest.raises(LogError, match=r"line 3 is damaged"):
        read(path)


def test_a_line_with_a_missing_or_unknown_value_is_an_error(tmp_path):
    with CsvLog(tmp_path / "log.csv") as log:
        with pytest.raises(ValueError, match="missing or unknown: speed"):
            write(log, 10, speed=3)
        with pytest.raises(ValueError, match="loss_freq"):
            log.write(10, {}, {})
