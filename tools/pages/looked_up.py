"""What refusals tell to choose instead is looked up once: a page asks for thousands of them."""

import contextlib
import functools
from collections.abc import Iterator
from unittest import mock

from hydra.utils import get_class

from ssl_framework import wiring
from ssl_framework.runs import suggestions
from ssl_framework.runs.groups import files


@contextlib.contextmanager
def looked_up_once() -> Iterator[None]:
    """Meanwhile the files of the groups, and the classes that they name, stay what they are."""
    known, kinds = functools.cache(files), functools.cache(get_class)
    with (
        mock.patch.object(suggestions, "files", known),
        mock.patch.object(wiring, "files", known),
        mock.patch.object(wiring, "get_class", kinds),
    ):
        yield
