//! Steps of online softmax.

use super::memory::Guarded;
use super::{Random, get_p16, tables};
use crate::{BLOCK_N, Kernels, P8_LD, P16_LD, RowState, SCORE_LD, TOP8, TOP16};

/// Relative error of weights that the contract grants: FP32 and 16-bit P, and 8-bit P.
const FINE: f64 = 1.0 / (1u64 << 22) as f64;
const COARSE: f64 = 1.0 / (1u64 << 18) as f64;

/// The statistics of a strip.
struct State {
    m: Guarded<f32>,
    l: Guarded<f32>,
    alpha: Guarded<f32>,
    left: Guarded<f32>,
}

impl State {
    fn new(rows: usize) -> Self {
        State {
            m: Guarded::new(rows, f32::NEG_INFINITY),
            l: Guarded::new(rows, 0.0),
            alpha: Guarded::new(rows, f32::NAN),
            left: Guarded::new(rows, 0.0),
        }
    }

    fn pointers(&mut self) -> RowState {
        RowState {
            m: self.m.as_mut_ptr(),
            l: self.l.as_mut_ptr(),
            alpha: self.alpha.as_mut_ptr(),
            left: self.left.as_mut_ptr(),
        }
    }

    fn check(&self) {
        self.m.check("m");
        self.l.check("l");
        self.alpha.check("alpha");
        self.left.check("left");
    }
}

/// Scores of `rows` x `n`; everything else is NaN, so that whoever looks at it shows it.
fn scores(random: &mut Random, mr: usize, rows: usize, n: usize, range: f32) -> Guarded<f32> {
    Guarded::from_fn(mr * SCORE_LD, |at| {
        if at / SCORE_LD < rows && at % SCORE_LD < n {
            (random.float() - 1.0) * range
        } else {
            f32::NAN
        }
    })
}

fn close(got: f32, want: f64, relative: f64) -> bool {
    (f64::from(got) - want).abs() <= relative * want.abs() + f64::from(f32::MIN_POSITIVE)
}

/// The expected result of a row's step, in f64. The difference of two f32 is taken in f32, as kernels do.
struct Row {
    m: f32,
    alpha: f64,
    l: f64,
    weights: Vec<f64>,
}

fn reference(s: &[f32], m: f32, l: f64) -> Row {
    let new = s.iter().copied().fold(m, f32::max);
    let origin = if new == f32::NEG_INFINITY { 0.0 } else { new };
    let weights: Vec<f64> = s.iter().map(|s| f64::from(s - origin).exp2()).collect();
    let alpha = f64::from(m - origin).exp2();
    Row {
        m: new,
        alpha,
        l: alpha * l + weights.iter().sum::<f64>(),
        weights,
    }
}

#[test]
fn softmax_f32_matches_the_formula_in_f64() {
    let mut random = Random(11);
    for (table, _) in tables() {
        for n in [1, 2, 7, 15, 16, 17, 31, 33, 64, 100, 255, BLOCK_N] {
            for rows in 1..=table.mr {
                let mut state = State::new(rows);
                let mut want: Vec<(f32, f64)> = vec![(f32::NEG_INFINITY, 0.0); rows];
                for range in [30.0, 8.0, 1.0, 100.0] {
                    let mut s = scores(&mut random, table.mr, rows, n, range);
                    let before = s.to_vec();
                    // SAFETY: `mr` rows of scores, and a state of `rows` rows.
                    unsafe { (table.softmax_f32)(s.as_mut_ptr(), rows, n, state.pointers()) };
                    s.check("scores");
                    state.check();
                    for i in 0..rows {
                        let row = &before[i * SCORE_LD..][..n];
                        let row = reference(row, want[i].0, want[i].1);
                        let at = format!("{}: n {n}, rows {rows}, row {i}", table.isa);
                        assert_eq!(state.m[i], row.m, "{at}");
                        assert!(close(state.alpha[i], row.alpha, FINE), "{at}");
                        let sum = FINE + (n + 8) as f64 * f64::from(f32::EPSILON);
                        assert!(
                            close(state.l[i], row.l, sum),
                            "{at}: {} and {}",
                            state.l[i],
                            row.l
                        );
                        for (j, w) in row.weights.iter().enumerate() {
                            assert!(close(s[i * SCORE_LD + j], *w, FINE), "{at}, key {j}");
                        }
                        for j in n..SCORE_LD {
                            assert!(s[i * SCORE_LD + j].is_nan(), "{at}: key {j} was written");
                        }
                        want[i] = (row.m, row.l);
                    }
                }
            }
        }
    }
}

/// The exponential over all of its range, against f64.
#[test]
fn exp2_is_accurate_everywhere() {
    for (table, _) in tables() {
        let mut worst = 0f64;
        let steps = 200_000;
        let mut x = Vec::new();
        for i in 0..steps {
            x.push(-(i as f32) * (160.0 / steps as f32));
        }
        // Around each integer, where the power of two changes.
        for i in 0..150 {
            let mut near = -(i as f32);
            for _ in 0..40 {
                x.push(near);
                near = near.next_down();
            }
        }
        let mut tiny = f32::MIN_POSITIVE;
        while tiny < 1.0 {
            x.push(-tiny);
            tiny *= 3.0;
        }
        for x in x.chunks(BLOCK_N - 1) {
            let n = x.len() + 1;
            let mut s = Guarded::new(SCORE_LD, 0f32);
            s[1..n].copy_from_slice(x);
            let mut state = State::new(1);
            // SAFETY: a row of scores, and a state of a row.
            unsafe { (table.softmax_f32)(s.as_mut_ptr(), 1, n, state.pointers()) };
            assert_eq!(s[0], 1.0, "{}", table.isa);
            for (x, w) in x.iter().zip(&s[1..n]) {
                let want = f64::from(*x).exp2();
                if *x < -126.0 {
                    assert!((0.0..1.2e-38).contains(w), "{}: exp2({x}) = {w}", table.isa);
                } else {
                    worst = worst.max((f64::from(*w) / want - 1.0).abs());
                }
            }
        }
        assert!(worst < FINE, "{}: relative error {worst:e}", table.isa);
    }
}

/// A run of one kernel with narrow P on one block.
struct Narrow {
    state: State,
    p: Vec<f64>,
    p_scale: Guarded<f32>,
    p_sum: Option<Guarded<i32>>,
}

type Run = fn(&Kernels, &[f32], usize, usize, State, Option<&[f32]>) -> Narrow;

fn run_i16(
    table: &Kernels,
    s: &[f32],
    rows: usize,
    n: usize,
    state: State,
    v_scale: Option<&[f32]>,
) -> Narrow {
    let mut s = Guarded::from_slice(s);
    let mut state = state;
    let mut p = Guarded::new(table.mr * P16_LD, 99i16);
    let mut p_scale = Guarded::new(rows, f32::NAN);
    let v = v_scale.map_or(std::ptr::null(), <[f32]>::as_ptr);
    // SAFETY: `mr` rows of scores and P, a state and scales of `rows` rows, `n` scales of V.
    unsafe {
        (table.softmax_i16)(
            s.as_mut_ptr(),
            rows,
            n,
            state.pointers(),
            v,
            p.as_mut_ptr(),
            p_scale.as_mut_ptr(),
        );
    }
    s.check("s");
    p.check("p");
    p_scale.check("p_scale");
    state.check();
    let p = gather(rows, n, n.next_multiple_of(2), |i, j| {
        f64::from(get_p16(table, &p, i, j))
    });
    Narrow {
        state,
        p,
        p_scale,
        p_sum: None,
    }
}

fn run_u8(
    table: &Kernels,
    s: &[f32],
    rows: usize,
    n: usize,
    state: State,
    v_scale: Option<&[f32]>,
) -> Narrow {
    let mut s = Guarded::from_slice(s);
    let mut state = state;
    let mut p = Guarded::new(table.mr * P8_LD, 99u8);
    let mut p_scale = Guarded::new(rows, f32::NAN);
    let mut p_sum = Guarded::new(rows, -1);
    let v = v_scale.map_or(std::ptr::null(), <[f32]>::as_ptr);
    // SAFETY: as above.
    unsafe {
        (table.softmax_u8)(
            s.as_mut_ptr(),
            rows,
            n,
            state.pointers(),
            v,
            p.as_mut_ptr(),
            p_scale.as_mut_ptr(),
            p_sum.as_mut_ptr(),
        );
    }
    s.check("s");
    p.check("p");
    p_scale.check("p_scale");
    p_sum.check("p_sum");
    state.check();
    let p = gather(rows, n, n.next_multiple_of(4), |i, j| {
        f64::from(p[i * P8_LD + j])
    });
    Narrow {
        state,
        p,
        p_scale,
        p_sum: Some(p_sum),
    }
}

/// The integers of all rows; what pads them must be zero.
fn gather(rows: usize, n: usize, padded: usize, at: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    let mut out = Vec::new();
    for i in 0..rows {
        out.extend((0..n).map(|j| at(i, j)));
        for j in n..padded {
            assert_eq!(
                at(i, j),
                0.0,
                "row {i}: key {j} pads with something else than 0"
            );
        }
    }
    out
}

#[test]
fn integer_softmax_is_within_a_step() {
    let mut random = Random(12);
    for (table, _) in tables() {
        for n in [
            1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 255, BLOCK_N,
        ] {
            for rows in [1, 2, table.mr - 1, table.mr] {
                let v_scale = Guarded::from_fn(n, |_| random.float().abs() * 0.1 + 1e-3);
                for v_scale in [None, Some(&v_scale[..])] {
                    let kernels: [(f64, f64, Run); 2] = [
                        (f64::from(TOP16), FINE, run_i16),
                        (f64::from(TOP8), COARSE, run_u8),
                    ];
                    for (top, error, run) in kernels {
                        let mut state = State::new(rows);
                        // Maximum, sum of the integers, sum of the weights.
                        let mut want = vec![(f32::NEG_INFINITY, 0.0, 0.0); rows];
                        for range in [12.0, 3.0, 40.0] {
                            let s = scores(&mut random, table.mr, rows, n, range);
                            let got: Narrow = run(table, &s, rows, n, state, v_scale);
                            for i in 0..rows {
                                let row = reference(&s[i * SCORE_LD..][..n], want[i].0, want[i].2);
                                let at = format!("{}: top {top}, n {n}, row {i}", table.isa);
                                assert_eq!(got.state.m[i], row.m, "{at}");
                                assert!(close(got.state.alpha[i], row.alpha, FINE), "{at}");
                                let l = sum_of_steps(&got, &row, want[i].1, i, n, v_scale, top);
                                let sum = 2.0 * error + (n + 8) as f64 * f64::from(f32::EPSILON);
                                assert!(
                                    close(got.state.l[i], l, sum),
                                    "{at}: {} for {l}",
                                    got.state.l[i]
                                );
                                let all = f64::from(got.state.l[i]) + f64::from(got.state.left[i]);
                                assert!((all / row.l - 1.0).abs() <= sum, "{at}: {all}");
                                want[i] = (row.m, l, row.l);
                                check_integers(&got, &row, i, n, v_scale, top, error, &at);
                            }
                            state = got.state;
                        }
                    }
                }
            }
        }
    }
}

/// The sum that divides, in f64, from the integers that are multiplied.
fn sum_of_steps(
    got: &Narrow,
    row: &Row,
    before: f64,
    i: usize,
    n: usize,
    v_scale: Option<&[f32]>,
    top: f64,
) -> f64 {
    let p = &got.p[i * n..][..n];
    let (mut sum, mut left) = (0.0, 0.0);
    let largest = (row.weights.iter().enumerate())
        .map(|(j, w)| w * v_scale.map_or(1.0, |v| f64::from(v[j])))
        .fold(0.0, f64::max);
    for (j, w) in row.weights.iter().enumerate() {
        sum += w;
        left += w * v_scale.map_or(1.0, |v| f64::from(v[j])) / largest * top - p[j];
    }
    // The weight of the block relative to the blocks before.
    let beta = row.weights.iter().copied().fold(0.0, f64::max);
    row.alpha * before + sum - beta * left / top
}

/// `p * p_scale` must be the weight to within a step, plus the error of the exponential; and so must be the sum over any
/// first keys of the block, except for the errors that the chains of a kernel carry.
fn check_integers(
    got: &Narrow,
    row: &Row,
    i: usize,
    n: usize,
    v_scale: Option<&[f32]>,
    top: f64,
    error: f64,
    at: &str,
) {
    let weights: Vec<f64> = row
        .weights
        .iter()
        .enumerate()
        .map(|(j, w)| w * v_scale.map_or(1.0, |v| f64::from(v[j])))
        .collect();
    let largest = weights.iter().copied().fold(0.0, f64::max);
    let step = f64::from(got.p_scale[i]);
    assert!(
        close(got.p_scale[i], largest / top, 4.0 * error),
        "{at}: {step:e}"
    );
    let p = &got.p[i * n..][..n];
    for (j, (p, w)) in p.iter().zip(&weights).enumerate() {
        let difference = (p * step - w).abs();
        assert!(
            difference <= step * (1.0 + 6.0 * error * top),
            "{at}, key {j}: {p} for {}",
            w / step
        );
    }
    let most = p.iter().copied().fold(0.0, f64::max);
    assert!((most - top).abs() <= 1.0, "{at}: {most}");
    if let Some(p_sum) = &got.p_sum {
        assert_eq!(f64::from(p_sum[i]), p.iter().sum::<f64>(), "{at}");
    }
}

/// Rows without a key: nothing, whatever comes before or after.
#[test]
fn masked_blocks_have_no_weight() {
    let mut random = Random(13);
    for (table, _) in tables() {
        let (rows, n) = (table.mr, 40);
        let masked = Guarded::new(table.mr * SCORE_LD, f32::NEG_INFINITY);
        let open = scores(&mut random, table.mr, rows, n, 4.0);
        let expect_nothing = |got: &Narrow, fresh: bool| {
            for i in 0..rows {
                assert_eq!(got.p_scale[i], 0.0);
                assert!(got.p.iter().all(|p| *p == 0.0));
                if fresh {
                    assert_eq!(got.state.m[i], f32::NEG_INFINITY);
                    assert_eq!(got.state.l[i], 0.0);
                    assert_eq!(got.state.alpha[i], 0.0);
                } else {
                    assert_eq!(got.state.alpha[i], 1.0);
                }
            }
        };
        for run in [run_i16, run_u8] {
            let got = run(table, &masked, rows, n, State::new(rows), None);
            expect_nothing(&got, true);
            let got = run(table, &open, rows, n, got.state, None);
            let l: Vec<f32> = got.state.l.to_vec();
            let got = run(table, &masked, rows, n, got.state, None);
            expect_nothing(&got, false);
            assert_eq!(l, got.state.l.to_vec());
        }
        let mut state = State::new(rows);
        let mut s = Guarded::from_slice(&masked);
        // SAFETY: `mr` rows of scores, and a state of as many.
        unsafe { (table.softmax_f32)(s.as_mut_ptr(), rows, n, state.pointers()) };
        for i in 0..rows {
            assert!(s[i * SCORE_LD..][..n].iter().all(|w| *w == 0.0));
            assert_eq!((state.l[i], state.alpha[i]), (0.0, 0.0));
        }
    }
}

/// A masked key gets no weight from the rounding errors of its neighbours.
#[test]
fn masked_keys_have_no_weight() {
    let mut random = Random(16);
    for (table, _) in tables() {
        for n in [5, 40, 100, BLOCK_N] {
            let mut s = scores(&mut random, table.mr, table.mr, n, 12.0);
            for i in 0..table.mr {
                for j in 0..n {
                    if random.below(3) == 0 {
                        s[i * SCORE_LD + j] = f32::NEG_INFINITY;
                    }
                }
            }
            let v_scale = Guarded::from_fn(n, |_| random.float().abs() + 0.1);
            for v_scale in [None, Some(&v_scale[..])] {
                for run in [run_i16, run_u8] {
                    let got = run(table, &s, table.mr, n, State::new(table.mr), v_scale);
                    for i in 0..table.mr {
                        for j in 0..n {
                            let masked = s[i * SCORE_LD + j] == f32::NEG_INFINITY;
                            let p = got.p[i * n + j];
                            assert!(!masked || p == 0.0, "{}: n {n}, {i}, {j}: {p}", table.isa);
                        }
                    }
                }
            }
        }
    }
}

/// A NaN or +infinity among the scores makes the sum NaN; other rows don't see it.
#[test]
fn nan_reaches_the_sum() {
    let mut random = Random(14);
    for (table, _) in tables() {
        for x in [f32::NAN, f32::INFINITY] {
            for at in [0, 5, 16, 38, 39] {
                let (rows, n) = (table.mr, 40);
                let mut s = scores(&mut random, table.mr, rows, n, 4.0);
                s[SCORE_LD + at] = x;
                let mut state = State::new(rows);
                let mut copy = Guarded::from_slice(&s);
                // SAFETY: `mr` rows of scores, and a state of as many.
                unsafe { (table.softmax_f32)(copy.as_mut_ptr(), rows, n, state.pointers()) };
                let sums = [
                    state.l,
                    run_i16(table, &s, rows, n, State::new(rows), None).state.l,
                    run_u8(table, &s, rows, n, State::new(rows), None).state.l,
                ];
                for l in sums {
                    for (i, l) in l.iter().enumerate() {
                        assert_eq!(
                            l.is_nan(),
                            i == 1,
                            "{}: {x} at {at}, row {i}: {l}",
                            table.isa
                        );
                    }
                }
            }
        }
    }
}

/// Scales of V may be negative (16-bit P) or so small that their inverse is not finite.
#[test]
fn odd_scales_of_v_are_applied() {
    let mut random = Random(15);
    for (table, _) in tables() {
        let n = 19;
        let s = scores(&mut random, table.mr, 1, n, 4.0);
        let negative = Guarded::from_fn(n, |_| random.float());
        let got = run_i16(table, &s, 1, n, State::new(1), Some(&negative));
        let row = reference(&s[..n], f32::NEG_INFINITY, 0.0);
        for j in 0..n {
            let want = row.weights[j] * f64::from(negative[j]);
            let step = f64::from(got.p_scale[0]);
            assert!(
                (got.p[j] * step - want).abs() <= 1.1 * step,
                "{}",
                table.isa
            );
        }
        for scale in [0.0, f32::from_bits(1), 1e-38] {
            let tiny = Guarded::new(n, scale);
            for run in [run_i16, run_u8] {
                let got = run(table, &s, 1, n, State::new(1), Some(&tiny));
                assert!(got.p_scale[0].is_finite());
                for j in 0..n {
                    let want = row.weights[j] * f64::from(scale);
                    let real = got.p[j] * f64::from(got.p_scale[0]);
                    assert!(
                        (real - want).abs() <= 1e-38,
                        "{}: {real:e} for {want:e}",
                        table.isa
                    );
                }
            }
        }
    }
}

/// Below a peak, a tail of equal weights keeps its mass, however small each of them is and wherever it ends.
#[test]
fn flat_tails_keep_their_mass() {
    for (table, _) in tables() {
        let runs: [(f64, Run); 2] = [(f64::from(TOP16), run_i16), (f64::from(TOP8), run_u8)];
        for (top, run) in runs {
            for n in [2, 9, 33, 100, 255, BLOCK_N] {
                for (step, peak) in (1..200).map(|i| (i as f32 * 0.1, i * 7 % n)) {
                    let mut s = vec![f32::NAN; table.mr * SCORE_LD];
                    s[..n].fill(-step);
                    s[peak] = 0.0;
                    for v_scale in [None, Some(vec![0.25; n])] {
                        let got = run(table, &s, 1, n, State::new(1), v_scale.as_deref());
                        let tail: f64 = (0..n).filter(|j| *j != peak).map(|j| got.p[j]).sum();
                        let want = (n - 1) as f64 * f64::from(-step).exp2() * top;
                        assert!(
                            (tail - want).abs() <= 2.0 + 1e-5 * want,
                            "{}: n {n}, 2^-{step}: {tail} steps for {want}",
                            table.isa
                        );
                    }
                }
            }
        }
    }
}
