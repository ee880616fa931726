//! The slot of a key.

/// The number of slots.
pub(super) const SLOTS: u16 = 16_384;

/// The slot of a key: that of what is between the first brace and the next closing one, if there is
/// something, so that keys which share that are together.
pub(crate) fn of(key: &str) -> u16 {
    let key = key.as_bytes();
    let tag = || {
        let begin = 1 + key.iter().position(|byte| *byte == b'{')?;
        let length = key[begin..].iter().position(|byte| *byte == b'}')?;
        (length > 0).then(|| &key[begin..begin + length])
    };
    crc16(tag().unwrap_or(key)) % SLOTS
}

/// CRC-16 with the polynomial 0x1021 and nothing before or after (XMODEM).
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| {
            let shifted = crc << 1;
            if crc & 0x8000 == 0 {
                shifted
            } else {
                shifted ^ 0x1021
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_what_redis_says_it_is() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        for (key, slot) in [
            ("", 0),
            ("foo", 12_182),
            ("dlock:import", 4122),
            ("{dlock:import}:fence", 4122),
            ("{dlock:import}:heartbeats", 4122),
            ("dlock:{x}y", 16_287),
            ("{dlock:{x}y}:fence", 8228),
        ] {
            assert_eq!(of(key), slot, "{key}");
        }
        assert_eq!(of("a{}b"), of_whole("a{}b"), "an empty tag is none");
        assert_eq!(of("a{b"), of_whole("a{b"));
        assert_eq!(of("a}b{c"), of_whole("a}b{c"));
        assert_eq!(of("{b}{c}"), of("b"), "the first tag");
    }

    fn of_whole(key: &str) -> u16 {
        crc16(key.as_bytes()) % SLOTS
    }
}
