//! Owns finding ports for a whole stack of one's own. Refuses to bind them: they are free now, and no
//! other test is given the same while this process lives.

use std::fs::File;
use std::net::TcpListener;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context;

/// Below the range from which the kernel takes ports for outgoing connections.
const FIRST: u32 = 10_000;
const BLOCK_PORTS: u32 = 50;
const BLOCKS: u32 = 400;
/// The processes of a test run have numbers close to each other.
const BLOCKS_PER_PROCESS: u32 = 8;

static TAKEN: AtomicU32 = AtomicU32::new(0);
/// A locked file per block that this process has: whoever finds one locked goes on to the next.
static LOCKS: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// A base from which every one of these offsets (below 50) is a free port of loopback.
pub fn free_base(offsets: &[u16]) -> anyhow::Result<u16> {
    let start = std::process::id().wrapping_mul(BLOCKS_PER_PROCESS);
    let blocks = std::iter::repeat_with(|| TAKEN.fetch_add(1, Ordering::Relaxed));
    blocks
        .take(BLOCKS as usize)
        .filter_map(|block| {
            let block = start.wrapping_add(block) % BLOCKS;
            u16::try_from(FIRST + block * BLOCK_PORTS).ok()
        })
        .find(|base| lock(*base) && offsets.iter().all(|offset| is_free(base + offset)))
        .context("no free ports")
}

fn lock(base: u16) -> bool {
    let path = std::env::temp_dir().join(format!("switchback-ports-{base}"));
    let Ok(file) = File::options().create(true).append(true).open(path) else { return false };
    let locked = file.try_lock().is_ok();
    if locked {
        LOCKS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(file);
    }
    locked
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_stacks_of_one_process_never_share_a_port_and_a_taken_one_is_passed_over() {
        let one = free_base(&[1, 32]).expect("there are many ports");
        let _taken = TcpListener::bind(("127.0.0.1", one + 1)).expect("it is free");
        TAKEN.fetch_sub(1, Ordering::Relaxed);
        LOCKS.lock().expect("no test panics with it").clear();
        let other = free_base(&[1, 32]).expect("there are many ports");
        assert!(one.abs_diff(other) >= 50, "{one} {other}");
    }
}
