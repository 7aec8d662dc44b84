"""beda.software's client (PyPI fhirpy): search builder, paging, PATCH-free saves, and its errors."""
import json
import os

from fhirpy import SyncFHIRClient
from fhirpy.base.exceptions import OperationOutcome, ResourceNotFound

client = SyncFHIRClient(os.environ["BASE"], authorization="Bearer " + os.environ["TOKEN"])
assert client.execute("metadata", method="get")["fhirVersion"] == "4.0.1"

# create, read, update
jo = client.resource("Patient", name=[{"family": "Py", "given": ["Fi"]}], gender="female")
jo.save()
again = client.reference("Patient", jo.id).to_resource()
assert again["name"][0]["family"] == "Py" and again["meta"]["versionId"] == "1"
again["birthDate"] = "2001-01-01"
again.save()
assert client.reference("Patient", jo.id).to_resource()["meta"]["versionId"] == "2"

# search, count, pages
for number in range(5):
    client.resource(
        "Condition",
        code={"coding": [{"system": "http://snomed.info/sct", "code": "733423003"}]},
        subject=jo.to_reference(),
        clinicalStatus={"coding": [{"system": "http://terminology.hl7.org/CodeSystem/condition-clinical", "code": "active"}]},
        category=[{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/condition-category", "code": "problem-list-item"}]}],
    ).save()
search = client.resources("Condition").search(patient=jo.id)
assert search.count() == 5
assert len({one.id for one in search.limit(2).fetch_all()}) == 5
assert len(search.sort("-_lastUpdated").limit(3).fetch()) == 3
first = search.first()
first.delete()
assert search.count() == 4

# faults are told
try:
    client.reference("Patient", "nobody").to_resource()
    raise AssertionError("nobody was read")
except ResourceNotFound:
    pass
try:
    client.resource("Task", status="requested", intent="order", code={"coding": [{"system": "http://hl7.org/fhir/CodeSystem/task-code", "code": "fulfill"}]}).save()
    raise AssertionError("a referral without focus was taken")
except OperationOutcome as refused:
    assert "Task." in str(refused), refused

# transaction
with open(os.environ["REFERRAL"]) as file:
    answer = client.execute("", method="post", data=json.load(file))
assert answer["type"] == "transaction-response" and len(answer["entry"]) == 4
task = [one["resource"] for one in answer["entry"] if one["resource"]["resourceType"] == "Task"][0]
found = client.resources("Task").search(_id=task["id"]).include("Task", "focus").include("Task", "patient").fetch_raw()
assert sorted(one["resource"]["resourceType"] for one in found["entry"]) == ["Patient", "ServiceRequest", "Task"]
