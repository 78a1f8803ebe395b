import MetalAttention
import XCTest

/// Tests that run kernels: skipped, by name and with the reason, where no device can.
open class GPUTestCase: XCTestCase {
  override open func setUpWithError() throws { try Self.requireDevice() }

  public static func requireDevice() throws {
    if let reason = AttentionDevice.unavailable { throw XCTSkip(reason) }
  }
}
