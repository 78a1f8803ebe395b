//! Which instruction sets this machine runs, and the table of kernels of this process.

use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
use crate::avx2;
#[cfg(target_arch = "x86_64")]
use crate::avx512::{self, amx};
use crate::isa::Isa;
#[cfg(target_arch = "aarch64")]
use crate::neon;
use crate::scalar;
use crate::table::Kernels;

/// The environment variable that forces an instruction set.
const VARIABLE: &str = "MFA_CPU_ISA";

impl Isa {
    /// Whether this machine can run it.
    #[must_use]
    pub fn runs_here(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2Vnni => Isa::Avx2.runs_here() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.runs_here()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => Isa::Avx512.runs_here() && is_x86_feature_detected!("avx512vnni"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Amx => Isa::Avx512Vnni.runs_here() && amx::runs_here(),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDotProd => {
                Isa::Neon.runs_here() && std::arch::is_aarch64_feature_detected!("dotprod")
            }
            #[cfg(target_arch = "aarch64")]
            Isa::NeonI8mm => {
                Isa::NeonDotProd.runs_here() && std::arch::is_aarch64_feature_detected!("i8mm")
            }
            _ => false,
        }
    }

    /// Its kernels, if this machine can run them.
    #[must_use]
    pub fn table(self) -> Option<&'static Kernels> {
        if !self.runs_here() {
            return None;
        }
        match self {
            Isa::Scalar => Some(&scalar::TABLE),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Some(&avx2::TABLE),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2Vnni => Some(&avx2::TABLE_VNNI),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Some(&avx512::TABLE),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => Some(&avx512::TABLE_VNNI),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Amx => Some(&amx::TABLE),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => Some(&neon::TABLE),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDotProd => Some(&neon::TABLE_DOTPROD),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonI8mm => Some(&neon::TABLE_I8MM),
            _ => None,
        }
    }
}

/// The kernels of this process: those that `MFA_CPU_ISA` names, else the fastest that this machine runs.
///
/// # Errors
/// A message, if `MFA_CPU_ISA` names no instruction set, or one that this machine cannot run.
pub fn kernels() -> Result<&'static Kernels, String> {
    static CHOSEN: OnceLock<Result<&'static Kernels, String>> = OnceLock::new();
    CHOSEN
        .get_or_init(|| match std::env::var_os(VARIABLE) {
            Some(name) if !name.is_empty() => select(Some(&name.to_string_lossy())),
            _ => select(None),
        })
        .clone()
}

/// [`kernels`] without the environment.
fn select(forced: Option<&str>) -> Result<&'static Kernels, String> {
    let Some(name) = forced else {
        return Ok(Isa::ALL
            .iter()
            .rev()
            .find_map(|isa| isa.table())
            .unwrap_or(&scalar::TABLE));
    };
    let isa = Isa::ALL
        .into_iter()
        .find(|isa| isa.name().eq_ignore_ascii_case(name.trim()));
    let Some(isa) = isa else {
        return Err(format!(
            "{VARIABLE} names no instruction set: found \"{name}\", expected one of {}",
            names(|_| true)
        ));
    };
    isa.table().ok_or_else(|| {
        format!(
            "{VARIABLE} names an instruction set that this machine cannot run: found \"{isa}\", expected one of {}",
            names(Isa::runs_here)
        )
    })
}

fn names(keep: fn(Isa) -> bool) -> String {
    let names: Vec<&str> = Isa::ALL
        .into_iter()
        .filter(|&isa| keep(isa))
        .map(Isa::name)
        .collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unforced_is_the_last_that_runs() {
        let fastest = Isa::ALL.into_iter().rfind(|isa| isa.runs_here());
        assert_eq!(Some(select(None).unwrap().isa), fastest);
    }

    #[test]
    fn forced_by_name() {
        for isa in Isa::ALL {
            match select(Some(isa.name())) {
                Ok(table) => assert_eq!(table.isa, isa),
                Err(message) => {
                    assert!(!isa.runs_here());
                    assert!(message.contains("cannot run"), "{message}");
                }
            }
        }
    }

    #[test]
    fn unknown_names_are_refused() {
        for name in ["sse9", "avx-512", "scalar,avx2"] {
            let message = select(Some(name)).map(|k| k.isa).unwrap_err();
            assert!(
                message.contains(name) && message.contains("scalar"),
                "{message}"
            );
        }
    }
}
