//! A guide's package: any bytes as the archive inside the `.tgz`.
#![no_main]

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use libfuzzer_sys::fuzz_target;
use loopgate_fuzz::fhir::profile::package::Package;

fuzz_target!(|bytes: &[u8]| {
    let _ = Package::read(bytes);
    let mut packed = GzEncoder::new(Vec::new(), Compression::none());
    packed.write_all(bytes).unwrap();
    if let Ok(package) = Package::read(&packed.finish().unwrap()) {
        assert!(!package.name.is_empty());
    }
});
