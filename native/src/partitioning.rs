//! Which partition an agent belongs to: `feedback_app.core.partitioning`.

use std::num::NonZeroU32;

use pyo3::prelude::*;

const SEED: u32 = 0x9747_B28C;
const M: u32 = 0x5BD1_E995;

pub fn partition_of(agent_id: &[u8], partitions: NonZeroU32) -> u32 {
    (murmur2(agent_id) & 0x7FFF_FFFF) % partitions
}

/// The same for an id as Python has it.
#[pyfunction]
#[pyo3(name = "partition_of")]
pub fn partition_of_text(agent_id: &str, partitions: NonZeroU32) -> u32 {
    partition_of(agent_id.as_bytes(), partitions)
}

fn murmur2(data: &[u8]) -> u32 {
    let words = data.chunks_exact(4);
    let rest = words.remainder();
    let mut value = SEED ^ data.len() as u32;
    for word in words {
        let mixed = u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_mul(M);
        value = value.wrapping_mul(M) ^ (mixed ^ mixed >> 24).wrapping_mul(M);
    }
    if !rest.is_empty() {
        let tail = rest.iter().rev().fold(0, |tail, &byte| tail << 8 | u32::from(byte));
        value = (value ^ tail).wrapping_mul(M);
    }
    value = (value ^ value >> 13).wrapping_mul(M);
    value ^ value >> 15
}
