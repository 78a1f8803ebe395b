import CMFA
import MetalAttention

// The general calls and quantization. The documentation of each function is in mfa.h.

@_cdecl("mfa_forward")
public func forward(_ handle: UnsafeMutableRawPointer?, _ desc: UnsafePointer<mfa_forward_desc>?) -> Int32 {
  guarded { () throws(AttentionError) in
    let context = try context(handle)
    let found = try sizedRequired(desc, mfa_forward_desc(), "forward descriptor")
    try context.attention.forward(ForwardDescription(found))
  }
}

@_cdecl("mfa_backward")
public func backward(_ handle: UnsafeMutableRawPointer?, _ desc: UnsafePointer<mfa_backward_desc>?) -> Int32 {
  guarded { () throws(AttentionError) in
    let context = try context(handle)
    let found = try sizedRequired(desc, mfa_backward_desc(), "backward descriptor")
    try context.attention.backward(BackwardDescription(found))
  }
}

/// `count` tensors of a caller's array; `what` names it in messages.
private func tensors(_ from: UnsafePointer<mfa_tensor>?, _ count: UInt32, _ what: String) -> [TensorDescription] {
  guard let from else { return [] }
  // Callers in C may not align.
  let bytes = UnsafeRawPointer(from)
  return (0..<Int(count)).map { index in
    TensorDescription(
      bytes.loadUnaligned(fromByteOffset: index * MemoryLayout<mfa_tensor>.stride, as: mfa_tensor.self),
      "\(what)[\(index)]")
  }
}

/// The parts of a merge.
private func parts(
  _ count: UInt32, _ outputs: UnsafePointer<mfa_tensor>?, _ logsumexps: UnsafePointer<mfa_tensor>?
) throws(AttentionError) -> MergeDescription {
  try ensure(count > 0, .invalidArgument, "merge: count is 0; expected at least 1 part")
  for (pointer, what) in [(outputs, "outputs"), (logsumexps, "logsumexps")] {
    try ensure(pointer != nil, .invalidArgument, "merge: \(what) is NULL; expected \(count) tensors")
  }
  var result = MergeDescription()
  result.outputs = tensors(outputs, count, "outputs")
  result.logsumexps = tensors(logsumexps, count, "logsumexps")
  return result
}

@_cdecl("mfa_merge")
public func merge(_ handle: UnsafeMutableRawPointer?, _ desc: UnsafePointer<mfa_merge_desc>?) -> Int32 {
  guarded { () throws(AttentionError) in
    let context = try context(handle)
    let found = try sizedRequired(desc, mfa_merge_desc(), "merge descriptor")
    var call = try parts(found.count, found.outputs, found.logsumexps)
    call.output = TensorDescription(found.output, "output")
    call.logsumexp = TensorDescription(found.logsumexp, "logsumexp")
    try context.attention.merge(call)
  }
}

@_cdecl("mfa_merge_backward")
public func mergeBackward(_ handle: UnsafeMutableRawPointer?, _ desc: UnsafePointer<mfa_merge_backward_desc>?) -> Int32
{
  guarded { () throws(AttentionError) in
    let context = try context(handle)
    let found = try sizedRequired(desc, mfa_merge_backward_desc(), "merge backward descriptor")
    var call = try parts(found.count, found.outputs, found.logsumexps)
    call.gradOutput = TensorDescription(found.grad_output, "grad_output")
    call.gradLogsumexp = TensorDescription(found.grad_logsumexp, "grad_logsumexp")
    call.gradOutputs = tensors(found.grad_outputs, found.count, "grad_outputs")
    call.gradLogsumexps = tensors(found.grad_logsumexps, found.count, "grad_logsumexps")
    try context.attention.mergeBackward(call)
  }
}

@_cdecl("mfa_quantize")
public func quantize(_ handle: UnsafeMutableRawPointer?, _ desc: UnsafePointer<mfa_quantize_desc>?) -> Int32 {
  guarded { () throws(AttentionError) in
    let context = try context(handle)
    let found = try sizedRequired(desc, mfa_quantize_desc(), "quantize descriptor")
    let report = try context.attention.quantize(QuantizeDescription(found), wantsError: found.error != nil)
    guard let report else { return }
    let error = mfa_quantization_error(
      rmse: report.rmse, relative_rmse: report.relativeRMSE, max_abs: report.maxAbs, worst_row_rmse: report.worstRowRMSE
    )
    try write(error, to: found.error, "error")
  }
}

@_cdecl("mfa_dequantize")
public func dequantize(
  _ handle: UnsafeMutableRawPointer?, _ source: UnsafePointer<mfa_tensor>?, _ destination: UnsafePointer<mfa_tensor>?
) -> Int32 {
  guarded { () throws(AttentionError) in
    let context = try context(handle)
    guard let source else { throw AttentionError(.invalidArgument, "source is NULL; expected a tensor") }
    guard let destination else { throw AttentionError(.invalidArgument, "destination is NULL; expected a tensor") }
    // Callers in C may not align.
    let from = UnsafeRawPointer(source).loadUnaligned(as: mfa_tensor.self)
    let to = UnsafeRawPointer(destination).loadUnaligned(as: mfa_tensor.self)
    try context.attention.dequantize(TensorDescription(from, "source"), TensorDescription(to, "destination"))
  }
}

/// The plan of the descriptor of the two that was given: its memory and its text.
private func plan(
  _ context: BridgeContext, _ forward: UnsafePointer<mfa_forward_desc>?, _ backward: UnsafePointer<mfa_backward_desc>?
) throws(AttentionError) -> (workspace: Int, text: String) {
  try ensure(
    (forward == nil) != (backward == nil), .invalidArgument,
    "\(forward == nil ? "no" : "two") descriptors were given; expected exactly one of forward and backward")
  let device = context.attention.device
  if forward == nil {
    let found = try sizedRequired(backward, mfa_backward_desc(), "backward descriptor")
    let plan = try BackwardPlan(BackwardCall.check(BackwardDescription(found, plans: true)), profile: device.profile)
    return (plan.workspace, plan.explain(on: device))
  }
  let found = try sizedRequired(forward, mfa_forward_desc(), "forward descriptor")
  let plan = try ForwardPlan(ForwardCall.check(ForwardDescription(found, plans: true)), profile: device.profile)
  return (plan.workspace, plan.explain(on: device))
}

@_cdecl("mfa_workspace_size")
public func workspaceSize(
  _ handle: UnsafeMutableRawPointer?, _ forward: UnsafePointer<mfa_forward_desc>?,
  _ backward: UnsafePointer<mfa_backward_desc>?, _ bytes: UnsafeMutablePointer<UInt64>?
) -> Int32 {
  guarded { () throws(AttentionError) in
    let plan = try plan(context(handle), forward, backward)
    try write(UInt64(clamping: plan.workspace), to: bytes, "bytes")
  }
}

@_cdecl("mfa_explain")
public func explain(
  _ handle: UnsafeMutableRawPointer?, _ forward: UnsafePointer<mfa_forward_desc>?,
  _ backward: UnsafePointer<mfa_backward_desc>?, _ text: UnsafeMutablePointer<CChar>?, _ capacity: Int,
  _ length: UnsafeMutablePointer<Int>?
) -> Int32 {
  guarded { () throws(AttentionError) in
    let plan = try plan(context(handle), forward, backward)
    try write(plan.text, to: text, capacity: capacity, length: length, "text")
  }
}
