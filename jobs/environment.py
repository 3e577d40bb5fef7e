"""What of the driver reaches the workers of a cluster that is joined: names of variables, and the folder of a hook.

Ray keeps both in the cluster's metadata, where everyone with a token reads them: no secret is among them.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from inference.errors import ConfigError

VARIABLES = (
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
)
"""Where things are, and not who may have them. HF_HOME is a node's own: it names a folder of that node's disk."""

# The files of a hook: its modules and the small tables they read. What is larger is data, and comes from elsewhere.
_MAX_FILE_BYTES = 2**20
_MAX_BYTES = 32 * 2**20
_NOT_SHIPPED = {"__pycache__", "build", "dist", "node_modules", "venv"}


@contextmanager
def runtime_env(hook: str | None) -> Iterator[dict[str, Any]]:
    """Ray's `runtime_env` for a job whose hook is this `module:name`; what it names need only last while Ray starts.

    Raises:
        ConfigError: the hook lies in a working directory with more in it than a hook needs.
    """
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:  # `ray job submit` started this process; workers inherit its own
        yield {}
        return
    variables = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    if hook is None or not _lies_here(hook):
        yield {"env_vars": variables}
        return
    with TemporaryDirectory() as copy:
        _copy_small_files(Path.cwd(), Path(copy))
        yield {"env_vars": variables, "working_dir": copy}


def _lies_here(hook: str) -> bool:
    """Whether its module is found below the working directory, and not among the installed ones."""
    spec = find_spec(hook.partition(":")[0].partition(".")[0])
    places = [] if spec is None else [*(spec.submodule_search_locations or ()), *([spec.origin] if spec.origin else [])]
    return any(Path(place).is_relative_to(Path.cwd()) and "site-packages" not in Path(place).parts for place in places)


def _copy_small_files(source: Path, target: Path) -> None:
    num_bytes = 0
    for folder, subfolders, names in os.walk(source):
        subfolders[:] = [name for name in subfolders if not name.startswith(".") and name not in _NOT_SHIPPED]
        here = Path(folder)
        there = target / here.relative_to(source)
        there.mkdir(exist_ok=True)
        for name in names:
            file = here / name
            if name.startswith(".") or not file.is_file() or file.stat().st_size > _MAX_FILE_BYTES:
                continue
            num_bytes += file.stat().st_size
            if num_bytes > _MAX_BYTES:
                msg = (
                    f"task.options.postprocess: its folder {source} goes to the workers, and its files of up to 1 MB "
                    "are more than 32 MB in all; start from a folder that holds little more than the hook"
                )
                raise ConfigError(msg)
            shutil.copyfile(file, there / name)
