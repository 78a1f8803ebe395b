//! The fixed signatures: forward, and the two passes of backward on its record.

use std::ffi::c_void;
use std::ptr::null_mut;

use mfa_sys as sys;
use mfa_testing::Random;

use crate::grammar::{BF16, FP16, FP32, INT4, INT8, bits};
use crate::random::Awkward;
use crate::world::{Expect, World};

/// The arguments that the entries share.
#[derive(Clone, Copy)]
struct Arguments {
    batch: u32,
    rows: u32,
    keys: u32,
    heads: u32,
    d: u16,
    scale: f32,
    causal: bool,
    precisions: [i32; 3],
    scales: [f32; 3],
    zeros: [i32; 3],
    transposed: [bool; 4],
}

/// The buffers: query, key, value, output, logsumexp, dO, D, dQ, dK, dV.
type Buffers = [*mut c_void; 10];

fn number(random: &mut Random) -> u32 {
    random.awkward() as u32
}

impl Arguments {
    fn new(random: &mut Random, quantized: bool) -> Self {
        let precisions = std::array::from_fn(|_| {
            let floats = [FP32, FP16, BF16];
            let all = [FP32, FP16, BF16, INT8, INT4];
            if quantized {
                random.pick(&all)
            } else {
                random.pick(&floats)
            }
        });
        let d = 1 + random.below(24) as u16;
        Arguments {
            batch: 1 + random.below(2) as u32,
            rows: random.below(18) as u32,
            keys: random.below(18) as u32,
            heads: 1 + random.below(3) as u32,
            d: if precisions.contains(&INT4) {
                d.next_multiple_of(2)
            } else {
                d
            },
            scale: random.scale(),
            causal: random.one_in(2),
            precisions,
            scales: [random.scale(), random.scale(), random.scale()],
            zeros: [random.below(16) as i32 - 8, 0, -1],
            transposed: std::array::from_fn(|i| {
                random.one_in(3) && precisions.get(i) != Some(&INT4)
            }),
        }
    }

    /// Changes something; true if the call must be refused then.
    fn mutate(&mut self, random: &mut Random) -> bool {
        let at = random.below(3) as usize;
        match random.below(8) {
            0 => self.batch = number(random),
            1 => self.rows = number(random),
            2 => self.keys = number(random),
            3 => self.heads = number(random),
            4 => self.d = number(random) as u16,
            5 => {
                self.precisions[at] = random.pick(&[3, 16, -1, i32::MAX]);
                return true;
            }
            6 => {
                self.scales[at] = random.pick(&[0.0, f32::NAN, f32::INFINITY]);
                return matches!(self.precisions[at], INT4 | INT8);
            }
            _ => {
                self.zeros[at] = random.pick(&[i32::MIN, -129, 128, i32::MAX]);
                return matches!(self.precisions[at], INT4 | INT8);
            }
        }
        false
    }

    /// Whether the sizes have so much memory behind them that none is that large, or the call is small.
    fn runs(&self) -> bool {
        let [b, r, k, h, d] =
            [self.batch, self.rows, self.keys, self.heads, self.d.into()].map(f64::from);
        b * h * r * k.max(1.0) * d < 1e6 || b * h * (r + k) * d > 1e9 || b * h * r * d > 1e6
    }
}

impl World {
    fn buffers(&mut self, a: &Arguments, written: &mut Vec<usize>) -> Buffers {
        let per_head = |rows: u32| u64::from(a.batch * a.heads) * u64::from(rows) * u64::from(a.d);
        let (queries, keys, line) = (
            per_head(a.rows),
            per_head(a.keys),
            u64::from(a.batch * a.heads * a.rows),
        );
        let sizes = [
            (queries, a.precisions[0]),
            (keys, a.precisions[1]),
            (keys, a.precisions[2]),
            (queries, FP32),
            (line, FP32),
            (queries, FP32),
            (line, FP32),
            (queries, FP32),
            (keys, FP32),
            (keys, FP32),
        ];
        std::array::from_fn(|i| {
            let (elements, precision) = sizes[i];
            let (handle, slot) = self.exact((elements * bits(precision)).div_ceil(8), precision);
            written.push(slot);
            handle
        })
    }

    /// The four entries, as a training step calls them.
    pub(crate) fn fixed(&mut self) {
        let quantized = !self.random.one_in(3);
        let legal = Arguments::new(&mut self.random, quantized);
        let mut slots = Vec::new();
        let mut buffers = self.buffers(&legal, &mut slots);
        let (mut now, mut expect) = (legal, Expect::Success);
        let spoiled = self.random.below(4);
        if spoiled == 1 {
            let illegal = now.mutate(&mut self.random);
            expect = if illegal {
                Expect::Refusal
            } else {
                Expect::Any
            };
            if !quantized
                && !now
                    .precisions
                    .iter()
                    .any(|p| ![FP32, FP16, BF16].contains(p))
            {
                // Scales and zero points are no arguments there.
                expect = Expect::Any;
            }
        } else if spoiled == 2 {
            let at = self.random.below(4) as usize;
            buffers[at] = if self.random.one_in(3) {
                null_mut()
            } else {
                self.bad_buffer()
            };
            expect = Expect::Refusal;
        }
        if !now.runs() {
            return;
        }
        let context = self.context;
        let Arguments {
            batch,
            rows,
            keys,
            heads,
            d,
            scale,
            causal,
            precisions: p,
            scales: s,
            zeros: z,
            transposed: t,
        } = now;
        let [
            query,
            key,
            value,
            output,
            logsumexp,
            grad_output,
            d_values,
            grad_query,
            grad_key,
            grad_value,
        ] = buffers;
        if !quantized {
            self.call("mfa_attention_forward", expect, &slots[3..4], |api| {
                // SAFETY: handles, looked up before they are used.
                unsafe {
                    (api.mfa_attention_forward)(
                        context, query, key, value, output, batch, rows, keys, heads, d, scale,
                        causal, p[0], p[1], p[2], t[0], t[1], t[2], t[3],
                    )
                }
            });
            return;
        }
        let forward = self.call(
            "mfa_attention_forward_quantized",
            expect,
            &slots[3..5],
            |api| {
                // SAFETY: handles, looked up before they are used.
                unsafe {
                    (api.mfa_attention_forward_quantized)(
                        context, query, key, value, output, logsumexp, batch, rows, keys, heads, d,
                        scale, causal, p[0], p[1], p[2], s[0], z[0], s[1], z[1], s[2], z[2], t[0],
                        t[1], t[2], t[3],
                    )
                }
            },
        );
        // Without a record there is nothing to go back from. (What was forwarded need not be of the buffers' sizes.)
        let exact = forward == sys::MFA_SUCCESS && spoiled != 1;
        let expect = if exact {
            Expect::Success
        } else if forward == 0 {
            Expect::Any
        } else {
            Expect::Refusal
        };
        let (mut rows, mut keys, mut expect) = (rows, keys, expect);
        if self.random.one_in(4) {
            // Other dimensions than the recorded ones.
            if self.random.one_in(2) {
                rows = rows.wrapping_add(1)
            } else {
                keys = number(&mut self.random) | 1 << 20
            }
            expect = Expect::Refusal;
        }
        self.call(
            "mfa_attention_backward_query_quantized",
            expect,
            &slots[6..8],
            |api| {
                // SAFETY: handles, looked up before they are used.
                unsafe {
                    (api.mfa_attention_backward_query_quantized)(
                        context,
                        query,
                        key,
                        value,
                        grad_output,
                        logsumexp,
                        grad_query,
                        d_values,
                        batch,
                        rows,
                        keys,
                        heads,
                        d,
                        s[0],
                        z[0],
                    )
                }
            },
        );
        self.call(
            "mfa_attention_backward_kv_quantized",
            expect,
            &slots[8..10],
            |api| {
                // SAFETY: handles, looked up before they are used.
                unsafe {
                    (api.mfa_attention_backward_kv_quantized)(
                        context,
                        query,
                        key,
                        value,
                        grad_output,
                        logsumexp,
                        d_values,
                        grad_key,
                        grad_value,
                        batch,
                        rows,
                        keys,
                        heads,
                        d,
                        s[0],
                        z[0],
                        s[1],
                        z[1],
                        s[2],
                        z[2],
                    )
                }
            },
        );
    }
}
