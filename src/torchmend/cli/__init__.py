"""The command line: parse, call, render, return an exit code."""
