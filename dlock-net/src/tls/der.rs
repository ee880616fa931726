//! The few parts of a certificate that rustls does not hand out.

/// One element of DER: its tag, its content, and all its bytes.
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    whole: &'a [u8],
}

const SEQUENCE: u8 = 0x30;
const OBJECT: u8 = 0x06;
/// `[0]`: the version of a certificate, or the hash of RSASSA-PSS.
const FIRST: u8 = 0xa0;

/// Takes an element from the front of `bytes`.
fn take<'a>(bytes: &mut &'a [u8]) -> Option<Element<'a>> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        first if first < 0x80 => (usize::from(first), rest),
        // One to four bytes of length.
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let number = digits
                .iter()
                .fold(0, |number: u32, digit| number << 8 | u32::from(*digit));
            (usize::try_from(number).ok()?, rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    let whole = &bytes[..bytes.len() - rest.len()];
    *bytes = rest;
    Some(Element {
        tag,
        content,
        whole,
    })
}

fn take_tagged<'a>(bytes: &mut &'a [u8], tag: u8) -> Option<Element<'a>> {
    take(bytes).filter(|element| element.tag == tag)
}

/// The object that names an algorithm, and its parameters.
type Algorithm<'a> = (&'a [u8], &'a [u8]);

fn take_algorithm<'a>(bytes: &mut &'a [u8]) -> Option<Algorithm<'a>> {
    let mut algorithm = take_tagged(bytes, SEQUENCE)?.content;
    let object = take_tagged(&mut algorithm, OBJECT)?;
    Some((object.content, algorithm))
}

/// The algorithm by which a certificate was signed.
pub(super) fn signature_algorithm(mut certificate: &[u8]) -> Option<Algorithm<'_>> {
    let mut parts = take_tagged(&mut certificate, SEQUENCE)?.content;
    take_tagged(&mut parts, SEQUENCE)?;
    take_algorithm(&mut parts)
}

/// The hash in the parameters of RSASSA-PSS; empty if it is the default.
pub(super) fn hash_of_pss(mut parameters: &[u8]) -> Option<&[u8]> {
    let mut parts = take_tagged(&mut parameters, SEQUENCE)?.content;
    match take(&mut parts) {
        Some(element) if element.tag == FIRST => {
            let mut hash = element.content;
            take_algorithm(&mut hash).map(|(object, _)| object)
        }
        _ => Some(&[]),
    }
}

/// The public key of a certificate, with its algorithm.
pub(super) fn public_key(mut certificate: &[u8]) -> Option<&[u8]> {
    let mut parts = take_tagged(&mut certificate, SEQUENCE)?.content;
    let mut signed = take_tagged(&mut parts, SEQUENCE)?.content;
    // Version 1 has no number of its version.
    if take(&mut signed)?.tag == FIRST {
        take(&mut signed)?;
    }
    // That was the serial number. Then come the algorithm, the issuer, the validity, the subject.
    for _ in 0..4 {
        take_tagged(&mut signed, SEQUENCE)?;
    }
    take_tagged(&mut signed, SEQUENCE).map(|key| key.whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    #[test]
    fn lengths_are_read_in_each_form() {
        let long = [&[0x30, 0x82, 0x01, 0x00][..], &[7; 256]].concat();
        for (bytes, content) in [
            (&[0x30, 0x01, 7, 9][..], 1),
            (&[0x30, 0x81, 0x02, 7, 7], 2),
            (&long, 256),
        ] {
            let mut rest = bytes;
            let element = take(&mut rest).unwrap();
            assert_eq!((element.tag, element.content.len()), (0x30, content));
            assert_eq!(element.whole.len() + rest.len(), bytes.len());
        }
    }

    proptest! {
        /// Of bytes that are often the start of an element.
        #[test]
        fn any_bytes_are_read_to_parts_of_themselves(
            bytes in vec(prop_oneof![Just(0x30), Just(0x06), Just(0xa0), 0_u8..40, any::<u8>()], 0..120)
        ) {
            let is_part = |part: &[u8]| {
                part.is_empty() || bytes.as_slice().windows(part.len()).any(|window| window == part)
            };
            if let Some((object, parameters)) = signature_algorithm(&bytes) {
                assert!(is_part(object) && is_part(parameters));
                hash_of_pss(parameters);
            }
            assert!(public_key(&bytes).is_none_or(is_part));
            let mut rest = bytes.as_slice();
            let mut read = 0;
            while let Some(element) = take(&mut rest) {
                read += element.whole.len();
                assert!(element.content.len() < element.whole.len());
            }
            assert_eq!(read + rest.len(), bytes.len());
        }
    }

    #[test]
    fn what_ends_too_early_is_nothing() {
        for bytes in [
            &[][..],
            &[0x30],
            &[0x30, 1],
            &[0x30, 0x80],
            &[0x30, 0x82, 1],
            &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 1],
            &[0x30, 0x85, 0, 0, 0, 0, 1, 1],
        ] {
            assert!(take(&mut { bytes }).is_none(), "{bytes:?}");
            assert!(signature_algorithm(bytes).is_none());
            assert!(public_key(bytes).is_none());
        }
    }
}
