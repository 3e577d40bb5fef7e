"""The user's own postprocessing: an importable callable over logits (temperature, calibration, a head of one's own).

`task.options.postprocess: "module:name"` names a function `logits -> logits`, or a class that is created once per
process without arguments, declares `fields` (the columns it adds) and maps `logits -> (logits, one array per field)`.
"""

import hashlib
import inspect
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from inference.errors import ConfigError


class Hook:
    """A loaded hook, or nothing: then logits pass as they are."""

    def __init__(self, name: str | None) -> None:
        """Import it.

        Args:
            name: `module:callable`, found as Python finds modules or in the working directory; None is no hook.

        Raises:
            ConfigError: it cannot be imported, called, or does not declare its columns as Arrow fields.
        """
        self.name = name
        self._call: Any = _import(name) if name else None
        self.fields: Sequence[pa.Field] = list(getattr(self._call, "fields", ()))
        if not all(isinstance(field, pa.Field) for field in self.fields):
            msg = f"task.options.postprocess: {name}.fields holds {self.fields}, expected a list of pyarrow fields"
            raise ConfigError(msg)

    @property
    def identity(self) -> str | None:
        """SHA-256 of the file it is defined in, for the job's fingerprint."""
        if self._call is None:
            return None
        kind = self._call if inspect.isfunction(self._call) else type(self._call)
        return hashlib.sha256(Path(inspect.getfile(kind)).read_bytes()).hexdigest()

    def __call__(self, logits: NDArray[np.float32]) -> tuple[NDArray[np.float32], list[pa.Array]]:
        """New logits of the same shape, and one array per field with one entry per row.

        Raises:
            ConfigError: the hook gave something else.
        """
        if self._call is None:
            return logits, []
        result = self._call(logits)
        changed, extra = result if self.fields else (result, [])
        changed = np.asarray(changed, dtype=np.float32)
        if changed.shape != logits.shape:
            msg = f"task.options.postprocess: {self.name} made {changed.shape} of logits of shape {logits.shape}"
            raise ConfigError(msg)
        if not np.isfinite(changed).all():
            msg = f"task.options.postprocess: {self.name} made logits that are not finite; have it give numbers only"
            raise ConfigError(msg)
        if len(extra) != len(self.fields):
            msg = f"task.options.postprocess: {self.name} gave {len(extra)} columns, it declares {len(self.fields)}"
            raise ConfigError(msg)
        arrays = [pa.array(values, field.type) for values, field in zip(extra, self.fields, strict=True)]
        for array, field in zip(arrays, self.fields, strict=True):
            if len(array) != len(logits):
                msg = (
                    f"task.options.postprocess: {self.name} gave {len(array)} values of {field.name} for "
                    f"{len(logits)} rows"
                )
                raise ConfigError(msg)
        return changed, arrays


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
    except (ImportError, AttributeError) as error:
        msg = f"task.options.postprocess: {name} cannot be imported ({error}); put it on the Python path of all workers"
        raise ConfigError(msg) from error
    made = found() if inspect.isclass(found) else found
    if not callable(made):
        msg = f"task.options.postprocess: {name} is a {type(made).__name__}, expected a callable"
        raise ConfigError(msg)
    return made
