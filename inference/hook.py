"""The user's own postprocessing: an importable callable over logits (temperature, calibration, a head of one's own).

`task.options.postprocess: "module:name"` names a function `logits -> logits`, or a class that is created once per
process without arguments, declares `fields` (the columns it adds) and maps `logits -> (logits, one array per field)`.
Threads of one process share it.
"""

import hashlib
import inspect
import sys
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from inference.errors import ConfigError, JobError


class Hook:
    """A loaded hook, or nothing: then logits pass as they are."""

    def __init__(self, name: str | None, *, is_per_token: bool = False) -> None:
        """Import it.

        Args:
            name: `module:callable`, found as Python finds modules or in the working directory; None is no hook.
            is_per_token: it will see one vector per token, so it cannot add columns, which have one value per row.

        Raises:
            ConfigError: it cannot be imported, called, or does not declare its columns as Arrow fields.
        """
        self.name = name
        self._call: Any = _import(name) if name else None
        fields = list(getattr(self._call, "fields", ()))
        if not all(isinstance(field, pa.Field) for field in fields):
            msg = f"task.options.postprocess: {name}.fields holds {fields}, expected a list of pyarrow fields"
            raise ConfigError(msg)
        if fields and is_per_token:
            msg = (
                f"task.options.postprocess: {name} adds columns, one value per row, and the logits here are one vector "
                "per token; give a callable that returns logits alone"
            )
            raise ConfigError(msg)
        # A failed row is null in every column.
        self.fields: Sequence[pa.Field] = [field.with_nullable(nullable=True) for field in fields]

    @property
    def identity(self) -> str | None:
        """SHA-256 of the file that the name points to and of the one that defines the callable, for the fingerprint."""
        if self.name is None:
            return None
        files = {sys.modules[self.name.partition(":")[0]].__file__, _file_of(self._call)}
        digest = hashlib.sha256()
        for file in sorted(filter(None, files)):
            digest.update(Path(file).read_bytes())
        return digest.hexdigest()

    def __call__(self, logits: NDArray[np.float32]) -> tuple[NDArray[np.float32], list[pa.Array]]:
        """New logits of the same shape, and one array per field with one entry per row.

        Raises:
            JobError: the hook gave something else.
            FloatingPointError: it gave NaN or an infinity.
        """
        if self._call is None:
            return logits, []
        result = self._call(logits)
        changed, extra = result if self.fields else (result, [])
        changed = np.asarray(changed, dtype=np.float32)
        if changed.shape != logits.shape:
            msg = f"task.options.postprocess: {self.name} made {changed.shape} of logits of shape {logits.shape}"
            raise JobError(msg)
        if len(extra) != len(self.fields):
            msg = f"task.options.postprocess: {self.name} gave {len(extra)} columns, it declares {len(self.fields)}"
            raise JobError(msg)
        arrays = [self._array(field, values, len(logits)) for field, values in zip(self.fields, extra, strict=True)]
        if not np.isfinite(changed).all() or not all(map(_is_finite, arrays)):
            msg = f"{self.name} gave values that are not finite"
            raise FloatingPointError(msg)
        return changed, arrays

    def _array(self, field: pa.Field, values: Any, num_rows: int) -> pa.Array:
        try:
            array = pa.array(list(values) if getattr(values, "ndim", 1) > 1 else values, field.type)
        except (pa.ArrowException, TypeError, ValueError) as error:
            msg = (
                f"task.options.postprocess: {self.name} gave values of {field.name} that are no {field.type} ({error})"
            )
            raise JobError(msg) from error
        if len(array) != num_rows:
            msg = f"task.options.postprocess: {self.name} gave {len(array)} values of {field.name} for {num_rows} rows"
            raise JobError(msg)
        return array


def _is_finite(array: Any) -> bool:
    """Whether all numbers are, also those in lists and structs."""
    if pa.types.is_struct(array.type):
        return all(map(_is_finite, array.flatten()))
    if isinstance(array, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        return _is_finite(array.flatten())
    if not pa.types.is_floating(array.type):
        return True
    return pc.all(pc.is_finite(array)).as_py() is not False


def _file_of(call: Any) -> str | None:
    """Where a callable is defined; None where that is not in a file (`functools.partial` is built in)."""
    kind = call if inspect.isroutine(call) else type(call)
    try:
        return inspect.getfile(kind)
    except TypeError:
        return None


@cache
def _import(name: str) -> Any:
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        msg = f"task.options.postprocess: {name!r} names no callable, expected module:callable"
        raise ConfigError(msg)
    # A console script, and a Ray worker, have the working directory as such but not on their path.
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        found = getattr(import_module(module), attribute)
        made = found() if inspect.isclass(found) else found
    except Exception as error:  # it is the user's code and may raise anything
        msg = (
            f"task.options.postprocess: {name} cannot be imported ({type(error).__name__}: {error}); it was looked for "
            f"in {here} and on the Python path"
        )
        raise ConfigError(msg) from error
    if not callable(made):
        msg = f"task.options.postprocess: {name} is a {type(made).__name__}, expected a callable"
        raise ConfigError(msg)
    return made
