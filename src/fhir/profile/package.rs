//! A FHIR package: the `.tgz` in which a guide publishes its definitions.
//!
//! Read are StructureDefinitions, ValueSets and CodeSystems, wherever in the archive they lie; the rest is passed over.
//! Everything is bounded: an archive that unpacks beyond measure is refused, not unpacked.
//! <https://confluence.hl7.org/display/FHIR/NPM+Package+Specification>

use std::io::Read;

use flate2::read::GzDecoder;
use serde_json::{Map, Value};

use crate::error::Error;
use crate::fhir::Resource;

/// Most bytes of an unpacked archive.
const MOST_BYTES: u64 = 512 << 20;
/// Most bytes of one file in it.
const LARGEST_FILE: u64 = 32 << 20;
/// Most files in it.
const MOST_FILES: usize = 50_000;
/// A tar archive is made of blocks of this many bytes.
const BLOCK: usize = 512;

/// What a package brings.
#[derive(Debug, Clone, Default)]
pub struct Package {
    /// `hl7.fhir.us.sdoh-clinicalcare#3.0.0`, from its `package.json`.
    pub name: String,
    /// Its StructureDefinitions.
    pub structures: Vec<Map<String, Value>>,
    /// Its code systems and value sets.
    pub terminology: Vec<Resource>,
    /// The releases of FHIR that it says it is for.
    releases: Vec<String>,
}

impl Package {
    /// Reads the bytes of a `.tgz`.
    pub fn read(bytes: &[u8]) -> Result<Package, Error> {
        let mut package = Package::default();
        let mut unpacked = GzDecoder::new(bytes).take(MOST_BYTES);
        for _ in 0..MOST_FILES {
            let Some(size) = next_file(&mut unpacked)? else { return package.complete() };
            if size > LARGEST_FILE {
                return Err(fault("a file in it is too large"));
            }
            let mut content = Vec::new();
            unpacked.by_ref().take(size).read_to_end(&mut content).map_err(|_| fault("it can't be unpacked"))?;
            let padding = size.next_multiple_of(BLOCK as u64) - size;
            std::io::copy(&mut unpacked.by_ref().take(padding), &mut std::io::sink())
                .map_err(|_| fault("it can't be unpacked"))?;
            if content.len() as u64 != size {
                return Err(fault("it ends too early, or unpacks beyond measure"));
            }
            package.take(&content);
        }
        Err(fault("it has too many files"))
    }

    fn complete(self) -> Result<Package, Error> {
        if self.name.is_empty() || (self.structures.is_empty() && self.terminology.is_empty()) {
            return Err(fault("it has no package.json, or neither profiles nor terminology"));
        }
        if !self.releases.is_empty() && !self.releases.iter().any(|release| release.starts_with("4.")) {
            return Err(fault("it is for another release of FHIR than R4"));
        }
        Ok(self)
    }

    fn take(&mut self, content: &[u8]) {
        let Ok(Value::Object(map)) = serde_json::from_slice(content) else { return };
        let text = |name: &str| map.get(name).and_then(Value::as_str);
        match text("resourceType") {
            Some("StructureDefinition") => self.structures.push(map),
            Some("ValueSet" | "CodeSystem") => self.terminology.extend(Resource::from_value(Value::Object(map)).ok()),
            Some(_) => {}
            // package.json; the index beside it has neither.
            None => {
                if let (Some(name), Some(version)) = (text("name"), text("version")) {
                    self.name = format!("{name}#{version}");
                    let releases = map.get("fhirVersions").and_then(Value::as_array).into_iter().flatten();
                    self.releases.extend(releases.filter_map(Value::as_str).map(str::to_string));
                }
            }
        }
    }
}

fn fault(why: &str) -> Error {
    Error::malformed(format!("This is no FHIR package: {why}."))
}

/// The size of the next file; none at the end. What is no file (a directory, a long name) has its content passed over.
fn next_file(archive: &mut impl Read) -> Result<Option<u64>, Error> {
    loop {
        let mut header = [0_u8; BLOCK];
        match archive.read_exact(&mut header) {
            Ok(()) => {}
            Err(_) => return Err(fault("it ends too early, or unpacks beyond measure")),
        }
        if header.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let digits = header.get(124..136).unwrap_or_default();
        let digits = std::str::from_utf8(digits).unwrap_or_default().trim_matches(['\0', ' ']);
        let size = u64::from_str_radix(digits, 8).map_err(|_| fault("it is no tar archive"))?;
        if matches!(header.get(156), Some(b'0' | 0)) {
            return Ok(Some(size));
        }
        let passed = size.next_multiple_of(BLOCK as u64);
        let skipped = std::io::copy(&mut archive.take(passed), &mut std::io::sink());
        if skipped.ok() != Some(passed) {
            return Err(fault("it ends too early, or unpacks beyond measure"));
        }
    }
}

#[cfg(test)]
pub(in crate::fhir) mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use proptest::prelude::*;
    use serde_json::json;
    use std::io::Write;

    /// A package of these files.
    pub(in crate::fhir) fn packed(files: &[Value]) -> Vec<u8> {
        let mut tar = Vec::new();
        for file in files {
            let content = file.to_string().into_bytes();
            entry(&mut tar, b'0', &content);
        }
        tar.extend([0; 2 * BLOCK]);
        zipped(&tar)
    }

    fn entry(tar: &mut Vec<u8>, kind: u8, content: &[u8]) {
        let mut header = [0_u8; BLOCK];
        header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        header[156] = kind;
        header[..9].copy_from_slice(b"package/x");
        tar.extend(header);
        tar.extend(content);
        tar.resize(tar.len().next_multiple_of(BLOCK), 0);
    }

    fn zipped(bytes: &[u8]) -> Vec<u8> {
        let mut out = GzEncoder::new(Vec::new(), Compression::fast());
        out.write_all(bytes).unwrap();
        out.finish().unwrap()
    }

    fn files() -> Vec<Value> {
        vec![
            json!({"name": "a.guide", "version": "1.0.0"}),
            json!({"resourceType": "StructureDefinition", "url": "http://a/b"}),
            json!({"resourceType": "ValueSet", "url": "http://a/v"}),
            json!({"resourceType": "Patient"}),
        ]
    }

    #[test]
    fn definitions_are_taken_and_the_rest_passed_over() {
        let package = Package::read(&packed(&files())).unwrap();
        assert_eq!(
            (package.name.as_str(), package.structures.len(), package.terminology.len()),
            ("a.guide#1.0.0", 1, 1)
        );
        let mut tar = Vec::new();
        entry(&mut tar, b'5', b"");
        entry(&mut tar, b'x', &[b'p'; 700]);
        for file in files() {
            entry(&mut tar, 0, file.to_string().as_bytes());
        }
        tar.extend([0; BLOCK]);
        assert_eq!(Package::read(&zipped(&tar)).unwrap().structures.len(), 1);
    }

    #[test]
    fn what_is_none_or_lies_about_its_size_is_refused() {
        let mut lying = Vec::new();
        entry(&mut lying, b'0', b"{}");
        lying[124..135].copy_from_slice(b"77777777777");
        let mut cut = packed(&files());
        cut.truncate(cut.len() / 2);
        let mut newer = files();
        newer[0]["fhirVersions"] = json!(["5.0.0"]);
        let none = packed(&[json!({})]);
        for bytes in [b"".to_vec(), b"{}".to_vec(), zipped(b"no tar"), zipped(&lying), cut, none, packed(&newer)] {
            assert!(Package::read(&bytes).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _ = Package::read(&bytes);
            let _ = Package::read(&zipped(&bytes));
        }
    }
}
