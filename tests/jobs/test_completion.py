"""What the shell completes, asked in the shell's own way, and typed into a real bash with a real TAB."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
JOB = "docs/demo/job.yaml"
ZSH = shutil.which("zsh")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """With `shardlabel` on the path, as an installation has it."""
    folder = tmp_path_factory.mktemp("bin")
    program = folder / "shardlabel"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m jobs "$@"\n')
    program.chmod(0o755)
    found = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "INPUTRC": "/dev/null", "TERM": "dumb"}
    script = 'shardlabel --show-completion > "$0"'
    subprocess.run(["bash", "--norc", "-c", script, str(folder / "completion.sh")], env=found, check=True)  # noqa: S607
    return found | {"SCRIPT": str(folder / "completion.sh")}


def in_bash(environment: dict[str, str], *words: str) -> list[str]:
    """What bash is offered for the last word; as it splits a line, `key=value` is three words."""
    given = " ".join(f"'{word}'" for word in words)
    script = (
        '. "$SCRIPT"; '
        f"COMP_WORDS=({given}); COMP_CWORD={len(words) - 1}; _shardlabel_completion shardlabel; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    command = ["bash", "--norc", "-c", script]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


def in_zsh(environment: dict[str, str], line: str) -> str:
    """What zsh is told to evaluate for the end of a line."""
    asked = environment | {"_SHARDLABEL_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": line}
    done = subprocess.run(
        ["/bin/sh", "-c", "shardlabel"], cwd=ROOT, env=asked, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


DTYPES = ["auto", "float32", "bfloat16", "float16"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["r"], ["run", "retry"]),
        (["run", "job.yaml", "--log-format", ""], ["text", "json"]),
        (["run", "job.yaml", "model.max_"], ["model.max_length=", "model.max_batch_tokens="]),
        (["run", "job.yaml", "model.dty"], ["model.dtype=", *(f"model.dtype={value}" for value in DTYPES)]),
        (["run", "job.yaml", "model.dtype", "="], DTYPES),
        (["run", "job.yaml", "output.scores", "=", "true", "model.dtype", "=", "b"], ["bfloat16"]),
        (["run", JOB, "task.options.merge"], ["task.options.merge=", "task.options.merge_over="]),
        (["run", "job.yaml", "nonsense."], []),
        (["run", "docs/demo/jo"], []),  # nothing of ours: bash then completes names of files
    ],
    ids=" ".join,
)
def test_bash_is_offered(words: list[str], expected: list[str], environment: dict[str, str]) -> None:
    found = in_bash(environment, "shardlabel", *words)
    assert [item for item in found if item in expected or words != ["r"]] == expected


def test_every_command_and_every_option_of_one_is_offered(environment: dict[str, str]) -> None:
    assert {"init", "schema", "run", "retry", "status"} <= set(in_bash(environment, "shardlabel", ""))
    options = {"--json", "--address", "--prune", "--max-seconds", "--log-format", "--debug", "--help"}
    assert set(in_bash(environment, "shardlabel", "run", "job.yaml", "--")) == options


def test_zsh_is_given_whole_words_with_what_they_mean(environment: dict[str, str]) -> None:
    assert (
        in_zsh(environment, "shardlabel run job.yaml model.dtype=b")
        == """_arguments '*: :(("model.dtype=bfloat16"))'"""
    )
    offered = in_zsh(environment, "shardlabel run job.yaml model.max_")
    assert '"model.max_length=":"Tokens of a sequence, special tokens included; null' in offered
    assert in_zsh(environment, "shardlabel run docs/demo/jo") == "_files"


def typed(environment: dict[str, str], keys: str, until: str) -> str:
    """What a terminal shows when these keys are pressed in an interactive bash."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], environment)  # noqa: S606, S607 - a child of the test
    shown, deadline = b"", time.monotonic() + 60
    try:
        os.write(
            terminal, b'PS1="> "; bind "set bell-style none"; eval "$(shardlabel --show-completion)"; echo re""ady\n'
        )
        sent = False
        while time.monotonic() < deadline and until.encode() not in shown:
            if select.select([terminal], [], [], 0.2)[0]:
                shown += os.read(terminal, 4096).replace(b"\a", b"")
            if not sent and b"ready\r\n> " in shown:
                shown, sent = b"", bool(os.write(terminal, keys.encode()))
    finally:
        os.close(terminal)  # which hangs bash up
        os.waitpid(pid, 0)
    return shown.decode()


def test_a_tab_in_bash_completes_a_command_a_file_a_key_and_a_value(environment: dict[str, str]) -> None:
    keys = "shardlabel ret\tdocs/demo/jo\tmodel.dty\tbf\t"
    wanted = "shardlabel retry docs/demo/job.yaml model.dtype=bfloat16"
    assert wanted in typed(environment, keys, wanted)


@pytest.mark.skipif(ZSH is None, reason="there is no zsh")
def test_zsh_takes_the_script(environment: dict[str, str]) -> None:
    script = (
        "autoload -Uz compinit; compinit -u -D; "
        'eval "$(_SHARDLABEL_COMPLETE=source_zsh shardlabel)"; print $_comps[shardlabel]'
    )
    done = subprocess.run([str(ZSH), "-f", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "_shardlabel_completion"


def test_completion_needs_nothing_that_takes_its_time_to_load(environment: dict[str, str]) -> None:
    heavy = {"pyarrow", "pandas", "numpy", "torch", "ray", "huggingface_hub"}
    code = f"import sys; import jobs.cli; print(sorted({heavy} & set(sys.modules)))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
