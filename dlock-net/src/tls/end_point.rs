//! `tls-server-end-point` of RFC 5929: what a login by SCRAM is bound to.

use ring::digest::{self, Algorithm, SHA256, SHA384, SHA512};

use super::der;

const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];
const HASH: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];

/// The hash of a certificate by the hash function with which it was signed, where that is one of
/// SHA-2, and by SHA-256 where it is MD5 or SHA-1. `None` for a signature without such a function,
/// as Ed25519: for it no binding is defined.
pub(super) fn binding(certificate: &[u8]) -> Option<Vec<u8>> {
    let hash = hash_function(certificate)?;
    Some(digest::digest(hash, certificate).as_ref().to_vec())
}

fn hash_function(certificate: &[u8]) -> Option<&'static Algorithm> {
    let (object, parameters) = der::signature_algorithm(certificate)?;
    if let Some(number) = object.strip_prefix(RSA) {
        return match number {
            [4 | 5 | 11] => Some(&SHA256),
            [12] => Some(&SHA384),
            [13] => Some(&SHA512),
            [10] => hash_named(der::hash_of_pss(parameters)?),
            _ => None,
        };
    }
    match object.strip_prefix(ECDSA)? {
        [1] | [3, 2] => Some(&SHA256),
        [3, 3] => Some(&SHA384),
        [3, 4] => Some(&SHA512),
        _ => None,
    }
}

/// The default is SHA-1.
fn hash_named(object: &[u8]) -> Option<&'static Algorithm> {
    if object.is_empty() {
        return Some(&SHA256);
    }
    match object.strip_prefix(HASH)? {
        [1] => Some(&SHA256),
        [2] => Some(&SHA384),
        [3] => Some(&SHA512),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An element with a short content.
    fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let length = u8::try_from(content.len()).unwrap();
        [&[tag, length][..], &content].concat()
    }

    fn algorithm(prefix: &[u8], number: &[u8], parameters: &[u8]) -> Vec<u8> {
        let object = element(0x06, &[prefix, number]);
        element(0x30, &[&object, parameters])
    }

    fn certificate(algorithm: &[u8]) -> Vec<u8> {
        element(0x30, &[&element(0x30, &[]), algorithm, &[0x03, 0x00]])
    }

    #[test]
    fn the_hash_is_that_of_the_signature() {
        let pss = |number| {
            let hash = algorithm(HASH, number, &[]);
            let parameters = element(0x30, &[&element(0xa0, &[&hash])]);
            algorithm(RSA, &[10], &parameters)
        };
        let ed25519 = algorithm(&[0x2b, 0x65, 0x70], &[], &[]);
        for (algorithm, length) in [
            (algorithm(RSA, &[5], &[5, 0]), Some(32)),
            (algorithm(RSA, &[11], &[5, 0]), Some(32)),
            (algorithm(RSA, &[12], &[5, 0]), Some(48)),
            (algorithm(RSA, &[13], &[5, 0]), Some(64)),
            (algorithm(RSA, &[14], &[5, 0]), None),
            (algorithm(ECDSA, &[1], &[]), Some(32)),
            (algorithm(ECDSA, &[3, 2], &[]), Some(32)),
            (algorithm(ECDSA, &[3, 3], &[]), Some(48)),
            (algorithm(ECDSA, &[3, 4], &[]), Some(64)),
            (pss(&[1]), Some(32)),
            (pss(&[2]), Some(48)),
            (pss(&[3]), Some(64)),
            (algorithm(RSA, &[10], &element(0x30, &[])), Some(32)),
            (ed25519, None),
        ] {
            let bound = binding(&certificate(&algorithm));
            assert_eq!(bound.map(|bound| bound.len()), length, "{algorithm:?}");
        }
    }
}
