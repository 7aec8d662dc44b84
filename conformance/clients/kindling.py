"""fhir-kindling (PyPI): single resources, many at once by transaction, queries that page, update and delete in a Bundle."""

import os

from fhir.resources.patient import Patient
from fhir_kindling import FhirServer

server = FhirServer(os.environ["BASE"], token=os.environ["TOKEN"])
assert server.capabilities.fhirVersion == "4.0.1"

made = server.add(Patient(name=[{"family": "Kindling"}], identifier=[{"system": "urn:kindling", "value": "1"}]))
reference = f"Patient/{made.resource_id}"
read = server.get(reference)
assert read.name[0].family == "Kindling"

server.add_all([Patient(name=[{"family": f"Kindling{number}"}]) for number in range(12)])
found = server.query("Patient").all()
assert len({one.id for one in found.resources}) == len(found.resources) >= 13
assert len(server.query("Patient").limit(5).resources) == 5

read.gender = "male"
server.update([read])
assert server.get(reference).gender == "male"
server.delete(references=[reference])
try:
    server.get(reference)
except Exception as error:  # the client has no kinds of errors of its own
    assert "410" in str(error), error
else:
    raise AssertionError("it is still there")
