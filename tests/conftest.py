"""Hypothesis's profiles for all tests: the same examples in every run, or more with `long`."""

from __future__ import annotations

from hypothesis import settings

# For the tests of our own plugin.
pytest_plugins = "pytester"

settings.register_profile("default", derandomize=True, database=None, deadline=None)
settings.register_profile("long", settings.get_profile("default"), max_examples=2000)
settings.load_profile("default")
