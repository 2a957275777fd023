//! The share of one record in its window's checksum: CRC-32 of its offset, as zlib computes it.

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { 0xEDB8_8320 ^ (crc >> 1) } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

/// `zlib.crc32(struct.pack(">Q", offset), seed)`.
pub fn of(seed: u32, offset: u64) -> u32 {
    let mut crc = !seed;
    for byte in offset.to_be_bytes() {
        crc = TABLE[((crc ^ u32::from(byte)) & 0xFF) as usize] ^ (crc >> 8);
    }
    !crc
}
