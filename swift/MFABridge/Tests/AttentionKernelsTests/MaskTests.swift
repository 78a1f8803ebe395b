import Metal
import TestSupport
import XCTest

@testable import AttentionKernels

extension TestProblem {
  /// Masks all keys of each row but these.
  mutating func unmaskKeys(_ of: (_ row: Int) -> Range<Int>) {
    let (rows, keys) = (Int(arguments.queryRows), Int(arguments.keyRows))
    let size = descriptor.mask == .BOOL ? 1 : descriptor.mask == .FP32 ? 4 : 2
    for i in mask.indices {
      let isShown = of(i / keys % rows).contains(i % keys)
      // Numbers that every precision holds.
      mask[i] = isShown ? (descriptor.mask == .BOOL ? 0 : Double(i % 5) / 4) : -.infinity
      let value = Float(mask[i])
      let bytes: [UInt8] =
        switch descriptor.mask {
        case .FP32: raw([value])
        case .FP16: raw([Float16(value)])
        case .BF16: raw([bfloatBits(value)])
        default: [isShown ? 1 : 0]
        }
      maskBytes.replaceSubrange(size * (5 + i)..<size * (6 + i), with: bytes)
    }
  }
}

#if SOFTWARE_METAL
  /// A mask of whole blocks of keys saves their work: counted, against no mask and against one that masks nothing.
  final class MaskTests: GPUTestCase {
    /// A problem whose mask leaves each row a run of keys, from `first` on; the reference has the same mask.
    private func problem(
      _ kind: AttentionKernelDescriptor.Mask, _ schedule: AttentionKernelDescriptor.Schedule, rows: Int, keys: Int,
      unmasked: Int,
      columns: Int = 64, first: (Int) -> Int = { _ in 0 }
    ) -> TestProblem {
      var descriptor = forward(columns)
      (descriptor.mask, descriptor.schedule) = (kind, schedule)
      var problem = TestProblem(descriptor, .init(heads: 1, keyHeads: 1, queryRows: rows, keyRows: keys))
      problem.unmaskKeys { row in first(row)..<first(row) + unmasked }
      return problem
    }

    func testForward() throws {
      for kind in [AttentionKernelDescriptor.Mask.BOOL, .FP32, .BF16] {
        for (schedule, rows) in [(AttentionKernelDescriptor.Schedule.prefill, 64), (.decode, 1), (.decodeSplit, 4)] {
          // A band along the keys, as of documents in one sequence: at most a few of the 32 blocks are anyone's.
          let band = problem(kind, schedule, rows: rows, keys: 1024, unmasked: 60, first: { 700 + $0 })
          try check(band, "\(kind), \(schedule)")
          let all = problem(kind, schedule, rows: rows, keys: 1024, unmasked: 1024)
          let (some, whole) = (
            try TestDevice.shared.forward(band).counters, try TestDevice.shared.forward(all).counters
          )
          XCTAssertLessThan(some.matrixMultiplies * 3, whole.matrixMultiplies, "\(kind), \(schedule)")
          // Keys, values: what is left is the mask itself.
          XCTAssertLessThan(some.scalarOperations * 2, whole.scalarOperations, "\(kind), \(schedule)")
        }
      }
    }

    /// Columns that SIMD groups share.
    func testSharedColumns() throws {
      for schedule in [AttentionKernelDescriptor.Schedule.prefill, .decode] {
        try check(
          problem(.BOOL, schedule, rows: 12, keys: 300, unmasked: 20, columns: 320, first: { 90 + 5 * $0 }),
          "\(schedule)")
      }
    }

    func testBackward() throws {
      for kind in [AttentionKernelDescriptor.Mask.BOOL, .FP32] {
        for columns in [32, 320] {
          var descriptor = forward(columns)
          descriptor.mask = kind
          func counted(
            _ keys: @escaping (Int) -> Range<Int>
          ) throws -> [AttentionKernelDescriptor.Kind: Counters] {
            let problem = BackwardProblem(
              descriptor, .init(heads: 1, keyHeads: 1, queryRows: 64, keyRows: 256), prepare: { $0.unmaskKeys(keys) })
            return try check(problem, "\(kind), \(columns) columns")?.counters ?? [:]
          }
          let (some, all) = (try counted { row in 100..<104 + row / 8 }, try counted { _ in 0..<256 })
          XCTAssertEqual(some.count, kind == .BOOL ? 2 : 3)
          for (kernel, counters) in some {
            let whole = try XCTUnwrap(all[kernel])
            XCTAssertLessThan(
              counters.matrixMultiplies * 2, whole.matrixMultiplies, "\(kind), \(columns) columns, \(kernel)")
          }
        }
      }
    }
  }
#endif
