//! How float operands are quantized before a call: one setting for all, or one for each.

use mfa::raw::sys;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyMapping, PyString};

use super::value::{block_rows, boolean, group, name_of, named, shown};
use super::{GRANULARITIES, PRECISIONS, SCALE_DTYPES, ZERO_POINT_DTYPES};
use crate::error;

/// Which of query, key and value.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Role {
    Query,
    Key,
    Value,
}

impl Role {
    const ALL: [Role; 3] = [Role::Query, Role::Key, Role::Value];

    /// The key in mappings.
    const fn key(self) -> &'static str {
        match self {
            Role::Query => "q",
            Role::Key => "k",
            Role::Value => "v",
        }
    }
}

/// One setting for each of query, key and value: given once for all three, or as a mapping from "q", "k" and "v".
#[derive(Clone, Copy, Debug)]
pub(crate) struct PerOperand<T> {
    of: [T; 3],
    /// Those that a mapping names.
    named: [bool; 3],
}

impl<T: Copy> PerOperand<T> {
    const fn all(value: T) -> PerOperand<T> {
        PerOperand {
            of: [value; 3],
            named: [false; 3],
        }
    }

    pub(crate) fn of(&self, role: Role) -> T {
        self.of[role as usize]
    }

    /// `single` says what a value without a mapping means for the three.
    fn parse(
        value: &Bound<'_, PyAny>,
        argument: &str,
        default: PerOperand<T>,
        one: impl Fn(&Bound<'_, PyAny>, &str) -> PyResult<T>,
        single: impl Fn(T) -> [T; 3],
    ) -> PyResult<PerOperand<T>> {
        let mapping = value.cast::<PyMapping>();
        let (Ok(mapping), false) = (mapping, value.is_instance_of::<PyString>()) else {
            let of = single(one(value, argument)?);
            return Ok(PerOperand { of, ..default });
        };
        let dict = PyDict::from_sequence(mapping.items()?.as_any())?;
        let mut each = default;
        for (key, value) in dict {
            let name = key.extract::<String>().unwrap_or_default();
            let Some(role) = Role::ALL.into_iter().find(|role| role.key() == name) else {
                return Err(error::argument(format!(
                    "{argument}: key {}, expected \"q\", \"k\" or \"v\"",
                    shown(&key)?
                )));
            };
            let argument = format!("{argument}[{}]", key.repr()?);
            each.of[role as usize] = one(&value, &argument)?;
            each.named[role as usize] = true;
        }
        Ok(each)
    }
}

/// How float operands are quantized before the call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quantizing {
    pub(crate) precision: PerOperand<Option<i32>>,
    pub(crate) granularity: PerOperand<i32>,
    pub(crate) block_rows: PerOperand<u32>,
    pub(crate) group: PerOperand<u32>,
    pub(crate) symmetric: PerOperand<bool>,
    pub(crate) scale_precision: PerOperand<i32>,
    pub(crate) zero_point_bytes: PerOperand<i32>,
    pub(crate) smooth: PerOperand<bool>,
    pub(crate) rotate: PerOperand<bool>,
}

pub(crate) const DEFAULT_BLOCK_ROWS: u32 = 64;

impl Quantizing {
    const DEFAULT: Quantizing = Quantizing {
        precision: PerOperand::all(None),
        granularity: PerOperand::all(sys::MFA_GRANULARITY_TENSOR),
        block_rows: PerOperand::all(DEFAULT_BLOCK_ROWS),
        group: PerOperand::all(0),
        symmetric: PerOperand::all(true),
        scale_precision: PerOperand::all(sys::MFA_PRECISION_FP32),
        zero_point_bytes: PerOperand::all(1),
        smooth: PerOperand::all(false),
        rotate: PerOperand::all(false),
    };
}

impl Default for Quantizing {
    fn default() -> Self {
        Quantizing::DEFAULT
    }
}

/// A setting, by name: whether it is another than the default, and whether a mapping names it, for each operand.
struct Setting {
    name: &'static str,
    changed: [bool; 3],
    named: [bool; 3],
}

impl Setting {
    fn of<T: Copy + PartialEq>(
        name: &'static str,
        found: &PerOperand<T>,
        default: &PerOperand<T>,
    ) -> Setting {
        Setting {
            name,
            changed: [0, 1, 2].map(|index| found.of[index] != default.of[index]),
            named: found.named,
        }
    }
}

impl Quantizing {
    /// Whether any float operand is quantized.
    pub(crate) fn any(&self) -> bool {
        self.precision.of.iter().any(Option::is_some)
    }

    /// Whether a mapping asks for `role` by name.
    pub(crate) fn names(&self, role: Role) -> bool {
        self.precision.named[role as usize] && self.precision.of(role).is_some()
    }

    /// All settings but the precision.
    fn settings(&self) -> [Setting; 8] {
        let default = Quantizing::DEFAULT;
        [
            Setting::of("granularity", &self.granularity, &default.granularity),
            Setting::of("block_rows", &self.block_rows, &default.block_rows),
            Setting::of("group", &self.group, &default.group),
            Setting::of("symmetric", &self.symmetric, &default.symmetric),
            Setting::of(
                "scale_dtype",
                &self.scale_precision,
                &default.scale_precision,
            ),
            Setting::of(
                "zero_point_dtype",
                &self.zero_point_bytes,
                &default.zero_point_bytes,
            ),
            Setting::of("smooth", &self.smooth, &default.smooth),
            Setting::of("rotate", &self.rotate, &default.rotate),
        ]
    }

    pub(crate) fn knows(option: &str) -> bool {
        option == "precision"
            || (Quantizing::DEFAULT.settings().iter()).any(|setting| setting.name == option)
    }

    /// Refuses settings that nothing comes of: those without a precision, and those that a granularity has no use for.
    pub(super) fn check(&self) -> PyResult<()> {
        for setting in self.settings() {
            let changed = |role: Role| setting.changed[role as usize];
            let lost = |role: Role| changed(role) && self.precision.of(role).is_none();
            // Given for all, it serves those that are quantized.
            let used = Role::ALL
                .into_iter()
                .any(|role| changed(role) && !lost(role));
            for role in Role::ALL.into_iter().filter(|role| lost(*role)) {
                let name = match setting.named[role as usize] {
                    true => format!("{}['{}']", setting.name, role.key()),
                    false if used => continue,
                    false => setting.name.to_owned(),
                };
                return Err(error::argument(format!(
                    "{name}: given, but nothing is quantized with it, expected precision=\"int8\" or \"int4\" beside it"
                )));
            }
        }
        let blocks = |role: Role| {
            matches!(
                self.granularity.of(role),
                sys::MFA_GRANULARITY_BLOCK | sys::MFA_GRANULARITY_CHANNEL
            )
        };
        let changed_rows =
            |role: &Role| self.block_rows.of(*role) != Quantizing::DEFAULT.block_rows.of(*role);
        let changed_zero = |role: &Role| self.zero_point_bytes.of(*role) != 1;
        self.used(
            "block_rows",
            self.block_rows.named,
            changed_rows,
            blocks,
            || "granularity \"block\" or \"channel\" beside it".into(),
        )?;
        self.used(
            "group",
            self.group.named,
            |role| self.group.of(*role) != 0,
            |role| self.granularity.of(role) == sys::MFA_GRANULARITY_ROW,
            || "granularity \"row\" beside it".into(),
        )?;
        self.used(
            "zero_point_dtype",
            self.zero_point_bytes.named,
            changed_zero,
            |role| !self.symmetric.of(role),
            || "symmetric=False beside it".into(),
        )
    }

    /// Refuses a setting that was changed where it is of no use: for an operand by name, or for all without use to any.
    fn used(
        &self,
        name: &str,
        named: [bool; 3],
        changed: impl Fn(&Role) -> bool,
        useful: impl Fn(Role) -> bool,
        expected: impl Fn() -> String,
    ) -> PyResult<()> {
        let quantized = |role: &Role| self.precision.of(*role).is_some();
        let concerned: Vec<Role> = (Role::ALL.into_iter())
            .filter(|role| quantized(role) && changed(role))
            .collect();
        let any = concerned.iter().any(|role| useful(*role));
        for role in concerned.into_iter().filter(|role| !useful(*role)) {
            let name = match named[role as usize] {
                true => format!("{name}['{}']", role.key()),
                false if any => continue,
                false => name.to_owned(),
            };
            return Err(error::argument(format!(
                "{name}: given with granularity \"{}\" and symmetric={}, which have no use for it, expected {}",
                name_of(self.granularity.of(role), GRANULARITIES),
                if self.symmetric.of(role) {
                    "True"
                } else {
                    "False"
                },
                expected()
            )));
        }
        Ok(())
    }

    /// Takes one keyword.
    pub(super) fn set(&mut self, key: &str, value: &Bound<'_, PyAny>) -> PyResult<()> {
        fn put<T: Copy>(
            slot: &mut PerOperand<T>,
            value: &Bound<'_, PyAny>,
            key: &str,
            one: impl Fn(&Bound<'_, PyAny>, &str) -> PyResult<T>,
        ) -> PyResult<()> {
            *slot = PerOperand::parse(value, key, *slot, one, |value| [value; 3])?;
            Ok(())
        }
        match key {
            "precision" => put(&mut self.precision, value, key, precision),
            "granularity" => put(&mut self.granularity, value, key, |value, key| {
                named(value, key, GRANULARITIES)
            }),
            "block_rows" => put(&mut self.block_rows, value, key, block_rows),
            "group" => put(&mut self.group, value, key, group),
            "symmetric" => put(&mut self.symmetric, value, key, boolean),
            "scale_dtype" => put(&mut self.scale_precision, value, key, |value, key| {
                named(value, key, SCALE_DTYPES)
            }),
            "zero_point_dtype" => put(&mut self.zero_point_bytes, value, key, |value, key| {
                named(value, key, ZERO_POINT_DTYPES)
            }),
            "rotate" => put(&mut self.rotate, value, key, boolean),
            // Smoothing is for keys, whose mean carries no information to the softmax; a mapping says otherwise.
            _ => {
                let keys = |on| [false, on, false];
                self.smooth = PerOperand::parse(value, key, self.smooth, boolean, keys)?;
                Ok(())
            }
        }
    }

    /// Writes what is not the default, as mappings of the operands that are quantized.
    pub(super) fn write(&self, target: &Bound<'_, PyDict>) -> PyResult<()> {
        let py = target.py();
        let default = Quantizing::DEFAULT;
        let write = |name: &str, changed: bool, value: &dyn Fn(Role) -> PyResult<Py<PyAny>>| {
            if !changed {
                return Ok(());
            }
            let mapping = PyDict::new(py);
            for role in Role::ALL
                .into_iter()
                .filter(|role| self.precision.of(*role).is_some())
            {
                mapping.set_item(role.key(), value(role)?)?;
            }
            target.set_item(name, mapping)
        };
        let text = |text: &str| Ok(text.into_pyobject(py)?.into_any().unbind());
        let int = |number: u32| Ok(number.into_pyobject(py)?.into_any().unbind());
        let flag = |on: bool| Ok(on.into_pyobject(py)?.to_owned().into_any().unbind());
        let none = || Ok(py.None());
        write("precision", self.any(), &|role| {
            text(name_of(
                self.precision.of(role).unwrap_or_default(),
                PRECISIONS,
            ))
        })?;
        for setting in self.settings() {
            let name = setting.name;
            write(name, setting.changed.contains(&true), &|role| match name {
                "granularity" => text(name_of(self.granularity.of(role), GRANULARITIES)),
                "block_rows" => int(self.block_rows.of(role)),
                "group" if self.group.of(role) == default.group.of(role) => none(),
                "group" => int(self.group.of(role)),
                "symmetric" => flag(self.symmetric.of(role)),
                "scale_dtype" => text(name_of(self.scale_precision.of(role), SCALE_DTYPES)),
                "zero_point_dtype" => {
                    text(name_of(self.zero_point_bytes.of(role), ZERO_POINT_DTYPES))
                }
                "smooth" => flag(self.smooth.of(role)),
                _ => flag(self.rotate.of(role)),
            })?;
        }
        Ok(())
    }
}

fn precision(value: &Bound<'_, PyAny>, argument: &str) -> PyResult<Option<i32>> {
    if value.is_none() {
        return Ok(None);
    }
    named(value, argument, PRECISIONS).map(Some)
}
