"""Generated requests to a running server: every response matches its OpenAPI description."""

import pytest
from drawn import photograph

from mindfcn.serve.examples import MAX_EXAMPLES

schemathesis = pytest.importorskip("schemathesis", minversion="4.0", reason="needs schemathesis 4")
from hypothesis import HealthCheck, given, settings, strategies  # noqa: E402
from schemathesis.specs.openapi.checks import positive_data_acceptance  # noqa: E402

# The description does not define which bytes are photographs.
PHOTOGRAPHS = strategies.sampled_from([photograph()[0], photograph(suffix="JPEG")[0]])


@pytest.mark.parametrize("path, method, mode", [
    ("/api/predict", "POST", "positive"), ("/api/predict", "POST", "negative"), ("/api/model", "GET", "positive"),
    ("/api/examples/{number}", "GET", "positive"), ("/healthz", "GET", "positive")])
def test_answers_are_as_described(live, path, method, mode, tmp_path):
    for number in range(MAX_EXAMPLES):
        (tmp_path / f"{number}.png").write_bytes(photograph()[0])
    url = live(max_megapixels=0.01, images=[str(tmp_path)])[0]
    operation = schemathesis.openapi.from_url(url + "/openapi.json")[path][method]
    statuses = set()

    @given(case=operation.as_strategy(schemathesis.GenerationMode(mode)), data=strategies.none() | PHOTOGRAPHS)
    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    def check(case, data):
        if data and method == "POST" and mode == "positive":
            case.body["image"] = data
        statuses.add(case.call_and_validate(excluded_checks=[positive_data_acceptance], timeout=60).status_code)

    check()
    assert statuses <= {200, 400, 404, 422} and (200 in statuses or mode == "negative")


def test_every_operation_is_tested(live):
    described = schemathesis.openapi.from_url(live()[0] + "/openapi.json").raw_schema["paths"]
    assert {(path, method) for path, entry in described.items() for method in entry} == {
        ("/api/predict", "post"), ("/api/model", "get"), ("/api/examples/{number}", "get"), ("/healthz", "get")}
