"""Every error a user can cause, each with one readable sentence: where, what was given, what was expected, what to do.

ShardlabelError
├── ConfigError           a key or a value of the request is wrong
├── InputError            the input cannot be used: nothing there, a missing column, a wrong type
├── ModelError            the checkpoint cannot be used
├── OutputError           the output directory cannot be used
│   └── FingerprintError  it holds the output of another job
└── JobError              the request was right, the run failed
    └── DeviceError       the accelerator of this process can no longer be used
"""


class ShardlabelError(Exception):
    """Base of all errors below; the command line prints its message alone and exits with `exit_status`."""

    exit_status = 2


class ConfigError(ShardlabelError):
    """A key or a value of the request is wrong."""


class InputError(ShardlabelError):
    """The input cannot be used."""


class ModelError(ShardlabelError):
    """The checkpoint cannot be used."""


class OutputError(ShardlabelError):
    """The output directory cannot be used."""


class FingerprintError(OutputError):
    """The output directory holds the output of another job."""


class JobError(ShardlabelError):
    """The request was right, the run failed."""

    exit_status = 1


class DeviceError(JobError):
    """The accelerator of this process can no longer be used; another process may go on."""
