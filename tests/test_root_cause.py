"""The figures of the root-cause page are those that were measured, and the bench fails and recovers as it says."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.root_cause import page, spectrum
from benchmarks.root_cause.training import WAYS, hurt, network_of

ROOT = Path(__file__).parents[1]
RESULTS = json.loads((ROOT / "benchmarks" / "root_cause" / "results.json").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs" / "root-cause.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("table", [page.spectrum_table, page.protection_table, page.repair_table])
def test_the_tables_are_those_of_the_measured_results(table):
    assert table(RESULTS) in PAGE


def test_the_bench_s_own_page_is_of_these_results():
    assert (ROOT / "benchmarks" / "root_cause" / "README.md").read_text(encoding="utf-8") == page.page(RESULTS)


def test_the_results_are_of_all_protections_and_seeds():
    found = {(each["way"], each["scaled"], each["seed"]) for each in RESULTS["runs"]}
    assert found == {(way.name, scaled, seed) for way in WAYS for scaled in (False, True) for seed in RESULTS["seeds"]}


def test_the_spectrum_overflows_from_the_size_that_the_page_says():
    white = {each["side"]: each["white"] for each in RESULTS["spectrum"]}
    assert min(side for side, peak in white.items() if peak > page.HALF_MAX) == 256
    assert torch.finfo(torch.half).max == page.HALF_MAX
    assert spectrum.peaks(64) == pytest.approx(RESULTS["spectrum"][0], rel=1e-3)


@pytest.mark.parametrize("half", [True, False])
def test_the_large_picture_hurts_the_statistics_only_where_the_spectrum_is_cast(half):
    way = next(each for each in WAYS if each.half is half and each.faulty)
    torch.manual_seed(0)
    network = network_of(way.made().state_dict(), way)
    network.stem.bias.data += 1  # as bright as features become in training
    network(torch.ones(1, 4, 512, 512))
    assert hurt(network) == ((4, 0) if half else (0, 0))
