"""The command line is tested with made-up packages too."""

from tests.plugins.conftest import packages

__all__ = ["packages"]
