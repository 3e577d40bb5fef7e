"""Code that comes with a checkpoint, `auto_map` and *.py files: found, hashed, and imported when the user trusts it.

The files are read without importing anything; only `import_code` runs them, with the rights of whoever runs the job.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

from inference.errors import ModelError, ShardlabelError

References = Mapping[str, tuple[str, ...]]
"""transformers' auto class -> the checkpoint's own classes for it, `module.Class`."""


def find_code(*configs: dict[str, Any]) -> References:
    """What the `auto_map`s of config.json and tokenizer_config.json name; older ones list tokenizers alone."""
    found: dict[str, tuple[str, ...]] = {}
    for config in configs:
        auto_map = config.get("auto_map") or {}
        for auto_class, classes in (auto_map if isinstance(auto_map, dict) else {"AutoTokenizer": auto_map}).items():
            listed = classes if isinstance(classes, list) else [classes]
            found[auto_class] = tuple(str(name) for name in listed if name)
    return found


def check_code(name: str, code: References) -> None:
    """Refuse code that lies elsewhere: it would be of no known revision, and not in the fingerprint.

    Raises:
        ModelError: a class is in another repository (`owner/name--module.Class`).
    """
    for classes in code.values():
        for reference in classes:
            if "--" in reference:
                msg = (
                    f"model.name: the code of {name} lies in another repository ({reference}); copy its *.py files "
                    "beside the weights and name them in auto_map without that repository"
                )
                raise ModelError(msg)


def code_digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of all Python files in a checkpoint's folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def import_code(folder: Path, code: References, auto_classes: Sequence[str]) -> dict[str, Any]:
    """Import what `auto_map` names for these auto classes, one process at a time: auto class -> the checkpoint's own.

    transformers copies the files into its cache of modules and imports them from there; a second process would find
    half a file (5.23, dynamic_module_utils.py:455, `shutil.copyfile` under a lock of threads only). The classes are
    used as they are, since an auto class remembers the first model it saw for a configuration (auto_factory.py:379).

    Raises:
        ModelError: the code cannot be imported.
    """
    from transformers.dynamic_module_utils import (  # type: ignore[attr-defined]
        HF_MODULES_CACHE,
        get_class_from_dynamic_module,
    )

    # Of a tokenizer's two classes the last is the fast one.
    wanted = {name: code[name][-1] for name in auto_classes if code.get(name)}
    if not wanted:
        return {}
    lock = Path(HF_MODULES_CACHE, "shardlabel.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock), guarded(f"model.name: the code of {folder} cannot be imported"):
        return {name: get_class_from_dynamic_module(reference, str(folder)) for name, reference in wanted.items()}


def advice(code: References, auto_classes: Sequence[str], *, is_trusted: bool) -> str:
    """What ends the message about a checkpoint that did not load for want of its own code."""
    if is_trusted or not any(name in code for name in auto_classes):
        return ""
    return "; it brings code of its own, which runs only with model.trust_remote_code: true, so read it and set that"


@contextmanager
def guarded(what: str, hint: str = "") -> Iterator[None]:
    """Make one sentence of whatever transformers, tokenizers or a checkpoint's own code raise of a checkpoint.

    Args:
        what: was wrong, and where.
        hint: how the sentence ends.

    Raises:
        ModelError: something was raised.
    """
    try:
        yield
    except ShardlabelError:
        raise
    except Exception as error:  # it is not our code and may raise anything; those two have plain ones
        msg = f"{what} ({_reason(error)}){hint}"
        raise ModelError(msg) from error


def _reason(error: Exception) -> str:
    """Its class and the first line of its message; behind a colon the next line as well."""
    text = ""
    for line in str(error).splitlines():
        text = f"{text} {line.strip()}".strip()
        if text and not text.endswith(":"):
            break
    return ": ".join(filter(None, (type(error).__name__, text)))
