//! The side of the machine: memory, worker threads, contexts, handles, processes.

pub(crate) mod context;
pub(crate) mod fork;
pub(crate) mod handle;
pub(crate) mod memory;
pub(crate) mod pool;
pub(crate) mod record;
