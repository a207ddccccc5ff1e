//! Comparing files byte by byte.

/// Returns whether two files of the same length are identical. The first two functions read at an offset, `compared`
/// receives numbers of bytes.
pub(crate) fn is_same<E>(
    length: u64,
    one: impl Fn(u64, &mut [u8]) -> Result<usize, E>,
    other: impl Fn(u64, &mut [u8]) -> Result<usize, E>,
    compared: &dyn Fn(u64),
) -> Result<bool, E> {
    let (mut ours, mut theirs) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut at = 0;
    while at < length {
        let count = one(at, &mut ours)?.min(other(at, &mut theirs)?);
        if count == 0 || ours[..count] != theirs[..count] {
            return Ok(false);
        }
        at += count as u64;
        compared(count as u64);
    }
    Ok(true)
}
