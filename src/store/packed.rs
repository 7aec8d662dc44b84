//! What a version says, packed: a quarter of its bytes, in the same column of text.
//!
//! Resources say the same things again and again: element names, systems, profiles. [`DICTIONARY`] holds them, so that a
//! short text is packed as well as a long one. What is packed begins with [`PACKED`] and goes on with seven bits a
//! character, for both databases hold texts and neither the zero character. What begins with `{` is as it was sent: so is
//! what was stored before there was packing, and what would not get shorter.
//!
//! Promises that what was packed comes back to the letter, or not at all: each carries a checksum. The dictionary is part
//! of the format and never changes; a better one gets a sign of its own. <https://www.rfc-editor.org/rfc/rfc8878>

use std::cell::RefCell;
use std::io;
use std::sync::{Arc, LazyLock};

use zstd::bulk::{Compressor, Decompressor};
use zstd::dict::{DecoderDictionary, EncoderDictionary};
use zstd::zstd_safe::{CParameter, get_frame_content_size};

use crate::error::Error;

/// What resources have in common; not JSON as a whole.
const DICTIONARY: &[u8] = include_bytes!("packed.txt");

/// The sign of what was packed with [`DICTIONARY`].
const PACKED: char = '1';

/// Zstandard's quickest that looks for what repeats; more effort saves a twentieth.
const LEVEL: i32 = 1;

/// Longest text that is packed, and that is unpacked again: many times the largest body that is taken by default.
const LONGEST: usize = 256 << 20;

/// What every frame begins with; left out.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// What stands for the zero character.
const ZERO: char = '\u{80}';

static TO_PACK: LazyLock<EncoderDictionary<'static>> = LazyLock::new(|| EncoderDictionary::copy(DICTIONARY, LEVEL));
static TO_UNPACK: LazyLock<DecoderDictionary<'static>> = LazyLock::new(|| DecoderDictionary::copy(DICTIONARY));

thread_local! {
    // Their tables are larger than most texts: they are made once a thread.
    static PACKING: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static UNPACKING: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

fn compress(text: &[u8]) -> io::Result<Vec<u8>> {
    PACKING.with_borrow_mut(|kept| match kept {
        Some(packing) => packing.compress(text),
        None => {
            let mut packing = Compressor::with_prepared_dictionary(&TO_PACK)?;
            packing.set_parameter(CParameter::ChecksumFlag(true))?;
            kept.insert(packing).compress(text)
        }
    })
}

fn decompress(frame: &[u8], length: usize) -> io::Result<Vec<u8>> {
    UNPACKING.with_borrow_mut(|kept| match kept {
        Some(unpacking) => unpacking.decompress(frame, length),
        None => kept.insert(Decompressor::with_prepared_dictionary(&TO_UNPACK)?).decompress(frame, length),
    })
}

/// A text as it is stored.
pub(super) fn pack(text: &str) -> Result<String, Error> {
    if !text.starts_with('{') || text.len() > LONGEST {
        return Ok(text.to_string());
    }
    let frame = compress(text.as_bytes()).map_err(Error::internal)?;
    let packed = spell(frame.get(MAGIC.len()..).unwrap_or_default());
    Ok(if packed.len() < text.len() { packed } else { text.to_string() })
}

/// What a stored text says.
pub(super) fn unpack(stored: &str) -> Result<Arc<str>, Error> {
    let Some(spelt) = stored.strip_prefix(PACKED) else {
        return match stored.is_empty() || stored.starts_with('{') {
            true => Ok(stored.into()),
            false => Err(Error::internal("a version that is packed in a way that is not known")),
        };
    };
    let mut frame = MAGIC.to_vec();
    read(spelt, &mut frame);
    let length = get_frame_content_size(&frame).ok().flatten().and_then(|length| usize::try_from(length).ok());
    let length = length.filter(|length| *length <= LONGEST);
    let length = length.ok_or_else(|| Error::internal("a packed version of no length"))?;
    let text = decompress(&frame, length).map_err(Error::internal)?;
    String::from_utf8(text).map(Arc::from).map_err(Error::internal)
}

/// Bytes as characters of seven bits.
fn spell(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 8 / 7 + bytes.len() / 64 + 8);
    text.push(PACKED);
    let mut put = |bits: u32| match u8::try_from(bits & 0x7f).unwrap_or_default() {
        0 => text.push(ZERO),
        bits => text.push(char::from(bits)),
    };
    let (mut kept, mut count) = (0_u32, 0);
    for byte in bytes {
        kept = kept << 8 | u32::from(*byte);
        count += 8;
        while count >= 7 {
            count -= 7;
            put(kept >> count);
        }
        kept &= 0x7f;
    }
    if count > 0 {
        put(kept << (7 - count));
    }
    text
}

/// The bytes that were spelt so, appended. Less than eight bits at the end are none.
fn read(text: &str, bytes: &mut Vec<u8>) {
    bytes.reserve(text.len());
    let (mut kept, mut count) = (0_u32, 0);
    for one in text.chars() {
        kept = (kept << 7 | u32::from(one) & 0x7f) & 0x3fff;
        count += 7;
        if count >= 8 {
            count -= 8;
            bytes.extend(u8::try_from(kept >> count & 0xff));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_dictionary_never_changes() {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, DICTIONARY);
        let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            digest, "082caebd38c37c40b3e801be8c3a53dcf00306fa8c5bd3cced106ac0a4bda94e",
            "what is stored could not be read any more"
        );
    }

    // P20
    #[test]
    fn what_resources_have_in_common_takes_no_room() {
        let task = r#"{"resourceType":"Task","id":"01a21799-efdb-7727-bd0d-1f13acd5c2a8","meta":{"profile":["http://hl7.org/fhir/us/sdoh-clinicalcare/StructureDefinition/SDOHCC-TaskForReferralManagement"],"versionId":"1","lastUpdated":"2026-11-26T11:24:54.107374Z"},"status":"requested","intent":"order","code":{"coding":[{"system":"http://hl7.org/fhir/CodeSystem/task-code","code":"fulfill","display":"Fulfill the focal request"}]},"for":{"reference":"Patient/01a21799-e676-7374-8ecb-e47f71eb87aa"},"owner":{"reference":"Organization/agency"}}"#;
        let packed = pack(task).unwrap();
        assert!(packed.len() * 3 < task.len(), "{}", packed.len());
        assert_eq!(&*unpack(&packed).unwrap(), task);
    }

    #[test]
    fn what_is_not_packed_stays_as_it_is() {
        for text in ["", "{}", r#"{"resourceType":"Basic","id":"é\u0000"}"#] {
            assert_eq!(&*unpack(text).unwrap(), text);
        }
        assert_eq!(pack("").unwrap(), "");
        assert_eq!(pack("{}").unwrap(), "{}");
    }

    #[test]
    fn what_was_damaged_is_an_error() {
        let text = r#"{"resourceType":"Task","status":"requested","note":[{"text":"nobody knows"}]}"#.repeat(3);
        let packed = pack(&text).unwrap();
        assert!(packed.starts_with(PACKED));
        assert!(unpack("2abc").is_err() && unpack("1").is_err());
        let characters: Vec<char> = packed.chars().collect();
        for place in 1..characters.len() {
            let mut damaged = characters.clone();
            damaged[place] = char::from(u8::try_from(u32::from(damaged[place]) & 0x7f ^ 0x40).unwrap()).max('\u{1}');
            let damaged: String = damaged.into_iter().collect();
            assert!(unpack(&damaged).map_or(true, |said| *said == *text), "{place}");
            let cut: String = characters[..place].iter().collect();
            assert!(unpack(&cut).is_err(), "{place}");
        }
    }

    proptest! {
        #[test]
        fn what_was_packed_comes_back(text in r#"\{"resourceType":"(Task|Patient|[a-zé\\"]{0,9})","status":"[^\x00]{0,400}"\}"#) {
            let packed = pack(&text).unwrap();
            prop_assert!(packed.len() <= text.len() && !packed.contains('\0'));
            prop_assert_eq!(&*unpack(&packed).unwrap(), &*text);
        }

        #[test]
        fn any_bytes_are_spelt(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let spelt = spell(&bytes);
            let mut back = Vec::new();
            read(spelt.strip_prefix(PACKED).unwrap(), &mut back);
            prop_assert_eq!(back, bytes);
        }
    }
}
