//! Deflate streams with everything that a writer would not write: rare symbols, odd codes, missing ends.

use super::Random;

#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    used: u32,
}

impl Bits {
    /// Writes the lowest bits, lowest first.
    fn put(&mut self, value: usize, count: u32) {
        for bit in 0..count {
            if self.used == 0 {
                self.bytes.push(0);
            }
            *self.bytes.last_mut().unwrap() |= u8::from(value >> bit & 1 == 1) << self.used;
            self.used = (self.used + 1) % 8;
        }
    }

    /// Writes a Huffman code, highest bit first.
    fn code(&mut self, (code, length): (usize, u32)) {
        for bit in (0..length).rev() {
            self.put(code >> bit & 1, 1);
        }
    }
}

/// Generates a stream of a few blocks.
pub(super) fn generate(random: &mut Random) -> Vec<u8> {
    let mut bits = Bits::default();
    let blocks = 1 + random.below(3);
    for n in 0..blocks {
        // Sometimes no block is the last.
        let is_last = n + 1 == blocks && !random.once_in(12);
        bits.put(usize::from(is_last), 1);
        match random.below(8) {
            0 => stored(&mut bits, random),
            1..=3 => {
                bits.put(1, 2);
                let literals: Vec<u32> = (0..288)
                    .map(|symbol| match symbol {
                        0..144 => 8,
                        144..256 => 9,
                        256..280 => 7,
                        _ => 8,
                    })
                    .collect();
                symbols(&mut bits, random, &literals, &[5; 32]);
            }
            4..=6 => dynamic(&mut bits, random),
            _ => bits.put(3, 2),
        }
    }
    if random.once_in(6) {
        bits.bytes.extend([0x55; 5]);
    }
    if random.once_in(12) {
        bits.bytes.pop();
    }
    bits.bytes
}

fn stored(bits: &mut Bits, random: &mut Random) {
    bits.put(0, 2);
    bits.put(0, (8 - bits.used) % 8);
    let length = random.below(20);
    let complement = if random.once_in(10) { length } else { !length & 0xffff };
    bits.put(length, 16);
    bits.put(complement, 16);
    (0..length).for_each(|_| bits.put(random.below(256), 8));
}

fn dynamic(bits: &mut Bits, random: &mut Random) {
    bits.put(2, 2);
    let (literals, distances) = match random.below(4) {
        0 => (257 + random.below(32), 1 + random.below(32)),
        _ => (257 + random.below(30), 1 + random.below(30)),
    };
    let mut lengths = code_lengths(random, literals, 15, true);
    let of_distances = match random.below(6) {
        0 => vec![0; distances],
        1 => one_code(random, distances),
        _ => code_lengths(random, distances, 15, false),
    };
    lengths.extend(&of_distances);
    // The codes of the lengths: every length is written by itself.
    let of_lengths = match random.below(10) {
        0 => one_code(random, 19),
        1 => code_lengths(random, 19, 7, false),
        _ => [[5; 13].as_slice(), &[5; 3], &[0; 2], &[1]].concat(),
    };
    const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
    bits.put(literals - 257, 5);
    bits.put(distances - 1, 5);
    bits.put(15, 4);
    ORDER.iter().for_each(|&symbol| bits.put(of_lengths[symbol] as usize, 3));
    let codes = codes(&of_lengths);
    for &length in &lengths {
        bits.code(codes[length as usize]);
        if length as usize == 18 {
            bits.put(0, 7);
        }
    }
    symbols(bits, random, &lengths[..literals], &of_distances);
}

/// A code with a single symbol, of any length.
fn one_code(random: &mut Random, symbols: usize) -> Vec<u32> {
    let mut lengths = vec![0; symbols];
    lengths[random.below(symbols)] = 1 + random.below(3) as u32;
    lengths
}

/// Returns the lengths of a complete code over some of the symbols, and sometimes of one with a fault.
fn code_lengths(random: &mut Random, symbols: usize, longest: u32, with_end: bool) -> Vec<u32> {
    let mut depths = vec![0_u32];
    for _ in 0..random.below(symbols.min(60)).max(1) {
        let at = random.below(depths.len());
        if depths[at] < longest && depths.len() < symbols {
            depths[at] += 1;
            depths.push(depths[at]);
        }
    }
    let mut lengths = vec![0; symbols];
    let end = (with_end && !random.once_in(12)).then_some(256);
    for depth in depths {
        let mut symbol = match end {
            Some(end) if lengths[end] == 0 => end,
            // Rare symbols are what readers differ in.
            _ if random.once_in(3) => symbols - 1 - random.below(symbols.min(8)),
            _ => random.below(symbols),
        };
        while lengths[symbol] != 0 {
            symbol = (symbol + 1) % symbols;
        }
        lengths[symbol] = depth;
    }
    if random.once_in(10) {
        let at = random.below(symbols);
        lengths[at] = random.below(longest as usize + 1) as u32;
    }
    lengths
}

/// Returns the canonical codes of these lengths, with their lengths.
fn codes(lengths: &[u32]) -> Vec<(usize, u32)> {
    let mut next = 0;
    let mut codes = vec![(0, 0); lengths.len()];
    for length in 1..=15 {
        next <<= 1;
        for (symbol, _) in lengths.iter().enumerate().filter(|(_, of)| **of == length) {
            codes[symbol] = (next, length);
            next += 1;
        }
    }
    codes
}

/// Writes literals, copies and the end of a block.
fn symbols(bits: &mut Bits, random: &mut Random, literals: &[u32], distances: &[u32]) {
    let (literal_codes, distance_codes) = (codes(literals), codes(distances));
    let used = |lengths: &[u32], from: usize, to: usize| -> Vec<usize> {
        (from..to.min(lengths.len())).filter(|&symbol| lengths[symbol] > 0).collect()
    };
    let plain = used(literals, 0, 256);
    let copies = used(literals, 257, 288);
    let of_distance = used(distances, 0, 32);
    if !plain.is_empty() {
        for _ in 0..random.below(40) {
            bits.code(literal_codes[random.pick(&plain)]);
        }
    }
    if !copies.is_empty() {
        for _ in 0..random.below(4) {
            let symbol = match random.once_in(2) {
                true => *copies.last().unwrap(),
                false => random.pick(&copies),
            };
            bits.code(literal_codes[symbol]);
            let extra = match symbol {
                265..=284 => (symbol - 261) / 4,
                _ => 0,
            };
            bits.put(random.below(1 << extra), extra as u32);
            if of_distance.is_empty() {
                bits.put(0, 1);
                continue;
            }
            let symbol = if random.once_in(3) { random.pick(&of_distance) } else { of_distance[0] };
            bits.code(distance_codes[symbol]);
            let extra = if symbol < 4 { 0 } else { ((symbol - 2) / 2).min(13) };
            bits.put(if random.once_in(4) { random.below(1 << extra) } else { 0 }, extra as u32);
        }
    }
    if !random.once_in(20) {
        bits.code(literal_codes.get(256).copied().unwrap_or_default());
    }
}
