"""The command line: parse, call, say, return an exit code; nothing heavy is imported before a command runs."""

from wavessm_x.cli.main import run

__all__ = ["run"]
