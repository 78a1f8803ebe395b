//! The tile configuration of a matrix unit, for the time of several kernels.

use std::marker::PhantomData;

use crate::bf16_split::TileConfig;
use crate::table::Kernels;

/// Holds the tile configuration of the calling thread while it lives, if the instruction set has one.
pub struct TileConfigGuard<'a> {
    config: Option<&'a TileConfig>,
    /// A tile configuration belongs to a thread.
    not_send: PhantomData<*const ()>,
}

impl<'a> TileConfigGuard<'a> {
    /// Loads the tile configuration of `kernels` in the calling thread.
    #[must_use]
    pub fn new(kernels: &'a Kernels) -> Self {
        let config = kernels.bf16.as_ref().map(|bf16| &bf16.tile_config);
        if let Some(config) = config {
            // SAFETY: kernels are in use only where the processor has their instruction set.
            unsafe { (config.load)() };
        }
        TileConfigGuard {
            config,
            not_send: PhantomData,
        }
    }
}

impl Drop for TileConfigGuard<'_> {
    fn drop(&mut self) {
        if let Some(config) = self.config {
            // SAFETY: as above; this thread loaded it.
            unsafe { (config.release)() };
        }
    }
}
