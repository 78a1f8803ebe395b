// swift-tools-version: 6.0
import PackageDescription

// `import Metal` is Apple's framework on Apple platforms, and a Metal device in software on Linux.
let metal = Target.Dependency.product(
  name: "SoftwareMetal", package: "SoftwareMetal", condition: .when(platforms: [.linux]))

// Tests compute every result again in float64, and write thousands of kernels' texts. In debug builds both are
// optimised, with all that debug builds check.
let optimized: [SwiftSetting] = [.unsafeFlags(["-O", "-assert-config", "Debug"], .when(configuration: .debug))]

let package = Package(
  name: "MFABridge",
  platforms: [.macOS(.v14), .iOS(.v17)],
  products: [
    .library(name: "MFABridge", type: .dynamic, targets: ["MFABridge"]),
    .library(name: "MFABridgeStatic", type: .static, targets: ["MFABridge"]),
    .library(name: "MetalAttention", targets: ["MetalAttention"]),
    .library(name: "AttentionKernels", targets: ["AttentionKernels"]),
  ],
  dependencies: [.package(path: "../SoftwareMetal")],
  targets: [
    // MARK: Kernel generator: no device, no Metal
    .target(name: "AttentionKernels", swiftSettings: optimized),
    .testTarget(
      name: "AttentionKernelsTests", dependencies: ["AttentionKernels", metal], exclude: ["Golden"],
      swiftSettings: optimized),

    // MARK: Runtime
    .target(name: "MetalAttention", dependencies: ["AttentionKernels", metal]),
    .testTarget(name: "MetalAttentionTests", dependencies: ["MetalAttention", metal]),

    // MARK: C bridge
    .target(name: "CMFA"),
    .target(name: "MFABridge", dependencies: ["MetalAttention", "CMFA", metal]),
    .testTarget(name: "MFABridgeTests", dependencies: ["MFABridge", "CMFA", "MetalAttention", metal]),

    // MARK: Every text that the driver can compile
    .target(
      name: "EveryText", dependencies: ["AttentionKernels", "MetalAttention", metal], swiftSettings: optimized),
    .executableTarget(name: "every-text", dependencies: ["EveryText", "MetalAttention", metal]),
    .testTarget(
      name: "EveryTextTests", dependencies: ["EveryText", "MetalAttention", metal], swiftSettings: optimized),

    // MARK: Counters of the software device
    .executableTarget(name: "MetalReport", dependencies: ["MetalAttention", "AttentionKernels", metal]),
  ],
  swiftLanguageModes: [.v6]
)
