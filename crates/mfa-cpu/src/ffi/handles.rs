//! Context handles.

#![forbid(unsafe_code)]

use std::ffi::c_void;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::runtime::context::Context;
use crate::runtime::handle::{Table, complaint};

/// The live contexts of the process.
pub(crate) static CONTEXTS: Table<Context> = Table::new();

/// The context behind a handle, whatever process made it.
pub(crate) fn any_context(handle: *const c_void) -> Result<Arc<Context>> {
    CONTEXTS
        .get(handle)
        .ok_or_else(|| Error::context(complaint("context", "mfa_create_context", handle)))
}

/// The context behind a handle.
pub(crate) fn context(handle: *const c_void) -> Result<Arc<Context>> {
    let context = any_context(handle)?;
    if context.is_of_this_process() {
        return Ok(context);
    }
    Err(Error::context(format!(
        "the context {handle:p} was made before this process was forked, and its threads stayed in the parent; expected a \
         context that mfa_create_context made in this process"
    )))
}
