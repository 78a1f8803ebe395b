//! Project tasks: `cargo xtask --help`.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a command line prints")]

mod bench;
mod bits;
mod c;
mod codegen;
mod counts;
mod demo;
mod develop;
mod dist;
mod docs;
mod host;
mod metal;
mod metal_cuda;
mod objc;
mod package;
mod process;
mod repo;
mod rustc;
mod support;
mod sysroot;
mod test;
mod tidy;
mod times;
mod torch;
mod venv;
mod wheel;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::repo::Repo;

/// Project tasks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build everything and run every test and check.
    Test(test::Options),
    /// Make the Rust bindings and the constants of other languages from mfa.h.
    Codegen(codegen::Options),
    /// Put the Python package into the project's own environment as it is in the checkout: edits of Python count at once.
    Develop,
    /// Run a real language model on the engine (`umfa demo`), in the project's own environment.
    Demo(demo::Options),
    /// Measure against the peers (`umfa bench`), in the project's own environment.
    Bench(bench::Options),
    /// Hash all that a driver returns for the vectors, on every instruction set; compare drivers.
    Bits(bits::Options),
    /// Measure what this machine's arithmetic and memory can do at most.
    Ceilings(bench::Ceilings),
    /// Make README's table of features from the devices' own answers.
    Support(support::Options),
    /// Write docs/metal.md: what the Metal kernels would cost a GPU, counted on the software device.
    MetalReport,
    /// Write every text that the Metal driver can hand to a compiler, or compile them on this machine's Metal device.
    MetalTexts(metal::Texts),
    /// Compile every Metal text as CUDA C++; or make what runs them on an NVIDIA GPU, or the page of its results.
    MetalCuda(metal_cuda::Options),
    /// Make the packages: C archive, Python wheel, crates.
    Dist(dist::Options),
    /// Make a Debian root with Swift 6, clang 19 and GNUstep, and run a command in it.
    Sysroot(sysroot::Options),
}

fn main() -> ExitCode {
    let ended =
        rustc::wrapped().unwrap_or_else(|| run(Cli::parse().task).map(|()| ExitCode::SUCCESS));
    match ended {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> anyhow::Result<()> {
    let repo = Repo::find()?;
    match task {
        Task::Test(options) => test::run(&repo, &options),
        Task::Codegen(options) => codegen::run(&repo, &options),
        Task::Develop => develop::run(&repo),
        Task::Demo(options) => demo::run(&repo, &options),
        Task::Bench(options) => bench::run(&repo, &options),
        Task::Bits(options) => bits::run(&repo, &options),
        Task::Ceilings(options) => bench::ceilings(&repo, &options),
        Task::Support(options) => support::run(&repo, &options),
        Task::MetalReport => metal::report(&repo),
        Task::MetalTexts(options) => metal::texts(&repo, &options),
        Task::MetalCuda(options) => metal_cuda::run(&repo, &options),
        Task::Dist(options) => dist::run(&repo, &options),
        Task::Sysroot(options) => sysroot::run(&repo, &options),
    }
}
