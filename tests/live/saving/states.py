"""States for the tests of saving."""

import torch

NAN, INF = float("nan"), float("inf")


def healthy(value=1.0):
    return {"model": {"fc.weight": torch.full((4, 4), float(value))}, "iteration": int(value)}


def corrupted():
    return {"model": {"fc.weight": torch.full((4, 4), NAN)}, "iteration": 666}


def value_in(path):
    return float(torch.load(path, weights_only=True)["model"]["fc.weight"][0, 0])


def visible(folder):
    return sorted(each.name for each in folder.iterdir() if not each.name.endswith(".health.json"))
