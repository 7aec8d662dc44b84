"""The SMART Health IT client for Python (PyPI fhirclient): strict models of R4, so what we answer is read by another."""
import json
import os

from fhirclient import client, server
from fhirclient.models import bundle, capabilitystatement, condition, patient, task


def connected(token):
    smart = client.FHIRClient(settings={"app_id": "conformance", "api_base": os.environ["BASE"] + "/"})
    smart.server.session.headers["Authorization"] = "Bearer " + token
    assert smart.ready or smart.prepare(), "the CapabilityStatement was not understood"
    return smart


smart = connected(os.environ["TOKEN"])
statement = capabilitystatement.CapabilityStatement(smart.server.request_json("metadata"))
assert statement.fhirVersion == "4.0.1" and statement.rest[0].mode == "server"

# create, read
made = patient.Patient({"name": [{"family": "Bundle", "given": ["Kim"]}], "gender": "other", "birthDate": "1991-05-04"})
body = made.create(smart.server)
jo = patient.Patient.read(body["id"], smart.server)
assert jo.name[0].family == "Bundle" and jo.birthDate.isostring == "1991-05-04"

# update, delete
jo.gender = "female"
jo.update(smart.server)
assert patient.Patient.read(jo.id, smart.server).gender == "female"
for number in range(3):
    one = condition.Condition({
        "clinicalStatus": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/condition-clinical", "code": "active"}]},
        "category": [{"coding": [{"system": "http://hl7.org/fhir/us/core/CodeSystem/condition-category", "code": "health-concern"}]}],
        "code": {"coding": [{"system": "http://snomed.info/sct", "code": "733423003"}]},
        "subject": {"reference": "Patient/" + jo.id},
    })
    one.create(smart.server)

# search, page by page
search = condition.Condition.where(struct={"patient": jo.id, "_count": "1"})
found = list(search.perform_resources_iter(smart.server))
assert len(found) == 3 and len({one.id for one in found}) == 3, len(found)
condition.Condition.read(found[0].id, smart.server).delete()
assert len(list(search.perform_resources_iter(smart.server))) == 2
try:
    condition.Condition.read(found[0].id, smart.server)
    raise AssertionError("a deleted Condition was read")
except server.FHIRNotFoundException:
    raise AssertionError("410, not 404")
except Exception as gone:
    assert "410" in str(gone), gone

# transaction: a whole referral, and what the target sees of it
with open(os.environ["REFERRAL"]) as file:
    sent = bundle.Bundle(json.load(file))
answer = bundle.Bundle(smart.server.post_json("", sent.as_json()).json())
assert answer.type == "transaction-response" and len(answer.entry) == 4
mine = [one.resource for one in answer.entry if one.resource and one.resource.resource_type == "Task"][0]
target = connected(os.environ["TARGET_TOKEN"])
theirs = task.Task.where(struct={"owner": "Organization/pantry", "_include": "Task:focus"}).perform(target.server)
assert [one.search.mode for one in theirs.entry] == ["match", "include"], theirs.as_json()
accepted = task.Task.read(theirs.entry[0].resource.id, target.server)
accepted.status = "accepted"
accepted.update(target.server)
assert task.Task.read(mine.id, smart.server).status == "in-progress"
