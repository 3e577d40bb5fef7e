"""A request that turns out wrong once the output directory is claimed: what the run had begun there is taken back.

Only loading shows whether a model fits, in the processes that will label, and by then the directory is claimed. What
ends with exit status 2 leaves it as it was all the same.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow.fs as pafs

from inference.errors import FingerprintError, JobError, OutputError, ShardlabelError
from jobs import footers, heartbeat, index, manifest, storage
from jobs.plan import Plan
from jobs.stopping import Stopped
from jobs.storage import Location


@contextmanager
def undone_if_refused(plan: Plan, committed: manifest.Committed) -> Iterator["Bookkeeping"]:
    """Put the directory's bookkeeping back when a run is refused, or the first one stopped, before it wrote a part.

    Args:
        plan: of this run.
        committed: the directory before it.

    Yields:
        What is to be told when the run begins to change the directory.

    Raises:
        JobError: the request is wrong, but parts are written, by this run or by another one of the same job.
    """
    before = Bookkeeping(plan.output)
    try:
        yield before
    except Stopped:
        # Else the claim would refuse whoever mends the job meanwhile, as if something were there.
        with suppress(OutputError):  # the stop comes first
            is_ours = before.is_begun and manifest.is_claimed(plan.output, committed.fingerprint)
            if is_ours and not committed.identities and not footers.read_footers(plan.output).identities:
                before.restore()
        raise
    except (FingerprintError, JobError):
        raise  # the directory is another job's, and nothing was begun; or the run failed
    except ShardlabelError as error:
        if not before.is_begun:
            raise  # what is there was begun by another run
        try:
            if footers.read_footers(plan.output).identities != committed.identities:
                msg = f"the run stopped: {error}; the parts written until now stay"
                raise JobError(msg) from error
            if manifest.is_claimed(plan.output, committed.fingerprint):
                before.restore()
        except OutputError as lost:
            msg = f"{error}; what the run had begun could not be taken back ({lost})"
            raise JobError(msg) from error
        raise


class Bookkeeping:
    """What a run changes before its first part is written."""

    is_begun = False
    """Whether the run has begun to change it; until then there is nothing of its own to take back."""

    def __init__(self, output: Location) -> None:
        """Keep what is there."""
        self._output = output
        names = (index.INDEX, footers.REMEMBERED, heartbeat.RUN, manifest.SUCCESS, manifest.MANIFEST)
        self._files = {name: storage.read_bytes(output.join(name)) for name in names}
        self._copies = index.find_copies(output)
        is_local = isinstance(output.filesystem, pafs.LocalFileSystem)
        folder = Path(output.join(manifest.MANIFEST).path).parent
        self._absent = [path for path in (folder, *folder.parents) if not path.exists()] if is_local else []

    def restore(self) -> None:
        """Put it back, the claim last: until then the directory is this job's."""
        for name in index.find_copies(self._output) - self._copies:
            storage.delete(self._output.join(name))
        if not self._copies:
            storage.delete_directory(self._output.join(index.KEPT))
        storage.delete_directory(self._output.join(manifest.ATTEMPTS))
        for name, content in self._files.items():
            if content is None:
                storage.delete(self._output.join(name))
            elif content != storage.read_bytes(self._output.join(name)):
                storage.write(self._output.join(name), content)
        with suppress(OSError):  # somebody put something there
            for path in self._absent:
                path.rmdir()
