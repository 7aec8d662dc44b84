//! The parameters of the shared directory: who offers what, and where (G-148…G-151, US Core).

use super::{ACTIVE, ADDRESS, CITY, EMAIL, IDENTIFIER, PHONE, POSTALCODE, Parameter, STATE, TYPE};
use super::{date, reference, status, text, token};

const NAME: Parameter = text("name", &["name", "alias"]);
const ENDPOINT: Parameter = reference("endpoint", &["endpoint"], &["Endpoint"]);

pub(super) fn parameters(kind: &str) -> Option<&'static [Parameter]> {
    Some(match kind {
        "Organization" => {
            const {
                &[
                    IDENTIFIER,
                    ACTIVE,
                    TYPE,
                    NAME,
                    ADDRESS,
                    CITY,
                    STATE,
                    POSTALCODE,
                    reference("partof", &["partOf"], &["Organization"]),
                    ENDPOINT,
                ]
            }
        }
        "HealthcareService" => {
            const {
                &[
                    IDENTIFIER,
                    ACTIVE,
                    token("service-category", &["category"]),
                    token("service-type", &["type"]),
                    token("specialty", &["specialty"]),
                    token("program", &["program"]),
                    token("characteristic", &["characteristic"]),
                    text("name", &["name"]),
                    reference("organization", &["providedBy"], &["Organization"]),
                    reference("location", &["location"], &["Location"]),
                    reference("coverage-area", &["coverageArea"], &["Location"]),
                    ENDPOINT,
                ]
            }
        }
        "Location" => {
            const {
                &[
                    IDENTIFIER,
                    status("http://hl7.org/fhir/location-status"),
                    TYPE,
                    NAME,
                    ADDRESS,
                    CITY,
                    STATE,
                    POSTALCODE,
                    reference("organization", &["managingOrganization"], &["Organization"]),
                    reference("partof", &["partOf"], &["Location"]),
                    ENDPOINT,
                ]
            }
        }
        "PractitionerRole" => {
            const {
                &[
                    IDENTIFIER,
                    ACTIVE,
                    token("role", &["code"]),
                    token("specialty", &["specialty"]),
                    date("date", &["period"]),
                    PHONE,
                    EMAIL,
                    reference("organization", &["organization"], &["Organization"]),
                    reference("practitioner", &["practitioner"], &["Practitioner"]),
                    reference("location", &["location"], &["Location"]),
                    reference("service", &["healthcareService"], &["HealthcareService"]),
                    ENDPOINT,
                ]
            }
        }
        "Endpoint" => {
            const {
                &[
                    IDENTIFIER,
                    status("http://hl7.org/fhir/endpoint-status"),
                    text("name", &["name"]),
                    token("connection-type", &["connectionType"]),
                    reference("organization", &["managingOrganization"], &["Organization"]),
                ]
            }
        }
        _ => return None,
    })
}
