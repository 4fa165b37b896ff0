"""`python -m torchmend`."""

from torchmend.cli.main import run

run()
