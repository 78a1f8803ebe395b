//! Changes of a legal call. Each says whether the call is surely illegal afterwards.

use std::ptr::null_mut;

use mfa_sys as sys;

use crate::grammar::{INT4, Kind, Role, Subject, View};
use crate::random::Awkward;
use crate::world::World;

/// Changes something; true if the call must be refused if nothing else is changed.
pub(crate) fn mutate(world: &mut World, subject: &mut Subject) -> bool {
    if subject.views.is_empty() {
        return false;
    }
    match world.random.below(16) {
        0..6 => {
            let at = world.random.below(subject.views.len() as u64) as usize;
            let kind = subject.kind;
            tensor(world, &mut subject.views[at], kind)
        }
        6..9 => quantization(world, subject),
        9..12 => options(world, subject),
        12 => alias(world, subject),
        13 => stretch(world, subject),
        14 => sizes(world, subject),
        _ => descriptor(world, subject),
    }
}

fn empty(tensor: &sys::mfa_tensor) -> bool {
    tensor.shape.contains(&0)
}

/// Whether a role may be absent.
fn optional(role: Role, kind: Kind) -> bool {
    match role {
        Role::Query
        | Role::Key
        | Role::Value
        | Role::GradOutput
        | Role::Source
        | Role::Destination
        | Role::PartOutput
        | Role::PartLogsumexp => false,
        Role::Output => kind == Kind::Backward,
        Role::Logsumexp => matches!(kind, Kind::Forward | Kind::Merge),
        _ => true,
    }
}

fn tensor(world: &mut World, view: &mut View, kind: Kind) -> bool {
    let axis = world.random.below(4) as usize;
    let tensor = &mut view.tensor;
    match world.random.below(12) {
        0 => {
            tensor.shape[axis] = world.random.awkward() as u64;
            false
        }
        1 => {
            tensor.shape[axis] =
                tensor.shape[axis].wrapping_add_signed(world.random.pick(&[-1, 1]));
            false
        }
        2 => {
            tensor.strides[axis] = world.random.awkward();
            tensor.strides[axis] < 0
        }
        3 => {
            tensor.byte_offset = world.random.awkward() as u64;
            !empty(tensor) && tensor.byte_offset > 1 << 20
        }
        4 => {
            tensor.precision = world.random.pick(&[3, -1, 5, 32, 1 << 20, i32::MIN]);
            true
        }
        5 => {
            tensor.precision = world.random.pick(&[0, 1, 2, 4, 8, 16]);
            false
        }
        6 => {
            tensor.reserved = 1 << world.random.below(32);
            true
        }
        7 => {
            tensor.buffer = world.bad_buffer();
            true
        }
        8 => {
            tensor.buffer = null_mut();
            !optional(view.role, kind)
        }
        9 => {
            if view.quantization.is_some() {
                view.quantization = None;
            } else {
                view.quantization = Some(sys::mfa_quantization {
                    scale: 0.5,
                    ..sys::mfa_quantization::new()
                });
            }
            true
        }
        10 => {
            let other = world.random.below(4) as usize;
            tensor.shape.swap(axis, other);
            tensor.strides.swap(axis, other);
            false
        }
        _ => {
            // An output whose elements overlap.
            if tensor.shape[axis] > 1 && !empty(tensor) {
                tensor.strides[axis] = 0;
                return view.written;
            }
            false
        }
    }
}

fn quantization(world: &mut World, subject: &mut Subject) -> bool {
    let quantized: Vec<usize> = (0..subject.views.len())
        .filter(|&at| subject.views[at].quantization.is_some())
        .collect();
    if quantized.is_empty() {
        return false;
    }
    let at = world.random.pick(&quantized);
    let shape = subject.views[at].tensor.shape;
    let precision = subject.views[at].tensor.precision;
    let written = subject.views[at].written;
    let nothing = shape.contains(&0);
    let whole = subject.flags & sys::MFA_QUANTIZE_SCALE_GIVEN == 0 && written;
    let Some(q) = &mut subject.views[at].quantization else {
        return false;
    };
    let arrays = !q.scale_buffer.is_null();
    match world.random.below(17) {
        0 => {
            q.granularity = world.random.pick(&[-1, 4, 5, i32::MAX]);
            true
        }
        1 => {
            q.granularity = (q.granularity.wrapping_add(1)).rem_euclid(4);
            false
        }
        2 => {
            q.block_rows = world.random.awkward() as u32;
            (q.granularity < 2) == (q.block_rows > 0)
        }
        3 => {
            q.group_size = world.random.pick(&[1, 16, 31, 33, 128, u32::MAX]);
            true
        }
        4 => {
            q.scale = world.random.pick(&[0.0, f32::NAN, f32::INFINITY]);
            !arrays
        }
        5 => {
            q.zero_point = world.random.pick(&[i32::MIN, -129, 128, i32::MAX]);
            !arrays
        }
        6 => {
            q.scale_buffer = world.bad_buffer();
            true
        }
        7 => {
            q.scale_buffer = null_mut();
            q.granularity != sys::MFA_GRANULARITY_TENSOR || written
        }
        8 if arrays => {
            q.scale_offset = world.random.awkward() as u64;
            !nothing && q.scale_offset > 1 << 20
        }
        9 if arrays => {
            q.scale_precision = world.random.pick(&[-1, 2, 4, 8, 16, 99]);
            true
        }
        10 => {
            q.rotated = world.random.pick(&[2, u32::MAX]);
            true
        }
        11 if !q.zero_point_buffer.is_null() => {
            q.zero_point_bytes = world.random.pick(&[0, 2, 3, 8, u32::MAX]);
            true
        }
        12 => {
            q.reserved = 1 << world.random.below(32);
            true
        }
        13 if arrays => {
            let axis = world.random.below(4) as usize;
            q.scale_strides[axis] = world.random.awkward();
            q.scale_strides[axis] < 0
        }
        14 if !q.mean_buffer.is_null() => {
            q.mean_offset = world.random.awkward() as u64;
            !nothing && q.mean_offset > 1 << 20
        }
        15 if arrays && q.granularity == sys::MFA_GRANULARITY_ROW && shape[2] > 1 && !nothing => {
            // All groups of a column share one place: read, a choice; written, a race.
            q.scale_strides = [0, 0, 0, 1];
            whole
        }
        _ => {
            // A zero point that is out of range.
            if q.zero_point_bytes != 4 || q.zero_point_buffer.is_null() || whole || nothing {
                return false;
            }
            let most = if precision == INT4 { 8 } else { 128 };
            let value: i32 = world.random.pick(&[i32::MIN, -most - 1, most, i32::MAX]);
            world.poke(q.zero_point_buffer, q.zero_point_offset, value)
        }
    }
}

fn options(world: &mut World, subject: &mut Subject) -> bool {
    if !matches!(subject.kind, Kind::Forward | Kind::Backward) {
        return false;
    }
    let has_mask = subject.view(Role::Mask).is_some();
    let Some(options) = &mut subject.options else {
        return false;
    };
    let flags = options.flags;
    let flagged = |flag: u32| flags & flag != 0;
    match world.random.below(14) {
        0 => {
            options.flags |= 8 << world.random.below(28);
            true
        }
        1 => {
            options.flags ^= 1 << world.random.below(3);
            false
        }
        2 => {
            let scaled = flagged(sys::MFA_OPTION_SCALE);
            options.softmax_scale =
                world
                    .random
                    .pick(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
            scaled
        }
        3 => {
            options.softcap = world.random.pick(&[-1.0, f32::NAN, f32::INFINITY, -1e-30]);
            true
        }
        4 => {
            options.alignment = world.random.pick(&[-1, 2, i32::MAX]);
            true
        }
        5 => {
            options.compute = world.random.pick(&[-1, 2, i32::MIN]);
            true
        }
        6 => {
            let windowed = flagged(sys::MFA_OPTION_WINDOW);
            options.window_left = world.random.awkward();
            windowed && options.window_left < -1
        }
        7 => {
            let windowed = flagged(sys::MFA_OPTION_WINDOW);
            options.window_right = world.random.awkward();
            windowed && options.window_right < -1
        }
        8 => {
            // A window that nothing says is given is a mistake.
            options.flags &= !sys::MFA_OPTION_WINDOW;
            options.window_left = 1 + world.random.below(30) as i64;
            true
        }
        9 => {
            options.reserved = 1 << world.random.below(32);
            true
        }
        10 => {
            options.sequence_count = world.random.awkward() as u32;
            false
        }
        11 if options.sequence_count > 0 => {
            options.cu_seqlens_q = world.bad_buffer();
            true
        }
        12 if options.sequence_count > 0 => {
            // Lengths that fall, or do not begin at 0.
            let value = world.random.pick(&[1, -1, i32::MIN, i32::MAX]);
            world.poke(options.cu_seqlens_k, options.cu_seqlens_k_offset, value)
        }
        _ => {
            if has_mask && subject.kind == Kind::Forward {
                subject.options = None;
            }
            false
        }
    }
}

/// Lets a result lie in an operand, or in another result.
fn alias(world: &mut World, subject: &mut Subject) -> bool {
    let written: Vec<usize> = (0..subject.views.len())
        .filter(|&at| subject.views[at].written)
        .collect();
    if written.is_empty() {
        return false;
    }
    let target = world.random.pick(&written);
    let onto = world.random.below(subject.views.len() as u64) as usize;
    if target == onto || empty(&subject.views[target].tensor) || empty(&subject.views[onto].tensor)
    {
        return false;
    }
    if world.random.one_in(3) {
        // The scales of a tensor in a result.
        let into = subject.views[target].tensor.buffer;
        if let Some(q) = &mut subject.views[onto].quantization
            && !q.scale_buffer.is_null()
        {
            (q.scale_buffer, q.scale_offset) = (into, 0);
            q.scale_strides = [0, 0, 0, 0];
            return false;
        }
    }
    let from = subject.views[onto].tensor;
    let into = &mut subject.views[target].tensor;
    (into.buffer, into.byte_offset) = (from.buffer, from.byte_offset);
    // What is written there then is no fault of its own.
    subject.outputs.push(subject.views[onto].slot);
    // A merge may be written to one of its parts; what there are no scores for is not read.
    let beside = matches!(
        subject.views[onto].role,
        Role::Mask | Role::Slopes | Role::Sinks
    );
    let scores = !empty(&subject.tensor(Role::Query)) && !empty(&subject.tensor(Role::Key));
    !matches!(subject.kind, Kind::Merge | Kind::MergeBackward) && (scores || !beside)
}

/// Makes a dimension that all operands repeat huge.
fn stretch(world: &mut World, subject: &mut Subject) -> bool {
    let axis = world.random.pick(&[0, 0, 1, 2, 3]);
    let size = 1u64 << world.random.pick(&[16, 25, 30, 31, 32, 33, 40, 47, 48]);
    // Results have no element to be repeated: they are left out, or empty.
    let nothing = world.random.one_in(2);
    let keys = world.random.one_in(2);
    for view in &mut subject.views {
        let per_key = matches!(
            view.role,
            Role::Key | Role::Value | Role::GradKey | Role::GradValue
        );
        let shape = &mut view.tensor.shape;
        if nothing && !per_key && shape[2] != 1 {
            shape[2] = 0;
        }
        let here = match view.role {
            Role::Sinks | Role::GradSinks | Role::Mask | Role::GradMask | Role::Slopes => false,
            _ if axis == 2 => per_key == keys,
            _ => true,
        };
        if here {
            shape[axis] = size.saturating_mul(if axis == 1 { shape[1].max(1) } else { 1 });
            view.tensor.strides[axis] = 0;
            if let Some(q) = &mut view.quantization {
                let explicit = q.scale_strides != [0; 4];
                q.scale_strides = if explicit {
                    q.scale_strides
                } else {
                    view.tensor.strides
                };
                q.scale_strides[axis] = 0;
            }
        }
    }
    if matches!(subject.kind, Kind::Backward) {
        let kept: u64 = world.random.below(4);
        subject.views.retain(|view| match view.role {
            Role::GradQuery | Role::GradMask => false,
            Role::DValues => kept == 0,
            Role::GradKey | Role::GradValue => axis == 2 && !keys,
            _ => true,
        });
        if kept != 0 {
            subject.flags &= !sys::MFA_BACKWARD_D_GIVEN;
        }
    }
    false
}

/// Struct sizes of other versions, and impossible ones.
fn sizes(world: &mut World, subject: &mut Subject) -> bool {
    let size = |world: &mut World, known: usize| match world.random.below(6) {
        0 => world.random.below(known as u64) as u32,
        1 => world.random.below(known as u64 / 8) as u32 * 8,
        2 => world.random.pick(&[0, 1, 3, 4, 5, 12]),
        3 => known as u32 + 8 * world.random.below(20) as u32,
        4 => known as u32 + world.random.below(9) as u32,
        _ => known as u32 - 4,
    };
    // No compiler makes structs of such sizes: they may end inside a pointer.
    let odd = |size: u32| !size.is_multiple_of(8);
    if world.random.one_in(3) {
        subject.filling = world.random.pick(&[0, 1, 0xFF]);
    }
    match world.random.below(3) {
        0 if subject.kind != Kind::Dequantize => {
            subject.struct_size = size(world, subject.struct_bytes());
            odd(subject.struct_size)
        }
        1 => subject.options.as_mut().is_some_and(|options| {
            options.struct_size = size(world, size_of_val(options));
            odd(options.struct_size)
        }),
        _ => {
            let mut illegal = false;
            for q in subject
                .views
                .iter_mut()
                .filter_map(|view| view.quantization.as_mut())
            {
                q.struct_size = size(world, size_of_val(q));
                illegal |= odd(q.struct_size);
            }
            illegal
        }
    }
}

fn descriptor(world: &mut World, subject: &mut Subject) -> bool {
    match subject.kind {
        Kind::Forward if world.random.one_in(2) => {
            subject.reserved = 1 << world.random.below(32);
            true
        }
        Kind::Backward | Kind::Quantize if world.random.one_in(2) => {
            subject.flags |= 16 << world.random.below(27);
            true
        }
        Kind::Quantize => {
            subject.flags ^= 1 << world.random.below(4);
            // What was to be read may be written now.
            let slots: Vec<usize> = subject.parameters.drain(..).collect();
            subject.outputs.extend(slots);
            false
        }
        Kind::Dequantize => false,
        Kind::Merge | Kind::MergeBackward if subject.count > 0 && world.random.one_in(2) => {
            subject.count = world.random.below(u64::from(subject.count)) as u32;
            subject.count == 0
        }
        _ => {
            // A required tensor is taken away.
            let at = world.random.below(subject.views.len() as u64) as usize;
            let view = subject.views.remove(at);
            !optional(view.role, subject.kind)
        }
    }
}
