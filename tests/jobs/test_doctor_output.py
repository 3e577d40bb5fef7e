"""The doctor on an output in a store: it is written to, and nothing is left behind."""

import pytest

from jobs import doctor, storage
from jobs.storage import locate
from tests.jobs.conftest import MakeJob
from tests.jobs.faulty_proxy import faulty_proxy
from tests.jobs.s3_server import Store
from tests.jobs.test_doctor import everything_in


def test_nothing_is_left_in_a_store(make_job: MakeJob, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "SETTLE_SECONDS", 0.0)
    place = locate(store.uri("doctor") + "&allow_bucket_creation=true")
    place.filesystem.create_dir(place.path)
    storage.write(place.join("old/_notes/a.txt"), b"old")
    bucket = store.root / "doctor"
    before = everything_in(bucket)
    for name in ("new", "deep/new", "old"):
        with faulty_proxy(store.server_port) as proxy:
            job = make_job(output={"path": store.uri(f"doctor/{name}", proxy.port)})
            (writing,) = [finding for finding in doctor.examine(job).findings if finding.check == "writing"]
            changes = [(request.method, request.path) for request in proxy.requests if request.is_change]
        assert writing.level == "ok", writing
        assert [method for method, _ in changes] == ["PUT", "DELETE"]
        assert len({path for _, path in changes}) == 1, "what was put is deleted, and no folder is put"
        assert everything_in(bucket) == before
    lost = doctor.examine(make_job(output={"path": store.uri("no-such-bucket/new")})).findings
    assert "error" in {finding.level for finding in lost if finding.check == "writing"}
