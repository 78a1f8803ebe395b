//! Memory, worker threads, contexts, handles, forks.

pub(crate) mod context;
pub(crate) mod fork;
pub(crate) mod handle;
pub(crate) mod memory;
pub(crate) mod pool;
pub(crate) mod record;
