// A caller's descriptors, before any check: the contract's structs with their handles looked up. A handle or a
// struct that was no good is carried along, and refused where the check reaches it, so that every caller gets the
// same refusal in the same order.

/// A buffer as it was named.
package enum BufferReference: Sendable {
  case absent
  case present(AttentionBuffer)
  /// A number that is no live buffer's handle.
  case unknown(UInt)

  package var isAbsent: Bool {
    if case .absent = self { return true }
    return false
  }

  /// The buffer, which must be there; `what` names it in messages.
  package func required(_ what: String) throws(AttentionError) -> AttentionBuffer {
    switch self {
    case .present(let buffer): return buffer
    case .absent:
      throw AttentionError(.invalidArgument, "\(what): the buffer is NULL; expected a handle from mfa_create_buffer")
    case .unknown(let handle):
      throw AttentionError(
        .invalidArgument,
        "\(what): \(pointerText(handle)) is not a live buffer; expected a handle from mfa_create_buffer that was not "
          + "destroyed"
      )
    }
  }
}

/// A struct that may be absent, or was refused as it was read.
package enum Optionally<Value: Sendable>: Sendable {
  case absent
  case present(Value)
  case refused(AttentionError)

  package func get() throws(AttentionError) -> Value? {
    switch self {
    case .absent: return nil
    case .present(let value): return value
    case .refused(let error): throw error
    }
  }
}

/// `mfa_quantization`.
package struct QuantizationDescription: Sendable {
  package var granularity: Int32 = 0
  package var blockRows: UInt32 = 0
  package var groupSize: UInt32 = 0
  package var scale: Float = 0
  package var zeroPoint: Int32 = 0
  package var scaleBuffer = BufferReference.absent
  package var scaleOffset: UInt64 = 0
  package var scalePrecision: Int32 = 0
  package var rotated: UInt32 = 0
  package var zeroPointBuffer = BufferReference.absent
  package var zeroPointOffset: UInt64 = 0
  package var zeroPointBytes: UInt32 = 0
  package var reserved: UInt32 = 0
  package var scaleStrides = SIMD4<Int64>(repeating: 0)
  package var meanBuffer = BufferReference.absent
  package var meanOffset: UInt64 = 0
  /// The device has yet to write scales and zero points: the host must not read them.
  package var isPending = false

  package init() {}
}

/// `mfa_tensor`.
package struct TensorDescription: Sendable {
  package var buffer = BufferReference.absent
  package var byteOffset: UInt64 = 0
  package var precision: Int32 = 0
  package var reserved: UInt32 = 0
  package var shape = SIMD4<UInt64>(repeating: 0)
  package var strides = SIMD4<Int64>(repeating: 0)
  package var quantization = Optionally<QuantizationDescription>.absent

  package init() {}
}

/// `mfa_attention_options`.
package struct OptionsDescription: Sendable {
  package var flags: UInt32 = 0
  package var softmaxScale: Float = 0
  package var softcap: Float = 0
  package var alignment: Int32 = 0
  package var compute: Int32 = 0
  package var windowLeft: Int64 = 0
  package var windowRight: Int64 = 0
  package var mask = TensorDescription()
  package var alibiSlopes = TensorDescription()
  package var sinks = TensorDescription()
  package var sequenceCount: UInt32 = 0
  package var reserved: UInt32 = 0
  package var cuSeqlensQ = BufferReference.absent
  package var cuSeqlensQOffset: UInt64 = 0
  package var cuSeqlensK = BufferReference.absent
  package var cuSeqlensKOffset: UInt64 = 0
  package var seqlensK = BufferReference.absent
  package var seqlensKOffset: UInt64 = 0

  package init() {}
}

/// `mfa_forward_desc`.
package struct ForwardDescription: Sendable {
  package var reserved: UInt32 = 0
  package var query = TensorDescription()
  package var key = TensorDescription()
  package var value = TensorDescription()
  package var output = TensorDescription()
  package var logsumexp = TensorDescription()
  package var options = Optionally<OptionsDescription>.absent

  package init() {}
}

/// `mfa_backward_desc`.
package struct BackwardDescription: Sendable {
  package var flags: UInt32 = 0
  package var query = TensorDescription()
  package var key = TensorDescription()
  package var value = TensorDescription()
  package var output = TensorDescription()
  package var gradOutput = TensorDescription()
  package var logsumexp = TensorDescription()
  package var dValues = TensorDescription()
  package var gradQuery = TensorDescription()
  package var gradKey = TensorDescription()
  package var gradValue = TensorDescription()
  package var gradMask = TensorDescription()
  package var gradSinks = TensorDescription()
  package var gradLogsumexp = TensorDescription()
  package var options = Optionally<OptionsDescription>.absent

  package init() {}
}

/// `mfa_quantize_desc` without the place for the error.
package struct QuantizeDescription: Sendable {
  package var flags: UInt32 = 0
  package var source = TensorDescription()
  package var destination = TensorDescription()

  package init() {}
}
