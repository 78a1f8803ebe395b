//! The check of a quantization.

use mfa_sys as sys;

use crate::contract::array::Access;
use crate::contract::overlap;
use crate::contract::precision;
use crate::contract::quant_scheme::{Params, Quant};
use crate::contract::sized::sized;
use crate::contract::tensor::Tensor;
use crate::error::{Error, Result, ensure};

/// A checked `mfa_quantize`.
pub(crate) struct Quantize {
    pub(super) source: Tensor,
    pub(super) destination: Tensor,
    pub(super) quant: Quant,
    pub(super) flags: QuantizeFlags,
}

/// `mfa_quantize_desc.flags`.
#[derive(Clone, Copy)]
pub(super) struct QuantizeFlags {
    pub asymmetric: bool,
    pub smooth: bool,
    pub mean_given: bool,
    pub scale_given: bool,
}

/// The checks, in their order.
impl Quantize {
    pub(crate) fn check(desc: &sys::mfa_quantize_desc) -> Result<Self> {
        let flags = QuantizeFlags::check(desc.flags)?;
        let source = Access::Run.required(&desc.source, "source", &precision::FLOATS)?;
        let (destination, quant) = check_destination(&desc.destination, &source)?;
        flags.check_mean(&quant)?;
        flags.check_zeros(&quant)?;
        if flags.scale_given {
            quant.expect_given("destination", destination.precision)?;
        }
        let call = Quantize {
            source,
            destination,
            quant,
            flags,
        };
        call.expect_apart()?;
        Ok(call)
    }

    /// Demands that no result shares memory with another, or with an operand.
    fn expect_apart(&self) -> Result<()> {
        let arrays = self.quant.arrays();
        let mut results = vec![(Some(&self.destination), "destination")];
        let mut operands = vec![(Some(&self.source), "source")];
        for (array, what) in &arrays {
            let given = if *what == "mean_buffer" {
                self.flags.mean_given
            } else {
                self.flags.scale_given
            };
            if given {
                operands.push((array.as_ref(), what));
                continue;
            }
            if let Some(array) = array {
                array.expect_writable(&format!("destination: {what}"))?;
            }
            results.push((array.as_ref(), what));
        }
        overlap::expect_apart(&results, &operands)
    }
}

fn check_destination(view: &sys::mfa_tensor, source: &Tensor) -> Result<(Tensor, Quant)> {
    // SAFETY: the contract makes `quantization` NULL or the address of a struct whose struct_size is true.
    let named = unsafe { sized(view.quantization, "destination")? };
    if let Some(quantization) = named {
        ensure!(
            !quantization.scale_buffer.is_null(),
            argument,
            "destination: scale_buffer is NULL; expected a buffer that receives the scales"
        );
    }
    let destination = Access::Run.required(view, "destination", &precision::INTEGERS)?;
    destination.expect_shape("destination", source.shape)?;
    destination.expect_writable("destination")?;
    let Some(quant) = destination.quant.clone() else {
        return Err(Error::argument(
            "destination: no quantization; expected one that names the buffer for scales",
        ));
    };
    Ok((destination, quant))
}

impl QuantizeFlags {
    fn check(flags: u32) -> Result<Self> {
        let known = sys::MFA_QUANTIZE_ASYMMETRIC
            | sys::MFA_QUANTIZE_SMOOTH
            | sys::MFA_QUANTIZE_MEAN_GIVEN
            | sys::MFA_QUANTIZE_SCALE_GIVEN;
        ensure!(
            flags & !known == 0,
            argument,
            "quantize: flags is {flags:#x}; expected bits of {known:#x}"
        );
        let has = |flag: u32| flags & flag != 0;
        Ok(QuantizeFlags {
            asymmetric: has(sys::MFA_QUANTIZE_ASYMMETRIC),
            smooth: has(sys::MFA_QUANTIZE_SMOOTH),
            mean_given: has(sys::MFA_QUANTIZE_MEAN_GIVEN),
            scale_given: has(sys::MFA_QUANTIZE_SCALE_GIVEN),
        })
    }

    fn check_mean(self, quant: &Quant) -> Result<()> {
        ensure!(
            self.smooth || !self.mean_given,
            argument,
            "quantize: MEAN_GIVEN without SMOOTH; expected both"
        );
        let (found, expected) = match self.smooth {
            true => ("is missing", "FP32 [batch, heads, columns]"),
            false => ("was given without SMOOTH", "NULL"),
        };
        ensure!(
            self.smooth == quant.mean.is_some(),
            argument,
            "destination: a mean_buffer {found}; expected {expected}"
        );
        Ok(())
    }

    fn check_zeros(self, quant: &Quant) -> Result<()> {
        let has_zeros = matches!(quant.params, Params::Strided { zeros: Some(_), .. });
        let (found, expected) = match self.asymmetric {
            true => ("is missing", "integers in the shape of the scales"),
            false => ("was given without ASYMMETRIC", "NULL"),
        };
        ensure!(
            self.asymmetric == has_zeros,
            argument,
            "destination: a zero_point_buffer {found}; expected {expected}"
        );
        Ok(())
    }
}
