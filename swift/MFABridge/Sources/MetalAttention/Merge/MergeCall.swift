/// `mfa_merge_desc` and `mfa_merge_backward_desc`, handles looked up. A gradient that is not wanted is absent.
package struct MergeDescription: Sendable {
  package var outputs: [TensorDescription] = []
  package var logsumexps: [TensorDescription] = []
  package var output = TensorDescription()
  package var logsumexp = TensorDescription()
  package var gradOutput = TensorDescription()
  package var gradLogsumexp = TensorDescription()
  package var gradOutputs: [TensorDescription] = []
  package var gradLogsumexps: [TensorDescription] = []

  package init() {}
}

/// The checked parts of a merge.
struct MergeParts: Sendable {
  let outputs: [Tensor], logsumexps: [Tensor]
  let shape: SIMD4<Int>
  var perRow: SIMD4<Int> { SIMD4(shape.x, shape.y, shape.z, 1) }

  static func check(_ view: MergeDescription) throws(AttentionError) -> MergeParts {
    var (outputs, logsumexps): ([Tensor], [Tensor]) = ([], [])
    for (index, (output, logsumexp)) in zip(view.outputs, view.logsumexps).enumerated() {
      let tensor = try Tensor.required(output, "outputs[\(index)]", ElementPrecision.floats)
      let shape = outputs.first?.shape ?? tensor.shape
      try tensor.expect("outputs[\(index)]", shape: shape)
      outputs.append(tensor)
      let sums = try Tensor.required(logsumexp, "logsumexps[\(index)]", [.fp32])
      try sums.expect("logsumexps[\(index)]", shape: SIMD4(shape.x, shape.y, shape.z, 1))
      logsumexps.append(sums)
    }
    guard let shape = outputs.first?.shape else {
      throw AttentionError(.invalidArgument, "merge: count is 0; expected at least 1 part")
    }
    return MergeParts(outputs: outputs, logsumexps: logsumexps, shape: shape)
  }
}

/// A checked `mfa_merge`.
struct MergeCall: Sendable {
  let parts: MergeParts
  let output: Tensor
  let logsumexp: Tensor?

  static func check(_ view: MergeDescription) throws(AttentionError) -> MergeCall {
    let parts = try MergeParts.check(view)
    let output = try Tensor.required(view.output, "output", ElementPrecision.floats)
    try output.expect("output", shape: parts.shape)
    try output.expectWritable("output")
    let logsumexp = try Tensor.optional(view.logsumexp, "logsumexp", [.fp32])
    try logsumexp?.expect("logsumexp", shape: parts.perRow)
    try logsumexp?.expectWritable("logsumexp")
    try expectApart([(output, "output"), (logsumexp, "logsumexp")], from: [])
    // Parts are read before anything is written: the same elements may be one and the other.
    for case let (result?, what) in [(output, "output"), (logsumexp, "logsumexp")] as [NamedTensor] {
      for (operands, name) in [(parts.outputs, "outputs"), (parts.logsumexps, "logsumexps")] {
        for operand in operands {
          try ensure(
            result.isSame(as: operand) || !shareElements(result, operand), .invalidArgument,
            "\(what): shares elements with one of \(name); expected the same tensor, or memory of its own")
        }
      }
    }
    return MergeCall(parts: parts, output: output, logsumexp: logsumexp)
  }
}

/// A checked `mfa_merge_backward`. A gradient without elements is not computed.
struct MergeBackwardCall: Sendable {
  let parts: MergeParts
  let gradOutput: Tensor
  let gradLogsumexp: Tensor?
  let gradOutputs: [Tensor?], gradLogsumexps: [Tensor?]

  static func check(_ view: MergeDescription) throws(AttentionError) -> MergeBackwardCall {
    let parts = try MergeParts.check(view)
    let gradOutput = try Tensor.required(view.gradOutput, "grad_output", ElementPrecision.floats)
    try gradOutput.expect("grad_output", shape: parts.shape)
    let gradLogsumexp = try Tensor.optional(view.gradLogsumexp, "grad_logsumexp", [.fp32])
    try gradLogsumexp?.expect("grad_logsumexp", shape: parts.perRow)
    func written(_ views: [TensorDescription], _ what: String, _ shape: SIMD4<Int>) throws(AttentionError) -> [Tensor?]
    {
      var result: [Tensor?] = []
      for index in parts.outputs.indices {
        guard index < views.count, let tensor = try Tensor.optional(views[index], "\(what)[\(index)]", [.fp32]) else {
          result.append(nil)
          continue
        }
        try tensor.expect("\(what)[\(index)]", shape: shape)
        try tensor.expectWritable("\(what)[\(index)]")
        result.append(tensor)
      }
      return result
    }
    let gradOutputs = try written(view.gradOutputs, "grad_outputs", parts.shape)
    let gradLogsumexps = try written(view.gradLogsumexps, "grad_logsumexps", parts.perRow)
    let results = gradOutputs.map { ($0, "grad_outputs") } + gradLogsumexps.map { ($0, "grad_logsumexps") }
    let operands = parts.outputs.map { ($0, "outputs") } + parts.logsumexps.map { ($0, "logsumexps") } as [NamedTensor]
    try expectApart(results, from: [(gradOutput, "grad_output"), (gradLogsumexp, "grad_logsumexp")] + operands)
    return MergeBackwardCall(
      parts: parts, gradOutput: gradOutput, gradLogsumexp: gradLogsumexp, gradOutputs: gradOutputs,
      gradLogsumexps: gradLogsumexps)
  }
}

extension Tensor {
  /// Whether it is the same elements in the same order.
  fileprivate func isSame(as other: Tensor) -> Bool {
    buffer.address &+ UInt(bitPattern: byteOffset) == other.buffer.address &+ UInt(bitPattern: other.byteOffset)
      && precision == other.precision && shape == other.shape && strides == other.strides
  }
}
