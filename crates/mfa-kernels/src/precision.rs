//! Storage of elements: one row of [`Traits`] per precision.

/// The storage format of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64.
    F64,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
    /// Two's complement, two elements a byte, the first in the low nibble.
    I4,
    /// Two's complement.
    I8,
    /// A byte; 0 is false.
    Bool,
}

/// The kind of number that a precision stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A floating-point number.
    Float,
    /// An integer that a scale and a zero point turn into a real number.
    Quantized {
        /// The largest magnitude of a symmetrically quantized integer.
        symmetric_max: i32,
        /// The smallest and the largest integer that can be stored.
        range: (i32, i32),
    },
    /// A truth value, for masks.
    Bool,
}

/// The properties of a stored precision.
#[derive(Clone, Copy, Debug)]
pub struct Traits {
    /// The name in messages.
    pub name: &'static str,
    /// The code of the contract (`MFA_PRECISION_*`).
    pub code: i32,
    /// Bits of an element.
    pub bits: usize,
    /// The kind of number.
    pub kind: Kind,
}

impl Precision {
    /// Every precision, in the order of its codes.
    pub const ALL: [Self; 7] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::I4,
        Self::I8,
        Self::Bool,
        Self::F64,
    ];

    /// The row of this precision. A new precision is a row here, and kernels that read it.
    #[must_use]
    pub const fn traits(self) -> Traits {
        let (name, code, bits, kind) = match self {
            Self::F32 => ("FP32", 0, 32, Kind::Float),
            Self::F16 => ("FP16", 1, 16, Kind::Float),
            Self::Bf16 => ("BF16", 2, 16, Kind::Float),
            Self::I4 => (
                "INT4",
                4,
                4,
                Kind::Quantized {
                    symmetric_max: 7,
                    range: (-8, 7),
                },
            ),
            Self::I8 => (
                "INT8",
                8,
                8,
                Kind::Quantized {
                    symmetric_max: 127,
                    range: (-128, 127),
                },
            ),
            Self::Bool => ("BOOL", 16, 8, Kind::Bool),
            Self::F64 => ("FP64", 64, 64, Kind::Float),
        };
        Traits {
            name,
            code,
            bits,
            kind,
        }
    }

    /// The precision of a code of the contract.
    #[must_use]
    pub fn from_code(code: i32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|precision| precision.traits().code == code)
    }

    /// The name in messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.traits().name
    }

    /// Bits of an element.
    #[must_use]
    pub const fn bits(self) -> usize {
        self.traits().bits
    }

    /// Bytes of an element; INT4 counts by the byte that holds it.
    #[must_use]
    pub const fn bytes(self) -> usize {
        self.bits().div_ceil(8)
    }

    /// Whether elements are floating-point numbers.
    #[must_use]
    pub const fn is_float(self) -> bool {
        matches!(self.traits().kind, Kind::Float)
    }

    /// Whether elements are integers that need a scale.
    #[must_use]
    pub const fn is_quantized(self) -> bool {
        matches!(self.traits().kind, Kind::Quantized { .. })
    }

    /// The largest magnitude of a symmetrically quantized integer; that of INT8 for other precisions.
    #[must_use]
    pub const fn symmetric_max(self) -> i32 {
        match self.traits().kind {
            Kind::Quantized { symmetric_max, .. } => symmetric_max,
            _ => 127,
        }
    }

    /// The smallest and the largest integer that can be stored; those of INT8 for other precisions.
    #[must_use]
    pub const fn range(self) -> (i32, i32) {
        match self.traits().kind {
            Kind::Quantized { range, .. } => range,
            _ => (-128, 127),
        }
    }
}

/// One kernel per storage precision that operands of FP32 arithmetic have.
#[derive(Clone, Copy)]
pub struct PerPrecision<F> {
    /// Reads FP32.
    pub f32: F,
    /// Reads FP16.
    pub f16: F,
    /// Reads BF16.
    pub bf16: F,
    /// Reads INT8, and the bytes of BOOL.
    pub i8: F,
    /// Reads INT4.
    pub i4: F,
}

impl<F> PerPrecision<F> {
    /// The kernel that reads a precision.
    ///
    /// # Panics
    /// For FP64, which no kernel of FP32 arithmetic reads.
    pub fn of(&self, precision: Precision) -> &F {
        match precision {
            Precision::F32 => &self.f32,
            Precision::F16 => &self.f16,
            Precision::Bf16 => &self.bf16,
            Precision::F64 => unreachable!("FP64 has a path of its own"),
            Precision::I8 | Precision::Bool => &self.i8,
            Precision::I4 => &self.i4,
        }
    }
}

/// One kernel per storage precision of integers.
#[derive(Clone, Copy)]
pub struct PerInteger<F> {
    /// Reads INT8.
    pub i8: F,
    /// Reads INT4.
    pub i4: F,
}

impl<F> PerInteger<F> {
    /// The kernel that reads a precision.
    ///
    /// # Panics
    /// For a precision that is not quantized.
    pub fn of(&self, precision: Precision) -> &F {
        match precision {
            Precision::I8 => &self.i8,
            Precision::I4 => &self.i4,
            _ => unreachable!("{} has no scales", precision.name()),
        }
    }
}
