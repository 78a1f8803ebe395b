import CMFA
import MetalAttention

// From the contract's structs to descriptions: handles looked up, sized structs read, nothing believed.

extension TensorDescription {
  /// `what` names the tensor in messages about its quantization. `plans`: tensors need no memory, and one without a
  /// buffer is absent only if its shape is zero.
  init(_ tensor: mfa_tensor, _ what: String, plans: Bool = false) {
    self.init()
    buffer = reference(tensor.buffer)
    byteOffset = tensor.byte_offset
    precision = tensor.precision
    reserved = tensor.reserved
    shape = SIMD4(tensor.shape.0, tensor.shape.1, tensor.shape.2, tensor.shape.3)
    strides = SIMD4(tensor.strides.0, tensor.strides.1, tensor.strides.2, tensor.strides.3)
    // An absent tensor says nothing: its quantization is not looked at.
    if plans && buffer.isAbsent && shape != SIMD4(repeating: 0) { buffer = .present(.imagined) }
    if case .present = buffer { quantization = QuantizationDescription.read(tensor.quantization, what, plans: plans) }
  }
}

extension QuantizationDescription {
  static func read(
    _ from: UnsafePointer<mfa_quantization>?, _ tensor: String, plans: Bool
  ) -> Optionally<QuantizationDescription> {
    optionally { () throws(AttentionError) in
      guard let found = try sized(from, mfa_quantization(), "\(tensor): quantization") else { return nil }
      var result = QuantizationDescription(found)
      let isInPlace = found.granularity == 0 && found.scale != 0
      if plans && result.scaleBuffer.isAbsent && !isInPlace { result.scaleBuffer = .present(.imagined) }
      return result
    }
  }

  private init(_ from: mfa_quantization) {
    self.init()
    granularity = from.granularity
    blockRows = from.block_rows
    groupSize = from.group_size
    scale = from.scale
    zeroPoint = from.zero_point
    scaleBuffer = reference(from.scale_buffer)
    scaleOffset = from.scale_offset
    scalePrecision = from.scale_precision
    rotated = from.rotated
    zeroPointBuffer = reference(from.zero_point_buffer)
    zeroPointOffset = from.zero_point_offset
    zeroPointBytes = from.zero_point_bytes
    reserved = from.reserved
    scaleStrides = SIMD4(from.scale_strides.0, from.scale_strides.1, from.scale_strides.2, from.scale_strides.3)
    meanBuffer = reference(from.mean_buffer)
    meanOffset = from.mean_offset
  }
}

extension OptionsDescription {
  static func read(_ from: UnsafePointer<mfa_attention_options>?, plans: Bool) -> Optionally<OptionsDescription> {
    optionally { () throws(AttentionError) in
      guard let found = try sized(from, mfa_attention_options(), "options") else { return nil }
      return OptionsDescription(found, plans)
    }
  }

  private init(_ from: mfa_attention_options, _ plans: Bool) {
    self.init()
    flags = from.flags
    softmaxScale = from.softmax_scale
    softcap = from.softcap
    alignment = from.alignment
    compute = from.compute
    windowLeft = from.window_left
    windowRight = from.window_right
    mask = TensorDescription(from.mask, "mask", plans: plans)
    alibiSlopes = TensorDescription(from.alibi_slopes, "alibi_slopes", plans: plans)
    sinks = TensorDescription(from.sinks, "sinks", plans: plans)
    sequenceCount = from.sequence_count
    reserved = from.reserved
    cuSeqlensQ = reference(from.cu_seqlens_q)
    cuSeqlensQOffset = from.cu_seqlens_q_offset
    cuSeqlensK = reference(from.cu_seqlens_k)
    cuSeqlensKOffset = from.cu_seqlens_k_offset
    seqlensK = reference(from.seqlens_k)
    seqlensKOffset = from.seqlens_k_offset
  }
}

extension ForwardDescription {
  init(_ from: mfa_forward_desc, plans: Bool = false) {
    self.init()
    reserved = from.reserved
    query = TensorDescription(from.query, "query", plans: plans)
    key = TensorDescription(from.key, "key", plans: plans)
    value = TensorDescription(from.value, "value", plans: plans)
    output = TensorDescription(from.output, "output", plans: plans)
    logsumexp = TensorDescription(from.logsumexp, "logsumexp", plans: plans)
    options = OptionsDescription.read(from.options, plans: plans)
  }
}

extension BackwardDescription {
  init(_ from: mfa_backward_desc, plans: Bool = false) {
    self.init()
    flags = from.flags
    query = TensorDescription(from.query, "query", plans: plans)
    key = TensorDescription(from.key, "key", plans: plans)
    value = TensorDescription(from.value, "value", plans: plans)
    output = TensorDescription(from.output, "output", plans: plans)
    gradOutput = TensorDescription(from.grad_output, "grad_output", plans: plans)
    logsumexp = TensorDescription(from.logsumexp, "logsumexp", plans: plans)
    dValues = TensorDescription(from.d_values, "d_values", plans: plans)
    gradQuery = TensorDescription(from.grad_query, "grad_query", plans: plans)
    gradKey = TensorDescription(from.grad_key, "grad_key", plans: plans)
    gradValue = TensorDescription(from.grad_value, "grad_value", plans: plans)
    gradMask = TensorDescription(from.grad_mask, "grad_mask", plans: plans)
    gradSinks = TensorDescription(from.grad_sinks, "grad_sinks", plans: plans)
    gradLogsumexp = TensorDescription(from.grad_logsumexp, "grad_logsumexp", plans: plans)
    options = OptionsDescription.read(from.options, plans: plans)
  }
}

extension QuantizeDescription {
  init(_ from: mfa_quantize_desc) {
    self.init()
    flags = from.flags
    source = TensorDescription(from.source, "source")
    destination = TensorDescription(from.destination, "destination")
  }
}

private func optionally<Value>(_ read: () throws(AttentionError) -> Value?) -> Optionally<Value> {
  do throws(AttentionError) {
    guard let value = try read() else { return .absent }
    return .present(value)
  } catch {
    return .refused(error)
  }
}
