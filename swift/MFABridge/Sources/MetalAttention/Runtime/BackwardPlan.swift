import AttentionKernels
import Metal

/// The plan of a backward call: kernels, arguments, scratch. Made without a device.
package struct BackwardPlan: Sendable {
  let call: BackwardCall
  /// In the order in which they run: D is written before it is read.
  let kernels: [AttentionKernelDescriptor]
  let arguments: AttentionArguments
  /// D is stored in scratch memory, contiguous.
  private let keepsD: Bool

  package init(_ call: BackwardCall, profile: DeviceProfile) throws(AttentionError) {
    self.call = call
    let problem = call.problem
    var arguments = try problem.arguments()
    arguments.L = call.logsumexp.kernelView
    arguments.dO = call.gradOutput.kernelView
    if let output = call.output { arguments.O = output.kernelView }
    if let gradient = call.gradQuery { arguments.dQ = gradient.kernelView }
    if let gradient = call.gradKey { arguments.dK = gradient.kernelView }
    if let gradient = call.gradValue { arguments.dV = gradient.kernelView }
    if let gradient = call.gradMask { arguments.maskGradient = gradient.summedView }
    if let gradient = call.gradLogsumexp { arguments.dL = gradient.kernelView }
    if let gradient = call.gradSinks { arguments.sinkGradients = gradient.kernelView }
    keepsD = call.dValues == nil && call.needsD
    if let d = call.dValues {
      arguments.D = d.kernelView
    } else {
      let (heads, rows) = (Int64(problem.heads), Int64(problem.q.rows))
      arguments.D = TensorView(batch: heads &* rows, head: rows, row: 1, column: 1)
    }

    var shared = problem.descriptor(.backwardQuery)
    shared.gradOutput = call.gradOutput.kernelOperand
    if let output = call.output { shared.output = output.kernelOperand }
    shared.gradients.query = call.gradQuery != nil
    shared.gradients.key = call.gradKey != nil
    shared.gradients.value = call.gradValue != nil
    shared.gradients.clips = call.clip
    shared.gradients.ofLogsumexp = call.gradLogsumexp != nil
    shared.gradients.dSource = call.dGiven ? .given : call.output != nil ? .output : .probabilities
    shared.gradients.writesD =
      call.needsD && (call.dValues != nil || call.gradKey != nil || call.gradMask != nil || call.gradSinks != nil)
    self.kernels = Self.kernels(shared, call)
    try expectRoom(self.kernels, profile)
    self.arguments = arguments
  }

  /// One descriptor for each pass, without what does not concern it: fewer pipelines.
  private static func kernels(_ shared: AttentionKernelDescriptor, _ call: BackwardCall) -> [AttentionKernelDescriptor]
  {
    var query = shared
    (query.gradients.key, query.gradients.value) = (false, false)
    var rest = shared
    rest.gradients.query = false
    rest.gradients.dSource = .given
    rest.gradients.writesD = false
    rest.output = .init(.FP32)
    func made(_ base: AttentionKernelDescriptor, _ kind: AttentionKernelDescriptor.Kind) -> AttentionKernelDescriptor {
      var descriptor = base
      descriptor.kind = kind
      return descriptor
    }
    var kernels: [AttentionKernelDescriptor] = []
    if call.gradQuery != nil || shared.gradients.writesD { kernels.append(made(query, .backwardQuery)) }
    if call.gradKey != nil || call.gradValue != nil { kernels.append(made(rest, .backwardKeyValue)) }
    (rest.gradients.key, rest.gradients.value, rest.gradients.clips) = (false, false, false)
    if call.gradMask != nil { kernels.append(made(rest, .backwardMask)) }
    if call.gradSinks != nil { kernels.append(made(rest, .backwardSinks)) }
    return kernels
  }

  /// Operands may be broadcast: absurd numbers of rows need no memory but this.
  private var dBytes: Int {
    guard keepsD else { return 0 }
    let sizes = [call.problem.q.batch, call.problem.heads, call.problem.q.rows].map { UInt64($0) }
    return Int(clamping: sizes.reduce(4, saturatedProduct))
  }

  private var copiedBytes: Int {
    let tensors = [
      call.output, call.gradOutput, call.logsumexp, call.gradLogsumexp, call.dValues, call.gradQuery, call.gradKey,
      call.gradValue, call.gradMask,
      call.gradSinks,
    ]
    return saturatedSum([call.problem.copiedBytes] + tensors.map { $0?.copiedBytes ?? 0 })
  }

  /// Bytes that the call allocates beside its outputs.
  package var workspace: Int { saturatedSum([copiedBytes, dBytes]) }

  package func explain(on device: AttentionDevice) -> String {
    let d =
      call.dGiven ? "given" : !call.needsD ? "not computed" : call.output != nil ? "from O and dO" : "from P and dP"
    let lines =
      ["operation: backward", "device: \(device.metal.name)"] + call.problem.explained + [
        "kernels: \(kernels.map(\.kind.rawValue).joined(separator: ", "))",
        "d: \(d)",
        copied(copiedBytes),
        "workspace: \(workspace) bytes",
      ]
    return lines.joined(separator: "\n") + "\n"
  }

  func encode(
    on device: AttentionDevice, _ residency: Residency, _ encoder: any MTLComputeCommandEncoder
  ) throws(AttentionError) {
    var table = BindingTable()
    try call.problem.bind(&table, residency)
    try table.read(.operand(.O), call.output, residency)
    try table.read(.operand(.dO), call.gradOutput, residency)
    try table.read(.operand(.L), call.logsumexp, residency)
    if keepsD {
      table[.operand(.D)] = .buffer(try residency.allocate(dBytes))
    } else if call.dGiven {
      try table.read(.operand(.D), call.dValues, residency)
    } else {
      try table.write(.operand(.D), call.dValues, residency)
    }
    try table.write(.operand(.dQ), call.gradQuery, residency)
    try table.write(.operand(.dK), call.gradKey, residency)
    try table.write(.operand(.dV), call.gradValue, residency)
    try table.write(.maskGradient, call.gradMask, residency)
    try table.write(.sinkGradients, call.gradSinks, residency)
    try table.read(.logsumexpGradient, call.gradLogsumexp, residency)
    table[.logsumexpGradientOfRows] = table[.logsumexpGradient]
    for kernel in kernels { try table.dispatch(kernel, arguments(of: kernel.kind), on: device, encoder) }
  }

  private func arguments(of kind: AttentionKernelDescriptor.Kind) throws(AttentionError) -> AttentionArguments {
    var result = arguments
    if kind == .backwardMask {
      // Sizes of the mask, not of all rows that are stored.
      result.queryRows = try kernelSize(call.problem.sequences.longestQ, "rows of query")
      result.keyRows = try kernelSize(call.problem.sequences.longestK, "rows of key")
    }
    guard kind == .backwardSinks else { return result }
    // Over all rows of L and D, whichever sequence they belong to.
    result.batches = call.problem.q.rows == 0 ? 0 : try kernelSize(call.problem.q.batch, "batches")
    result.queryRows = try kernelSize(call.problem.q.rows, "rows of query")
    return result
  }
}

extension Tensor {
  /// Of the gradient of a mask: stride 0 in the dimensions over which it is summed.
  fileprivate var summedView: TensorView {
    TensorView(
      offset: kernelView.offset, batch: batch == 1 ? 0 : Int64(strides.x), head: heads == 1 ? 0 : Int64(strides.y),
      row: rows == 1 ? 0 : Int64(strides.z), column: columns == 1 ? 0 : Int64(strides.w))
  }
}
