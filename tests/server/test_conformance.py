"""schemathesis: what the description allows and forbids is asked; answers are held against it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from tests.server.live_server import Live, live

schemathesis = pytest.importorskip("schemathesis")

from schemathesis import GenerationMode  # noqa: E402
from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.specs.openapi import checks as openapi_checks  # noqa: E402

CHECKS = [
    not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_headers_conformance,
    openapi_checks.response_schema_conformance,
    openapi_checks.unsupported_method,
    openapi_checks.negative_data_rejection,
    openapi_checks.missing_required_header,
]
# A form has no null, no empty list and no list of one: they are sent as something that is allowed.
FORM_CHECKS = [check for check in CHECKS if check is not openapi_checks.negative_data_rejection]
# It never ends by itself; tests/server/test_jobs_api.py reads it.
LARGE = [HealthCheck.data_too_large, HealthCheck.large_base_example]
ENDLESS = "/api/events"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(tmp_path_factory.mktemp("home")) as server:
        yield server


def operations(server: Live) -> list[Any]:
    schema = schemathesis.openapi.from_url(f"{server.address}/openapi.json")
    found = [result.ok() for result in schema.exclude(path=ENDLESS).get_all_operations()]
    assert len(found) > 20
    return found


def fresh_ids(server: Live, path: str) -> list[str]:
    """A finished job and a waiting one. Events of one that waits would not end."""
    done = server.add("done").id
    server.finish(server.claim())
    return [done] if path.endswith("/events") else [done, server.add("waiting").id]


def ask(server: Live, operation: Any, mode: Any, examples: int) -> None:
    """Raise what an answer does not hold to."""
    ids = fresh_ids(server, operation.path)

    @seed(7)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, *LARGE],
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        if case.path_parameters.get("id") and mode is GenerationMode.POSITIVE:
            # The name of a job that is there, in place of one that only looks like it.
            case.path_parameters["id"] = ids[sum(case.path_parameters["id"].encode()) % len(ids)]
        response = case.call(timeout=30)
        checks = CHECKS if case.media_type != "multipart/form-data" else FORM_CHECKS
        case.validate_response(response, checks=checks)

    run()


def conform(server: Live, examples: int) -> None:
    for operation in operations(server):
        ask(server, operation, GenerationMode.POSITIVE, examples)
        if operation.body or operation.query or operation.path_parameters:
            ask(server, operation, GenerationMode.NEGATIVE, examples)
        for job in server.store.queue():
            server.store.delete(job.id)
    assert server.client.get("/healthz").status_code == 200


def test_answers_are_as_described(prepared: Live):
    conform(prepared, 3)


@pytest.mark.slow
def test_answers_are_as_described_at_length(prepared: Live):
    conform(prepared, 150)
