import Metal
import TestSupport
import XCTest

@testable import AttentionKernels

#if SOFTWARE_METAL
  /// Each barrier of each kernel is removed in turn, and the software device must notice: none is superfluous, and none
  /// is untested. Matrix operations count lane by lane.
  final class BarrierTests: GPUTestCase {
    /// Runs a kernel without each of its barriers; returns how many were missed, and describes those that were not.
    private func survivors(
      _ name: String, _ kernel: AttentionKernel, _ run: (_ edit: @escaping (String) -> String) throws -> Void
    ) throws -> (count: Int, unnoticed: [String]) {
      try run { $0 }
      let places = kernel.source.ranges(of: #/(?:threadgroup|simdgroup)_barrier\(mem_flags::mem_threadgroup\);/#)
      var unnoticed: [String] = []
      for place in places {
        do {
          try run { $0.replacingCharacters(in: place, with: ";") }
        } catch let error as MTLCommandBufferError {
          XCTAssertNotNil(error.finding, "\(name): \(error)")
          continue
        }
        let line = kernel.source[..<place.lowerBound].split(separator: "\n", omittingEmptySubsequences: false).count
        unnoticed.append("\(name), line \(line): \(kernel.source[place])")
      }
      return (places.count, unnoticed)
    }

    private func report(_ pass: String, _ results: [(count: Int, unnoticed: [String])]) {
      let (count, unnoticed) = (results.reduce(0) { $0 + $1.count }, results.flatMap(\.unnoticed))
      print("barriers of the \(pass) kernels: \(count - unnoticed.count) of \(count) are missed when they are removed")
      XCTAssertGreaterThan(count, 0)
      XCTAssertEqual(unnoticed, [])
    }

    func testForward() throws {
      let rotated = int8(QuantizationLayout(granularity: .row, hasMean: true, isRotated: true))
      let groups = QuantizationLayout(granularity: .rowGroups(of: 32)), brain = Operand(.BF16)
      var masked = forward(64)
      masked.mask = .FP16
      let others = [
        forward(128, q: int8(), k: int4(), v: int4()), forward(96, k: int4(groups), v: int8(groups)),
        forward(64, q: rotated, k: rotated, v: rotated), forward(512), forward(512, k: rotated, v: rotated),
      ]
      let cases: [(AttentionKernelDescriptor.Schedule, [AttentionKernelDescriptor])] = [
        (.prefill, [forward(64), masked] + others),
        (.decode, [forward(64, q: brain, k: brain, v: brain), masked] + others), (.decodeSplit, [forward(64)]),
      ]
      var results: [(Int, [String])] = []
      for (schedule, descriptors) in cases {
        for var descriptor in descriptors {
          descriptor.schedule = schedule
          let (rows, keys) = schedule == .prefill ? (70, 140) : (5, schedule == .decode ? 300 : 600)
          var problem = TestProblem(descriptor, .init(heads: 4, keyHeads: 2, queryRows: rows, keyRows: keys))
          problem.arguments.splits = schedule == .decodeSplit ? 2 : 1
          problem.arguments.bottomRight = 1
          problem.arguments.setWindow(left: 550, isCausal: true)
          // NaN that a part of the rows attends to: the path that looks for them is taken, in several blocks of keys.
          let spoilt = [20, 75, 139, 180, 270, 299].filter { $0 < keys }
          if !descriptor.value.precision.isInteger {
            for row in spoilt { problem.v.real[problem.v.index(0, 0, row, 7)] = .nan }
            problem.v.write(problem.v.real)
          } else if descriptor.value.quantization?.granularity == .rowGroups(of: 32) {
            problem.v.scales = [UInt8](repeating: 0xff, count: problem.v.scales.count)
          }
          let kernel = try AttentionKernel(descriptor: descriptor, profile: TestDevice.profile)
          results.append(
            try survivors("\(schedule), mask \(descriptor.mask), \(KernelText.summary(descriptor))", kernel) { edit in
              _ = try TestDevice.shared.forward(problem) { $0 == .forward ? edit($1) : $1 }
            })
        }
      }
      report("forward", results)
    }

    func testBackward() throws {
      var results: [(Int, [String])] = []
      for d in [32, 256] {
        var descriptor = backward(d)
        (descriptor.mask, descriptor.hasSinks) = (.FP16, true)
        // The last tiles are masked: SIMD groups that have skipped them are ahead of those that still read the mask.
        let problem = BackwardProblem(
          descriptor, .init(heads: 4, keyHeads: 2, queryRows: 70, keyRows: 70), sums: [1], gradients: .from(.output),
          prepare: { $0.unmaskKeys { row in row < 40 ? 0..<40 : 0..<0 } })
        for kind in [AttentionKernelDescriptor.Kind.backwardQuery, .backwardKeyValue, .backwardMask, .backwardSinks] {
          var own = descriptor
          (own.kind, own.gradients) = (kind, problem.gradients)
          let kernel = try AttentionKernel(descriptor: own, profile: TestDevice.profile)
          results.append(
            try survivors("\(kind), \(d) columns", kernel) { edit in
              _ = try TestDevice.shared.backward(problem) { $0 == kind ? edit($1) : $1 }
            })
        }
      }
      report("backward", results)
    }
  }
#endif
