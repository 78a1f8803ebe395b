//! The options of `cargo xtask test`.

use std::path::PathBuf;

/// Options of `cargo xtask test`.
#[derive(Clone, clap::Args)]
pub(crate) struct Options {
    /// Install a CPU build of PyTorch first; tests against it fail, instead of being skipped, without it.
    #[arg(long)]
    pub(super) torch: bool,
    /// Run only this part, or the parts whose names begin with it and a dash. May be repeated.
    #[arg(long, value_name = "PART")]
    pub(super) only: Vec<String>,
    /// Count a part that had to be skipped as failed, unless the processor cannot run it.
    #[arg(long)]
    pub(super) strict: bool,
    /// Count this part as failed where the processor cannot run it. May be repeated.
    #[arg(long, value_name = "PART")]
    pub(super) must_run: Vec<String>,
    /// Run the tests of every language on this driver library instead of the CPU engine that is linked in.
    #[arg(long, value_name = "LIBRARY")]
    pub(super) driver: Option<PathBuf>,
    /// The same on the driver of this machine's GPU, which is built first: on a Mac, `--device metal`.
    #[arg(long, value_enum, conflicts_with = "driver")]
    pub(super) device: Option<Device>,
    /// How many parts run at once.
    #[arg(long, value_name = "NUMBER")]
    pub(super) jobs: Option<usize>,
    /// Say in the end where the time went: by part, by crate, by kernel text.
    #[arg(long)]
    pub(super) times: bool,
    /// List the parts and end.
    #[arg(long)]
    pub(super) list: bool,
}

/// A device with a driver that tasks can build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Device {
    /// The Swift driver, where Swift is.
    Metal,
}
