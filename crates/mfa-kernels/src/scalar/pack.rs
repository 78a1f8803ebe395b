//! Packing of operands into strips and panels.

/// See [`crate::PackQF32`].
pub(super) unsafe fn pack_q_f32<const MR: usize>(
    rows: *const f32,
    ld: usize,
    n: usize,
    d: usize,
    scale: f32,
    out: *mut f32,
) {
    for c in 0..d {
        for i in 0..MR {
            *out.add(c * MR + i) = if i < n {
                *rows.add(i * ld + c) * scale
            } else {
                0.0
            };
        }
    }
}

/// See [`crate::PackQI8`].
pub(super) unsafe fn pack_q_i8<const MR: usize, const OFFSET: i32>(
    rows: *const i8,
    ld: usize,
    n: usize,
    d: usize,
    out: *mut u8,
    sums: *mut i32,
) {
    for i in 0..n {
        *sums.add(i) = row_sum(rows.add(i * ld), d);
    }
    for c in 0..d.next_multiple_of(4) {
        for i in 0..MR {
            let q = if i < n && c < d {
                *rows.add(i * ld + c)
            } else {
                0
            };
            *out.add((c / 4 * MR + i) * 4 + c % 4) = (i32::from(q) + OFFSET) as u8;
        }
    }
}

/// See [`crate::PackKF32`].
pub(super) unsafe fn pack_k_f32<const NR: usize>(
    rows: *const f32,
    ld: usize,
    n: usize,
    d: usize,
    out: *mut f32,
) {
    for j in 0..n.next_multiple_of(NR) {
        let panel = out.add(j / NR * NR * d);
        for c in 0..d {
            *panel.add(c * NR + j % NR) = if j < n { *rows.add(j * ld + c) } else { 0.0 };
        }
    }
}

/// See [`crate::PackKI8`].
pub(super) unsafe fn pack_k_i8<const NR: usize>(
    rows: *const i8,
    ld: usize,
    n: usize,
    d: usize,
    out: *mut i8,
    sums: *mut i32,
) {
    let padded = d.next_multiple_of(4);
    for j in 0..n.next_multiple_of(NR) {
        let panel = out.add(j / NR * NR * padded);
        *sums.add(j) = if j < n {
            row_sum(rows.add(j * ld), d)
        } else {
            0
        };
        for c in 0..padded {
            *panel.add((c / 4 * NR + j % NR) * 4 + c % 4) = if j < n && c < d {
                *rows.add(j * ld + c)
            } else {
                0
            };
        }
    }
}

/// See [`crate::PackVF32`].
pub(super) unsafe fn pack_v_f32<const NR: usize>(
    rows: *const f32,
    ld: usize,
    n: usize,
    d: usize,
    out: *mut f32,
) -> bool {
    let mut finite = true;
    for c in 0..d.next_multiple_of(NR) {
        let panel = out.add(c / NR * NR * n);
        for j in 0..n {
            let x = if c < d { *rows.add(j * ld + c) } else { 0.0 };
            finite &= x.is_finite();
            *panel.add(j * NR + c % NR) = x;
        }
    }
    finite
}

/// See [`crate::PackVI16`].
pub(super) unsafe fn pack_v_i16<const NR: usize>(
    rows: *const i8,
    ld: usize,
    n: usize,
    d: usize,
    zero: *const i32,
    out: *mut i16,
) {
    let padded = n.next_multiple_of(2);
    for c in 0..d.next_multiple_of(NR) {
        let panel = out.add(c / NR * NR * padded);
        for j in 0..padded {
            let x = if c < d && j < n {
                let zero = if zero.is_null() { 0 } else { *zero.add(j) };
                i32::from(*rows.add(j * ld + c)) - zero
            } else {
                0
            };
            *panel.add((j / 2 * NR + c % NR) * 2 + j % 2) = x as i16;
        }
    }
}

/// See [`crate::PackVI8`].
pub(super) unsafe fn pack_v_i8<const NR: usize>(
    rows: *const i8,
    ld: usize,
    n: usize,
    d: usize,
    out: *mut i8,
) {
    let padded = n.next_multiple_of(4);
    for c in 0..d.next_multiple_of(NR) {
        let panel = out.add(c / NR * NR * padded);
        for j in 0..padded {
            *panel.add((j / 4 * NR + c % NR) * 4 + j % 4) = if c < d && j < n {
                *rows.add(j * ld + c)
            } else {
                0
            };
        }
    }
}

unsafe fn row_sum(row: *const i8, d: usize) -> i32 {
    (0..d).map(|c| i32::from(*row.add(c))).sum()
}
