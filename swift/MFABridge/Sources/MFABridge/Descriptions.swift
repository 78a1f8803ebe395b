import CMFA
import MetalAttention

// From the contract's structs to descriptions: handles looked up, sized structs read, nothing believed.

extension TensorDescription {
  /// `what` names the tensor in sentences about its quantization.
  init(_ tensor: mfa_tensor, _ what: String) {
    self.init()
    buffer = reference(tensor.buffer)
    byteOffset = tensor.byte_offset
    precision = tensor.precision
    reserved = tensor.reserved
    shape = SIMD4(tensor.shape.0, tensor.shape.1, tensor.shape.2, tensor.shape.3)
    strides = SIMD4(tensor.strides.0, tensor.strides.1, tensor.strides.2, tensor.strides.3)
    // An absent tensor says nothing: its quantization is not looked at.
    if case .present = buffer { quantization = QuantizationDescription.read(tensor.quantization, what) }
  }
}

extension QuantizationDescription {
  static func read(_ from: UnsafePointer<mfa_quantization>?, _ tensor: String) -> Optionally<QuantizationDescription> {
    optionally { () throws(AttentionError) in
      guard let found = try sized(from, mfa_quantization(), "\(tensor): quantization") else { return nil }
      return QuantizationDescription(found)
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
  static func read(_ from: UnsafePointer<mfa_attention_options>?) -> Optionally<OptionsDescription> {
    optionally { () throws(AttentionError) in
      guard let found = try sized(from, mfa_attention_options(), "options") else { return nil }
      return OptionsDescription(found)
    }
  }

  private init(_ from: mfa_attention_options) {
    self.init()
    flags = from.flags
    softmaxScale = from.softmax_scale
    softcap = from.softcap
    alignment = from.alignment
    compute = from.compute
    windowLeft = from.window_left
    windowRight = from.window_right
    mask = TensorDescription(from.mask, "mask")
    alibiSlopes = TensorDescription(from.alibi_slopes, "alibi_slopes")
    sinks = TensorDescription(from.sinks, "sinks")
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
  init(_ from: mfa_forward_desc) {
    self.init()
    reserved = from.reserved
    query = TensorDescription(from.query, "query")
    key = TensorDescription(from.key, "key")
    value = TensorDescription(from.value, "value")
    output = TensorDescription(from.output, "output")
    logsumexp = TensorDescription(from.logsumexp, "logsumexp")
    options = OptionsDescription.read(from.options)
  }
}

extension BackwardDescription {
  init(_ from: mfa_backward_desc) {
    self.init()
    flags = from.flags
    query = TensorDescription(from.query, "query")
    key = TensorDescription(from.key, "key")
    value = TensorDescription(from.value, "value")
    output = TensorDescription(from.output, "output")
    gradOutput = TensorDescription(from.grad_output, "grad_output")
    logsumexp = TensorDescription(from.logsumexp, "logsumexp")
    dValues = TensorDescription(from.d_values, "d_values")
    gradQuery = TensorDescription(from.grad_query, "grad_query")
    gradKey = TensorDescription(from.grad_key, "grad_key")
    gradValue = TensorDescription(from.grad_value, "grad_value")
    gradMask = TensorDescription(from.grad_mask, "grad_mask")
    gradSinks = TensorDescription(from.grad_sinks, "grad_sinks")
    gradLogsumexp = TensorDescription(from.grad_logsumexp, "grad_logsumexp")
    options = OptionsDescription.read(from.options)
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
