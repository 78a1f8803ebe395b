//! The processor's vendor, under the name by which it is known.

/// The vendor: CPUID's twelve letters, shortened where the vendor goes by another name.
#[cfg(target_arch = "x86_64")]
pub(super) fn vendor() -> String {
    #[allow(unused_unsafe, reason = "safe in newer releases of Rust")]
    // SAFETY: every x86-64 processor has CPUID, and leaf 0.
    let leaf = unsafe { std::arch::x86_64::__cpuid(0) };
    let letters = [leaf.ebx, leaf.edx, leaf.ecx]
        .map(u32::to_le_bytes)
        .concat();
    match letters.as_slice() {
        b"GenuineIntel" => "Intel".to_owned(),
        b"AuthenticAMD" => "AMD".to_owned(),
        other => String::from_utf8_lossy(other)
            .trim_matches(['\0', ' '])
            .to_owned(),
    }
}

/// The vendor: Apple's systems run on Apple's processors alone; Linux tells the implementer of the first core, by the code
/// of the register MIDR_EL1. "" where the system does not tell.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn vendor() -> String {
    if cfg!(target_vendor = "apple") {
        return "Apple".to_owned();
    }
    let cores = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = cores
        .lines()
        .find(|line| line.starts_with("CPU implementer"));
    let code = line.and_then(|line| line.rsplit(':').next());
    match code.map(str::trim) {
        Some("0x41") => "Arm",
        Some("0x46") => "Fujitsu",
        Some("0x48") => "HiSilicon",
        Some("0x4e") => "NVIDIA",
        Some("0x51") => "Qualcomm",
        Some("0x61") => "Apple",
        Some("0x6d") => "Microsoft",
        Some("0xc0") => "Ampere",
        _ => "",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_vendor_is_a_word() {
        let vendor = super::vendor();
        assert!(
            !vendor.is_empty() && vendor.chars().all(|c| c.is_ascii_graphic() || c == ' '),
            "{vendor:?}"
        );
    }
}
