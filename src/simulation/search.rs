//! Many seeds at once, one thread a core.

use std::{
    ops::Range,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::run::Outcome;

/// Runs every seed of a range and hands over each outcome as it comes, in no order, until `each` says that it is enough.
pub fn search(seeds: Range<u64>, run: impl Fn(u64) -> Outcome + Sync, each: impl FnMut(Outcome) -> bool + Send) {
    let (next, each) = (AtomicU64::new(seeds.start), Mutex::new(each));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let outcome = run(seed);
                    if !each.lock().unwrap_or_else(PoisonError::into_inner)(outcome) {
                        next.store(seeds.end, Ordering::Relaxed);
                    }
                }
            });
        }
    });
}
