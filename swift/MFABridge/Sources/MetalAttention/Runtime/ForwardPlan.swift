import AttentionKernels
import Metal

/// The plan of a forward call: kernels, arguments, scratch. Made without a device.
package struct ForwardPlan: Sendable {
  let call: ForwardCall
  let descriptor: AttentionKernelDescriptor
  let arguments: AttentionArguments
  /// The reason of the schedule.
  let reason: String

  package init(_ call: ForwardCall, profile: DeviceProfile) throws(AttentionError) {
    self.call = call
    let problem = call.problem
    var arguments = try problem.arguments()
    arguments.O = call.output.kernelView
    if let logsumexp = call.logsumexp { arguments.L = logsumexp.kernelView }
    let (schedule, splits) = arguments.schedule(on: profile)
    arguments.splits = UInt32(clamping: splits)
    var descriptor = problem.descriptor(.forward)
    descriptor.schedule = schedule
    descriptor.output = call.output.kernelOperand
    descriptor.writesLogsumexp = call.logsumexp != nil
    (self.arguments, self.descriptor) = (arguments, descriptor)
    try expectRoom([descriptor], profile)
    let rows = Int(arguments.queryRows) &* problem.group
    switch schedule {
    case .prefill: reason = "\(rows) rows per key head: expanding a tile of K and V once for all of them pays"
    case .decode: reason = "\(rows) rows per key head share one tile"
    case .decodeSplit: reason = "\(rows) rows per key head share one tile; \(splits) parts of the keys fill the device"
    }
  }

  /// The kernel that joins the parts of the keys, if they are split.
  private var merge: AttentionKernelDescriptor? {
    guard descriptor.schedule == .decodeSplit else { return nil }
    var merge = AttentionKernelDescriptor(
      kind: .forwardMerge, schedule: .decodeSplit, headDimension: descriptor.headDimension,
      valueDimension: descriptor.valueDimension, query: .init(.FP32), key: .init(.FP32), value: .init(.FP32),
      output: descriptor.output)
    merge.hasSinks = descriptor.hasSinks
    merge.isVariableLength = descriptor.isVariableLength
    merge.writesLogsumexp = descriptor.writesLogsumexp
    return merge
  }

  private var partialBytes: (output: Int, statistics: Int) { AttentionKernel.partialBytes(descriptor, arguments) }

  /// Bytes that the call allocates beside its outputs.
  package var workspace: Int {
    saturatedSum([copiedBytes, partialBytes.output, partialBytes.statistics])
  }

  private var copiedBytes: Int {
    saturatedSum([call.problem.copiedBytes, call.output.copiedBytes, call.logsumexp?.copiedBytes ?? 0])
  }

  package func explain(on device: AttentionDevice) -> String {
    let lines =
      ["operation: forward", "device: \(device.metal.name)"] + call.problem.explained + [
        "schedule: \(descriptor.schedule) (\(reason))",
        "splits: \(arguments.splits)",
        "access: query \(descriptor.query.access), key \(descriptor.key.access), value \(descriptor.value.access)",
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
    try table.write(.operand(.O), call.output, residency)
    try table.write(.operand(.L), call.logsumexp, residency)
    if let merge {
      table[.partialOutput] = .buffer(try residency.allocate(partialBytes.output))
      table[.partialStatistics] = .buffer(try residency.allocate(partialBytes.statistics))
      try table.dispatch(descriptor, arguments, on: device, encoder)
      try table.dispatch(merge, arguments, on: device, encoder)
    } else {
      try table.dispatch(descriptor, arguments, on: device, encoder)
    }
  }
}
