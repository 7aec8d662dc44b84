//! The parameters of people: Patient, RelatedPerson, Practitioner, and Group (G-147, G-151, G-152, US Core).

use super::{ACTIVE, ADDRESS, CITY, CODE, EMAIL, IDENTIFIER, PARTIES, PHONE, POSTALCODE, Parameter, STATE, TYPE};
use super::{code, composite, date, reference, text, token};

const NAME: Parameter = text("name", &["name.text", "name.family", "name.given", "name.prefix", "name.suffix"]);
const GENDER: Parameter = code("gender", &["gender"], "http://hl7.org/fhir/administrative-gender");
const BIRTHDATE: Parameter = date("birthdate", &["birthDate"]);
const TELECOM: Parameter = token("telecom", &["telecom"]);

pub(super) fn parameters(kind: &str) -> Option<&'static [Parameter]> {
    Some(match kind {
        "Patient" => {
            const {
                &[
                    IDENTIFIER,
                    ACTIVE,
                    NAME,
                    text("family", &["name.family"]),
                    text("given", &["name.given"]),
                    GENDER,
                    BIRTHDATE,
                    date("death-date", &["deceasedDateTime"]),
                    PHONE,
                    EMAIL,
                    TELECOM,
                    ADDRESS,
                    CITY,
                    STATE,
                    POSTALCODE,
                    token("language", &["communication.language"]),
                    reference(
                        "general-practitioner",
                        &["generalPractitioner"],
                        &["Practitioner", "PractitionerRole", "Organization"],
                    ),
                    reference("organization", &["managingOrganization"], &["Organization"]),
                ]
            }
        }
        "RelatedPerson" => {
            const {
                &[
                    IDENTIFIER,
                    ACTIVE,
                    NAME,
                    GENDER,
                    BIRTHDATE,
                    PHONE,
                    EMAIL,
                    TELECOM,
                    token("relationship", &["relationship"]),
                    reference("patient", &["patient"], &["Patient"]),
                ]
            }
        }
        "Practitioner" => {
            const {
                &[
                    IDENTIFIER,
                    ACTIVE,
                    NAME,
                    text("family", &["name.family"]),
                    text("given", &["name.given"]),
                    GENDER,
                    PHONE,
                    EMAIL,
                    TELECOM,
                ]
            }
        }
        "Group" => {
            const {
                &[
                    IDENTIFIER,
                    TYPE,
                    CODE,
                    token("actual", &["actual"]),
                    token("characteristic", &["characteristic.code"]),
                    token("value", &["characteristic.valueCodeableConcept", "characteristic.valueBoolean"]),
                    composite(
                        "characteristic-value",
                        &["characteristic"],
                        &[&["code"], &["valueCodeableConcept", "valueBoolean"]],
                    ),
                    reference(
                        "member",
                        &["member.entity"],
                        &["Patient", "Practitioner", "PractitionerRole", "Device", "Medication", "Group"],
                    ),
                    reference("managing-entity", &["managingEntity"], PARTIES),
                ]
            }
        }
        _ => return None,
    })
}
