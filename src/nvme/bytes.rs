//! Little-endian fields of a byte slice, by offset.
//!
//! All panic when the field does not fit in the slice: offsets are constants of this room and slices
//! are sized by their callers, so a panic is a mistake in the program and never a peer's doing.

/// The `u16` at `offset`.
#[inline(always)]
pub fn get_u16(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(get_array(bytes, offset))
}

/// The `u32` at `offset`.
#[inline(always)]
pub fn get_u32(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(get_array(bytes, offset))
}

/// The `u64` at `offset`.
#[inline(always)]
pub fn get_u64(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(get_array(bytes, offset))
}

/// The `u128` at `offset`.
#[inline(always)]
pub fn get_u128(bytes: &[u8], offset: usize) -> u128 {
    u128::from_le_bytes(get_array(bytes, offset))
}

/// The `N` bytes at `offset`.
#[inline(always)]
pub fn get_array<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[offset..offset + N]);
    array
}

/// Writes a `u16` at `offset`.
#[inline(always)]
pub fn put_u16(bytes: &mut [u8], offset: usize, value: u16) {
    bytes[offset..offset + 2].copy_from_slice(&value.to_le_bytes());
}

/// Writes a `u32` at `offset`.
#[inline(always)]
pub fn put_u32(bytes: &mut [u8], offset: usize, value: u32) {
    bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
}

/// Writes a `u64` at `offset`.
#[inline(always)]
pub fn put_u64(bytes: &mut [u8], offset: usize, value: u64) {
    bytes[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
}

/// Writes a `u128` at `offset`.
#[inline(always)]
pub fn put_u128(bytes: &mut [u8], offset: usize, value: u128) {
    bytes[offset..offset + 16].copy_from_slice(&value.to_le_bytes());
}

/// Writes `text` at `offset` in a field of `size` bytes, cut to fit and padded with `padding`.
///
/// NVMe pads ASCII strings with spaces and UTF-8 strings (NQNs) with zeroes (NVMe Base 2.0, 1.4.2).
pub fn put_text(bytes: &mut [u8], offset: usize, size: usize, text: &str, padding: u8) {
    let field = &mut bytes[offset..offset + size];
    let count = text.len().min(size);
    field[..count].copy_from_slice(&text.as_bytes()[..count]);
    field[count..].fill(padding);
}

/// The text of a field that is padded with zeroes or spaces; `None` when it is not UTF-8.
pub fn get_text(bytes: &[u8], offset: usize, size: usize) -> Option<&str> {
    let field = &bytes[offset..offset + size];
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(size);
    std::str::from_utf8(&field[..end])
        .ok()
        .map(|text| text.trim_end_matches(' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_little_endian() {
        let mut bytes = [0; 32];
        put_u16(&mut bytes, 1, 0x0201);
        put_u32(&mut bytes, 3, 0x0403_0201);
        put_u64(&mut bytes, 7, 0x0807_0605_0403_0201);
        put_u128(&mut bytes, 16, 7);
        assert_eq!(
            &bytes[..16],
            &[0, 1, 2, 1, 2, 3, 4, 1, 2, 3, 4, 5, 6, 7, 8, 0]
        );
        assert_eq!(get_u16(&bytes, 1), 0x0201);
        assert_eq!(get_u32(&bytes, 3), 0x0403_0201);
        assert_eq!(get_u64(&bytes, 7), 0x0807_0605_0403_0201);
        assert_eq!(get_u128(&bytes, 16), 7);
    }

    #[test]
    fn text_is_padded_and_cut() {
        let mut bytes = [0xFF; 8];
        put_text(&mut bytes, 1, 4, "ab", b' ');
        assert_eq!(bytes, [0xFF, b'a', b'b', b' ', b' ', 0xFF, 0xFF, 0xFF]);
        assert_eq!(get_text(&bytes, 1, 4), Some("ab"));
        put_text(&mut bytes, 0, 4, "abcdef", 0);
        assert_eq!(get_text(&bytes, 0, 4), Some("abcd"));
        assert_eq!(get_text(&bytes, 5, 3), None);
    }
}
