import AttentionKernels

extension Problem {
  /// The arguments that forward and backward share.
  func arguments() throws(AttentionError) -> AttentionArguments {
    var result = AttentionArguments()
    // Nothing is to be done, or to be zeroed, however often.
    let isIdle = sequences.mostQ == 0 && sequences.mostK == 0
    result.batches = isIdle ? 0 : try kernelSize(sequences.count, "sequences")
    result.heads = try kernelSize(heads, "heads")
    result.headsPerKeyHead = try kernelSize(group, "heads")
    result.keyHeads = try kernelSize(kvHeads, "heads")
    result.queryRows = try kernelSize(sequences.mostQ, "rows of query")
    result.keyRows = try kernelSize(sequences.mostK, "rows of key")
    result.softmaxScale = options.scale
    result.softcap = options.softcap
    result.bottomRight = sequences.bottomRight ? 1 : 0
    result.setWindow(left: options.left ?? -1, right: options.right ?? -1, isCausal: options.causal)
    result.V = v.kernelView
    // Without columns every score is 0, as it is of one column of zeros, of which one is there.
    if d > 0 { (result.Q, result.K) = (q.kernelView, k.kernelView) }
    if let mask = options.mask { result.mask = mask.kernelView(columnStride: mask.strides.w) }
    if let alibi = options.alibi { result.slopes = alibi.kernelView }
    if let sinks = options.sinks { result.sinks = sinks.kernelView }
    // One array: see `bind`.
    result.keyLengthsOffset = Int64(sequences.bounds?.k.count ?? 0)
    if let quantization = q.quantization, d > 0 {
      result.queryBlockRows = quantization.kernelBlockRows
      (result.queryScales, result.queryZeroPoints, result.queryMean) = quantization.kernelViews(q)
    }
    if let quantization = k.quantization, d > 0 {
      result.keyBlockRows = quantization.kernelBlockRows
      (result.keyScales, result.keyZeroPoints, result.keyMean) = quantization.kernelViews(k)
    }
    if let quantization = v.quantization {
      result.valueBlockRows = quantization.kernelBlockRows
      (result.valueScales, result.valueZeroPoints, result.valueMean) = quantization.kernelViews(v)
    }
    return result
  }

  /// A descriptor with what forward and backward share.
  func descriptor(_ kind: AttentionKernelDescriptor.Kind) -> AttentionKernelDescriptor {
    let zeros = AttentionKernelDescriptor.Operand(.FP32, access: .strided)
    var result = AttentionKernelDescriptor(
      kind: kind, headDimension: max(d, 1), valueDimension: dv, query: d > 0 ? q.kernelOperand : zeros,
      key: d > 0 ? k.kernelOperand : zeros, value: v.kernelOperand)
    switch options.mask?.precision {
    case .bool: result.mask = .BOOL
    case .fp32: result.mask = .FP32
    case .fp16: result.mask = .FP16
    case .bf16: result.mask = .BF16
    default: result.mask = .none
    }
    // One that no score comes near bends none; what is divided by it could be too small for the device.
    result.hasSoftcap = options.softcap > 0 && options.softcap < 1e30
    result.hasALiBi = options.alibi != nil
    result.hasSinks = options.sinks != nil
    result.slopePrecision = options.alibi?.kernelOperand.precision ?? .FP32
    result.sinkPrecision = options.sinks?.kernelOperand.precision ?? .FP32
    result.isVariableLength = sequences.isPacked
    result.hasKeyLengths = sequences.keyLengths != nil
    return result
  }

  /// Binds what forward and backward share.
  func bind(_ table: inout BindingTable, _ residency: Residency) throws(AttentionError) {
    if d > 0 {
      try table.readOperand(.Q, q, residency)
      try table.readOperand(.K, k, residency)
    } else {
      (table[.operand(.Q)], table[.operand(.K)]) = (.buffer(try residency.nothing()), .buffer(try residency.nothing()))
    }
    try table.readOperand(.V, v, residency)
    try table.read(.mask, options.mask, residency)
    try table.read(.slopes, options.alibi, residency)
    try table.read(.sinks, options.sinks, residency)
    if let q = sequences.bounds?.q { table[.cumulativeQueryLengths] = .buffer(try residency.upload([q])) }
    let ofKeys = [sequences.bounds?.k, sequences.keyLengths].compactMap { $0 }
    if !ofKeys.isEmpty { table[.cumulativeKeyLengths] = .buffer(try residency.upload(ofKeys)) }
  }

  /// Bytes that a call copies of its inputs.
  var copiedBytes: Int {
    var bytes: [Int] = []
    for tensor in [q, k, v, options.mask, options.alibi, options.sinks].compactMap({ $0 }) {
      bytes.append(tensor.copiedBytes)
      guard let quantization = tensor.quantization else { continue }
      bytes.append(quantization.mean?.copiedBytes ?? 0)
      guard case .many(let arrays) = quantization.parameters else { continue }
      bytes += [arrays.scales.copiedBytes, arrays.zeroPoints?.copiedBytes ?? 0]
    }
    bytes.append(sequences.bytes)
    return saturatedSum(bytes)
  }
}

extension Tensor {
  /// The same with a column stride that may be 0, as of a broadcast mask.
  func kernelView(columnStride: Int) -> TensorView {
    var view = kernelView
    view.column = Int64(columnStride)
    return view
  }
}

extension Quantization {
  /// Scales, zero points and means of a tensor.
  fileprivate func kernelViews(_ tensor: Tensor) -> (scales: TensorView, zeroPoints: TensorView, mean: TensorView) {
    var (scales, zeroPoints, means) = (TensorView(), TensorView(), TensorView())
    if case .many(let arrays) = parameters {
      let steps = arrays.strides
      scales = TensorView(
        batch: Int64(steps.x), head: Int64(steps.y), row: Int64(steps.z), column: Int64(steps.w))
      zeroPoints = scales
      scales.offset = Int64(arrays.scales.deviceOffset / (arrays.half ? 2 : 4))
      if let array = arrays.zeroPoints { zeroPoints.offset = Int64(array.deviceOffset / max(arrays.zeroPointBytes, 1)) }
    }
    if let mean {
      means = TensorView(
        offset: Int64(mean.deviceOffset / 4), batch: Int64(tensor.heads &* tensor.columns), head: Int64(tensor.columns),
        column: 1)
    }
    return (scales, zeroPoints, means)
  }
}

/// Refuses a call of large dimensions whose kernels find no room: a plan that cannot be run is none.
func expectRoom(_ kernels: [AttentionKernelDescriptor], _ profile: DeviceProfile) throws(AttentionError) {
  for kernel in kernels where max(kernel.headDimension, kernel.valueDimension) > 512 {
    do { _ = try AttentionKernel(descriptor: kernel, profile: profile) } catch {
      throw AttentionError(.unsupported, "no \(kernel.kind.rawValue) kernel for this call: \(error)")
    }
  }
}

/// Sizes and positions that kernels count in 32 bits.
func kernelSize(_ count: Int, _ what: String) throws(AttentionError) -> UInt32 {
  let most = Int(AttentionArguments.unlimited)
  try ensure(
    count < most, .unsupported, "\(count) \(what) are more than the device counts; expected fewer than \(most)")
  return UInt32(count)
}
