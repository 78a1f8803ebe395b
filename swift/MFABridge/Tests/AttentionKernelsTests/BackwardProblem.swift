import Metal
import MetalAttention
import XCTest

@testable import AttentionKernels

/// A backward call: what forward left, dO, the gradients' memory, and the plain formulas in float64.
struct BackwardProblem {
  var forward: TestProblem
  var dO: TestTensor
  var d: TestTensor, dQ: TestTensor, dK: TestTensor, dV: TestTensor
  /// The sizes of the mask's gradient: those of the mask, or 1.
  var maskShape: [Int]
  /// D is asked of the query kernel from this; `.given`: D is an input.
  var gradients: AttentionKernelDescriptor.Gradients

  /// - Parameter sums: dimensions of the mask (batch, head, row, column) in which it is broadcast.
  init(
    _ descriptor: AttentionKernelDescriptor, _ shape: TestProblem.Shape = .init(), lengths: [(q: Int, k: Int)] = [],
    seed: UInt64 = 1, blockRows: Int = 8,
    sums: Set<Int> = [], gradients: AttentionKernelDescriptor.Gradients = .all,
    prepare: (inout TestProblem) -> Void = { _ in }
  ) {
    var g = Generator(state: seed &+ 77)
    forward = TestProblem(descriptor, shape, lengths: lengths, seed: seed, blockRows: blockRows)
    self.gradients = gradients
    let a = forward.arguments
    let full = [Int(a.batches), Int(a.heads), Int(a.queryRows), Int(a.keyRows)]
    maskShape = full.enumerated().map { sums.contains($0) ? 1 : $1 }
    if !forward.mask.isEmpty { forward.broadcastMask(maskShape, full) }
    prepare(&forward)
    dO = TestTensor(forward.o.shape, descriptor.gradOutput, using: &g)
    let result = Operand(.FP32, access: .strided)
    d = TestTensor(forward.l.shape, result, using: &g)
    (dQ, dK, dV) = (
      TestTensor(forward.q.shape, result, using: &g), TestTensor(forward.k.shape, result, using: &g),
      TestTensor(forward.v.shape, result, using: &g)
    )
    let expected = forward.reference()
    forward.o.write(expected.o)
    forward.l.write(expected.l)
    (forward.arguments.dO, forward.arguments.D) = (dO.view, d.view)
    (forward.arguments.dQ, forward.arguments.dK, forward.arguments.dV) = (dQ.view, dK.view, dV.view)
    if gradients.dSource == .given { d.write(reference().d) }
  }

  struct Expected { var d, dQ, dK, dV, mask, sinks: [Double] }

  func reference() -> Expected {
    let (f, a) = (forward, forward.arguments)
    func zeros(_ t: TestTensor) -> [Double] { .init(repeating: 0, count: t.real.count) }
    var e = Expected(
      d: zeros(d), dQ: zeros(dQ), dK: zeros(dK), dV: zeros(dV),
      mask: .init(repeating: 0, count: maskShape.reduce(1, *)),
      sinks: .init(repeating: 0, count: f.shape.heads))
    let all =
      f.lengths.isEmpty ? (0..<f.shape.batches).map { _ in (q: f.shape.queryRows, k: f.shape.keyRows) } : f.lengths
    let (columns, valueColumns): (Int, Int) = (f.descriptor.headDimension, f.descriptor.valueDimension)
    var (firstQ, firstK) = (0, 0)
    for (z, length) in all.enumerated() {
      let b = f.lengths.isEmpty ? z : 0
      let shift = a.bottomRight == 1 ? length.k - length.q : 0
      for h in 0..<f.shape.heads {
        let kh = h / (f.shape.heads / f.shape.keyHeads)
        for i in 0..<length.q {
          let row = firstQ + i, l = f.l[b, h, row, 0], position = i + shift
          var attended: [(j: Int, p: Double, slope: Double, dp: Double)] = []
          for j in 0..<length.k
          where j >= position - Int(a.windowLeft) && j <= position + Int(a.windowRight) && l != -.infinity {
            var s: Double =
              dot(f.q, f.q.index(b, h, row, 0), f.k, f.k.index(b, kh, firstK + j, 0)) * Double(a.softmaxScale)
            var slope = 1.0
            if f.descriptor.hasSoftcap {
              let capped = tanh(s / Double(a.softcap))
              (s, slope) = (Double(a.softcap) * capped, 1 - capped * capped)
            }
            if f.descriptor.mask != .none {
              let m = f.mask[((z * f.shape.heads + h) * Int(a.queryRows) + i) * Int(a.keyRows) + j]
              if m == -.infinity { continue }
              s += m
            }
            if f.descriptor.hasALiBi { s -= Double(f.slopes[1 + z * f.shape.heads + h]) * abs(Double(position - j)) }
            let dp = dot(dO, dO.index(b, h, row, 0), f.v, f.v.index(b, kh, firstK + j, 0))
            attended.append((j, exp(s - l), slope, dp))
          }
          let oi = dO.index(b, h, row, 0)
          var dRow = 0.0
          if gradients.dSource == .output {
            if !attended.isEmpty { dRow = dot(dO, oi, f.o, oi) }
          } else {
            for x in attended { dRow += x.p * x.dp }
          }
          e.d[d.index(b, h, row, 0)] = dRow
          for x in attended {
            let ds = x.p * (x.dp - dRow), dx = ds * x.slope * Double(a.softmaxScale)
            let (qi, ki) = (f.q.index(b, h, row, 0), f.k.index(b, kh, firstK + x.j, 0))
            for c in 0..<columns {
              e.dQ[qi + c] += dx * f.k.real[ki + c]
              e.dK[ki + c] += dx * f.q.real[qi + c]
            }
            let vi = f.v.index(b, kh, firstK + x.j, 0)
            for c in 0..<valueColumns { e.dV[vi + c] += x.p * dO.real[oi + c] }
            var at = 0
            for (index, size) in zip([z, h, i, x.j], maskShape) { at = at * size + (size == 1 ? 0 : index) }
            e.mask[at] += ds
          }
          if f.descriptor.hasSinks, l != -.infinity { e.sinks[h] -= exp(Double(f.sinks[2 + h]) - l) * dRow }
        }
      }
      if !f.lengths.isEmpty { (firstQ, firstK) = (firstQ + length.q, firstK + length.k) }
    }
    if gradients.clips {
      clip(&e.dQ, f.q)
      clip(&e.dK, f.k)
      clip(&e.dV, f.v)
    }
    return e
  }

  private func dot(_ x: TestTensor, _ xi: Int, _ y: TestTensor, _ yi: Int) -> Double {
    var sum = 0.0
    for c in 0..<x.shape[3] { sum += x.real[xi + c] * y.real[yi + c] }
    return sum
  }

  private func clip(_ gradient: inout [Double], _ tensor: TestTensor) {
    guard let layout = tensor.operand.quantization else { return }
    let isInt4 = tensor.operand.precision == .INT4
    let hasZeros = layout.granularity == .tensor ? tensor.zeroPoint != 0 : layout.zeroPoints != .none
    let high = isInt4 ? 7 : 127, low = hasZeros ? -high - 1 : -high
    let columns = tensor.shape[3]
    for n in 0..<gradient.count / columns {
      let range = n * columns..<(n + 1) * columns
      if layout.isRotated { TestTensor.rotate(&gradient[range]) }
      for i in range where tensor.integers[i] <= Double(low) || tensor.integers[i] >= Double(high) { gradient[i] = 0 }
      if layout.isRotated { TestTensor.rotate(&gradient[range]) }
    }
  }
}

extension AttentionKernelDescriptor.Gradients {
  static var all: Self {
    var all = Self()
    (all.query, all.key, all.value) = (true, true, true)
    return all
  }
  static func from(_ source: DSource, clips: Bool = false) -> Self {
    var gradients = all
    (gradients.dSource, gradients.clips) = (source, clips)
    return gradients
  }
}

extension TestProblem {
  /// Makes the mask the same along dimensions of size 1.
  mutating func broadcastMask(_ shape: [Int], _ full: [Int]) {
    var strides = [0, 0, 0, 0], size = 1
    for i in (0..<4).reversed() {
      strides[i] = shape[i] == 1 ? 0 : size
      size *= shape[i]
    }
    let kept = mask
    for at in mask.indices {
      var (rest, from) = (at, 0)
      for i in (0..<4).reversed() {
        from += rest % full[i] * strides[i]
        rest /= full[i]
      }
      mask[at] = kept[from]
    }
    arguments.mask = TensorView(
      offset: 5, batch: Int64(strides[0]), head: Int64(strides[1]), row: Int64(strides[2]), column: Int64(strides[3]))
  }
}

// MARK: Running

struct BackwardResult {
  var d, dQ, dK, dV, mask, sinks: [Double]
  var counters: [AttentionKernelDescriptor.Kind: Counters] = [:]
  /// Bytes beside the gradients' elements are what they were.
  var paddingIsWhole = true
}

extension TestDevice {
  /// - Parameter edit: what is done to the text of each kernel, nil for nothing.
  func backward(
    _ problem: BackwardProblem, profile: DeviceProfile = TestDevice.profile,
    edit: ((AttentionKernelDescriptor.Kind, String) -> String)? = nil
  ) throws -> BackwardResult {
    let (f, wanted) = (problem.forward, problem.gradients)
    var arguments = f.arguments
    let d = try buffer(problem.d.bytes), dQ = try buffer(problem.dQ.bytes), dK = try buffer(problem.dK.bytes),
      dV = try buffer(problem.dV.bytes)
    let maskCount = problem.maskShape.reduce(1, *), heads = f.shape.heads
    let maskBuffer = try buffer([UInt8](repeating: 0xff, count: 4 * (maskCount + 3))),
      sinkBuffer = try buffer([UInt8](repeating: 0xff, count: 4 * (heads + 1)))
    var size = Int64(1)
    var strides = [Int64](repeating: 0, count: 4)
    for i in (0..<4).reversed() {
      strides[i] = problem.maskShape[i] == 1 ? 0 : size
      size *= Int64(problem.maskShape[i])
    }
    arguments.maskGradient = TensorView(
      offset: 3, batch: strides[0], head: strides[1], row: strides[2], column: strides[3])
    arguments.sinkGradients = TensorView(offset: 1, head: 1)
    var lengths: (q: [Int32], k: [Int32]) = ([0], [0])
    for length in f.lengths {
      lengths.q.append(lengths.q[lengths.q.count - 1] + Int32(length.q))
      lengths.k.append(lengths.k[lengths.k.count - 1] + Int32(length.k))
    }

    var kinds: [AttentionKernelDescriptor.Kind] = []
    if wanted.query || wanted.dSource != .given { kinds.append(.backwardQuery) }
    if wanted.key || wanted.value { kinds.append(.backwardKeyValue) }
    if ![.none, .BOOL].contains(f.descriptor.mask) { kinds.append(.backwardMask) }
    if f.descriptor.hasSinks { kinds.append(.backwardSinks) }
    let descriptors = kinds.map { kind in
      var descriptor = f.descriptor
      (descriptor.kind, descriptor.gradients) = (kind, wanted)
      return descriptor
    }
    if edit == nil { prepare(descriptors, profile: profile) }
    let commands = try XCTUnwrap(queue.makeCommandBuffer())
    for (kind, descriptor) in zip(kinds, descriptors) {
      var own = arguments
      if kind == .backwardSinks, !f.lengths.isEmpty { (own.batches, own.queryRows) = (1, UInt32(f.q.shape[2])) }
      let kernel = try AttentionKernel(descriptor: descriptor, profile: profile)
      let encoder = try XCTUnwrap(commands.makeComputeCommandEncoder())
      encoder.setComputePipelineState(try edit.map { try edited(kernel, $0) } ?? pipeline(kernel))
      func tensor(_ x: AttentionOperand) -> TestTensor {
        switch x {
        case .Q: f.q
        case .K: f.k
        case .V: f.v
        case .O: f.o
        case .L: f.l
        default: problem.dO
        }
      }
      func bind(_ bytes: [UInt8], _ binding: Binding) throws {
        encoder.setBuffer(try buffer(bytes), offset: 0, index: binding.index)
      }
      for binding in kernel.bindings {
        switch binding.role {
        case .operand(.D): encoder.setBuffer(d, offset: 0, index: binding.index)
        case .operand(.dQ): encoder.setBuffer(dQ, offset: 0, index: binding.index)
        case .operand(.dK): encoder.setBuffer(dK, offset: 0, index: binding.index)
        case .operand(.dV): encoder.setBuffer(dV, offset: 0, index: binding.index)
        case .maskGradient: encoder.setBuffer(maskBuffer, offset: 0, index: binding.index)
        case .sinkGradients: encoder.setBuffer(sinkBuffer, offset: 0, index: binding.index)
        case .operand(let x): try bind(tensor(x).bytes, binding)
        case .scale(let x): try bind(withUnsafeBytes(of: tensor(x).scale, Array.init), binding)
        case .zeroPoint(let x): try bind(withUnsafeBytes(of: tensor(x).zeroPoint, Array.init), binding)
        case .scales(let x): try bind(tensor(x).scales, binding)
        case .zeroPoints(let x): try bind(tensor(x).zeroPoints, binding)
        case .mean(let x): try bind(tensor(x).means.withUnsafeBytes(Array.init), binding)
        case .mask: try bind(f.maskBytes, binding)
        case .slopes: try bind(f.slopes.withUnsafeBytes(Array.init), binding)
        case .sinks: try bind(f.sinks.withUnsafeBytes(Array.init), binding)
        case .cumulativeQueryLengths: try bind(([-9] + lengths.q as [Int32]).withUnsafeBytes(Array.init), binding)
        case .cumulativeKeyLengths: try bind(([-9, -9] + lengths.k as [Int32]).withUnsafeBytes(Array.init), binding)
        case .arguments: try bind(own.bytes, binding)
        case .partialOutput, .partialStatistics, .logsumexpGradient, .logsumexpGradientOfRows:
          XCTFail("a backward kernel binds \(binding.role)")
        }
      }
      encoder.finish(kernel, own)
    }
    try commands.finish()

    func floats(_ buffer: any MTLBuffer, _ first: Int, _ count: Int) -> [Double] {
      let values = UnsafeRawBufferPointer(start: buffer.contents(), count: buffer.length).bindMemory(to: Float.self)
      return (0..<count).map { Double(values[first + $0]) }
    }
    var result = BackwardResult(
      d: [], dQ: [], dK: [], dV: [], mask: floats(maskBuffer, 3, maskCount), sinks: floats(sinkBuffer, 1, heads))
    func read(_ buffer: any MTLBuffer, _ tensor: TestTensor) -> [Double] {
      let values = UnsafeRawBufferPointer(start: buffer.contents(), count: tensor.bytes.count).bindMemory(
        to: UInt32.self)
      var before = tensor.bytes.withUnsafeBytes { Array($0.bindMemory(to: UInt32.self)) }
      var found = [Double](repeating: 0, count: tensor.real.count)
      for b in 0..<tensor.shape[0] {
        for h in 0..<tensor.shape[1] {
          for n in 0..<tensor.shape[2] {
            for c in 0..<tensor.shape[3] {
              let at = tensor.place(b, h, n, c)
              found[tensor.index(b, h, n, c)] = Double(Float(bitPattern: values[at]))
              before[at] = values[at]
            }
          }
        }
      }
      result.paddingIsWhole = result.paddingIsWhole && before == Array(values)
      return found
    }
    result.d = read(d, problem.d)
    result.dQ = read(dQ, problem.dQ)
    result.dK = read(dK, problem.dK)
    result.dV = read(dV, problem.dV)
    for (kind, counters) in zip(kinds, commands.counters) { result.counters[kind] = counters }
    return result
  }
}

/// Fails where a gradient is further from float64 than FP32 arithmetic on the stored operands explains.
@discardableResult
func check(
  _ problem: BackwardProblem, _ label: String = "", file: StaticString = #filePath, line: UInt = #line
) throws -> BackwardResult? {
  let result: BackwardResult
  do { result = try TestDevice.shared.backward(problem) } catch {
    XCTFail("\(label): \(error)", file: file, line: line)
    return nil
  }
  let expected = problem.reference()
  func compare(_ actual: [Double], _ expected: [Double], _ what: String) {
    let top = expected.lazy.filter(\.isFinite).map(abs).max() ?? 0
    var worst = 0.0
    for (i, (a, e)) in zip(actual, expected).enumerated() {
      if e.isFinite && a.isFinite {
        worst = max(worst, abs(a - e) / (4e-6 * top + 6e-6))
      } else if !(a == e || (a.isNaN && e.isNaN)) {
        XCTFail("\(label): \(what)[\(i)] is \(a), expected \(e)", file: file, line: line)
        return
      }
    }
    if worst > 1 {
      XCTFail("\(label): \(what) is off by \(worst) times the bound (largest \(top))", file: file, line: line)
    }
  }
  let wanted = problem.gradients
  if wanted.dSource != .given, wanted.writesD { compare(result.d, expected.d, "D") }
  if wanted.query { compare(result.dQ, expected.dQ, "dQ") }
  if wanted.key { compare(result.dK, expected.dK, "dK") }
  if wanted.value { compare(result.dV, expected.dV, "dV") }
  if ![.none, .BOOL].contains(problem.forward.descriptor.mask) {
    compare(result.mask, expected.mask, "the mask's gradient")
  }
  if problem.forward.descriptor.hasSinks { compare(result.sinks, expected.sinks, "the sinks' gradient") }
  XCTAssertTrue(result.paddingIsWhole, "\(label): something beside the gradients was written", file: file, line: line)
  return result
}
