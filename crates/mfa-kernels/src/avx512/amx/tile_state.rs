//! The tile configuration of AMX: whether the process may use tiles, and their shapes.

use std::arch::asm;
use std::cell::Cell;
use std::sync::OnceLock;

use super::shape::{GROUPS, ROWS, TILE};

/// Whether the processor has AMX-INT8 and AMX-BF16, and the system lets this process use it, for which it has to be asked.
pub(crate) fn runs_here() -> bool {
    static ALLOWED: OnceLock<bool> = OnceLock::new();
    *ALLOWED.get_or_init(|| cfg!(target_os = "linux") && present() && ask())
}

fn present() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const TILES: u32 = 1 << 24;
    const INT8: u32 = 1 << 25;
    const BF16: u32 = 1 << 22;
    // SAFETY: every x86-64 processor has CPUID, and leaves are asked for up to the highest.
    #[allow(unused_unsafe)]
    let features = unsafe {
        if __cpuid(0).eax < 7 {
            return false;
        }
        __cpuid_count(7, 0).edx
    };
    features & (TILES | INT8 | BF16) == TILES | INT8 | BF16
}

/// `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`: a process may not touch tiles before.
fn ask() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XTILEDATA: u64 = 18;
    let result: i64;
    // SAFETY: the system call changes nothing but that permission; on other systems this is not called.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// The operand of `ldtilecfg`.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Shapes by the number of groups that are left after whole tiles. Tiles 0 to 3 are sums, 4 and 5 operands; 6 and 7 are
/// those of the last, narrower step.
static CONFIGS: [Config; GROUPS] = {
    let mut all = [const { shape(GROUPS) }; GROUPS];
    let mut rest = 1;
    while rest < GROUPS {
        all[rest] = shape(rest);
        rest += 1;
    }
    all
};

const fn shape(rest: usize) -> Config {
    let mut config = Config {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        row_bytes: [0; 16],
        rows: [0; 16],
    };
    let mut tile = 0;
    while tile < 8 {
        config.row_bytes[tile] = TILE as u16;
        config.rows[tile] = ROWS as u8;
        tile += 1;
    }
    config.rows[5] = GROUPS as u8;
    config.row_bytes[6] = 4 * rest as u16;
    config.rows[7] = rest as u8;
    config
}

thread_local! {
    /// Whether this thread holds tiles of whole steps from one kernel to the next.
    static HELD: Cell<bool> = const { Cell::new(false) };
}

/// Sets up tiles of whole steps until [`release`]: a kernel that does it, and releases them, waits hundreds of cycles.
///
/// # Safety
/// [`runs_here`].
pub(super) unsafe fn load() {
    HELD.set(true);
    set_up(0);
}

/// # Safety
/// [`runs_here`].
pub(super) unsafe fn release() {
    HELD.set(false);
    let_go();
}

#[inline(always)]
unsafe fn set_up(rest: usize) {
    let config = &CONFIGS[rest];
    asm!("ldtilecfg [{}]", in(reg) config, options(readonly, nostack, preserves_flags));
}

#[inline(always)]
unsafe fn let_go() {
    asm!("tilerelease", options(nomem, nostack, preserves_flags));
}

/// Tiles in use. While it lives, this thread's tiles have the shapes of [`CONFIGS`].
pub(super) struct Tiles {
    rest: usize,
    held: bool,
}

impl Tiles {
    /// # Safety
    /// [`runs_here`].
    #[inline(always)]
    pub(super) unsafe fn new(groups: usize) -> Self {
        let (rest, held) = (groups % GROUPS, HELD.get());
        if rest != 0 || !held {
            set_up(rest);
        }
        Tiles { rest, held }
    }
}

impl Drop for Tiles {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: there is one, or it would not have been made.
        unsafe {
            if !self.held {
                let_go();
            } else if self.rest != 0 {
                set_up(0);
            }
        }
    }
}
