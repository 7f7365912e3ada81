"""What several files of these tests put in the place of a GPU."""

from tests.cuda_checks.streams import devices

__all__ = ["devices"]
