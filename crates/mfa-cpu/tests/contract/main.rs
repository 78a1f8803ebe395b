//! The C contract refuses what is wrong, with the documented code and a message, and leaves outputs as they were.

mod extremes;
mod forks;
mod legal;
mod nonsense;
mod rounding;
mod specials;

use std::ffi::c_void;
use std::ptr::{null, null_mut};

use mfa_sys as sys;
use mfa_testing::contiguous;

use legal::{ends_with, legal, session, tensor};

const ARGUMENT: i32 = sys::MFA_ERROR_INVALID_ARGUMENT;
const DIMENSIONS: i32 = sys::MFA_ERROR_INVALID_DIMENSIONS;

#[test]
fn the_legal_call_is_legal() {
    let session = session();
    assert_eq!(
        session.forward(&legal(&session)),
        sys::MFA_SUCCESS,
        "{}",
        session.message()
    );
}

#[test]
fn wrong_handles_are_refused() {
    let session = session();
    let api = &session.api;
    let desc = legal(&session);
    // SAFETY: bad handles are numbers that are looked up; descriptors are of their struct_size or NULL.
    unsafe {
        let invalid = sys::MFA_ERROR_INVALID_CONTEXT;
        assert_eq!((api.mfa_forward)(null_mut(), &desc), invalid);
        assert!(session.message().contains("NULL"));
        assert_eq!(
            (api.mfa_forward)(desc.query.buffer, &desc),
            invalid,
            "a buffer is not a context"
        );
        assert_eq!((api.mfa_forward)(0x7 as *mut c_void, &desc), invalid);
        let mut dead = null_mut();
        assert_eq!((api.mfa_create_context)(&mut dead), sys::MFA_SUCCESS);
        assert_eq!((api.mfa_destroy_context)(dead), sys::MFA_SUCCESS);
        assert_eq!((api.mfa_forward)(dead, &desc), invalid);
        assert_eq!((api.mfa_destroy_context)(dead), invalid);
        assert_eq!((api.mfa_destroy_context)(null_mut()), sys::MFA_SUCCESS);
        assert_eq!((api.mfa_destroy_buffer)(null_mut()), sys::MFA_SUCCESS);
        assert_eq!((api.mfa_forward)(session.context, null()), ARGUMENT);
        assert_eq!((api.mfa_create_context)(null_mut()), ARGUMENT);
        assert_eq!((api.mfa_create_context_on)(1, &mut dead), ARGUMENT);
        assert_eq!(
            (api.mfa_create_buffer)(session.context, u64::MAX, &mut dead),
            sys::MFA_ERROR_BUFFER_ALLOCATION
        );
        assert_eq!(
            (api.mfa_create_buffer)(session.context, 1 << 60, &mut dead),
            sys::MFA_ERROR_BUFFER_ALLOCATION
        );
        assert_eq!(
            (api.mfa_buffer_from_ptr)(session.context, null_mut(), 1, &mut dead),
            ARGUMENT
        );
        assert_eq!(
            (api.mfa_set_num_threads)(session.context, 1 << 20),
            ARGUMENT
        );
    }
    let mut freed = legal(&session);
    // SAFETY: a live buffer.
    unsafe { (session.api.mfa_destroy_buffer)(freed.key.buffer) };
    ends_with(&session, &freed, ARGUMENT, "key");
    freed.key.buffer = null_mut();
    ends_with(&session, &freed, ARGUMENT, "NULL");
    freed.key.buffer = session.context;
    ends_with(&session, &freed, ARGUMENT, "not a live buffer");
}

#[test]
fn struct_sizes_end_between_fields() {
    let session = session();
    let size = size_of::<sys::mfa_forward_desc>() as u32;
    for struct_size in (0..size).filter(|size| *size == 0 || size % 8 != 0) {
        let mut desc = legal(&session);
        desc.struct_size = struct_size;
        ends_with(&session, &desc, ARGUMENT, "struct_size");
        let options = sys::mfa_attention_options {
            struct_size,
            ..sys::mfa_attention_options::new()
        };
        let desc = sys::mfa_forward_desc {
            options: &raw const options,
            ..legal(&session)
        };
        ends_with(&session, &desc, ARGUMENT, "struct_size");
    }
}

#[test]
fn options_without_their_flag_are_refused() {
    let session = session();
    let check = |edit: &dyn Fn(&mut sys::mfa_attention_options), status: i32, word: &str| {
        let mut options = sys::mfa_attention_options::new();
        edit(&mut options);
        let desc = sys::mfa_forward_desc {
            options: &raw const options,
            ..legal(&session)
        };
        ends_with(&session, &desc, status, word);
    };
    check(&|o| o.softmax_scale = 0.5, ARGUMENT, "MFA_OPTION_SCALE");
    check(
        &|o| o.softmax_scale = f32::NAN,
        ARGUMENT,
        "MFA_OPTION_SCALE",
    );
    check(&|o| o.window_left = 3, ARGUMENT, "window_left is 3 without");
    check(
        &|o| o.window_right = 1,
        ARGUMENT,
        "window_right is 1 without",
    );
    check(
        &|o| o.window_right = -2,
        ARGUMENT,
        "window_right is -2 without",
    );
    // No limit, as without a window.
    check(&|o| o.window_left = -1, sys::MFA_SUCCESS, "");
    let window = |o: &mut sys::mfa_attention_options| o.flags = sys::MFA_OPTION_WINDOW;
    check(&|o| (window(o), o.window_left = 3).1, sys::MFA_SUCCESS, "");
    check(
        &|o| (window(o), o.softmax_scale = 1.0).1,
        ARGUMENT,
        "MFA_OPTION_SCALE",
    );
}

#[test]
fn outputs_have_memory_of_their_own() {
    let session = session();
    let check = |edit: &dyn Fn(&mut sys::mfa_forward_desc), word: &str| {
        let mut desc = legal(&session);
        // As large as all of them, so that anything can be a view of it.
        desc.output.buffer = session.buffer(4 * 2 * 160);
        desc.logsumexp = tensor(&session, [1, 4, 5, 1]);
        edit(&mut desc);
        ends_with(&session, &desc, ARGUMENT, word);
    };
    let shares = |what: &str, name: &str| format!("{what}: shares elements with {name}");
    check(&|d| d.query = d.output, &shares("output", "query"));
    check(
        &|d| d.key.buffer = d.output.buffer,
        &shares("output", "key"),
    );
    check(
        &|d| d.value.buffer = d.output.buffer,
        &shares("output", "value"),
    );
    check(
        &|d| d.logsumexp.buffer = d.output.buffer,
        &shares("output", "logsumexp"),
    );
    check(
        &|d| {
            (
                d.logsumexp.buffer = d.query.buffer,
                d.logsumexp.byte_offset = 4,
            )
                .0
        },
        &shares("logsumexp", "query"),
    );
    // Rows of one buffer in turn: bytes between the ends are shared, elements are not.
    let mut desc = legal(&session);
    let both = session.buffer(4 * 2 * 160);
    for (tensor, offset) in [(&mut desc.query, 0), (&mut desc.output, 32)] {
        tensor.buffer = both;
        tensor.byte_offset = offset;
        tensor.strides = [0, 80, 16, 1];
    }
    assert_eq!(
        session.forward(&desc),
        sys::MFA_SUCCESS,
        "{}",
        session.message()
    );
}

#[test]
fn wrong_shapes_are_refused() {
    let session = session();
    let check = |edit: &dyn Fn(&mut sys::mfa_forward_desc), status: i32, word: &str| {
        let mut desc = legal(&session);
        edit(&mut desc);
        ends_with(&session, &desc, status, word);
    };
    check(&|d| d.value.shape[3] = 0, DIMENSIONS, "head dimension is 0");
    check(&|d| d.query.shape[0] = 0, DIMENSIONS, "key");
    check(
        &|d| (d.key.shape[1], d.value.shape[1]) = (0, 0),
        DIMENSIONS,
        "a multiple of the 0",
    );
    check(&|d| d.query.shape[1] = 3, DIMENSIONS, "3 heads");
    check(&|d| d.key.shape[2] = 6, DIMENSIONS, "value");
    check(&|d| d.key.shape[3] = 7, DIMENSIONS, "key");
    check(&|d| d.output.shape[2] = 4, DIMENSIONS, "output");
    check(&|d| d.query.strides[2] = -8, DIMENSIONS, "-8");
    check(&|d| d.output.strides[2] = 0, DIMENSIONS, "overlap");
    check(&|d| d.output.strides[1] = 8, DIMENSIONS, "overlap");
    check(&|d| d.query.shape = [u64::MAX; 4], DIMENSIONS, "2^48");
    check(
        &|d| d.query.shape = [1 << 40, 1 << 40, 1 << 40, 8],
        DIMENSIONS,
        "more elements",
    );
    check(&|d| d.query.strides[0] = i64::MAX, sys::MFA_SUCCESS, "");
    check(
        &|d| d.query.strides = [0; 4],
        DIMENSIONS,
        "query: the stride of columns is 0",
    );
    check(
        &|d| d.value.strides[3] = 0,
        DIMENSIONS,
        "value: the stride of columns is 0",
    );
    let wide = tensor(&session, [1, 1, 1, 1025]);
    check(
        &|d| (d.query, d.key, d.value) = (wide, wide, wide),
        DIMENSIONS,
        "1025",
    );
    check(&|d| d.query.byte_offset = 4, ARGUMENT, "needs");
    check(&|d| d.query.byte_offset = 2, ARGUMENT, "multiple of 4");
    check(&|d| d.query.precision = 3, ARGUMENT, "unknown");
    check(
        &|d| d.query.precision = sys::MFA_PRECISION_BOOL,
        ARGUMENT,
        "BOOL",
    );
    check(
        &|d| d.output.precision = sys::MFA_PRECISION_INT8,
        ARGUMENT,
        "output",
    );
    check(
        &|d| d.key.precision = sys::MFA_PRECISION_INT8,
        ARGUMENT,
        "without quantization",
    );
    check(&|d| d.struct_size = 3, ARGUMENT, "struct_size");
    check(&|d| d.reserved = 1, ARGUMENT, "reserved");
    let short = session.buffer(4 * 7 * 2 * 8 - 1);
    check(
        &|d| d.key.buffer = short,
        ARGUMENT,
        "448 bytes; the buffer has 447",
    );
}

#[test]
fn wrong_options_are_refused() {
    let session = session();
    let check = |edit: &dyn Fn(&mut sys::mfa_attention_options), status: i32, word: &str| {
        let mut options = sys::mfa_attention_options::new();
        edit(&mut options);
        let desc = sys::mfa_forward_desc {
            options: &options,
            ..legal(&session)
        };
        ends_with(&session, &desc, status, word);
    };
    let scale = sys::MFA_OPTION_SCALE;
    check(
        &|o| (o.flags, o.softmax_scale) = (scale, f32::NAN),
        ARGUMENT,
        "softmax_scale",
    );
    check(
        &|o| (o.flags, o.softmax_scale) = (scale, f32::INFINITY),
        ARGUMENT,
        "softmax_scale",
    );
    check(&|o| o.flags = 1 << 30, ARGUMENT, "flags");
    check(&|o| o.softcap = -1.0, ARGUMENT, "softcap");
    check(&|o| o.softcap = f32::NAN, ARGUMENT, "softcap");
    check(&|o| o.alignment = 2, ARGUMENT, "alignment");
    check(&|o| o.compute = -1, ARGUMENT, "compute");
    check(
        &|o| (o.flags, o.window_left) = (sys::MFA_OPTION_WINDOW, -2),
        ARGUMENT,
        "window_left",
    );
    let mask = tensor(&session, [1, 4, 5, 6]);
    check(
        &|o| o.mask = mask,
        DIMENSIONS,
        "mask: columns is 6; expected 7",
    );
    let three = tensor(&session, [1, 3, 1, 1]);
    check(&|o| o.sinks = three, DIMENSIONS, "sinks");
    check(&|o| o.alibi_slopes = three, DIMENSIONS, "alibi_slopes");
    check(&|o| o.sequence_count = 2, ARGUMENT, "cu_seqlens_q");
    let lengths = |numbers: [i32; 3]| {
        let buffer = session.buffer(12);
        for (to, n) in session.bytes(buffer).chunks_exact_mut(4).zip(numbers) {
            to.copy_from_slice(&n.to_le_bytes());
        }
        buffer
    };
    let (q, k) = (lengths([0, 2, 5]), lengths([0, 3, 7]));
    check(
        &|o| (o.sequence_count, o.cu_seqlens_q, o.cu_seqlens_k) = (2, lengths([0, 6, 5]), k),
        ARGUMENT,
        "falls from 6 to 5",
    );
    check(
        &|o| (o.sequence_count, o.cu_seqlens_q, o.cu_seqlens_k) = (2, q, lengths([0, 3, 8])),
        ARGUMENT,
        "ends with 8; expected at most 7",
    );
    check(
        &|o| (o.sequence_count, o.cu_seqlens_q, o.cu_seqlens_k) = (2, lengths([1, 2, 5]), k),
        ARGUMENT,
        "begins",
    );
    check(
        &|o| (o.sequence_count, o.cu_seqlens_q, o.cu_seqlens_k) = (2, q, session.buffer(11)),
        ARGUMENT,
        "cu_seqlens_k",
    );
    check(
        &|o| (o.sequence_count, o.cu_seqlens_q, o.cu_seqlens_k) = (2, q, k),
        sys::MFA_SUCCESS,
        "",
    );
}

#[test]
fn wrong_quantizations_are_refused() {
    let session = session();
    let check = |precision: i32,
                 edit: &dyn Fn(&mut sys::mfa_tensor, &mut sys::mfa_quantization),
                 status: i32,
                 word: &str| {
        let mut quantization = sys::mfa_quantization {
            scale: 0.5,
            ..sys::mfa_quantization::new()
        };
        let mut desc = legal(&session);
        desc.key.precision = precision;
        edit(&mut desc.key, &mut quantization);
        desc.key.quantization = &raw const quantization;
        ends_with(&session, &desc, status, word);
    };
    let (int8, int4) = (sys::MFA_PRECISION_INT8, sys::MFA_PRECISION_INT4);
    check(int8, &|_, _| (), sys::MFA_SUCCESS, "");
    check(int4, &|_, _| (), sys::MFA_SUCCESS, "");
    for scale in [f32::NAN, f32::INFINITY, 0.0] {
        check(int8, &|_, q| q.scale = scale, ARGUMENT, "scale");
    }
    check(
        int8,
        &|_, q| q.zero_point = 128,
        ARGUMENT,
        "zero point is 128",
    );
    check(
        int4,
        &|_, q| q.zero_point = -9,
        ARGUMENT,
        "zero point is -9",
    );
    check(int8, &|_, q| q.granularity = 4, ARGUMENT, "granularity");
    check(
        int8,
        &|_, q| q.granularity = sys::MFA_GRANULARITY_ROW,
        ARGUMENT,
        "scale_buffer",
    );
    check(
        int8,
        &|_, q| q.granularity = sys::MFA_GRANULARITY_BLOCK,
        ARGUMENT,
        "block_rows",
    );
    check(int8, &|_, q| q.group_size = 32, ARGUMENT, "group_size");
    check(int8, &|_, q| q.rotated = 2, ARGUMENT, "rotated");
    check(
        sys::MFA_PRECISION_FP32,
        &|_, _| (),
        ARGUMENT,
        "quantization was given for FP32",
    );
    check(int4, &|t, _| t.strides[3] = 2, DIMENSIONS, "column stride");
    check(int4, &|t, _| t.strides[2] = 9, DIMENSIONS, "even");
    check(
        int4,
        &|t, _| t.shape[3] = 7,
        DIMENSIONS,
        "7 columns of INT4",
    );
    let row = |q: &mut sys::mfa_quantization, bytes: usize| {
        q.granularity = sys::MFA_GRANULARITY_ROW;
        q.scale_buffer = session.buffer(bytes);
    };
    check(int8, &|_, q| row(q, 4 * 14), sys::MFA_SUCCESS, "");
    check(int8, &|_, q| row(q, 4 * 14 - 1), ARGUMENT, "56 bytes");
    // The first rows of a longer cache: its scales are not where those of a tensor of its own would be.
    let part =
        |t: &mut sys::mfa_tensor| (t.buffer, t.strides) = (session.buffer(256), [0, 128, 8, 1]);
    check(
        int8,
        &|t, q| (part(t), row(q, 4 * 32)).1,
        ARGUMENT,
        "expected the strides of its scales",
    );
    let cache = |q: &mut sys::mfa_quantization| q.scale_strides = [32, 16, 1, 1];
    check(
        int8,
        &|t, q| (part(t), row(q, 4 * 32), cache(q)).2,
        sys::MFA_SUCCESS,
        "",
    );
    // One scale is where it is.
    check(int8, &|t, _| part(t), sys::MFA_SUCCESS, "");
    check(
        int8,
        &|_, q| (row(q, 56), q.scale_precision = 8).1,
        ARGUMENT,
        "scale_precision",
    );
    check(
        int8,
        &|_, q| (row(q, 56), q.scale_strides = [-1; 4]).1,
        DIMENSIONS,
        "scale_strides",
    );
    check(
        int8,
        &|_, q| (row(q, 56), q.zero_point_buffer = session.buffer(14)).1,
        ARGUMENT,
        "zero_point_bytes",
    );
    check(
        int8,
        &|_, q| q.mean_buffer = session.buffer(63),
        ARGUMENT,
        "mean_buffer",
    );
}

#[test]
fn quantizing_what_is_not_finite_is_refused() {
    let session = session();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let source = tensor(&session, [1, 1, 3, 8]);
        session.bytes(source.buffer)[60..64].copy_from_slice(&bad.to_le_bytes());
        let quantization = sys::mfa_quantization {
            scale_buffer: session.buffer(4),
            ..sys::mfa_quantization::new()
        };
        let mut destination = contiguous(session.buffer(24), source.shape);
        destination.precision = sys::MFA_PRECISION_INT8;
        destination.quantization = &quantization;
        session.bytes(destination.buffer).fill(0xA5);
        let desc = sys::mfa_quantize_desc {
            source,
            destination,
            ..sys::mfa_quantize_desc::new()
        };
        // SAFETY: a descriptor of its struct_size.
        let status = unsafe { (session.api.mfa_quantize)(session.context, &desc) };
        assert_eq!(status, ARGUMENT);
        assert!(
            session.message().contains("[0, 0, 1, 7] is not finite"),
            "{}",
            session.message()
        );
        assert!(session.bytes(destination.buffer).iter().all(|&b| b == 0xA5));
    }
}

#[test]
fn empty_sequences_are_legal() {
    let session = session();
    let mut no_keys = legal(&session);
    (no_keys.key.shape[2], no_keys.value.shape[2]) = (0, 0);
    no_keys.logsumexp = tensor(&session, [1, 4, 5, 1]);
    session.bytes(no_keys.output.buffer).fill(0xA5);
    assert_eq!(
        session.forward(&no_keys),
        sys::MFA_SUCCESS,
        "{}",
        session.message()
    );
    assert!(
        session.bytes(no_keys.output.buffer).iter().all(|&b| b == 0),
        "no key: zeros"
    );
    let minus_infinity = f32::NEG_INFINITY.to_le_bytes();
    assert!(
        session
            .bytes(no_keys.logsumexp.buffer)
            .chunks_exact(4)
            .all(|x| x == minus_infinity)
    );

    let mut no_rows = legal(&session);
    (no_rows.query.shape[2], no_rows.output.shape[2]) = (0, 0);
    session.bytes(no_rows.output.buffer).fill(0xA5);
    assert_eq!(
        session.forward(&no_rows),
        sys::MFA_SUCCESS,
        "{}",
        session.message()
    );
    assert!(
        session
            .bytes(no_rows.output.buffer)
            .iter()
            .all(|&b| b == 0xA5),
        "no row: nothing written"
    );
}
