import Foundation
import Metal

/// Offset, strides and precision of a tensor, for the kernels of merges: the mirror of their `View`.
private struct MergeView {
  var numbers = [Int64](repeating: 0, count: 6)

  /// Absent: code -1, which no precision has.
  static let absent = MergeView(numbers: [0, 0, 0, 0, 0, -1])

  private init(numbers: [Int64]) { self.numbers = numbers }
  init(_ tensor: Tensor?) {
    guard let tensor else { self = .absent; return }
    let view = tensor.kernelView
    numbers = [view.offset, view.batch, view.head, view.row, view.column, Int64(tensor.precision.rawValue)]
  }
}

/// The dispatches of a merge.
private struct MergeSteps {
  let device: AttentionDevice
  let encoder: any MTLComputeCommandEncoder
  let residency: Residency
  let parts: MergeParts
  let nothing: any MTLBuffer

  init(
    _ parts: MergeParts, on device: AttentionDevice, _ residency: Residency, _ encoder: any MTLComputeCommandEncoder,
    scratch: Int
  ) throws(AttentionError) {
    (self.device, self.encoder, self.residency, self.parts) = (device, encoder, residency, parts)
    for (size, what) in zip(parts.shape.list, ["batches", "heads", "rows", "columns"]) {
      _ = try kernelSize(size, what)
    }
    nothing = try residency.nothing()
    let rows = saturatedProduct(Array(parts.perRow.list))
    encoder.setBuffer(try residency.allocate(saturatedProduct([rows, 8])), offset: 0, index: 2)
    encoder.setBuffer(try residency.allocate(saturatedProduct([rows, scratch, 4])), offset: 0, index: 3)
    for index in 4...7 { encoder.setBuffer(nothing, offset: 0, index: index) }
  }

  func run(
    _ step: MergeText.Step, part: Int, output: Tensor?, logsumexp: Tensor?, has: (output: Bool, logsumexp: Bool)
  ) throws(AttentionError) {
    encoder.setComputePipelineState(try device.pipelines.pipeline(.merge(step)).state)
    encoder.setBuffer(try residency.read(parts.outputs[part]).buffer, offset: 0, index: 0)
    encoder.setBuffer(try residency.read(parts.logsumexps[part]).buffer, offset: 0, index: 1)
    let shape = parts.shape
    var numbers = [shape.y, shape.z, shape.w, part == 0 ? 1 : 0].map { Int64($0) }
    for view in [parts.outputs[part], parts.logsumexps[part], output, logsumexp] { numbers += MergeView(view).numbers }
    numbers += [has.output ? 1 : 0, has.logsumexp ? 1 : 0]
    numbers.withUnsafeBytes { bytes in
      if let start = bytes.baseAddress { encoder.setBytes(start, length: bytes.count, index: 8) }
    }
    encoder.dispatchThreadgroups(
      MTLSize(width: shape.z, height: shape.y, depth: shape.x),
      threadsPerThreadgroup: MTLSize(width: 32, height: 1, depth: 1))
  }
}

extension AttentionContext {
  package func merge(_ view: MergeDescription) throws(AttentionError) {
    let call = try MergeCall.check(view)
    let (parts, output, logsumexp) = (call.parts, call.output, call.logsumexp)
    if parts.perRow.list.contains(0) { return }
    try run { (residency, encoder) throws(AttentionError) in
      let steps = try MergeSteps(parts, on: device, residency, encoder, scratch: parts.shape.w)
      let has = (output: true, logsumexp: logsumexp != nil)
      for step in [MergeText.Step.join, .add] {
        for part in parts.outputs.indices {
          try steps.run(step, part: part, output: output, logsumexp: logsumexp, has: has)
        }
      }
      encoder.setBuffer(try residency.write(output).buffer, offset: 0, index: 4)
      if let logsumexp { encoder.setBuffer(try residency.write(logsumexp).buffer, offset: 0, index: 5) }
      try steps.run(.end, part: 0, output: output, logsumexp: logsumexp, has: has)
    }
  }

  package func mergeBackward(_ view: MergeDescription) throws(AttentionError) {
    let call = try MergeBackwardCall.check(view)
    let (parts, dO, dL) = (call.parts, call.gradOutput, call.gradLogsumexp)
    if parts.perRow.list.contains(0) { return }
    try run { (residency, encoder) throws(AttentionError) in
      let steps = try MergeSteps(parts, on: device, residency, encoder, scratch: 1)
      encoder.setBuffer(try residency.read(dO).buffer, offset: 0, index: 4)
      if let dL { encoder.setBuffer(try residency.read(dL).buffer, offset: 0, index: 5) }
      let has = (output: false, logsumexp: dL != nil)
      for step in [MergeText.Step.join, .dot] {
        for part in parts.outputs.indices { try steps.run(step, part: part, output: dO, logsumexp: dL, has: has) }
      }
      for part in parts.outputs.indices {
        let (gradient, sums) = (call.gradOutputs[part], call.gradLogsumexps[part])
        if let gradient { encoder.setBuffer(try residency.write(gradient).buffer, offset: 0, index: 6) }
        if let sums { encoder.setBuffer(try residency.write(sums).buffer, offset: 0, index: 7) }
        let own = MergeView(gradient).numbers + MergeView(sums).numbers
        own.withUnsafeBytes { bytes in
          if let start = bytes.baseAddress { encoder.setBytes(start, length: bytes.count, index: 9) }
        }
        if gradient == nil && sums == nil { continue }
        try steps.run(
          .gradients, part: part, output: dO, logsumexp: dL, has: (output: gradient != nil, logsumexp: dL != nil))
      }
    }
  }
}
